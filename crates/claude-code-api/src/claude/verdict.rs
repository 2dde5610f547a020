//! The verdict on a run, and how to report it to the caller.

use std::{os::unix::process::ExitStatusExt as _, process::ExitStatus};

use contract::{AgentSummary, ApiUsage, Code, SessionId};

use super::{endpoint::UNREACHABLE, message::RunResult};
use crate::{
    config::{REFUSES_ROOT, no_agent},
    dialect::{AgentExit, Stopped, Verdict},
    runner::{last_lines, sentence_part},
};

/// The subtype of a successful result.
const SUCCESS: &str = "success";

/// Everything the verdict is based on.
#[derive(Debug)]
pub(crate) struct Evidence {
    /// The session the CLI was given.
    pub(crate) session: SessionId,
    /// The last `result` line.
    pub(crate) result: Option<RunResult>,
    /// Whether the CLI printed `init`.
    pub(crate) began: bool,
    /// How it exited.
    pub(crate) exit: AgentExit,
    /// The tokens that the stack has counted.
    pub(crate) api_usage: ApiUsage,
    /// The end of its standard error, without secrets.
    pub(crate) stderr: String,
}

impl Evidence {
    /// The verdict on a run, which ended by itself unless `stopped` says why the runner ended it.
    ///
    /// It succeeded only if the exit code is 0 and the last `result` line has the subtype `success` and `is_error`
    /// false. Neither field is enough alone: API errors have the subtype `success`, and a truncated run may have no
    /// `is_error`.
    pub(crate) fn verdict(self, stopped: Option<&Stopped>) -> Verdict {
        let outcome = match stopped {
            Some(stopped) => Err((stopped.code, stopped.sentence.clone())),
            None => self.judge(),
        };
        Verdict { outcome, summary: self.summary() }
    }

    /// Contains the session even if the CLI reports none.
    fn summary(&self) -> AgentSummary {
        let summary = self.result.as_ref().map(|result| result.summary.clone()).unwrap_or_default();
        AgentSummary {
            session_id: Some(self.session),
            api_usage: self.api_usage.clone(),
            ..summary
        }
    }

    fn judge(&self) -> Result<(), (Code, String)> {
        if let Some(failure) = self.known_from_stderr() {
            return Err(failure);
        }
        let Some(result) = &self.result else { return Err(self.without_result()) };
        if !result.is_success() {
            return Err(result.failure());
        }
        match self.exit {
            AgentExit::Forced => Ok(()),
            AgentExit::Own(status) if status.success() => Ok(()),
            AgentExit::Own(status) => Err((
                Code::AgentFailed,
                format!(
                    "the agent finished its work, but {}{}",
                    describe_exit(status),
                    self.stderr_excerpt()
                ),
            )),
        }
    }

    /// Failures that appear only as text on standard error.
    fn known_from_stderr(&self) -> Option<(Code, String)> {
        if self.began {
            return None;
        }
        let errors = self.result.iter().flat_map(|result| result.errors.iter().map(String::as_str));
        for line in self.stderr.lines().chain(errors) {
            if line.contains("No conversation found with session ID") {
                return Some((
                    Code::SessionNotFound,
                    format!("there is no session {} to resume", self.session),
                ));
            }
            if line.contains("cannot be used with root/sudo privileges") {
                return Some((Code::AgentRefusesRoot, REFUSES_ROOT.to_owned()));
            }
        }
        None
    }

    fn without_result(&self) -> (Code, String) {
        match self.exit {
            AgentExit::Own(status) if status.success() => (
                Code::AgentNoResult,
                format!("the agent exited without a result{}", self.stderr_excerpt()),
            ),
            // The exit codes of shells and `env` if the program or its interpreter is missing.
            AgentExit::Own(status) if !self.began && matches!(status.code(), Some(126 | 127)) => (
                Code::AgentNotFound,
                no_agent(&last_lines(&self.stderr).unwrap_or_else(|| describe_exit(status))),
            ),
            AgentExit::Own(status) => (
                Code::AgentFailed,
                format!("the agent failed: {}{}", describe_exit(status), self.stderr_excerpt()),
            ),
            AgentExit::Forced => (
                Code::AgentNoResult,
                format!(
                    "the agent closed its output without a result and did not exit{}",
                    self.stderr_excerpt()
                ),
            ),
        }
    }

