//! TLS for a server, with a certificate that may be renewed while it runs.

use std::{
    fmt,
    fs::File,
    io::{self, Read as _},
    path::{Path, PathBuf},
    sync::{Arc, PoisonError, RwLock},
    time::{Duration, SystemTime},
};

use tokio::io::{AsyncRead, AsyncWrite};
use tokio_rustls::{
    TlsAcceptor,
    rustls::{
        Error, InconsistentKeys, ServerConfig,
        crypto::ring,
        pki_types::{CertificateDer, PrivateKeyDer, UnixTime, pem::PemObject as _},
    },
    server::TlsStream,
};

/// How often to look whether the files have changed.
const LOOK: Duration = Duration::from_secs(2);
/// The most that a file may contain, in bytes. A chain of certificates has a few thousand.
const LARGEST: u64 = 1 << 20;

/// The certificate and the key of a server. Clones share them.
#[derive(Clone)]
pub struct Tls(Arc<Inner>);

struct Inner {
    files: Files,
    loaded: RwLock<Loaded>,
}

impl fmt::Debug for Tls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tls").field("files", &self.0.files).finish_non_exhaustive()
    }
}

#[derive(Clone, Debug)]
struct Files {
    certificate: PathBuf,
    key: PathBuf,
}

/// What the files contain.
#[derive(Clone, PartialEq, Eq)]
struct Pem {
    certificate: Vec<u8>,
    key: Vec<u8>,
}

struct Loaded {
    pem: Pem,
    acceptor: TlsAcceptor,
    names: Vec<String>,
    expires: Option<SystemTime>,
}

/// Why files cannot be used: what is wrong with each of them. No text contains a key.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TlsError {
    /// What is wrong with the file of the certificate.
    pub certificate: Option<String>,
    /// What is wrong with the file of the key.
    pub key: Option<String>,
}

impl fmt::Display for TlsError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let problems: Vec<_> = [&self.certificate, &self.key].into_iter().flatten().collect();
        f.write_str(&problems.iter().map(|it| it.as_str()).collect::<Vec<_>>().join("; "))
    }
}

impl std::error::Error for TlsError {}

impl Tls {
    /// Reads a certificate, followed by the certificates of its issuers, and its key. Both files are PEM.
    ///
    /// # Errors
    /// If a file cannot be read or has no certificate or key, or they do not belong together.
    pub fn load(certificate: PathBuf, key: PathBuf) -> Result<Self, TlsError> {
        let files = Files { certificate, key };
        let loaded = RwLock::new(files.parse(files.read()?)?);
        Ok(Self(Arc::new(Inner { files, loaded })))
    }

    /// The DNS names that the certificate is for, as it contains them.
    #[must_use]
    pub fn names(&self) -> Vec<String> {
        self.with(|loaded| loaded.names.clone())
    }

    /// When the certificate expires; `None` if it never does.
    #[must_use]
    pub fn expires(&self) -> Option<SystemTime> {
        self.with(|loaded| loaded.expires)
    }

    fn with<T>(&self, get: impl FnOnce(&Loaded) -> T) -> T {
        get(&self.0.loaded.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Takes over what the files contain whenever that changes. New connections then use it. Files that cannot be used are
    /// logged once, and what was read before stays in use.
    pub async fn follow_files(self) {
        let mut seen = Ok(self.with(|loaded| loaded.pem.clone()));
        loop {
            tokio::time::sleep(LOOK).await;
            let files = self.0.files.clone();
            // Fails only if it panicked, which the panic hook has logged.
            let Ok(read) = tokio::task::spawn_blocking(move || files.read()).await else {
                continue;
            };
            if read == seen {
                continue;
            }
            match read.clone().and_then(|pem| self.0.files.parse(pem)) {
                Ok(loaded) => {
                    *self.0.loaded.write().unwrap_or_else(PoisonError::into_inner) = loaded;
                    tracing::info!(
                        names = self.names().join(","),
                        "the certificate has changed and is in use"
                    );
                }
                Err(error) => {
                    tracing::warn!(%error, "the new certificate or key cannot be used: the one from before stays in use");
                }
            }
            seen = read;
        }
    }

    /// The handshake of a server.
    pub(crate) async fn accept<S>(&self, stream: S) -> io::Result<TlsStream<S>>
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        let acceptor = self.with(|loaded| loaded.acceptor.clone());
        acceptor.accept(stream).await
    }
}

impl Files {
    fn read(&self) -> Result<Pem, TlsError> {
        match (read(&self.certificate), read(&self.key)) {
            (Ok(certificate), Ok(key)) => Ok(Pem { certificate, key }),
            (certificate, key) => Err(TlsError { certificate: certificate.err(), key: key.err() }),
        }
    }

