//! The JSON Web Token that proves to GitHub who asks (RFC 7519), signed with RS256 by the library that also does TLS here.
//!
//! <https://docs.github.com/apps/creating-github-apps/authenticating-with-a-github-app/generating-a-json-web-token-jwt-for-a-github-app>

use std::{
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use base64::{Engine as _, prelude::BASE64_URL_SAFE_NO_PAD};
use serde_json::json;
use tokio_rustls::rustls::{
    SignatureScheme,
    crypto::ring::sign::any_supported_type,
    pki_types::{PrivateKeyDer, pem::PemObject as _},
    sign::SigningKey,
};

use super::GitHubApp;

/// The only algorithm that GitHub accepts.
const ALGORITHM: SignatureScheme = SignatureScheme::RSA_PKCS1_SHA256;
/// How far the clock of GitHub may be behind.
const SKEW: Duration = Duration::from_secs(60);
/// How long one is valid. GitHub takes at most ten minutes, by its own clock.
const LIFETIME: Duration = Duration::from_secs(8 * 60);

/// Reads a private key that can sign for GitHub.
///
/// # Errors
/// What is wrong with it.
pub(super) fn read_key(pem: &str) -> Result<Arc<dyn SigningKey>, String> {
    // The words of the libraries might repeat a part of it.
    let what = "is no private key in PEM: use the .pem file that GitHub generates for the App";
    let key = PrivateKeyDer::from_pem_slice(pem.as_bytes()).map_err(|_| what.to_owned())?;
    let key = any_supported_type(&key).map_err(|_| what.to_owned())?;
    let can_sign = key.choose_scheme(&[ALGORITHM]).is_some();
    can_sign.then_some(key).ok_or_else(|| {
        "is no RSA key: use the .pem file that GitHub generates for the App".to_owned()
    })
}

/// A token that is valid from a minute before `now` until some minutes after it.
///
/// # Errors
/// Why it cannot be signed.
pub(super) fn sign(app: &GitHubApp, now: SystemTime) -> Result<String, String> {
    let now = now.duration_since(UNIX_EPOCH).map_err(|error| error.to_string())?;
    let header = json!({"alg": "RS256", "typ": "JWT"});
    let claims = json!({
        "iat": now.saturating_sub(SKEW).as_secs(),
        "exp": (now + LIFETIME).as_secs(),
        "iss": app.id,
    });
    let encode = |bytes: &[u8]| BASE64_URL_SAFE_NO_PAD.encode(bytes);
    let signed = format!(
        "{}.{}",
        encode(header.to_string().as_bytes()),
        encode(claims.to_string().as_bytes())
    );
    let signer = app.key.choose_scheme(&[ALGORITHM]).ok_or("the key cannot sign with RS256")?;
    let signature = signer.sign(signed.as_bytes()).map_err(|error| error.to_string())?;
    Ok(format!("{signed}.{}", encode(&signature)))
}
