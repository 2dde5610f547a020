//! Callers that close their sending side and still read the response, and callers that are gone.

#![expect(clippy::unwrap_used, reason = "tests fail loudly")]

use std::{net::SocketAddr, time::Duration};

use bytes::Bytes;
use contract::JobId;
use futures_util::{StreamExt, stream};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    sync::{mpsc, watch},
};
use web::{Peer, Server};

const SOON: Duration = Duration::from_secs(10);

/// Serves a stream of two events: the first at once, the second when `gate` is open. Tells when a stream is dropped.
fn server(gate: &watch::Sender<bool>) -> (Server, mpsc::UnboundedReceiver<()>) {
    struct Dropped(mpsc::UnboundedSender<()>);
    impl Drop for Dropped {
        fn drop(&mut self) {
            let _ = self.0.send(());
        }
    }
    let (sender, dropped) = mpsc::unbounded_channel();
    let gate = gate.subscribe();
    let routes = web::handler(move |request: http::Request<hyper::body::Incoming>| {
        let (dropped, mut gate) = (Dropped(sender.clone()), gate.clone());
        async move {
            let peer = request.extensions().get::<Peer>().cloned();
            let first = stream::iter([Ok(Bytes::from_static(b"data: 1\n\n"))]);
            let second = stream::once(async move {
                let _dropped = dropped;
                let _ = gate.wait_for(|open| *open).await;
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

async fn read_until(stream: &mut TcpStream, end: &str) -> String {
    let mut seen = Vec::new();
    let read = async {
        while !seen.ends_with(end.as_bytes()) {
            assert!(stream.read_buf(&mut seen).await.unwrap() > 0, "the stream ended");
        }
    };
    tokio::time::timeout(SOON, read).await.unwrap();
    String::from_utf8(seen).unwrap()
}

#[tokio::test]
async fn a_caller_that_closes_its_sending_side_gets_the_whole_answer() {
    let gate = watch::Sender::new(false);
    let (server, _dropped) = server(&gate);
    let mut stream = ask(server.address()).await;
    stream.shutdown().await.unwrap();
    // The server probes whether the caller is gone, and that alone ends nothing.
    let mut answer = read_until(&mut stream, ": ping\n\n\r\n").await;
    gate.send_replace(true);
    tokio::time::timeout(SOON, stream.read_to_string(&mut answer)).await.unwrap().unwrap();
    assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
    assert!(answer.contains("data: 1\n\n") && answer.contains("data: 2\n\n"), "{answer}");
    assert!(answer.ends_with("\r\n0\r\n\r\n"), "{answer}");
}

/// Long before the stream has anything to send.
#[tokio::test]
async fn a_caller_that_disconnects_is_noticed_soon() {
    let gate = watch::Sender::new(false);
    let (server, mut dropped) = server(&gate);
    for head_first in [false, true] {
        let mut stream = ask(server.address()).await;
        if head_first {
            // Nothing is left to read, so the connection is closed in an orderly way.
            read_until(&mut stream, "data: 1\n\n\r\n").await;
        }
        drop(stream);
        tokio::time::timeout(SOON, dropped.recv())
            .await
            .expect("the disconnect was noticed")
            .unwrap();
    }
}
