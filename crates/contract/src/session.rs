//! Sessions, as callers see them.

use serde::{Deserialize, Serialize};

use crate::{RequestError, SessionId, Timestamp, UnknownFields, WorkspacePath, fields::Fields};

/// `POST /api/sessions`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SessionRequest {
    /// The session's working directory. If absent, the session gets a new one.
    pub workspace: Option<WorkspacePath>,
}

impl SessionRequest {
    /// Parses a body, which may be empty. `root` is the absolute path of the workspace.
    ///
    /// # Errors
    /// If the body is invalid; the error is for the caller.
    pub fn parse(body: &[u8], root: &str, unknown: UnknownFields) -> Result<Self, RequestError> {
        if body.iter().all(u8::is_ascii_whitespace) {
            return Ok(Self::default());
        }
        let fields = Fields::parse(body)?;
        let workspace = fields.optional("workspace", |text| WorkspacePath::parse(text, root))?;
        fields.finish(unknown)?;
        Ok(Self { workspace })
    }
}

/// One session.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct SessionView {
    /// The session.
    pub session_id: SessionId,
    /// The absolute path of its working directory.
    pub workspace: String,
    /// When it was created.
    pub created: Timestamp,
    /// When an agent last worked in it.
    pub updated: Timestamp,
}

/// `GET /api/sessions`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SessionList {
    /// Newest first.
    pub sessions: Vec<SessionView>,
    /// The number of `sessions`.
    pub count: usize,
}

/// `DELETE /api/sessions/:id`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct SessionDeleted {
    /// Always the same sentence, which existing clients display.
    pub message: String,
    /// The session that was deleted.
    pub session_id: SessionId,
}

impl SessionDeleted {
    /// The response to deleting `session_id`.
    #[must_use]
    pub fn new(session_id: SessionId) -> Self {
        Self { message: "Session deleted".into(), session_id }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Code, ExecuteRequest, JobRequest, Limits, Place, Policy};

    #[test]
    fn a_session_may_be_created_with_an_empty_body() {
        for empty in [b"".as_slice(), b" \n", b"{}", br#"{"workspace": null}"#] {
            assert_eq!(
                SessionRequest::parse(empty, "/w", UnknownFields::Refused).unwrap(),
                SessionRequest::default()
            );
        }
        let request =
            SessionRequest::parse(br#"{"workspace": "/w/app"}"#, "/w", UnknownFields::Refused)
                .unwrap();
        assert_eq!(request.workspace.unwrap().as_str(), "app");
        for bad in [br#"{"workspace": "../x"}"#.as_slice(), br#"{"workspace": 1}"#, b"[]", b"x"] {
            assert!(SessionRequest::parse(bad, "/w", UnknownFields::Ignored).is_err());
        }
    }

    #[test]
    fn the_body_must_not_name_another_session_than_the_path() {
        let policy = Policy { limits: Limits::default(), ..Policy::default() };
        let parse = |body: &str| ExecuteRequest::parse(body.as_bytes(), "/w", &policy).unwrap();
        let (id, other) = (SessionId::new(), SessionId::new());
        let plain = parse(r#"{"prompt": "x"}"#);
        assert_eq!(plain.place(crate::Requester::Caller), Place::Own);
        let named = plain.in_session(id).unwrap();
        assert_eq!(
            (named.session(), named.place(crate::Requester::Caller)),
            (Some(id), Place::OfSession)
        );
        let same = parse(&format!(r#"{{"prompt": "x", "resumeSessionId": "{id}"}}"#));
        assert_eq!(same.in_session(id).unwrap(), named);
        let wrong = parse(&format!(r#"{{"prompt": "x", "resumeSessionId": "{other}"}}"#));
        let error = wrong.in_session(id).unwrap_err();
        assert_eq!(
            (error.code, error.field.as_deref()),
            (Code::InvalidField, Some("resumeSessionId"))
        );
    }
}