    /// The end of standard error, as the end of a sentence.
    fn stderr_excerpt(&self) -> String {
        last_lines(&self.stderr).map(|lines| format!(": {lines}")).unwrap_or_default()
    }
}

impl RunResult {
    fn is_success(&self) -> bool {
        self.subtype == SUCCESS && self.is_error == Some(false)
    }

    /// Why a result is not a success.
    fn failure(&self) -> (Code, String) {
        let said = match (&self.summary.result, self.errors.first()) {
            (Some(text), _) | (None, Some(text)) => sentence_part(text),
            (None, None) => "it gave no reason".to_owned(),
        };
        match &*self.subtype {
            "error_max_turns" => {
                let sentence =
                    "the agent reached its turn limit: raise maxTurns in the request, or MAX_TURNS";
                return (Code::MaxTurns, sentence.to_owned());
            }
            "error_max_budget_usd" => {
                let sentence = "the agent reached its budget: raise maxBudgetUsd in the request, or MAX_BUDGET_USD";
                return (Code::BudgetExceeded, sentence.to_owned());
            }
            _ => {}
        }
        if let Some(what) = self.api_failure(&said) {
            return (Code::AgentApiError, format!("{what} (the agent says: {said})"));
        }
        let sentence = match (&*self.subtype, self.is_error) {
            (SUCCESS, None) => "the agent's result does not say whether it is an error".to_owned(),
            (SUCCESS, _) => format!("the agent failed: {said}"),
            ("", _) => format!("the agent's result does not say that it succeeded: {said}"),
            (subtype, _) => format!("the agent failed ({}): {said}", sentence_part(subtype)),
        };
        (Code::AgentFailed, sentence)
    }

    /// The part that the Messages API, or the connection to it, has in the failure.
    fn api_failure(&self, said: &str) -> Option<String> {
        if said.contains(UNREACHABLE) {
            return Some(format!("{UNREACHABLE}: check the network and ANTHROPIC_BASE_URL"));
        }
        if let Some(status) = self.api_error_status {
            return Some(format!("the Messages API answered {status}: {}", advice(status)));
        }
        // For these, the CLI gives no status.
        let what = if said.contains("Not logged in") {
            "the agent has no valid credential: set ANTHROPIC_API_KEY, \
             CLAUDE_CODE_CREDENTIALS_SECRET or CLAUDE_CODE_CREDENTIALS_JSON"
        } else if said.contains("529 Overloaded") {
            return Some(format!("the Messages API answered 529: {}", advice(529)));
        } else if said.contains("Unable to connect to API") {
            "the Messages API cannot be reached: check the network and ANTHROPIC_BASE_URL"
        } else if said == "Request timed out" {
            "the Messages API did not answer in time: try again"
        } else if said.starts_with("API Error") {
            "the Messages API did not give a usable answer"
        } else {
            return None;
        };
        Some(what.to_owned())
    }
}

/// What to do about a status of the Messages API.
fn advice(status: u16) -> &'static str {
    match status {
        400 => "it rejected the request",
        401 => "check the credential; it may be wrong, revoked or expired",
        403 => "the credential's account lacks permission",
        404 => "check the model's name",
        413 => "the request is too large",
        429 => "the account's limit is reached; try again later",
        529 => "it is overloaded; try again later",
        500.. => "it has an internal error; try again later",
        _ => "try again",
    }
}

fn describe_exit(status: ExitStatus) -> String {
    match (status.code(), status.signal()) {
        (Some(code), _) => format!("it exited with code {code}"),
        (None, Some(signal)) => format!("it was killed by signal {signal}"),
        (None, None) => "it ended in an unknown way".to_owned(),
    }
}

#[cfg(test)]
mod tests;
