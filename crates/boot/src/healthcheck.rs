//! The health check of a container engine: the service's own program with the argument `healthcheck`.
//!
//! A failed health check ends the container and its job, so it fails only if a restart would help: if the process
//! accepts connections but does not answer them for minutes. Load, a running job, or a finishing replica do not make
//! it fail. If the process is gone, so is its container, and no check is needed.

use std::{
    io::{self, Read as _, Write as _},
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream},
    thread,
    time::Duration,
};

use crate::{Env, Exit, ProcessEnv, Settings};

/// How long an answer may take. With the engine's retries, a process must be silent for minutes before it counts as
/// stuck.
const ANSWER_TIME: Duration = Duration::from_secs(60);
/// How long a held probe of a healthy process takes.
const HOLD_TIME: Duration = Duration::from_secs(25);
/// A process younger than this is reported immediately, because something may be waiting for it.
const YOUNG: Duration = Duration::from_secs(15);

/// The service to check.
#[derive(Clone, Copy, Debug)]
pub struct Probe {
    /// The variable that holds the port, such as `PORT`.
    pub port_variable: &'static str,
    /// The port to use if the variable is not set.
    pub default_port: u16,
    /// What a closed port means.
    pub closed: Closed,
}

impl Probe {
    /// The probe of a replica, which listens on `PORT`, or on this port.
    #[must_use]
    pub const fn of_replica(default_port: u16) -> Self {
        Self { port_variable: "PORT", default_port, closed: Closed::Healthy }
    }
}

/// What a closed port means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Closed {
    /// Healthy: the process is starting or finishing, which it limits itself. For replicas.
    Healthy,
    /// Unhealthy: the process is not serving. For gateways.
    Unhealthy,
}

/// How long a probe of a healthy process takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Pace {
    /// As long as the answer.
    Immediate,
    /// 25 s, if the process has been running for a while.
    Held,
}

/// The result of a probe.
#[derive(Debug, PartialEq, Eq)]
enum Answer {
    Healthy,
    Closed,
    Unhealthy(String),
}

/// Checks the service in this container. An engine starts each check a fixed time after the previous one ended, and
/// the first check that time after the start. Holding only later checks makes the first one early and the others
/// rare.
pub(crate) fn healthcheck(probe: Probe, pace: Pace) -> Exit {
    let address = match address(&ProcessEnv, probe) {
        Ok(address) => address,
        Err(error) => {
            eprintln!("{error}");
            return Exit::Failed;
        }
    };
    match (ask(address, ANSWER_TIME), probe.closed) {
        (Answer::Healthy, _) => println!("{address} answers"),
        (Answer::Closed, Closed::Healthy) => {
            println!("{address} is closed: the replica is starting or has finished its job");
        }
        (Answer::Closed, Closed::Unhealthy) => {
            eprintln!("{address} is closed: the service is not listening");
            return Exit::Failed;
        }
        (Answer::Unhealthy(why), _) => {
            eprintln!("{address}: {why}");
            return Exit::Failed;
        }
    }
    if pace == Pace::Held && main_process_age().is_some_and(|age| age > YOUNG) {
        thread::sleep(HOLD_TIME);
    }
    Exit::Ok
}

fn address(env: &dyn Env, probe: Probe) -> Result<SocketAddr, crate::InvalidSettings> {
    let mut settings = Settings::new(env);
    let bind = settings.address("BIND_ADDRESS").unwrap_or(Ipv4Addr::UNSPECIFIED.into());
    let port = settings.port(probe.port_variable, probe.default_port);
    settings.finish()?;
    let host = match bind {
        IpAddr::V4(address) if address.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(address) if address.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
        address => address,
    };
    Ok(SocketAddr::new(host, port))
}

fn ask(address: SocketAddr, patience: Duration) -> Answer {
    match exchange(address, patience) {
        Ok(head) if head.starts_with(b"HTTP/1.1 200 ") => Answer::Healthy,
        Ok(head) => Answer::Unhealthy(format!("unexpected: {}", String::from_utf8_lossy(&head))),
        // When a listener closes, the connections in its queue are reset, so a reset also means closed.
        Err(error)
            if matches!(
                error.kind(),
                io::ErrorKind::ConnectionRefused
                    | io::ErrorKind::ConnectionReset
                    | io::ErrorKind::BrokenPipe
            ) =>
        {
            Answer::Closed
        }
        Err(error) => {
            Answer::Unhealthy(format!("no answer within {} s: {error}", patience.as_secs()))
        }
    }
}

