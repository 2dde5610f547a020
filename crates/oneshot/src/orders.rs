//! Stop orders to a replica, which arrive as signals.

use std::io;

use tokio::{
    signal::unix::{SignalKind, signal},
    sync::mpsc,
};

/// An order to a replica.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Order {
    /// SIGTERM or SIGINT. The first time: exit when idle, or after the job. The second time: exit now.
    Leave,
    /// SIGHUP, which a replica also gets when its parent dies: end the job and exit.
    HangUp,
}

/// The source of orders: signals, or a test.
pub type Orders = mpsc::UnboundedReceiver<Order>;

/// The signals of this process, as orders.
///
/// # Errors
/// If the handlers cannot be installed.
pub(crate) fn from_signals() -> io::Result<Orders> {
    let (sender, orders) = mpsc::unbounded_channel();
    for (kind, order) in [
        (SignalKind::terminate(), Order::Leave),
        (SignalKind::interrupt(), Order::Leave),
        (SignalKind::hangup(), Order::HangUp),
    ] {
        let mut signals = signal(kind)?;
        let sender = sender.clone();
        // Runs as long as the process: a replica always listens to signals.
        tokio::spawn(async move {
            while signals.recv().await.is_some() && sender.send(order).is_ok() {}
        });
    }
    Ok(orders)
}
