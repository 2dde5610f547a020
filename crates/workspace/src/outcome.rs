//! `outcome`: how a job ended.

use contract::{Code, Ending, EventLine, JobState, Timestamp};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

/// How a job ended, as recorded on the volume. A job has at most one outcome, and it never changes.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// The terminal event.
    pub event: EventLine,
    /// The length of the journal before the terminal event, in bytes. Anything after that is ignored.
    pub journal_length: u64,
    /// How the job ended.
    pub state: JobState,
    /// Why it failed.
    pub code: Option<Code>,
    /// Why it failed, for people.
    pub error: Option<String>,
    /// When.
    pub ended: Timestamp,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct File<'a> {
    journal_length: u64,
    state: JobState,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    code: Option<Code>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    error: Option<String>,
    ended: Timestamp,
    #[serde(borrow)]
    event: &'a RawValue,
}

impl Outcome {
    pub(crate) fn new(ending: Ending, journal_length: u64) -> Self {
        let Ending { event, state, code, error } = ending;
        Self { event, journal_length, state, code, error, ended: Timestamp::now() }
    }

    /// The ID of the terminal event: that of the last event in the journal plus one.
    #[must_use]
    pub fn event_id(&self) -> u64 {
        self.journal_length.saturating_add(1)
    }

    /// What is written.
    pub(crate) fn record(&self) -> impl Serialize + '_ {
        let event = self.event.to_raw().unwrap_or(RawValue::NULL);
        File {
            journal_length: self.journal_length,
            state: self.state,
            code: self.code,
            error: self.error.clone(),
            ended: self.ended,
            event,
        }
    }

    pub(crate) fn decode(content: &[u8]) -> Result<Self, serde_json::Error> {
        let file: File<'_> = serde_json::from_slice(content)?;
        let event =
            EventLine::from_json(file.event.get().as_bytes()).map_err(serde::de::Error::custom)?;
        Ok(Self {
            event,
            journal_length: file.journal_length,
            state: file.state,
            code: file.code,
            error: file.error,
            ended: file.ended,
        })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    properties::fuzz! {
        #[test]
        fn an_outcome_round_trips_and_a_damaged_one_is_no_panic(
            text in any::<String>(),
            length in any::<u64>(),
            damage in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..4),
        ) {
            let event = EventLine::encode(&json!({"type": "error", "error": text}));
            let ending = Ending { event, state: JobState::Failed, code: Some(Code::Internal), error: Some(text) };
            let outcome = Outcome::new(ending, length);
            let encode = |outcome: &Outcome| serde_json::to_vec(&outcome.record()).unwrap();
            let mut bytes = encode(&outcome);
            let again = Outcome::decode(&bytes).unwrap();
            prop_assert_eq!(&again.event, &outcome.event);
            prop_assert_eq!((again.journal_length, again.error), (length, outcome.error));
            for (index, byte) in damage {
                let at = index.index(bytes.len());
                bytes[at] = byte;
            }
            if let Ok(read) = Outcome::decode(&bytes) {
                prop_assert!(Outcome::decode(&encode(&read)).is_ok());
                let _ = read.event_id();
            }
        }
    }
}
