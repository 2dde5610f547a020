//! Recognizes a request that is sent again.

use std::str::FromStr;

use contract::{JobRequest, Place, Requester, SessionId};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::Value;
use sha2::{Digest, Sha256};

/// A digest of the body as the caller sent it. Another version of this software may read other fields or encode the
/// body with other defaults, but it computes the same digest.
///
/// Credentials in the repository's URL are excluded, because the digest is stored on the volume.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RequestDigest(String);

/// The text is not a digest.
#[derive(Debug, thiserror::Error)]
#[error("is not a digest (64 hexadecimal digits)")]
pub struct InvalidDigest;

impl RequestDigest {
    /// The digest of a request that was parsed from `body`; `session` is that of its path.
    pub fn of(request: &dyn JobRequest, body: &[u8], session: Option<SessionId>) -> Self {
        let body = body.strip_prefix("\u{feff}".as_bytes()).unwrap_or(body);
        let mut hash = Sha256::new();
        hash.update(request.service().name());
        if request.path() != request.service().job_path() {
            hash.update(request.path());
        }
        // The job in the path of a request need not be in its body.
        if let Place::OfJob(id) = request.place(Requester::Caller) {
            hash.update(id.to_string());
        }
        if let Some(session) = session {
            hash.update(session.to_string());
        }
        // The body was parsed before, so it is JSON.
        let mut value = serde_json::from_slice::<Value>(body).unwrap_or_default();
        if let (Some(url), Some(field)) = (request.repo_url(), value.get_mut("repoUrl")) {
            *field = url.to_string().into();
        }
        hash.update([0]);
        hash.update(serde_json::to_vec(&value).unwrap_or_default());
        Self(hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect())
    }

    /// The digest as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for RequestDigest {
    type Err = InvalidDigest;

    fn from_str(text: &str) -> Result<Self, InvalidDigest> {
        let is_digit = |byte: u8| matches!(byte, b'0'..=b'9' | b'a'..=b'f');
        if text.len() == 64 && text.bytes().all(is_digit) {
            Ok(Self(text.to_owned()))
        } else {
            Err(InvalidDigest)
        }
    }
}

impl Serialize for RequestDigest {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.0)
    }
}

impl<'de> Deserialize<'de> for RequestDigest {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use contract::{Policy, PullRequest};

    use super::*;

    fn digest(body: &str) -> RequestDigest {
        let request = PullRequest::parse(body.as_bytes(), "/w", &Policy::default()).unwrap();
        RequestDigest::of(&request, body.as_bytes(), None)
    }

    #[test]
    fn the_digest_covers_the_body_except_for_credentials() {
        let plain = digest(r#"{"repoUrl":"https://h/r.git"}"#);
        assert_eq!(plain, digest(r#" {"repoUrl": "https://user:secret@h/r.git"}"#));
        assert_eq!(plain, digest("\u{feff}{\"repoUrl\":\"https://h/r.git\"}"));
        assert_ne!(plain, digest(r#"{"repoUrl":"https://h/other.git"}"#));
        let newer = digest(r#"{"repoUrl":"https://h/r.git","ofTomorrow":1}"#);
        assert_ne!(plain, newer, "unknown fields are part of the request");
        assert_eq!(plain.as_str().parse::<RequestDigest>().unwrap(), plain);
        for bad in ["", "x", &"A".repeat(64), &"a".repeat(65)] {
            assert!(bad.parse::<RequestDigest>().is_err(), "{bad}");
        }
    }
}
