//! The field `verify`: commands that check what an agent has done.

use serde::Serialize;

use super::RequestError;
use crate::{Policy, fields::Fields};

/// Commands that run after the agent, confined as it is, in its directory. What fails is given back to the same session.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Verify {
    /// Shell commands. They run in this order, until one fails.
    pub run: Vec<String>,
    /// How often a failure is given back to the agent.
    pub attempts: u32,
}

impl Verify {
    /// The default of [`attempts`](Self::attempts).
    pub const ATTEMPTS: u32 = 3;
    /// The largest value of [`attempts`](Self::attempts).
    pub const MOST_ATTEMPTS: u32 = 10;
    /// The most commands.
    pub const MOST_COMMANDS: usize = 10;
    /// The longest command, in bytes.
    pub const LONGEST_COMMAND: usize = 4096;

    pub(super) fn read_object(
        fields: &Fields,
        policy: &Policy,
    ) -> Result<Option<Self>, RequestError> {
        fields.nested("verify", policy.unknown_fields, Self::read)
    }

    fn read(fields: &Fields) -> Result<Self, RequestError> {
        let wrong = |why: String| RequestError::field("run", why);
        let run = fields.strings("run")?.unwrap_or_default();
        if run.is_empty() || run.len() > Self::MOST_COMMANDS {
            return Err(wrong(format!("must be from 1 to {} commands", Self::MOST_COMMANDS)));
        }
        for command in &run {
            if command.trim().is_empty() || command.len() > Self::LONGEST_COMMAND {
                let most = Self::LONGEST_COMMAND;
                return Err(wrong(format!("each command must have from 1 to {most} bytes")));
            }
            if command.contains('\0') {
                return Err(wrong("contains a NUL character".into()));
            }
        }
        let attempts = fields.unsigned("attempts")?.map_or(Some(Self::ATTEMPTS), |attempts| {
            u32::try_from(attempts).ok().filter(|attempts| *attempts <= Self::MOST_ATTEMPTS)
        });
        let attempts = attempts.ok_or_else(|| {
            RequestError::field("attempts", format!("must be from 0 to {}", Self::MOST_ATTEMPTS))
        })?;
        Ok(Self { run: run.into_iter().map(str::to_owned).collect(), attempts })
    }
}
