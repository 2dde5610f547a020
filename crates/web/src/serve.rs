//! A server: its listener and its connections, which are closed in that order.

use std::{
    convert::Infallible,
    io,
    net::{Ipv4Addr, SocketAddr},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use contract::PerService;
use http::{Request, Response};
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpListener, TcpSocket, TcpStream},
    task::JoinHandle,
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tower::{BoxError, Service, ServiceExt, util::Oneshot};

use crate::{Body, ConnectionLimits, Peer, Tls, peer::Connection};

/// How long the head of a request may take to arrive. hyper ignores this without a timer.
const HEADER_TIME: Duration = Duration::from_secs(15);
/// How long the first byte of a connection and a handshake of TLS may take together.
const HANDSHAKE_TIME: Duration = Duration::from_secs(5);
/// The most that is buffered for a connection in each direction, in bytes. The head of a request must fit.
const BUFFER: usize = 32 * 1024;

/// A bound listener that accepts no connections yet.
#[derive(Debug)]
pub struct Listener {
    listener: TcpListener,
    address: SocketAddr,
    tls: Option<Tls>,
}

impl Listener {
    /// The address, with the real port even if it was bound to port 0.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// With `tls`, callers may speak TLS or plain HTTP. The service learns from the [`Peer`] which of them, and decides what
    /// it accepts.
    #[must_use]
    pub fn with_tls(self, tls: Option<Tls>) -> Self {
        Self { tls, ..self }
    }
}

/// Binds a listener. Its backlog is long, so that many callers can connect at the same moment.
///
/// # Errors
/// If the address is in use or does not belong to this machine.
pub fn bind(address: SocketAddr) -> io::Result<Listener> {
    let listener = bound(address)?.listen(4096)?;
    let address = listener.local_addr()?;
    Ok(Listener { listener, address, tls: None })
}

fn bound(address: SocketAddr) -> io::Result<TcpSocket> {
    let socket = if address.is_ipv6() { TcpSocket::new_v6()? } else { TcpSocket::new_v4()? };
    // A restarted service gets its port although old connections are in TIME_WAIT.
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    Ok(socket)
}

/// A free port on loopback, reserved for a server in another process. Until this is dropped, Linux gives the port to
/// nobody who asks for any free port, neither for a listener nor for a connection to elsewhere. A server that asks for
/// this very port gets it, if it sets `SO_REUSEADDR` as servers do: the reservation is bound, but does not listen.
#[derive(Debug)]
pub struct ReservedPort {
    _socket: TcpSocket,
    address: SocketAddr,
}

impl ReservedPort {
    /// Reserves a port for each service.
    ///
    /// # Errors
    /// If not enough ports are free.
    pub fn for_services() -> io::Result<PerService<Self>> {
        PerService::try_from_fn(|_| Self::new())
    }

    /// Reserves a port of `127.0.0.1`.
    ///
    /// # Errors
    /// If all are in use.
    pub fn new() -> io::Result<Self> {
        let socket = bound((Ipv4Addr::LOCALHOST, 0).into())?;
        let address = socket.local_addr()?;
        Ok(Self { _socket: socket, address })
    }

    /// The address with the port.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The port.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.address.port()
    }
}

/// Makes a service of a function from a request to its response.
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

/// What a [`Server`] serves: a service that answers every request with a body of type `B`.
pub trait Serve<B>:
    Service<Request<Incoming>, Response = Response<B>, Error = Infallible, Future: Send>
    + Clone
    + Send
    + Sync
    + 'static
{
}

impl<S, B> Serve<B> for S where
    S: Service<Request<Incoming>, Response = Response<B>, Error = Infallible, Future: Send>
        + Clone
        + Send
        + Sync
        + 'static
{
}

/// A running server. Dropping it closes all connections immediately.
#[derive(Debug)]
pub struct Server {
    address: SocketAddr,
    accepting: Option<JoinHandle<()>>,
    shutdown: Shutdown,
    connections: TaskTracker,
}

/// The steps of a shutdown, in order.
#[derive(Clone, Debug, Default)]
struct Shutdown {
    /// Accept no more connections.
    close: CancellationToken,
    /// Accept no more requests on open connections.
    drain: CancellationToken,
    /// Close all connections.
    abort: CancellationToken,
}

impl Server {
    /// Serves `service` on `listener` until it is told to stop. Each request has its [`Peer`](crate::Peer) as an extension.
    pub fn start<B>(listener: Listener, service: impl Serve<B>) -> Self
    where
        B: hyper::body::Body<Data = Bytes, Error: Into<BoxError>> + Send + 'static,
    {
        Self::start_limited(listener, service, Arc::new(ConnectionLimits::none()))
    }

    /// [`start`](Self::start) with at most so many connections. Several servers may share `limits`.
    pub fn start_limited<B>(
        listener: Listener,
        service: impl Serve<B>,
        limits: Arc<ConnectionLimits>,
    ) -> Self
    where
        B: hyper::body::Body<Data = Bytes, Error: Into<BoxError>> + Send + 'static,
    {
        let Listener { listener, address, tls } = listener;
        let shutdown = Shutdown::default();
        let connections = TaskTracker::new();
        let serving = Serving { service, limits, tls, shutdown: shutdown.clone() };
        let accepting = tokio::spawn(serving.accept(listener, connections.clone()));
        Self { address, accepting: Some(accepting), shutdown, connections }
    }

