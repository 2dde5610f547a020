//! Callers that close their sending side and wait for the answer, and callers that are gone.

#![expect(clippy::unwrap_used, reason = "tests fail loudly")]

use std::{net::SocketAddr, time::Duration};

use bytes::Bytes;
use contract::JobId;
use futures_util::{StreamExt, stream};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    sync::mpsc,
};
use web::{Peer, Server};

const SOON: Duration = Duration::from_secs(10);

/// Serves one stream: an event at once, the second after `pause`. Says when a stream is dropped.
async fn server(pause: Duration) -> (Server, mpsc::UnboundedReceiver<()>) {
    struct Dropped(mpsc::UnboundedSender<()>);
    impl Drop for Dropped {
        fn drop(&mut self) {
            let _ = self.0.send(());
        }
    }
    let (sender, dropped) = mpsc::unbounded_channel();
    let routes = web::handler(move |request: http::Request<hyper::body::Incoming>| {
        let dropped = Dropped(sender.clone());
        async move {
            let peer = request.extensions().get::<Peer>().cloned();
            let first = stream::iter([Ok(Bytes::from_static(b"data: 1\n\n"))]);
            let second = stream::once(async move {
                let _dropped = dropped;
                tokio::time::sleep(pause).await;
                Ok(Bytes::from_static(b"data: 2\n\n"))
            });
            web::event_stream(JobId::new(), peer, first.chain(second))
        }
    });
    let listener = web::bind("127.0.0.1:0".parse().unwrap()).unwrap();
    (Server::start(listener, routes), dropped)
}

async fn ask(address: SocketAddr) -> TcpStream {
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.write_all(b"GET / HTTP/1.1\r\nhost: localhost\r\n\r\n").await.unwrap();
    stream
}

#[tokio::test]
async fn who_closes_its_sending_side_gets_the_whole_answer() {
    let (server, _dropped) = server(Duration::from_millis(1500)).await;
    let mut stream = ask(server.address()).await;
    stream.shutdown().await.unwrap();
    let mut answer = String::new();
    tokio::time::timeout(SOON, stream.read_to_string(&mut answer)).await.unwrap().unwrap();
    assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
    assert!(answer.contains("data: 1\n\n") && answer.contains("data: 2\n\n"), "{answer}");
    assert!(answer.ends_with("\r\n0\r\n\r\n"), "{answer}");
}

/// Long before its stream would have had to be written to.
#[tokio::test]
async fn who_hangs_up_is_noticed_soon() {
    let (server, mut dropped) = server(Duration::from_secs(3600)).await;
    for head_first in [false, true] {
        let mut stream = ask(server.address()).await;
        if head_first {
            // All there is to read has been read, so the end of the connection is an orderly one.
            let mut seen = Vec::new();
            while !seen.ends_with(b"data: 1\n\n\r\n") {
                stream.read_buf(&mut seen).await.unwrap();
            }
        }
        drop(stream);
        tokio::time::timeout(SOON, dropped.recv()).await.expect("it was noticed").unwrap();
    }
}
