//! Connections above the limit.

#![expect(clippy::unwrap_used, reason = "tests fail loudly")]

use std::{net::SocketAddr, sync::Arc, time::Duration};

use http::StatusCode;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};
use web::{ConnectionLimits, Server};

const SOON: Duration = Duration::from_secs(10);

/// Sends a request and reads the first bytes of the answer, or all of it.
async fn ask(address: SocketAddr) -> (TcpStream, String) {
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.write_all(b"GET / HTTP/1.1\r\nhost: localhost\r\n\r\n").await.unwrap();
    let mut answer = Vec::new();
    while !String::from_utf8_lossy(&answer).contains('}') {
        let read = tokio::time::timeout(SOON, stream.read_buf(&mut answer)).await.unwrap();
        assert_ne!(read.unwrap(), 0, "{}", String::from_utf8_lossy(&answer));
    }
    (stream, String::from_utf8(answer).unwrap())
}

#[tokio::test]
async fn one_more_is_told_to_come_back_and_may() {
    let limits = Arc::new(ConnectionLimits::new(2, 1));
    let service = || web::handler(|_| async { web::json(StatusCode::OK, &serde_json::json!({})) });
    let listen = || web::bind("127.0.0.1:0".parse().unwrap()).unwrap();
    // The limit is for both together.
    let servers = [(); 2].map(|()| Server::start_limited(listen(), service(), Arc::clone(&limits)));
    let (first, answer) = ask(servers[0].address()).await;
    assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
    let (_second, answer) = ask(servers[1].address()).await;
    assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
    for server in &servers {
        let (mut refused, answer) = ask(server.address()).await;
        assert!(answer.starts_with("HTTP/1.1 503 "), "{answer}");
        let lower = answer.to_lowercase();
        assert!(
            lower.contains("retry-after: 1\r\n") && answer.contains(r#""code":"busy""#),
            "{answer}"
        );
        let end = tokio::time::timeout(SOON, refused.read(&mut [0])).await.unwrap();
        assert_eq!(end.unwrap(), 0);
    }
    drop(first);
    let admitted = async {
        while !ask(servers[0].address()).await.1.starts_with("HTTP/1.1 200 ") {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(SOON, admitted).await.unwrap();
}
