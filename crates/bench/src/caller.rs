//! A caller that reads its stream as fast as it comes, and takes almost no processor time itself.
//!
//! It parses neither HTTP nor events: it looks for bytes in what arrives.

use std::{
    net::SocketAddr,
    time::{Duration, Instant},
};

use contract::Service;
use serde_json::Value;
use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};

use crate::{Error, Result};

/// How much is read at once, in bytes.
const BUFFER: usize = 256 << 10;
/// How much of the end is kept, in bytes. It contains the terminal event and the agent's result.
const TAIL: usize = 16 << 10;
/// How much of the end an error shows, in bytes.
const SHOWN: usize = 600;
/// Part of the text of a flood's messages, and of nothing else.
const FLOOD: &[u8] = b"xxxxxxxxxxxxxxxx";

/// Sees everything that arrives, and when.
pub(crate) trait Observe {
    /// Called with the bytes of each read.
    fn arrived(&mut self, bytes: &[u8], at: Instant);
}

impl Observe for () {
    fn arrived(&mut self, _: &[u8], _: Instant) {}
}

/// The first and the last moment at which messages of a flood arrived.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct FloodClock {
    first: Option<Instant>,
    last: Option<Instant>,
}

impl FloodClock {
    /// How many of so many messages arrived in a second.
    pub(crate) fn rate(&self, messages: u64) -> f64 {
        let took = self.first.zip(self.last).map(|(first, last)| last - first);
        crate::statistics::count(messages) / took.unwrap_or_default().as_secs_f64().max(1e-6)
    }
}

impl Observe for FloodClock {
    fn arrived(&mut self, bytes: &[u8], at: Instant) {
        if memchr::memmem::rfind(bytes, FLOOD).is_some() {
            self.first.get_or_insert(at);
            self.last = Some(at);
        }
    }
}

/// A stream that was read to its end.
#[derive(Debug)]
pub(crate) struct Read {
    /// The time from the request to the first byte.
    pub(crate) first: Duration,
    /// The time from the request to the last byte.
    pub(crate) last: Duration,
    /// When the last byte arrived.
    pub(crate) ended: Instant,
    /// The end of what arrived.
    pub(crate) tail: String,
}

/// Posts a job, and reads its stream to the end.
///
/// # Errors
/// If the job does not succeed.
pub(crate) async fn post(
    address: SocketAddr,
    service: Service,
    body: &Value,
    observer: &mut impl Observe,
) -> Result<Read> {
    let body = body.to_string();
    let request = format!(
        "POST {} HTTP/1.1\r\nHost: {address}\r\nContent-Type: application/json\r\n\
         Content-Length: {}\r\nConnection: close\r\n\r\n{body}",
        service.job_path(),
        body.len()
    );
    let read = exchange(address, &request, observer).await?;
    let success = format!(r#""type":"{}""#, service.spec().success_event);
    if read.tail.contains(&success) {
        return Ok(read);
    }
    let bytes = read.tail.as_bytes();
    let shown = bytes.get(bytes.len().saturating_sub(SHOWN)..).unwrap_or_default();
    let tail = String::from_utf8_lossy(shown).into_owned();
    Err(Error::Job { service: service.name(), tail })
}

/// Gets a page, and reads it to the end.
///
/// # Errors
/// If the answer is not 200.
pub(crate) async fn get(
    address: SocketAddr,
    path: &str,
    observer: &mut impl Observe,
) -> Result<Read> {
    let request = format!("GET {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n");
    let mut head = Head { bytes: Vec::new(), observer };
    let read = exchange(address, &request, &mut head).await?;
    if head.bytes.starts_with(b"HTTP/1.1 200 ") {
        return Ok(read);
    }
    let why = String::from_utf8_lossy(&head.bytes).into_owned();
    Err(Error::Program { program: format!("GET {path}"), why })
}

/// Keeps the first bytes of a response.
struct Head<'a, O> {
    bytes: Vec<u8>,
    observer: &'a mut O,
}

impl<O: Observe> Observe for Head<'_, O> {
    fn arrived(&mut self, bytes: &[u8], at: Instant) {
        if self.bytes.is_empty() {
            self.bytes = bytes.get(..bytes.len().min(SHOWN)).unwrap_or_default().to_vec();
        }
        self.observer.arrived(bytes, at);
    }
}

async fn exchange(address: SocketAddr, request: &str, observer: &mut impl Observe) -> Result<Read> {
    let started = Instant::now();
    let failed = || Error::io("send a request to the stack");
    let mut stream = TcpStream::connect(address).await.map_err(failed())?;
    stream.write_all(request.as_bytes()).await.map_err(failed())?;
    read(&mut stream, started, observer).await
}

/// Reads to the end.
///
/// # Errors
/// If nothing arrives, or the connection breaks.
pub(crate) async fn read(
    stream: &mut (impl AsyncRead + Unpin),
    started: Instant,
    observer: &mut impl Observe,
) -> Result<Read> {
    let mut buffer = vec![0; BUFFER];
    let mut tail: Vec<u8> = Vec::with_capacity(2 * TAIL);
    let (mut first, mut ended) = (None, started);
    loop {
        let length = stream.read(&mut buffer).await.map_err(Error::io("read a stream"))?;
        if length == 0 {
            break;
        }
        ended = Instant::now();
        first.get_or_insert(ended - started);
        let bytes = buffer.get(..length).unwrap_or_default();
        observer.arrived(bytes, ended);
        let kept = bytes.get(length.saturating_sub(TAIL)..).unwrap_or_default();
        let surplus = (tail.len() + kept.len()).saturating_sub(TAIL).min(tail.len());
        tail.drain(..surplus);
        tail.extend_from_slice(kept);
    }
    let Some(first) = first else {
        let why = "it closed the connection without an answer".to_owned();
        return Err(Error::Program { program: "a stream".to_owned(), why });
    };
    let tail = String::from_utf8_lossy(&tail).into_owned();
    Ok(Read { first, last: ended - started, ended, tail })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Default)]
    struct Sizes(Vec<usize>);

    impl Observe for Sizes {
        fn arrived(&mut self, bytes: &[u8], _: Instant) {
            self.0.push(bytes.len());
        }
    }

    #[tokio::test]
    async fn the_end_is_kept() {
        let text = format!("{}{}", "a".repeat(BUFFER), "b".repeat(TAIL - 1));
        let mut sizes = Sizes::default();
        let read = read(&mut text.as_bytes(), Instant::now(), &mut sizes).await.unwrap();
        assert_eq!(sizes.0, [BUFFER, TAIL - 1]);
        assert_eq!(read.tail, format!("a{}", "b".repeat(TAIL - 1)));
        assert!(read.first <= read.last);
        assert!(super::read(&mut &b""[..], Instant::now(), &mut ()).await.is_err());
    }

    #[test]
    fn only_floods_are_timed() {
        let mut clock = FloodClock::default();
        let start = Instant::now();
        let second = Duration::from_secs(1);
        for (at, text) in ["connected", "xxxxxxxxxxxxxxxxxxxx", "..xxxxxxxxxxxxxxxx..", "completed"]
            .iter()
            .enumerate()
        {
            clock.arrived(text.as_bytes(), start + second * u32::try_from(at).unwrap());
        }
        assert_eq!(clock.rate(100), 100.0);
    }
}
