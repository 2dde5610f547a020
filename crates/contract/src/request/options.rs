//! The optional fields that a workflow passes on to its jobs.

use std::num::NonZeroU32;

use serde::Serialize;

use super::Verify;
use crate::{Policy, RequestError, SessionId, fields::Fields};

/// The optional fields of a pull request, which a workflow passes on to its pull.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct PullOptions {
    /// Whether a checkout that has diverged from the remote branch is reset to the remote's commit. Local commits are
    /// kept under `refs/wip/`.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub reset: bool,
    /// Whether submodules are checked out too, recursively.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub submodules: bool,
    /// Whether files in Git LFS are fetched. Otherwise, the checkout contains their pointers.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub lfs: bool,
    /// How many commits of history a first clone fetches. All of them if absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub depth: Option<NonZeroU32>,
    /// Which objects a first clone omits until they are needed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub filter: Option<CloneFilter>,
}

/// Objects that a partial clone omits: git's `--filter`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub enum CloneFilter {
    /// The contents of files that no checkout needs yet.
    #[serde(rename = "blob:none")]
    BlobNone,
}

impl CloneFilter {
    /// The name on the wire, and for git.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::BlobNone => "blob:none",
        }
    }

    fn parse(text: &str) -> Result<Self, String> {
        if text == Self::BlobNone.as_str() {
            Ok(Self::BlobNone)
        } else {
            Err("must be \"blob:none\", the only filter there is".to_owned())
        }
    }
}

impl PullOptions {
    pub(super) fn parse(fields: &Fields) -> Result<Self, RequestError> {
        Ok(Self {
            reset: fields.bool("reset")?.unwrap_or_default(),
            submodules: fields.bool("submodules")?.unwrap_or_default(),
            lfs: fields.bool("lfs")?.unwrap_or_default(),
            depth: fields
                .unsigned("depth")?
                .map(|depth| {
                    // git stores it in a signed 32-bit integer.
                    let depth =
                        u32::try_from(depth).ok().filter(|depth| *depth <= i32::MAX.unsigned_abs());
                    depth.and_then(NonZeroU32::new).ok_or_else(|| {
                        RequestError::field("depth", format!("must be from 1 to {}", i32::MAX))
                    })
                })
                .transpose()?,
            filter: fields.optional("filter", CloneFilter::parse)?,
        })
    }
}

/// The optional fields of an execute request, which a workflow passes on to its agent.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ExecuteOptions {
    /// Whether the agent may use its tools without permission. `true` by default.
    pub dangerously_skip_permissions: bool,
    /// The session to resume.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub resume_session_id: Option<SessionId>,
    /// The model, by a name that the CLI knows.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub model: Option<String>,
    /// The maximum number of turns.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_turns: Option<u32>,
    /// The maximum cost of the job, in US dollars. The CLI checks it after spending.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_budget_usd: Option<f64>,
    /// Text to append to the system prompt.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub append_system_prompt: Option<String>,
    /// The tools that the agent may use.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub allowed_tools: Option<Vec<String>>,
    /// The job's deadline, in seconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub timeout_seconds: Option<u64>,
    /// How the result is checked.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub verify: Option<Verify>,
}

impl Default for ExecuteOptions {
    fn default() -> Self {
        Self {
            dangerously_skip_permissions: true,
            resume_session_id: None,
            model: None,
            max_turns: None,
            max_budget_usd: None,
            append_system_prompt: None,
            allowed_tools: None,
            timeout_seconds: None,
            verify: None,
        }
    }
}

impl ExecuteOptions {
    /// The longest `appendSystemPrompt`, in bytes. A process argument has room for 131,071 bytes, and the
    /// repository's CLAUDE.md goes into the same argument.
    pub const MAX_APPEND_BYTES: usize = 20_000;

    pub(super) fn parse(fields: &Fields, policy: &Policy) -> Result<Self, RequestError> {
        let limits = &policy.limits;
        let options = Self {
            dangerously_skip_permissions: fields
                .bool("dangerouslySkipPermissions")?
                .unwrap_or(true),
            resume_session_id: fields.optional("resumeSessionId", |text| {
                text.parse().map_err(|_| "is not a session id (a UUID)".to_owned())
            })?,
            model: fields.optional("model", |text| {
                one_of("models", text, limits.models.as_deref(), is_model)
            })?,
            max_turns: fields
                .unsigned("maxTurns")?
                .map(|turns| {
                    u32::try_from(turns)
                        .ok()
                        .filter(|turns| (1..=limits.max_turns.unwrap_or(u32::MAX)).contains(turns))
                        .ok_or_else(|| {
                            let most = limits.max_turns.unwrap_or(u32::MAX);
                            RequestError::field("maxTurns", format!("must be from 1 to {most}"))
                        })
                })
                .transpose()?,
            max_budget_usd: fields.number("maxBudgetUsd")?,
            append_system_prompt: fields.optional("appendSystemPrompt", |text| {
                if text.len() > Self::MAX_APPEND_BYTES {
                    return Err(format!("must be at most {} bytes", Self::MAX_APPEND_BYTES));
                }
                if text.contains('\0') {
                    return Err("contains a NUL character".into());
                }
                Ok(text.to_owned())
            })?,
            allowed_tools: fields
                .strings("allowedTools")?
                .map(|tools| {
                    if tools.is_empty() || tools.len() > 64 {
                        return Err("must name from 1 to 64 tools".into());
                    }
                    tools
                        .into_iter()
                        .map(|tool| one_of("tools", tool, limits.tools.as_deref(), is_tool))
                        .collect()
                })
                .transpose()
                .map_err(|why| RequestError::field("allowedTools", why))?,
            timeout_seconds: fields.unsigned("timeoutSeconds")?,
            verify: Verify::read_object(fields, policy)?,
        };
        if let Some(usd) = options.max_budget_usd {
            let most = limits.max_budget_usd.unwrap_or(1e6);
            if !(usd > 0.0 && usd <= most) {
                return Err(RequestError::field(
                    "maxBudgetUsd",
                    format!("must be above 0 and at most {most}"),
                ));
            }
        }
        if let Some(seconds) = options.timeout_seconds
            && !(1..=limits.job_timeout_seconds).contains(&seconds)
        {
            let most = limits.job_timeout_seconds;
            return Err(RequestError::field("timeoutSeconds", format!("must be from 1 to {most}")));
        }
        Ok(options)
    }
}

/// Checks that a value is well-formed and that the configuration allows it.
fn one_of(
    what: &str,
    text: &str,
    allowed: Option<&[String]>,
    form: fn(&str) -> bool,
) -> Result<String, String> {
    if !form(text) {
        return Err("is not a valid name for the CLI".into());
    }
    match allowed {
        Some(allowed) if !allowed.iter().any(|name| name == text) => {
            Err(format!("is not among the {what} allowed here: {}", allowed.join(", ")))
        }
        _ => Ok(text.to_owned()),
    }
}

fn is_model(text: &str) -> bool {
    text.len() <= 200
        && text.starts_with(|c: char| c.is_ascii_alphanumeric())
        && text.chars().all(|c| c.is_ascii_alphanumeric() || "-_.:/@[]".contains(c))
}

fn is_tool(text: &str) -> bool {
    text.len() <= 100
        && text.starts_with(|c: char| c.is_ascii_alphabetic())
        && text.chars().all(|c| c.is_ascii_alphanumeric() || c == '_')
}
