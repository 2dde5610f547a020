//! Serving: a listener and its connections, closed in that order.

use std::{
    convert::Infallible,
    io,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use http::{Request, Response};
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::{
    net::{TcpListener, TcpSocket},
    task::JoinHandle,
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tower::{Service, ServiceExt, util::Oneshot};

use crate::{Body, peer::Connection};

/// How long the head of a request may take to arrive. hyper needs a timer for it, or does nothing.
const HEADER_TIME: Duration = Duration::from_secs(15);

/// A bound listener that takes no connections yet.
#[derive(Debug)]
pub struct Listener {
    listener: TcpListener,
    address: SocketAddr,
}

impl Listener {
    /// Where it listens: the port is the real one, also if any free one was asked for.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }
}

/// Binds a listener with a long backlog, so that many callers may connect at the same moment.
///
/// # Errors
/// If the address is in use or does not belong to this machine.
pub fn bind(address: SocketAddr) -> io::Result<Listener> {
    let socket = if address.is_ipv6() { TcpSocket::new_v6()? } else { TcpSocket::new_v4()? };
    // A restarted service gets its port back though old connections linger in TIME_WAIT.
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    let listener = socket.listen(4096)?;
    let address = listener.local_addr()?;
    Ok(Listener { listener, address })
}

/// A function from a request to its answer, as a service.
pub fn handler<H, F>(
    handler: H,
) -> impl Service<
    Request<Incoming>,
    Response = Response<Body>,
    Error = Infallible,
    Future = impl Future<Output = Result<Response<Body>, Infallible>> + Send,
> + Clone
+ Send
+ Sync
+ 'static
where
    H: Fn(Request<Incoming>) -> F + Clone + Send + Sync + 'static,
    F: Future<Output = Response<Body>> + Send + 'static,
{
    tower::service_fn(move |request| {
        let answer = handler(request);
        async move { Ok(answer.await) }
    })
}

/// A running server. Dropping it closes everything at once.
#[derive(Debug)]
pub struct Server {
    address: SocketAddr,
    accepting: Option<JoinHandle<()>>,
    shutdown: Shutdown,
    connections: TaskTracker,
}

/// The steps of a server's end, in order.
#[derive(Clone, Debug, Default)]
struct Shutdown {
    /// No more connections.
    close: CancellationToken,
    /// No more requests on the connections there are.
    drain: CancellationToken,
    /// No more connections at all.
    abort: CancellationToken,
}

impl Server {
    /// Serves `service` on `listener` until told otherwise. Each request carries the [`Peer`](crate::Peer) it
    /// came from as an extension.
    pub fn start<S, B>(listener: Listener, service: S) -> Self
    where
        S: Service<Request<Incoming>, Response = Response<B>, Error = Infallible>
            + Clone
            + Send
            + Sync
            + 'static,
        S::Future: Send,
        B: hyper::body::Body<Data = Bytes> + Send + 'static,
        B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
    {
        let Listener { listener, address } = listener;
        let shutdown = Shutdown::default();
        let connections = TaskTracker::new();
        let accepting =
            tokio::spawn(accept(listener, service, shutdown.clone(), connections.clone()));
        Self { address, accepting: Some(accepting), shutdown, connections }
    }

    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Closes the listener; when this returns, new connections are refused. Requests under way go on.
    pub async fn close_listener(&mut self) {
        self.shutdown.close.cancel();
        if let Some(accepting) = self.accepting.take() {
            // Its only end is its own; a panic in it has closed the listener too.
            let _ = accepting.await;
        }
    }

    /// Lets requests under way finish, their streams flushed to the last byte, and cuts those that take
    /// longer than `patience`.
    pub async fn finish(mut self, patience: Duration) {
        self.close_listener().await;
        self.shutdown.drain.cancel();
        self.connections.close();
        if tokio::time::timeout(patience, self.connections.wait()).await.is_err() {
            self.shutdown.abort.cancel();
            self.connections.wait().await;
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.shutdown.close.cancel();
        self.shutdown.abort.cancel();
    }
}

async fn accept<S, B>(
    listener: TcpListener,
    service: S,
    shutdown: Shutdown,
    connections: TaskTracker,
) where
    S: Service<Request<Incoming>, Response = Response<B>, Error = Infallible>
        + Clone
        + Send
        + Sync
        + 'static,
    S::Future: Send,
    B: hyper::body::Body<Data = Bytes> + Send + 'static,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    loop {
        let accepted = tokio::select! {
            biased;
            () = shutdown.close.cancelled() => return,
            accepted = listener.accept() => accepted,
        };
        let stream = match accepted {
            Ok((stream, _)) => stream,
            // The caller hung up before the connection was accepted.
            Err(error) if error.kind() == io::ErrorKind::ConnectionAborted => continue,
            Err(error) => {
                // Out of descriptors, most likely. Nothing tells when one becomes free.
                tracing::warn!(%error, "cannot accept a connection");
                tokio::time::sleep(Duration::from_millis(50)).await;
                continue;
            }
        };
        // Fails only on a connection that is closed already.
        let _ = stream.set_nodelay(true);
        let (stream, peer) = Connection::new(stream);
        let began = Arc::new(AtomicBool::new(false));
        let (service, begins) = (service.clone(), Arc::clone(&began));
        let answer = service_fn(move |mut request: Request<Incoming>| -> Oneshot<S, _> {
            begins.store(true, Ordering::Relaxed);
            request.extensions_mut().insert(peer.clone());
            service.clone().oneshot(request)
        });
        let connection = http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(HEADER_TIME)
            .half_close(true)
            .serve_connection(TokioIo::new(stream), answer);
        let Shutdown { drain, abort, .. } = shutdown.clone();
        connections.spawn(async move {
            let mut connection = std::pin::pin!(connection);
            let result = tokio::select! {
                result = connection.as_mut() => result,
                () = drain.cancelled() => {
                    if !began.load(Ordering::Relaxed) {
                        // No request has come, so there is none to finish.
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
                // Callers that hang up, mostly.
                tracing::debug!(%error, "a connection ended");
            }
        });
    }
}
