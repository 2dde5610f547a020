//! A server that speaks TLS, and callers that do or do not.

#![expect(clippy::unwrap_used, reason = "tests fail loudly")]

use std::{
    fs,
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use bytes::Bytes;
use contract::JobId;
use http::{Request, StatusCode};
use hyper::body::Incoming;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    sync::mpsc,
};
use tokio_rustls::{
    TlsConnector,
    client::TlsStream,
    rustls::{
        ClientConfig, RootCertStore,
        crypto::ring,
        pki_types::{CertificateDer, pem::PemObject as _},
    },
};
use web::{ConnectionLimits, Encryption, Peer, Server, Tls};

const SOON: Duration = Duration::from_secs(10);

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/tls").join(name)
}

/// Copies of a certificate and its key.
struct Files(tempfile::TempDir);

impl Files {
    fn of(name: &str) -> Self {
        let files = Self(tempfile::tempdir().unwrap());
        files.replace(name);
        files
    }

    fn replace(&self, name: &str) {
        fs::copy(fixture(&format!("{name}.pem")), self.path("cert.pem")).unwrap();
        fs::copy(fixture(&format!("{name}.key.pem")), self.path("key.pem")).unwrap();
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn load(&self) -> Tls {
        Tls::load(self.path("cert.pem"), self.path("key.pem")).unwrap()
    }
}

/// A server that answers whether the request was encrypted.
fn server(tls: Tls, limits: ConnectionLimits) -> Server {
    let routes = web::handler(|request: Request<Incoming>| async move {
        let encryption = request.extensions().get::<Peer>().unwrap().encryption();
        web::json(StatusCode::OK, &(encryption == Encryption::Tls))
    });
    let listener = web::bind("127.0.0.1:0".parse().unwrap()).unwrap();
    Server::start_limited(listener.with_tls(Some(tls)), routes, Arc::new(limits))
}

/// A connection whose server must show the certificate in this fixture.
async fn connect(address: SocketAddr, trusted: &str) -> std::io::Result<TlsStream<TcpStream>> {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_file(fixture(trusted)).unwrap()).unwrap();
    let config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()));
    let config = config.with_safe_default_protocol_versions().unwrap();
    let mut config = config.with_root_certificates(roots).with_no_client_auth();
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    let stream = TcpStream::connect(address).await?;
    TlsConnector::from(Arc::new(config)).connect("localhost".try_into().unwrap(), stream).await
}

const REQUEST: &[u8] = b"GET / HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n";

async fn ask(mut stream: impl tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin) -> String {
    let mut answer = String::new();
    let asked = async {
        stream.write_all(REQUEST).await?;
        stream.read_to_string(&mut answer).await
    };
    tokio::time::timeout(SOON, asked).await.unwrap().unwrap();
    answer
}

#[tokio::test]
async fn the_first_byte_decides() {
    let server = server(Files::of("first").load(), ConnectionLimits::none());
    let stream = connect(server.address(), "first.pem").await.unwrap();
    assert_eq!(stream.get_ref().1.alpn_protocol(), Some(&b"http/1.1"[..]));
    let answer = ask(stream).await;
    assert!(answer.starts_with("HTTP/1.1 200 ") && answer.ends_with("true"), "{answer}");
    let answer = ask(TcpStream::connect(server.address()).await.unwrap()).await;
    assert!(answer.starts_with("HTTP/1.1 200 ") && answer.ends_with("false"), "{answer}");
}

#[tokio::test]
async fn a_renewal_needs_no_restart_and_a_broken_one_changes_nothing() {
    let files = Files::of("first");
    let tls = files.load();
    let server = server(tls.clone(), ConnectionLimits::none());
    let address = server.address();
    let following = tokio::spawn(tls.follow_files());
    let shows = async |trusted: &str| {
        let look = async {
            while connect(address, trusted).await.is_err() {
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        };
        tokio::time::timeout(SOON, look).await.unwrap();
    };
    shows("first.pem").await;
    let mut old = connect(address, "first.pem").await.unwrap();
    files.replace("second");
    shows("second.pem").await;
    assert!(connect(address, "first.pem").await.is_err());
    // A connection that was open before stays.
    assert!(ask(&mut old).await.ends_with("true"));
    fs::write(files.path("key.pem"), "damaged").unwrap();
    // Longer than the time between two looks.
    tokio::time::sleep(Duration::from_secs(3)).await;
    shows("second.pem").await;
    files.replace("first");
    shows("first.pem").await;
    following.abort();
}

#[tokio::test]
async fn a_handshake_that_does_not_end_takes_up_a_connection_and_is_cut() {
    let server = server(Files::of("first").load(), ConnectionLimits::new(1, 1));
    let mut slow = TcpStream::connect(server.address()).await.unwrap();
    slow.write_all(&[0x16, 3, 1]).await.unwrap();
    // The second is one too many. If it speaks TLS, it is disconnected; otherwise, it is told why.
    tokio::time::timeout(SOON, connect(server.address(), "first.pem")).await.unwrap().unwrap_err();
    let answer = ask(TcpStream::connect(server.address()).await.unwrap()).await;
    assert!(answer.starts_with("HTTP/1.1 503 "), "{answer}");
    let began = tokio::time::Instant::now();
    let end = tokio::time::timeout(2 * SOON, slow.read(&mut [0])).await.unwrap();
    assert!(matches!(end, Ok(0) | Err(_)), "{end:?}");
    assert!(began.elapsed() < SOON, "{:?}", began.elapsed());
    let answer = ask(connect(server.address(), "first.pem").await.unwrap()).await;
    assert!(answer.ends_with("true"), "{answer}");
}

/// TLS sends an alert before it closes a connection, which hides the end of file from whoever only peeks.
#[tokio::test]
async fn a_caller_that_disconnects_is_noticed_soon() {
    struct Dropped(mpsc::UnboundedSender<()>);
    impl Drop for Dropped {
        fn drop(&mut self) {
            let _ = self.0.send(());
        }
    }
    let (sender, mut dropped) = mpsc::unbounded_channel();
    let routes = web::handler(move |request: Request<Incoming>| {
        let kept = Dropped(sender.clone());
        async move {
            let peer = request.extensions().get::<Peer>().cloned();
            let frames =
                futures_util::stream::unfold((kept, false), |(kept, has_begun)| async move {
                    if has_begun {
                        std::future::pending::<()>().await;
                    }
                    Some((Ok(Bytes::from_static(b"data: 1\n\n")), (kept, true)))
                });
            web::event_stream(JobId::new(), peer, frames)
        }
    });
    let listener = web::bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let server = Server::start(listener.with_tls(Some(Files::of("first").load())), routes);
    for says_goodbye in [true, false] {
        let mut stream = connect(server.address(), "first.pem").await.unwrap();
        stream.write_all(REQUEST).await.unwrap();
        let mut seen = Vec::new();
        while !seen.ends_with(b"data: 1\n\n\r\n") {
            let read = tokio::time::timeout(SOON, stream.read_buf(&mut seen)).await.unwrap();
            assert!(read.unwrap() > 0);
        }
        if says_goodbye {
            stream.get_mut().1.send_close_notify();
            stream.flush().await.unwrap();
        }
        drop(stream);
        tokio::time::timeout(SOON, dropped.recv()).await.expect("noticed").unwrap();
    }
}
