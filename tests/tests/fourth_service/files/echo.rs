//! `POST /api/echo`: repeats a text.

use serde::{Deserialize, Serialize};

use crate::{
    Code, Ending, JobRequest, Place, Policy, RepoUrl, RequestError, Requester, Secrets, Service,
    Timestamp, fields::Fields,
};

/// `POST /api/echo`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct EchoRequest {
    /// The text to repeat.
    pub text: String,
}

impl JobRequest for EchoRequest {
    fn service(&self) -> Service {
        Service::Echo
    }

    fn parse(body: &[u8], _root: &str, policy: &Policy) -> Result<Self, RequestError> {
        let fields = Fields::parse(body)?;
        let text = fields.string("text")?.ok_or_else(|| RequestError::field("text", "is missing"))?;
        let request = Self { text: text.to_owned() };
        fields.finish(policy.unknown_fields)?;
        Ok(request)
    }

    fn to_body(&self, _: Secrets) -> Vec<u8> {
        serde_json::to_vec(self).unwrap_or_default()
    }

    fn place(&self, _: Requester) -> Place {
        Place::Own
    }

    fn repo_url(&self) -> Option<&RepoUrl> {
        None
    }

    fn timeout_seconds(&self) -> Option<u64> {
        None
    }
}

/// An event of an echo.
#[derive(Debug, Serialize)]
#[serde(tag = "type", rename_all = "snake_case")]
#[expect(missing_docs, reason = "the fields are those of the contract, by name")]
pub enum EchoEvent<'a> {
    /// The repeated text.
    Message { message: &'a str, timestamp: Timestamp },
    /// The echo is complete.
    Echoed { timestamp: Timestamp },
    /// The echo failed.
    EchoError { error: &'a str, timestamp: Timestamp, code: Code },
}

impl Ending {
    /// An echo that failed.
    #[must_use]
    pub fn echo_failure(code: Code, error: &str) -> Self {
        let event = EchoEvent::EchoError { error, timestamp: Timestamp::now(), code };
        Self::failed(crate::EventLine::encode(&event), code, error)
    }
}
