//! What can be asked of a supervisor, and what it answers.

use std::collections::BTreeMap;

use contract::{ReplicaId, Service, Timestamp};
use serde::{Deserialize, Serialize};
use web::BaseUrl;

/// What can be asked.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "ask", rename_all = "camelCase")]
pub enum Ask {
    /// What every slot is doing.
    Status,
    /// So many replicas of these services.
    Scale {
        /// How many of which.
        to: BTreeMap<Service, u16>,
    },
    /// What was logged.
    Logs {
        /// By this part alone.
        part: Option<String>,
        /// This many of the last lines of each part.
        tail: u32,
        /// And all that follow.
        follow: bool,
    },
}

/// What is answered.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "reply", content = "is", rename_all = "camelCase")]
pub enum Reply {
    /// The whole stack.
    Status(StackView),
    /// It will be done.
    Done,
    /// A line of a log.
    Line {
        /// Who logged it.
        part: String,
        /// The number of its slot.
        number: u16,
        /// When.
        at: Timestamp,
        /// The line, without its end.
        text: String,
    },
    /// This many lines were lost, because the reader is too slow.
    Missed(u64),
    /// It will not be done, for this reason.
    Refused(String),
}

/// What a supervisor is doing.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct StackView {
    /// The supervisor's process.
    pub pid: i32,
    /// Where the gateway is reached from this machine.
    pub host: String,
    /// The gateway's ports.
    pub ports: BTreeMap<Service, u16>,
    /// In the order of listings.
    pub slots: Vec<SlotView>,
}

impl StackView {
    /// The gateway's addresses, one for each service.
    #[must_use]
    pub fn addresses(&self) -> Vec<(Service, BaseUrl)> {
        let url = |port| format!("http://{}:{port}", self.host).parse().ok();
        self.ports.iter().filter_map(|(service, port)| Some((*service, url(port)?))).collect()
    }

    /// The slots of the part of that name.
    pub fn slots_of<'a>(&'a self, part: &'a str) -> impl Iterator<Item = &'a SlotView> {
        self.slots.iter().filter(move |slot| slot.part == part)
    }
}

/// A slot, and the process that is in it now.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SlotView {
    /// What runs in it.
    pub part: String,
    /// From 1, among those of the same part.
    pub number: u16,
    /// Whether there is a process.
    pub state: SlotState,
    /// Since when.
    pub since: Option<Timestamp>,
    /// The process.
    pub pid: Option<i32>,
    /// The life of the replica.
    pub replica: Option<ReplicaId>,
    /// When the process was started.
    pub started: Option<Timestamp>,
    /// In the last hour.
    pub restarts: u64,
    /// It was scaled away, and goes when it is idle.
    pub leaving: bool,
    /// Its last failure.
    pub failure: Option<FailureView>,
}

/// Whether there is a process in a slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum SlotState {
    /// There is none at this moment.
    Down,
    /// There is one, and it waits for a job.
    Idle,
    /// There is one.
    Up,
}

/// The last time that a slot's process ended as it should not.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct FailureView {
    /// When.
    pub at: Timestamp,
    /// How.
    pub what: String,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_words_of_the_protocol() {
        let scale = Ask::Scale { to: BTreeMap::from([(Service::Pull, 3)]) };
        let text = r#"{"ask":"scale","to":{"github-pull-api":3}}"#;
        assert_eq!(serde_json::to_string(&scale).unwrap(), text);
        assert_eq!(serde_json::from_str::<Ask>(text).unwrap(), scale);
        assert!(serde_json::from_str::<Ask>(r#"{"ask":"scale","to":{"gateway":3}}"#).is_err());
        let line = Reply::Line {
            part: "gateway".into(),
            number: 1,
            at: Timestamp::from_millisecond(0),
            text: "t".into(),
        };
        let text = serde_json::to_string(&line).unwrap();
        assert_eq!(serde_json::from_str::<Reply>(&text).unwrap(), line);
    }
}
