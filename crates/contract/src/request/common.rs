//! The fields that every request of a caller may have. They are about the job and not about what it does.

use std::{collections::BTreeMap, fmt};

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use url::Url;

use super::{RequestError, Secrets};
use crate::fields::Fields;

/// What a caller calls its job by. Jobs are listed by it.
pub type Labels = BTreeMap<String, String>;

/// The most labels of a job.
const MOST_LABELS: usize = 10;
/// The longest name and the longest value of a label, in characters.
const LONGEST_LABEL: usize = 64;

/// The fields that every request of a caller may have. A workflow does not pass them on.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CommonOptions {
    /// At most ten, with names and values of at most 64 characters.
    pub labels: Labels,
    /// Where the end of the job is announced.
    pub callback_url: Option<CallbackUrl>,
}

impl CommonOptions {
    pub(super) fn read(fields: &Fields) -> Result<Self, RequestError> {
        let labels = match fields.strings_by_name("labels")? {
            Some(labels) => check_labels(labels)?,
            None => Labels::new(),
        };
        Ok(Self { labels, callback_url: fields.optional("callbackUrl", CallbackUrl::parse)? })
    }

    /// Writes them into a request. On a disk, they are beside it.
    pub(super) fn write(&self, body: &mut Map<String, Value>, secrets: Secrets) {
        if secrets == Secrets::Withheld {
            return;
        }
        if !self.labels.is_empty() {
            body.insert("labels".into(), serde_json::json!(self.labels));
        }
        if let Some(url) = &self.callback_url {
            body.insert("callbackUrl".into(), url.expose().into());
        }
    }
}

fn check_labels(labels: Labels) -> Result<Labels, RequestError> {
    let refuse = |why: String| Err(RequestError::field("labels", why));
    if labels.len() > MOST_LABELS {
        return refuse(format!("a job has at most {MOST_LABELS}"));
    }
    for (name, value) in &labels {
        if let Err(why) = check_label(name, value) {
            return refuse(why.to_owned());
        }
    }
    Ok(labels)
}

/// Checks one label.
///
/// # Errors
/// A sentence for the caller.
pub fn check_label(name: &str, value: &str) -> Result<(), &'static str> {
    let is_text = |text: &str| {
        text.chars().count() <= LONGEST_LABEL && !text.contains(|c: char| c.is_control())
    };
    if name.is_empty() || name.contains(':') || !is_text(name) {
        return Err("a name has 1 to 64 characters, and no ':' and no control characters");
    }
    if !is_text(value) {
        return Err("a value has at most 64 characters, and no control characters");
    }
    Ok(())
}

/// An address that the stack sends to. It may contain a secret, so it is neither printed nor shown.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct CallbackUrl(Url);

impl CallbackUrl {
    /// The longest URL, in bytes.
    pub const MAX_BYTES: usize = 2048;

    /// Parses an address from a caller. Whether the stack may connect to its host is checked whenever it does.
    ///
    /// # Errors
    /// A sentence for the caller.
    pub fn parse(text: &str) -> Result<Self, String> {
        // The parser would remove some of them.
        if text.contains(|c: char| c.is_control() || c.is_whitespace()) {
            return Err("a URL must not contain spaces or control characters".into());
        }
        let url = Url::parse(text).map_err(|error| format!("not a URL: {error}"))?;
        // As it is passed on: with everything escaped that has to be.
        if text.len().max(url.as_str().len()) > Self::MAX_BYTES {
            return Err(format!("use at most {} bytes", Self::MAX_BYTES));
        }
        if !matches!(url.scheme(), "http" | "https") {
            return Err("must begin with https:// or http://".into());
        }
        if !url.username().is_empty() || url.password().is_some() {
            return Err("must not contain a user or a password: deliveries are signed".into());
        }
        if url.fragment().is_some() {
            return Err("must not have a fragment: remove everything from '#' on".into());
        }
        Ok(Self(url))
    }

    /// The whole URL, to connect to it.
    #[must_use]
    pub fn expose(&self) -> &str {
        self.0.as_str()
    }

    /// The scheme, host and port, which may be shown.
    #[must_use]
    pub fn origin(&self) -> String {
        self.0.origin().ascii_serialization()
    }
}

impl fmt::Debug for CallbackUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "CallbackUrl({}/…)", self.origin())
    }
}

impl TryFrom<String> for CallbackUrl {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        Self::parse(&text)
    }
}

impl From<CallbackUrl> for String {
    fn from(url: CallbackUrl) -> Self {
        url.0.into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(json: Value) -> Result<CommonOptions, RequestError> {
        CommonOptions::read(&Fields::parse(json.to_string().as_bytes()).unwrap())
    }

    #[test]
    fn labels_are_few_and_short() {
        let labels =
            serde_json::json!({"team": "payments", "ticket": "PAY-1: refunds", "empty": ""});
        let options = read(serde_json::json!({"labels": labels})).unwrap();
        assert_eq!(serde_json::json!(options.labels), labels);
        let mut body = Map::new();
        options.write(&mut body, Secrets::Exposed);
        assert_eq!(read(body.into()).unwrap(), options);
        let many: Map<_, _> = (0..11).map(|n| (n.to_string(), "x".into())).collect();
        for bad in [
            Value::Object(many),
            serde_json::json!({"": "x"}),
            serde_json::json!({"a:b": "x"}),
            serde_json::json!({"a": "x".repeat(65)}),
            serde_json::json!({"é".repeat(65): "x"}),
            serde_json::json!({"a": "x\n"}),
            serde_json::json!({"a": 1}),
            serde_json::json!(["a"]),
        ] {
            let error = read(serde_json::json!({"labels": bad})).unwrap_err();
            assert_eq!(error.field.as_deref(), Some("labels"), "{bad}");
        }
        assert!(read(serde_json::json!({"labels": {"é".repeat(64): "é".repeat(64)}})).is_ok());
    }

    #[test]
    fn an_address_is_not_shown() {
        let url = CallbackUrl::parse("https://Hooks.example:8443/t/s3cret?k=s3cret").unwrap();
        assert_eq!(url.expose(), "https://hooks.example:8443/t/s3cret?k=s3cret");
        assert_eq!(url.origin(), "https://hooks.example:8443");
        assert!(!format!("{url:?}").contains("s3cret"));
        for bad in [
            "ftp://h/x",
            "/x",
            "https://",
            "https://u:s3cret@h/",
            "https://h/#s3cret",
            "https://h/ x",
            "https://h/\n",
            "javascript:alert(1)",
            &format!("https://h/{}", "s3cret".repeat(400)),
            // It is three times as long with its escapes.
            &format!("https://h/{}", "é".repeat(500)),
        ] {
            let error = CallbackUrl::parse(bad).unwrap_err();
            assert!(!error.contains("s3cret"), "{error}");
        }
    }
}
