//! Signals that a program handles.
//!
//! `tokio::signal`, and the registry below it that most crates share, install a handler first and then note who is to be
//! told. A signal in between is lost: it does not end the process, and nobody hears of it. So a replica that was told to
//! exit while it started could stay for good. Here everything that the handler needs exists before it.

use std::{
    io::{self, Read as _},
    os::unix::net::UnixStream,
    sync::{
        Mutex, OnceLock, PoisonError,
        atomic::{AtomicU32, Ordering},
    },
    thread,
};

use nix::{
    errno::Errno,
    libc::c_int,
    sys::signal::{SaFlags, SigAction, SigHandler, SigSet, Signal, sigaction},
    unistd::write,
};
use tokio::sync::Notify;

/// How often each signal has arrived, by its number. A forked child, which has the handler until its `exec`, counts for
/// itself.
static ARRIVED: [AtomicU32; 32] = [const { AtomicU32::new(0) }; 32];

/// Wakes the thread that wakes the listeners. A forked child can do that too, which is harmless.
static WAKES: OnceLock<UnixStream> = OnceLock::new();

/// Wakes all listeners.
static LISTENERS: Notify = Notify::const_new();

/// Listens for one signal, which from then on does not end the process.
#[derive(Debug)]
pub struct SignalListener {
    signal: Signal,
    /// How many of them were received.
    seen: u32,
}

impl SignalListener {
    /// Starts to listen. The process handles the signal from then on, also when this is dropped.
    ///
    /// # Errors
    /// If no threads or file descriptors are left, or nobody may handle this signal.
    pub fn new(signal: Signal) -> io::Result<Self> {
        start_thread()?;
        // A signal that arrives from here on is not missed.
        let seen = arrived(signal);
        handle(signal)?;
        Ok(Self { signal, seen })
    }

    /// Waits for the next signal. Those that have arrived since the last one count as one. Cancel-safe.
    pub async fn recv(&mut self) {
        loop {
            // It is told what happens from now on, even before it is polled.
            let told = LISTENERS.notified();
            let arrived = arrived(self.signal);
            if arrived != self.seen {
                self.seen = arrived;
                return;
            }
            told.await;
        }
    }
}

fn counter(signal: c_int) -> Option<&'static AtomicU32> {
    ARRIVED.get(usize::try_from(signal).ok()?)
}

fn arrived(signal: Signal) -> u32 {
    counter(signal as c_int).map_or(0, |count| count.load(Ordering::SeqCst))
}

/// Starts the thread unless it is running. It runs as long as the process and is never joined.
fn start_thread() -> io::Result<()> {
    static STARTING: Mutex<()> = Mutex::new(());
    let _starting = STARTING.lock().unwrap_or_else(PoisonError::into_inner);
    if WAKES.get().is_some() {
        return Ok(());
    }
    let (mut woken, wakes) = UnixStream::pair()?;
    // If it is full, the thread is going to wake up anyway.
    wakes.set_nonblocking(true)?;
    thread::Builder::new().name("signals".into()).spawn(move || {
        // The other end is never closed.
        while let Ok(1..) = woken.read(&mut [0; 64]) {
            LISTENERS.notify_waiters();
        }
    })?;
    let _ = WAKES.set(wakes);
    Ok(())
}

#[expect(unsafe_code, reason = "there is no safe interface to a signal handler of one's own")]
fn handle(signal: Signal) -> io::Result<()> {
    let handler = SigHandler::Handler(on_signal);
    let action = SigAction::new(handler, SaFlags::SA_RESTART, SigSet::empty());
    // SAFETY: `on_signal` only does what a handler may do at any point of a program.
    unsafe { sigaction(signal, &action) }?;
    Ok(())
}

/// The handler: atomic operations and `write(2)`. It leaves `errno` as it was.
extern "C" fn on_signal(signal: c_int) {
    let errno = Errno::last_raw();
    if let Some(count) = counter(signal) {
        count.fetch_add(1, Ordering::SeqCst);
    }
    if let Some(wakes) = WAKES.get() {
        let _ = write(wakes, &[0]);
    }
    Errno::set_raw(errno);
}

#[cfg(test)]
mod tests {
    use std::{future::Future, time::Duration};

    use nix::sys::signal::raise;

    use super::*;

    async fn is_quiet(listener: impl Future<Output = ()>) -> bool {
        tokio::time::timeout(Duration::from_millis(50), listener).await.is_err()
    }

    #[tokio::test]
    async fn each_listener_hears_each_signal_once() {
        let mut first = SignalListener::new(Signal::SIGUSR2).unwrap();
        let mut second = SignalListener::new(Signal::SIGUSR2).unwrap();
        let mut other = SignalListener::new(Signal::SIGURG).unwrap();
        for _ in 0..3 {
            // More than the pipe may hold.
            for _ in 0..2000 {
                raise(Signal::SIGUSR2).unwrap();
            }
            first.recv().await;
            second.recv().await;
            assert!(is_quiet(first.recv()).await, "they count as one");
            assert!(is_quiet(other.recv()).await, "another signal");
            let waiting = tokio::spawn(async move {
                first.recv().await;
                first
            });
            raise(Signal::SIGUSR2).unwrap();
            first = waiting.await.unwrap();
            second.recv().await;
        }
        assert!(is_quiet(SignalListener::new(Signal::SIGUSR2).unwrap().recv()).await, "too late");
    }

    #[test]
    fn a_signal_that_cannot_be_handled_is_an_error() {
        assert!(SignalListener::new(Signal::SIGKILL).is_err());
    }
}
