//! Serving: a listener and its connections, closed in that order.

use std::{
    convert::Infallible,
    future::Future,
    io,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use http::{Request, Response};
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::{
    net::{TcpListener, TcpSocket},
    task::JoinHandle,
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::Body;

/// How long the head of a request may take to arrive. hyper needs a timer for it, or does nothing.
const HEADER_TIME: Duration = Duration::from_secs(15);

/// Binds a listener that many callers may knock at in the same moment.
///
/// # Errors
/// If the address is taken or not ours.
pub fn bind(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = if address.is_ipv6() { TcpSocket::new_v6()? } else { TcpSocket::new_v4()? };
    // A restarted service gets its port back though old connections linger in TIME_WAIT.
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    socket.listen(4096)
}

/// A running server. Dropping it closes everything at once.
#[derive(Debug)]
pub struct Server {
    address: SocketAddr,
    accepting: Option<JoinHandle<()>>,
    close: CancellationToken,
    drain: CancellationToken,
    abort: CancellationToken,
    connections: TaskTracker,
}

impl Server {
    /// Serves `handler` on `listener` until told otherwise.
    ///
    /// # Errors
    /// If the listener's address cannot be read.
    pub fn start<H, F>(listener: TcpListener, handler: H) -> io::Result<Self>
    where
        H: Fn(Request<Incoming>) -> F + Send + Sync + 'static,
        F: Future<Output = Response<Body>> + Send + 'static,
    {
        let address = listener.local_addr()?;
        let (close, drain, abort) =
            (CancellationToken::new(), CancellationToken::new(), CancellationToken::new());
        let connections = TaskTracker::new();
        let accepting = tokio::spawn(accept(
            listener,
            Arc::new(handler),
            close.clone(),
            drain.clone(),
            abort.clone(),
            connections.clone(),
        ));
        Ok(Self { address, accepting: Some(accepting), close, drain, abort, connections })
    }

    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Closes the listener; when this returns, new connections are refused. Requests under way go on.
    pub async fn close_listener(&mut self) {
        self.close.cancel();
        if let Some(accepting) = self.accepting.take() {
            // Its only end is its own; a panic in it has closed the listener too.
            let _ = accepting.await;
        }
    }

    /// Lets requests under way finish, their streams flushed to the last byte, and cuts those that have
    /// not after `patience`.
    pub async fn finish(mut self, patience: Duration) {
        self.close_listener().await;
        self.drain.cancel();
        self.connections.close();
        if tokio::time::timeout(patience, self.connections.wait()).await.is_err() {
            self.abort.cancel();
            self.connections.wait().await;
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.close.cancel();
        self.abort.cancel();
    }
}

async fn accept<H, F>(
    listener: TcpListener,
    handler: Arc<H>,
    close: CancellationToken,
    drain: CancellationToken,
    abort: CancellationToken,
    connections: TaskTracker,
) where
    H: Fn(Request<Incoming>) -> F + Send + Sync + 'static,
    F: Future<Output = Response<Body>> + Send + 'static,
{
    loop {
        let accepted = tokio::select! {
            biased;
            () = close.cancelled() => return,
            accepted = listener.accept() => accepted,
        };
        let stream = match accepted {
            Ok((stream, _)) => stream,
            // The caller was gone before it was greeted.
            Err(error) if error.kind() == io::ErrorKind::ConnectionAborted => continue,
            Err(error) => {
                // Out of descriptors, most likely: there is nothing to wait for but somebody closing one.
                tracing::warn!(%error, "cannot accept a connection");
                tokio::time::sleep(Duration::from_millis(50)).await;
                continue;
            }
        };
        // Fails only on a connection that is gone already.
        let _ = stream.set_nodelay(true);
        let handler = Arc::clone(&handler);
        let began = Arc::new(AtomicBool::new(false));
        let asked = Arc::clone(&began);
        let service = service_fn(move |request| {
            asked.store(true, Ordering::Relaxed);
            let answer = handler(request);
            async move { Ok::<_, Infallible>(answer.await) }
        });
        let connection = http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(HEADER_TIME)
            .serve_connection(TokioIo::new(stream), service);
        let (drain, abort) = (drain.clone(), abort.clone());
        connections.spawn(async move {
            let mut connection = std::pin::pin!(connection);
            let result = tokio::select! {
                result = connection.as_mut() => result,
                () = drain.cancelled() => {
                    if !began.load(Ordering::Relaxed) {
                        // Nothing was ever asked here, so there is nothing to finish.
                        return;
                    }
                    connection.as_mut().graceful_shutdown();
                    tokio::select! {
                        result = connection => result,
                        () = abort.cancelled() => return,
                    }
                }
                () = abort.cancelled() => return,
            };
            if let Err(error) = result {
                // Callers that leave, mostly.
                tracing::debug!(%error, "a connection ended");
            }
        });
    }
}
