//! A TLS server in front of a plain one.

use std::{
    path::{Path, PathBuf},
    process::Stdio,
    sync::Arc,
};

use tempfile::TempDir;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    process::Command,
    sync::mpsc,
    task::JoinSet,
};
use tokio_rustls::{
    TlsAcceptor,
    rustls::{
        ServerConfig,
        crypto::ring,
        pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject as _},
    },
};

/// Terminates TLS before a server, and reports the head of each connection's first request.
#[derive(Debug)]
pub struct TlsFront {
    url: String,
    certificate: PathBuf,
    heads: mpsc::UnboundedReceiver<String>,
    _directory: TempDir,
    _serving: JoinSet<()>,
}

impl TlsFront {
    /// Starts one before the server at an `http://` URL. `None` on a machine without openssl, which makes the
    /// certificate.
    ///
    /// # Panics
    /// If it cannot start.
    pub async fn start(server: &str) -> Option<Self> {
        let directory = TempDir::new().unwrap();
        let (certificate, key) =
            (directory.path().join("cert.pem"), directory.path().join("key.pem"));
        let made = Command::new("openssl")
            .args([
                "req",
                "-x509",
                "-newkey",
                "ec",
                "-pkeyopt",
                "ec_paramgen_curve:P-256",
                "-nodes",
            ])
            .args(["-subj", "/CN=testkit", "-days", "2", "-addext", "subjectAltName=IP:127.0.0.1"])
            .args(["-addext", "basicConstraints=critical,CA:FALSE"])
            .arg("-keyout")
            .arg(&key)
            .arg("-out")
            .arg(&certificate)
            .stderr(Stdio::null())
            .status()
            .await;
        if !made.is_ok_and(|status| status.success()) {
            return None;
        }
        let chain = vec![CertificateDer::from_pem_file(&certificate).unwrap()];
        let config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(chain, PrivateKeyDer::from_pem_file(&key).unwrap())
            .unwrap();
        let acceptor = TlsAcceptor::from(Arc::new(config));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("https://{}", listener.local_addr().unwrap());
        let target = server.strip_prefix("http://").unwrap().to_owned();
        let (sender, heads) = mpsc::unbounded_channel();
        let mut serving = JoinSet::new();
        serving.spawn(async move {
            let mut connections = JoinSet::new();
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                let (acceptor, target, sender) = (acceptor.clone(), target.clone(), sender.clone());
                connections.spawn(async move {
                    // A client that does not trust the certificate ends the handshake.
                    let Ok(mut caller) = acceptor.accept(stream).await else { return };
                    let mut head = vec![0; 16 << 10];
                    let Ok(read) = caller.read(&mut head).await else { return };
                    head.truncate(read);
                    let _ = sender.send(String::from_utf8_lossy(&head).into_owned());
                    let mut server = TcpStream::connect(target).await.unwrap();
                    server.write_all(&head).await.unwrap();
                    // It ends when either side does.
                    let _ = tokio::io::copy_bidirectional(&mut caller, &mut server).await;
                });
            }
        });
        Some(Self { url, certificate, heads, _directory: directory, _serving: serving })
    }

    /// Its URL, with an IP address.
    #[must_use]
    pub fn url(&self) -> &str {
        &self.url
    }

    /// The file with its certificate.
    #[must_use]
    pub fn certificate(&self) -> &Path {
        &self.certificate
    }

    /// The heads that have arrived since the last call.
    pub fn heads(&mut self) -> Vec<String> {
        std::iter::from_fn(|| self.heads.try_recv().ok()).collect()
    }
}
