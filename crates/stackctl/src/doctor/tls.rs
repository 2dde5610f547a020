//! Whether callers can reach the stack by https, and for how long.

use std::{
    net::IpAddr,
    time::{Duration, SystemTime},
};

use contract::Timestamp;
use web::Tls;

use super::finding::{Finding, State};

const NAME: &str = "TLS";
const DAY: u64 = 24 * 3600;
/// A certificate is renewed long before this many days are left.
const FEW_DAYS: u64 = 14;

/// Judges the certificate, if there is one. What is wrong with its files is a finding about the settings.
pub(super) fn certificate(tls: Option<&Tls>, bind: IpAddr, now: SystemTime) -> Finding {
    match tls {
        Some(tls) => expiry(&tls.names(), tls.expires(), now),
        None if bind.is_loopback() => {
            Finding::ok(NAME, "no certificate; the stack listens on this machine only")
        }
        None => Finding::advice(
            NAME,
            format!("no certificate: tokens and prompts travel unencrypted to {bind}"),
            "export TLS_CERT=…/fullchain.pem TLS_KEY=…/privkey.pem, or put a proxy with TLS in front (docs/PROXIES.md)",
        ),
    }
}

fn expiry(names: &[String], expires: Option<SystemTime>, now: SystemTime) -> Finding {
    let names = if names.is_empty() { "an IP address".to_owned() } else { names.join(", ") };
    let Some(expires) = expires else {
        return Finding::ok(NAME, format!("a certificate for {names}, without an end"));
    };
    let left = expires.duration_since(now).unwrap_or(Duration::ZERO).as_secs() / DAY;
    let since = expires.duration_since(SystemTime::UNIX_EPOCH).unwrap_or(Duration::ZERO);
    let at = Timestamp::from_millisecond(since.as_millis().try_into().unwrap_or(i64::MAX));
    let renew = "renew it; a running stack notices new files";
    if expires <= now {
        let found = format!("the certificate for {names} expired on {at}: clients refuse it");
        return Finding::missing(NAME, found, renew);
    }
    let found = format!("a certificate for {names}, valid until {at} ({left} days)");
    Finding::judge(NAME, found, left >= FEW_DAYS, State::Advice, renew)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_old_certificate_is_noticed_before_and_after_its_end() {
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(1_900_000_000);
        let at = |days: u64| Some(now + Duration::from_secs(days * DAY));
        let of = |expires| expiry(&["stack.example.org".into()], expires, now);
        assert_eq!(of(at(60)).state, State::Ok);
        assert!(
            of(at(60)).found.contains("stack.example.org, valid until 2030-"),
            "{:?}",
            of(at(60))
        );
        assert_eq!(of(None).state, State::Ok);
        assert_eq!(of(at(13)).state, State::Advice);
        assert_eq!(of(at(0)).state, State::Missing);
        assert_eq!(of(Some(SystemTime::UNIX_EPOCH)).state, State::Missing);
    }

    #[test]
    fn without_a_certificate_only_loopback_is_fine() {
        let of = |bind: &str| certificate(None, bind.parse().unwrap(), SystemTime::now()).state;
        assert_eq!((of("127.0.0.1"), of("0.0.0.0")), (State::Ok, State::Advice));
    }
}
