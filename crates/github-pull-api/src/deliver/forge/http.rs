//! What a forge answers to requests for pull requests, in sentences for the caller.

use ::http::{Method, StatusCode};
use contract::Code;
use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::{
    api,
    failure::{Failure, Result},
};

/// An API that is asked for pull requests, after a push.
pub(super) struct Api<'a>(pub(super) api::Api<'a>);

/// An answer.
pub(super) struct Answer<'a> {
    pub(super) status: StatusCode,
    answer: api::Answer,
    authority: &'a str,
}

impl Api<'_> {
    /// Sends one request. An answer of any status is one.
    ///
    /// # Errors
    /// If there is none.
    pub(super) async fn ask(
        &self,
        method: Method,
        path: &str,
        headers: &[(&'static str, &'static str)],
        body: Option<&Value>,
    ) -> Result<Answer<'_>> {
        let authority = self.0.authority.as_str();
        match self.0.ask(method, path, headers, body).await {
            Ok(answer) => Ok(Answer { status: answer.status, answer, authority }),
            Err(why) => {
                let sentence = format!(
                    "the branch is pushed, but the API of {authority} does not answer ({why}): deliver again later"
                );
                Err(Failure::told(Code::PullRequestFailed, sentence))
            }
        }
    }
}

impl Answer<'_> {
    /// What an answer with one of the statuses `ok` says.
    ///
    /// # Errors
    /// If it has another status, or says something else.
    pub(super) fn read<T: DeserializeOwned>(&self, ok: &[StatusCode]) -> Result<T> {
        if !ok.contains(&self.status) {
            return Err(self.refusal());
        }
        self.answer.json().map_err(|error| {
            let sentence = format!(
                "the branch is pushed, but the answer of {} cannot be understood ({error}): check GIT_FORGES",
                self.authority
            );
            Failure::told(Code::PullRequestFailed, sentence)
        })
    }

    /// Whether the words are in it.
    pub(super) fn says(&self, words: &str) -> bool {
        self.answer.says(words)
    }

    fn refusal(&self) -> Failure {
        let said = self.answer.error_words();
        let said = if said.is_empty() { said } else { format!(": {said}") };
        let (status, host) = (self.status.as_u16(), self.authority);
        let (code, what) = match status {
            401 => (Code::AuthenticationFailed, "give a token that is valid"),
            403 => (Code::PullRequestFailed, "give the token the right to open pull requests"),
            404 => (
                Code::PullRequestFailed,
                "check that the token may see the repository and that GIT_FORGES is right",
            ),
            // A redirect would take the token to wherever it says.
            300..=399 => (
                Code::PullRequestFailed,
                "the repository has moved, so run the job with its new URL",
            ),
            _ => (Code::PullRequestFailed, "change what it objects to"),
        };
        let sentence = format!(
            "the branch is pushed, but {host} refuses the pull request (HTTP {status}{said}): {what}, then deliver again"
        );
        Failure::told(code, sentence)
    }
}
