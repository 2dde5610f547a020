//! An HTTP/1.1 server on a free loopback port, with its own runtime.
//!
//! The separate runtime lets a test block its own thread (in `git2` or in a child's `wait`) while
//! the server answers. Dropping the [`Host`] closes its connections and ends its children.

use std::{
    convert::Infallible,
    io,
    net::{Ipv4Addr, SocketAddr},
};

use bytes::Bytes;
use http::{Request, Response, StatusCode, header};
use http_body_util::{BodyExt as _, Full, combinators::UnsyncBoxBody};
use hyper::{body::Incoming, service::service_fn};
use hyper_util::rt::TokioIo;
use tokio::{net::TcpListener, runtime::Runtime, task::JoinSet};

/// Any body. An error in it closes the connection.
pub(crate) type Body = UnsyncBoxBody<Bytes, io::Error>;

/// A running server.
#[derive(Debug)]
pub(crate) struct Host {
    address: SocketAddr,
    runtime: Option<Runtime>,
}

impl Host {
    /// Serves `handler` until the host is dropped.
    pub(crate) fn start<H, F>(handler: H) -> Self
    where
        H: Fn(Request<Incoming>) -> F + Clone + Send + Sync + 'static,
        F: Future<Output = Response<Body>> + Send + 'static,
    {
        let listener = std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0))
            .expect("failed to bind a loopback port");
        listener.set_nonblocking(true).expect("failed to make the listener non-blocking");
        let address = listener.local_addr().expect("a bound listener has an address");
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .thread_name("testkit-host")
            .enable_all()
            .build()
            .expect("failed to start a runtime");
        runtime.spawn(async move {
            let listener =
                TcpListener::from_std(listener).expect("the runtime accepts the listener");
            accept(listener, handler).await;
        });
        Self { address, runtime: Some(runtime) }
    }

    /// The address it listens on.
    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

async fn accept<H, F>(listener: TcpListener, handler: H)
where
    H: Fn(Request<Incoming>) -> F + Clone + Send + Sync + 'static,
    F: Future<Output = Response<Body>> + Send + 'static,
{
    let mut connections = JoinSet::new();
    while let Ok((stream, _)) = listener.accept().await {
        while connections.try_join_next().is_some() {}
        let handler = handler.clone();
        connections.spawn(async move {
            let service = service_fn(move |request| {
                let response = handler(request);
                async move { Ok::<_, Infallible>(response.await) }
            });
            // If a client disconnects, that is not an error of the server.
            let _gone = hyper::server::conn::http1::Builder::new()
                .serve_connection(TokioIo::new(stream), service)
                .await;
        });
    }
}

/// A complete body.
pub(crate) fn full(bytes: impl Into<Bytes>) -> Body {
    Full::new(bytes.into()).map_err(|never| match never {}).boxed_unsync()
}

/// A response with a content type and a complete body.
pub(crate) fn respond(
    status: StatusCode,
    content_type: &str,
    body: impl Into<Bytes>,
) -> Response<Body> {
    Response::builder()
        .status(status)
        .header(header::CONTENT_TYPE, content_type)
        .body(full(body))
        .expect("a valid response")
}