    /// The address it listens on.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Closes the listener. When this returns, new connections are refused; requests in progress continue.
    pub async fn close_listener(&mut self) {
        self.shutdown.close.cancel();
        if let Some(accepting) = self.accepting.take() {
            // Fails only if the task panicked, and that closed the listener too.
            let _ = accepting.await;
        }
    }

    /// Lets requests in progress finish, and cuts those that take longer than `patience`.
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

/// How the connections of a server are served.
struct Serving<S> {
    service: S,
    limits: Arc<ConnectionLimits>,
    tls: Option<Tls>,
    shutdown: Shutdown,
}

impl<S> Serving<S> {
    async fn accept<B>(self, listener: TcpListener, connections: TaskTracker)
    where
        S: Serve<B>,
        B: hyper::body::Body<Data = Bytes, Error: Into<BoxError>> + Send + 'static,
    {
        let Self { service, limits, tls, shutdown } = self;
        loop {
            let accepted = tokio::select! {
                biased;
                () = shutdown.close.cancelled() => return,
                accepted = listener.accept() => accepted,
            };
            let (stream, caller) = match accepted {
                Ok(accepted) => accepted,
                // The caller disconnected before the connection was accepted.
                Err(error) if error.kind() == io::ErrorKind::ConnectionAborted => continue,
                Err(error) => {
                    // Most likely, there are no file descriptors left. Nothing tells when one becomes free.
                    tracing::warn!(%error, "failed to accept a connection");
                    tokio::time::sleep(Duration::from_millis(50)).await;
                    continue;
                }
            };
            // Fails only if the connection is closed already.
            let _ = stream.set_nodelay(true);
            let admitted = match limits.admit(caller.ip()) {
                Ok(admitted) => admitted,
                Err(why) => {
                    tracing::debug!(%caller, why, "refused a connection");
                    let (limits, tls) = (Arc::clone(&limits), tls.clone());
                    connections.spawn(async move { limits.refuse(stream, why, tls).await });
                    continue;
                }
            };
            let (service, tls, shutdown) = (service.clone(), tls.clone(), shutdown.clone());
            connections.spawn(async move {
                let _admitted = admitted;
                if let Some((stream, peer)) = open(stream, tls, &shutdown).await {
                    serve(stream, peer, service, shutdown).await;
                }
            });
        }
    }
}

/// What is read from a connection and written to it, encrypted or not.
trait Duplex: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Duplex for T {}

/// A connection that is ready for requests. `None` if its handshake fails.
async fn open(
    stream: TcpStream,
    tls: Option<Tls>,
    shutdown: &Shutdown,
) -> Option<(Box<dyn Duplex>, Peer)> {
    let (stream, peer) = Connection::new(stream);
    let Some(tls) = tls else { return Some((Box::new(stream), peer)) };
    let opening = async {
        if peer.speaks_tls().await? {
            let stream: Box<dyn Duplex> = Box::new(tls.accept(stream).await?);
            return io::Result::Ok((stream, peer.encrypted()));
        }
        Ok((Box::new(stream), peer))
    };
    let opened = tokio::select! {
        opened = tokio::time::timeout(HANDSHAKE_TIME, opening) => opened,
        // There is no request to finish.
        () = shutdown.drain.cancelled() => return None,
        () = shutdown.abort.cancelled() => return None,
    };
    match opened {
        Ok(Ok(opened)) => Some(opened),
        Ok(Err(error)) => {
            tracing::debug!(%error, "a connection ended in its handshake");
            None
        }
        Err(_) => {
            tracing::debug!("a connection had no handshake in time");
            None
        }
    }
}

/// Answers the requests of a connection until it ends.
async fn serve<S, B>(stream: Box<dyn Duplex>, peer: Peer, service: S, shutdown: Shutdown)
where
    S: Serve<B>,
    B: hyper::body::Body<Data = Bytes, Error: Into<BoxError>> + Send + 'static,
{
    let began = AtomicBool::new(false);
    let answer = service_fn(|mut request: Request<Incoming>| -> Oneshot<S, _> {
        began.store(true, Ordering::Relaxed);
        request.extensions_mut().insert(peer.clone());
        service.clone().oneshot(request)
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEADER_TIME)
        .half_close(true)
        .max_buf_size(BUFFER)
        .serve_connection(TokioIo::new(stream), answer);
    let Shutdown { drain, abort, .. } = shutdown;
    let mut connection = std::pin::pin!(connection);
    let result = tokio::select! {
        result = connection.as_mut() => result,
        () = drain.cancelled() => {
            if !began.load(Ordering::Relaxed) {
                // There is no request to finish.
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
        // Mostly callers that disconnect.
        tracing::debug!(%error, "a connection ended");
    }
}
