//! Requests to a supervisor, and its replies.

use std::collections::BTreeMap;

use contract::{ReplicaId, Service, Timestamp};
use serde::{Deserialize, Serialize};
use web::BaseUrl;

/// A request.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "ask", rename_all = "camelCase")]
pub enum ControlRequest {
    /// The state of every slot.
    Status,
    /// Change the number of replicas of these services.
    Scale {
        /// The number for each service.
        to: BTreeMap<Service, u16>,
    },
    /// Read the logs.
    Logs {
        /// Only this part.
        part: Option<String>,
        /// The number of recent lines of each part.
        tail: u32,
        /// Whether to follow new lines.
        follow: bool,
    },
}

/// A reply.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "reply", content = "is", rename_all = "camelCase")]
pub enum Reply {
    /// The whole stack.
    Status(StackView),
    /// The request was accepted.
    Done,
    /// A log line.
    Line {
        /// The part that logged it.
        part: String,
        /// The number of the part's slot.
        number: u16,
        /// When.
        at: Timestamp,
        /// The line, without its terminator.
        text: String,
    },
    /// The number of lines that a slow reader has missed.
    Missed(u64),
    /// The request was refused for this reason.
    Refused(String),
}

/// The state of a stack.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct StackView {
    /// The supervisor's pid.
    pub pid: i32,
    /// The gateway's host, as seen from this machine.
    pub host: String,
    /// The gateway's ports.
    pub ports: BTreeMap<Service, u16>,
    /// In display order.
    pub slots: Vec<SlotView>,
}

impl StackView {
    /// The gateway's addresses, one for each service.
    #[must_use]
    pub fn addresses(&self) -> Vec<(Service, BaseUrl)> {
        let url = |port| format!("http://{}:{port}", self.host).parse().ok();
        self.ports.iter().filter_map(|(service, port)| Some((*service, url(port)?))).collect()
    }

    /// The slots of the part with that name.
    pub fn slots_of<'a>(&'a self, part: &'a str) -> impl Iterator<Item = &'a SlotView> {
        self.slots.iter().filter(move |slot| slot.part == part)
    }
}

/// A slot and its current process.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SlotView {
    /// The part that runs in it.
    pub part: String,
    /// Its number among the slots of this part, starting at 1.
    pub number: u16,
    /// The state of its process.
    pub state: SlotState,
    /// When it entered this state.
    pub since: Option<Timestamp>,
    /// The pid of its process.
    pub pid: Option<i32>,
    /// The ID of the replica in it.
    pub replica: Option<ReplicaId>,
    /// When its process was started.
    pub started: Option<Timestamp>,
    /// The number of restarts in the last hour.
    pub restarts: u64,
    /// Whether it was scaled away and exits when idle.
    pub leaving: bool,
    /// Its last failure.
    pub failure: Option<FailureView>,
}

/// The state of a slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum SlotState {
    /// There is no process at the moment.
    Down,
    /// The process waits for a job.
    Idle,
    /// The process is running.
    Up,
}

/// The last unexpected exit of a slot's process.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct FailureView {
    /// When.
    pub at: Timestamp,
    /// How it exited.
    pub what: String,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_encoding_of_the_protocol() {
        let scale = ControlRequest::Scale { to: BTreeMap::from([(Service::Pull, 3)]) };
        let text = r#"{"ask":"scale","to":{"github-pull-api":3}}"#;
        assert_eq!(serde_json::to_string(&scale).unwrap(), text);
        assert_eq!(serde_json::from_str::<ControlRequest>(text).unwrap(), scale);
        assert!(
            serde_json::from_str::<ControlRequest>(r#"{"ask":"scale","to":{"gateway":3}}"#)
                .is_err()
        );
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