/// The first bytes of the answer to `GET /health`.
fn exchange(address: SocketAddr, patience: Duration) -> io::Result<Vec<u8>> {
    let mut stream = TcpStream::connect_timeout(&address, patience)?;
    stream.set_read_timeout(Some(patience))?;
    stream.set_write_timeout(Some(patience))?;
    stream.write_all(b"GET /health HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")?;
    let mut head = Vec::new();
    stream.take(64).read_to_end(&mut head)?;
    if head.is_empty() {
        return Err(io::ErrorKind::ConnectionReset.into());
    }
    Ok(head)
}

/// How long the container's first process has been running.
fn main_process_age() -> Option<Duration> {
    let stat = std::fs::read_to_string("/proc/1/stat").ok()?;
    let uptime = std::fs::read_to_string("/proc/uptime").ok()?;
    age(&stat, &uptime)
}

/// Parses `stat`, proc_pid_stat(5). The name in parentheses may contain anything, so fields are counted after it.
fn age(stat: &str, uptime: &str) -> Option<Duration> {
    /// Linux reports times in 1/100 s, whatever the kernel's own tick.
    const TICKS: u64 = 100;
    let (_, fields) = stat.rsplit_once(')')?;
    let start: u64 = fields.split_ascii_whitespace().nth(19)?.parse().ok()?;
    let uptime: f64 = uptime.split_ascii_whitespace().next()?.parse().ok()?;
    let uptime = Duration::try_from_secs_f64(uptime).ok()?;
    Some(uptime.saturating_sub(Duration::from_millis(start.saturating_mul(1000 / TICKS))))
}

#[cfg(test)]
mod tests {
    use std::{collections::HashMap, net::TcpListener};

    use super::*;

    const PROBE: Probe = Probe::of_replica(4000);

    /// A server that sends `answer` to one caller, or keeps the connection open without answering.
    fn server(answer: Option<&'static str>) -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let mut request = [0; 200];
            let read = stream.read(&mut request).unwrap();
            assert!(request[..read].starts_with(b"GET /health HTTP/1.1\r\n"));
            match answer {
                Some(answer) => stream.write_all(answer.as_bytes()).unwrap(),
                // Until the caller times out.
                None => drop(stream.read(&mut request)),
            }
        });
        address
    }

    #[test]
    fn an_answer_a_closed_port_and_silence_are_distinguished() {
        let ask = |address| ask(address, Duration::from_millis(300));
        assert_eq!(ask(server(Some("HTTP/1.1 200 OK\r\n\r\n{}"))), Answer::Healthy);
        assert!(matches!(ask(server(Some("HTTP/1.1 500 Oh\r\n\r\n"))), Answer::Unhealthy(_)));
        assert_eq!(ask(server(Some(""))), Answer::Closed, "the listener closed meanwhile");
        assert!(
            matches!(ask(server(None)), Answer::Unhealthy(why) if why.starts_with("no answer"))
        );
        let free = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        assert_eq!(ask(free), Answer::Closed);
    }

    #[test]
    fn the_port_is_that_of_the_service() {
        let at = |pairs: &[(&str, &str)]| {
            let env: HashMap<_, _> =
                pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
            address(&env, PROBE).map(|address| address.to_string()).map_err(|e| e.problems.len())
        };
        assert_eq!(at(&[]), Ok("127.0.0.1:4000".into()));
        assert_eq!(at(&[("PORT", "1"), ("BIND_ADDRESS", "::")]), Ok("[::1]:1".into()));
        assert_eq!(at(&[("BIND_ADDRESS", "10.0.0.1")]), Ok("10.0.0.1:4000".into()));
        assert_eq!(at(&[("PORT", "x"), ("BIND_ADDRESS", "y")]), Err(2));
    }

    #[test]
    fn the_age_of_a_process() {
        let stat = "1 (a) b) S 0 1 1 0 -1 4194560 1 2 3 4 5 6 7 8 20 0 1 0 12345 1000 200";
        assert_eq!(age(stat, "200.45 99.0\n"), Some(Duration::from_millis(77_000)));
        assert_eq!(age(stat, "1.0 1.0"), Some(Duration::ZERO));
        assert_eq!(age("1 (a) S 0", "1.0"), None);
        assert!(main_process_age().is_some());
    }
}
