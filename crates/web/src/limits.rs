//! How many connections a server keeps.

use std::{
    collections::HashMap,
    net::{IpAddr, Ipv6Addr},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use contract::{Code, RequestError};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    sync::Semaphore,
};

use crate::{Tls, peer::speaks_tls};

/// How long a caller may take to read why it was refused.
const LINGER: Duration = Duration::from_secs(1);
/// How many refused callers are told why at the same time. Others are only disconnected.
const LINGERING: usize = 64;

/// How many connections one or more servers keep at the same time. Those above are answered 503 and closed.
#[derive(Debug)]
pub struct ConnectionLimits {
    all: usize,
    per_address: usize,
    /// How many more are left for loopback addresses.
    reserved: usize,
    open: Mutex<Open>,
    lingering: Semaphore,
}

#[derive(Debug, Default)]
struct Open {
    all: usize,
    /// Of each address that has any.
    per_address: HashMap<IpAddr, usize>,
}

impl ConnectionLimits {
    /// At most `all` connections, and at most `per_address` from one address. The second limit does not apply to loopback
    /// addresses, where the other parts of a stack and local proxies are. An IPv6 address counts as its /64 network, which
    /// is what one user has.
    #[must_use]
    pub fn new(all: usize, per_address: usize) -> Self {
        let lingering = Semaphore::new(LINGERING);
        Self { all, per_address, reserved: 0, open: Mutex::default(), lingering }
    }

    /// Keeps room for so many more connections from loopback addresses, so that health checks get through.
    #[must_use]
    pub fn reserving(self, reserved: usize) -> Self {
        Self { reserved, ..self }
    }

    /// No limits.
    #[must_use]
    pub fn none() -> Self {
        Self::new(usize::MAX, usize::MAX)
    }

    fn open(&self) -> MutexGuard<'_, Open> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Room for a connection from `address` until the result is dropped, or why there is none.
    pub(crate) fn admit(self: &Arc<Self>, address: IpAddr) -> Result<Admitted, &'static str> {
        let network = network(address);
        let mut open = self.open();
        let reserved = if network.is_loopback() { self.reserved } else { 0 };
        if open.all >= self.all.saturating_add(reserved) {
            return Err(
                "this server has too many connections: try again later, or raise CONNECTION_LIMIT of the gateway",
            );
        }
        let of_address = open.per_address.entry(network).or_default();
        if *of_address >= self.per_address && !network.is_loopback() {
            return Err(
                "your address has too many connections to this server: close some, or raise CONNECTIONS_PER_ADDRESS of the gateway",
            );
        }
        *of_address += 1;
        open.all += 1;
        Ok(Admitted { limits: Arc::clone(self), network })
    }

    /// Answers 503, whatever the request is. A caller that speaks `tls` is only disconnected: a handshake is more work than
    /// what was refused.
    pub(crate) async fn refuse(&self, mut stream: TcpStream, why: &str, tls: Option<Tls>) {
        let Ok(_permit) = self.lingering.try_acquire() else { return };
        let body =
            serde_json::to_string(&RequestError::new(Code::Busy, why).body()).unwrap_or_default();
        let answer = format!(
            "HTTP/1.1 503 Service Unavailable\r\ncontent-type: application/json\r\nretry-after: 1\r\n\
             connection: close\r\ncontent-length: {}\r\n\r\n{body}",
            body.len()
        );
        let told = async {
            if tls.is_some() && speaks_tls(&stream).await? {
                return Ok(());
            }
            stream.write_all(answer.as_bytes()).await?;
            stream.shutdown().await?;
            // A connection that is closed with unread bytes is reset, and the answer would be lost.
            let mut unread = [0; 1024];
            while stream.read(&mut unread).await? > 0 {}
            std::io::Result::Ok(())
        };
        let _ = tokio::time::timeout(LINGER, told).await;
    }
}

/// Room for one connection.
#[derive(Debug)]
pub(crate) struct Admitted {
    limits: Arc<ConnectionLimits>,
    network: IpAddr,
}

impl Drop for Admitted {
    fn drop(&mut self) {
        let mut open = self.limits.open();
        open.all -= 1;
        if let Some(of_address) = open.per_address.get_mut(&self.network) {
            *of_address -= 1;
            if *of_address == 0 {
                open.per_address.remove(&self.network);
            }
        }
    }
}

fn network(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(v6) if !v6.is_loopback() => {
            IpAddr::V6(Ipv6Addr::from_bits(v6.to_bits() & !u128::from(u64::MAX)))
        }
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn admit(limits: &Arc<ConnectionLimits>, address: &str) -> Result<Admitted, &'static str> {
        limits.admit(address.parse().unwrap())
    }

    #[test]
    fn one_address_cannot_take_all_connections() {
        let limits = Arc::new(ConnectionLimits::new(6, 2));
        let first = [(); 2].map(|()| admit(&limits, "192.0.2.1").unwrap());
        for same in ["192.0.2.1", "::ffff:192.0.2.1"] {
            assert!(admit(&limits, same).unwrap_err().contains("CONNECTIONS_PER_ADDRESS"));
        }
        let _others =
            [admit(&limits, "2001:db8::1"), admit(&limits, "2001:db8::ffff")].map(Result::unwrap);
        assert!(admit(&limits, "2001:db8::2").is_err(), "the same /64");
        let _loopback = [admit(&limits, "::1"), admit(&limits, "::1")].map(Result::unwrap);
        assert!(admit(&limits, "127.0.0.1").unwrap_err().contains("CONNECTION_LIMIT"));
        let reserving = Arc::new(ConnectionLimits::new(1, 1).reserving(1));
        let _one = admit(&reserving, "192.0.2.1").unwrap();
        assert!(admit(&reserving, "192.0.2.2").is_err());
        let _local = admit(&reserving, "127.0.0.1").unwrap();
        assert!(admit(&reserving, "127.0.0.1").is_err());
        drop(first);
        let _third = [(); 2].map(|()| admit(&limits, "::1").unwrap());
        assert_eq!(
            limits.open().per_address.len(),
            2,
            "addresses without connections are forgotten"
        );
    }
}
