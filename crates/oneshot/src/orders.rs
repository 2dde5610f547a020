//! Stop orders to a replica, which arrive as signals.

use std::io;

use boot::{Signal, SignalListener};
use tokio::sync::mpsc;

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
    for (signal, order) in [
        (Signal::SIGTERM, Order::Leave),
        (Signal::SIGINT, Order::Leave),
        (Signal::SIGHUP, Order::HangUp),
    ] {
        let mut signals = SignalListener::new(signal)?;
        let sender = sender.clone();
        // Runs as long as the process: a replica always listens to signals.
        tokio::spawn(async move {
            loop {
                signals.recv().await;
                if sender.send(order).is_err() {
                    return;
                }
            }
        });
    }
    Ok(orders)
}
