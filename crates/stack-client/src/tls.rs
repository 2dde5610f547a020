//! TLS, with the machine's root certificates or those that `SSL_CERT_FILE` names.

use std::{io, sync::Arc};

use tokio::net::TcpStream;
use tokio_rustls::{
    TlsConnector,
    client::TlsStream,
    rustls::{ClientConfig, RootCertStore, crypto::ring, pki_types::ServerName},
};
use transcript::chain;

use crate::{Error, StackUrl};

/// Encrypts connections. Root certificates are read once.
#[derive(Clone)]
pub(crate) struct Tls(TlsConnector);

impl std::fmt::Debug for Tls {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Tls")
    }
}

impl Tls {
    /// Reads the root certificates.
    pub(crate) fn load() -> Result<Self, Error> {
        let loaded = rustls_native_certs::load_native_certs();
        let mut roots = RootCertStore::empty();
        let (added, _) = roots.add_parsable_certificates(loaded.certs);
        if added == 0 {
            let errors: Vec<_> = loaded.errors.iter().map(|error| chain(error)).collect();
            let why = if errors.is_empty() { "there are none".into() } else { errors.join("; ") };
            return Err(Error::Certificates(why));
        }
        let config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()
            .map_err(|error| Error::Certificates(error.to_string()))?;
        let mut config = config.with_root_certificates(roots).with_no_client_auth();
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        Ok(Self(TlsConnector::from(Arc::new(config))))
    }

    pub(crate) async fn connect(
        &self,
        url: &StackUrl,
        stream: TcpStream,
    ) -> io::Result<TlsStream<TcpStream>> {
        let name = ServerName::try_from(url.server_name().to_owned()).map_err(io::Error::other)?;
        self.0.connect(name, stream).await
    }
}