    fn parse(&self, pem: Pem) -> Result<Loaded, TlsError> {
        // One that cannot be read is not left out: clients need all of them.
        let chain = CertificateDer::pem_slice_iter(&pem.certificate).collect::<Result<Vec<_>, _>>();
        let found = chain.as_ref().map(|chain| chain.first().map(expiry));
        let key = PrivateKeyDer::from_pem_slice(&pem.key);
        let (Ok(chain), Ok(Some(Ok((names, expires)))), Ok(key)) = (&chain, &found, &key) else {
            let path = self.certificate.display();
            let certificate = match found {
                Ok(Some(Ok(_))) => None,
                Ok(Some(Err(error))) => {
                    Some(format!("{path} has a certificate that cannot be used: {error}"))
                }
                Ok(None) => {
                    Some(format!("{path} has no certificate in PEM (-----BEGIN CERTIFICATE-----)"))
                }
                Err(error) => {
                    Some(format!("{path} has a certificate that cannot be read: {error}"))
                }
            };
            let no_key = || format!("{} has no private key in PEM", self.key.display());
            return Err(TlsError { certificate, key: key.err().map(|_| no_key()) });
        };
        let (names, expires) = (names.clone(), *expires);
        let config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()
            .and_then(|config| {
                config.with_no_client_auth().with_single_cert(chain.clone(), key.clone_key())
            });
        let mut config = config.map_err(|error| {
            let (certificate, key) = (self.certificate.display(), self.key.display());
            let why = match error {
                Error::InconsistentKeys(InconsistentKeys::KeyMismatch) => {
                    format!("{key} is not the key of the certificate in {certificate}")
                }
                error => {
                    format!("{key} cannot be used with the certificate in {certificate}: {error}")
                }
            };
            TlsError { certificate: None, key: Some(why) }
        })?;
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        Ok(Loaded { pem, acceptor: TlsAcceptor::from(Arc::new(config)), names, expires })
    }
}

fn read(path: &Path) -> Result<Vec<u8>, String> {
    let read = || {
        let mut bytes = Vec::new();
        File::open(path)?.take(LARGEST + 1).read_to_end(&mut bytes)?;
        io::Result::Ok(bytes)
    };
    match read() {
        Ok(bytes) if bytes.len() as u64 <= LARGEST => Ok(bytes),
        Ok(_) => Err(format!("{} is larger than {LARGEST} bytes", path.display())),
        Err(error) => Err(format!("cannot read {}: {error}", path.display())),
    }
}

/// The names and the last moment of a certificate.
fn expiry(
    certificate: &CertificateDer<'_>,
) -> Result<(Vec<String>, Option<SystemTime>), webpki::Error> {
    let certificate = webpki::EndEntityCert::try_from(certificate)?;
    let names = certificate.valid_dns_names().map(str::to_owned).collect();
    // webpki tells the date only of a certificate that has expired, which any has at the end of time.
    let end_of_time = UnixTime::since_unix_epoch(Duration::MAX);
    let usage = webpki::KeyUsage::server_auth();
    let verified =
        certificate.verify_for_usage(&[], &[], &[], end_of_time, usage, None, None).map(|_| ());
    let expires = match verified {
        Err(webpki::Error::CertExpired { not_after, .. }) => {
            SystemTime::UNIX_EPOCH.checked_add(Duration::from_secs(not_after.as_secs()))
        }
        _ => None,
    };
    Ok((names, expires))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fixture(name: &str) -> PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/tls").join(name)
    }

    fn load(certificate: &str, key: &str) -> Result<Tls, TlsError> {
        Tls::load(fixture(certificate), fixture(key))
    }

    #[test]
    fn a_certificate_says_for_whom_and_until_when() {
        let tls = load("first.pem", "first.key.pem").unwrap();
        assert_eq!(tls.names(), ["*.example.org", "stack.example.org", "localhost"]);
        let left = tls.expires().unwrap().duration_since(SystemTime::UNIX_EPOCH).unwrap();
        let years = left.as_secs() / (365 * 24 * 3600);
        assert!((150..170).contains(&years), "{years} years after 1970");
        assert!(!format!("{tls:?}").contains("PRIVATE"));
    }

    #[test]
    fn each_file_that_cannot_be_used_is_named() {
        let problems = |certificate: &str, key: &str| {
            let error = load(certificate, key).unwrap_err();
            (error.certificate.unwrap_or_default(), error.key.unwrap_or_default())
        };
        let (certificate, key) = problems("none.pem", "none.key.pem");
        assert!(
            certificate.contains("none.pem") && key.contains("none.key.pem"),
            "{certificate} {key}"
        );
        let (certificate, key) = problems("first.key.pem", "first.pem");
        assert!(certificate.contains("no certificate") && key.contains("no private key"));
        // A copy that was cut short.
        let cut = tempfile::NamedTempFile::new().unwrap();
        let [first, second] =
            ["first.pem", "second.pem"].map(|name| std::fs::read(fixture(name)).unwrap());
        std::fs::write(cut.path(), [&first[..], &second[..second.len() / 2]].concat()).unwrap();
        let error = Tls::load(cut.path().to_owned(), fixture("first.key.pem")).unwrap_err();
        let why = error.certificate.unwrap();
        assert!(why.contains("cannot be read") && error.key.is_none(), "{why}");
        std::fs::write(cut.path(), [first, second].concat()).unwrap();
        Tls::load(cut.path().to_owned(), fixture("first.key.pem")).unwrap();
        let (certificate, key) = problems("first.pem", "second.key.pem");
        assert_eq!(certificate, "");
        assert!(key.contains("second.key.pem is not the key of the certificate"), "{key}");
    }
}
