//! What a job's events say about it, beyond the gateway's view.

use std::time::Duration;

use contract::{JobView, Timestamp};
use futures_util::StreamExt as _;
use serde_json::Value;
use stack_client::{AfterEnd, Api, Follow, FollowEvent, JobSource, follow, one_line};

use super::draw::{text_of, time};

/// The longest text that is kept, in characters.
const TEXT: usize = 2000;

/// What is known so far.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Facts {
    pub(crate) prompt: Option<String>,
    pub(crate) checkout: Option<String>,
    pub(crate) branch: Option<String>,
    pub(crate) commit: Option<String>,
    pub(crate) model: Option<String>,
    pub(crate) session: Option<String>,
    pub(crate) result: Option<String>,
    pub(crate) cost_usd: Option<f64>,
    pub(crate) turns: Option<u64>,
    /// The times of the first and the last event.
    pub(crate) began: Option<Timestamp>,
    pub(crate) ended: Option<Timestamp>,
}

impl Facts {
    /// Reads the events of a job: all of one that has ended, and those within `time` of one that runs.
    pub(crate) async fn read(api: &Api, job: &JobView, time: Duration) -> Self {
        let mut facts = Self::default();
        let events = follow(Follow {
            api: api.clone(),
            service: job.service,
            start: JobSource::Known(job.job_id),
            patience: time,
            after: AfterEnd::Leave,
        });
        let mut events = std::pin::pin!(events);
        let whole = async {
            while let Some(Ok(told)) = events.next().await {
                if let FollowEvent::Event(event) = told {
                    facts.add(&event.value);
                    if event.terminal {
                        facts.ended = time_of(&event.value);
                    }
                }
            }
        };
        // What came by then is still worth showing.
        let _late = tokio::time::timeout(time, whole).await;
        facts
    }

    /// Adds what one event says.
    fn add(&mut self, event: &Value) {
        if text_of(event, "type") == "queued" {
            return;
        }
        if self.began.is_none() {
            self.began = time_of(event);
        }
        match text_of(event, "type") {
            "pull_progress" => {
                if let Some(pull) = event.get("data").filter(|it| text_of(it, "type") != "error") {
                    self.add_fields(pull);
                }
            }
            "message" => {
                let content = event.get("content").unwrap_or(&Value::Null);
                if text_of(content, "subtype") == "init" {
                    put(&mut self.model, content, "model");
                }
            }
            _ => self.add_fields(event),
        }
    }

    fn add_fields(&mut self, event: &Value) {
        put(&mut self.prompt, event, "prompt");
        put(&mut self.checkout, event, "workspace");
        put(&mut self.checkout, event, "targetPath");
        put(&mut self.branch, event, "branch");
        put(&mut self.commit, event, "commit");
        put(&mut self.session, event, "sessionId");
        put(&mut self.result, event, "result");
        self.cost_usd = event.get("costUsd").and_then(Value::as_f64).or(self.cost_usd);
        self.turns = event.get("numTurns").and_then(Value::as_u64).or(self.turns);
    }

    /// What the job cost, for people.
    pub(crate) fn cost(&self) -> Option<String> {
        self.cost_usd
            .map(|usd| if usd >= 1.0 { format!("${usd:.2}") } else { format!("${usd:.4}") })
    }
}

fn time_of(event: &Value) -> Option<Timestamp> {
    time(event)
}

fn put(field: &mut Option<String>, event: &Value, name: &str) {
    let text = one_line(text_of(event, name), TEXT);
    if !text.is_empty() {
        *field = Some(text);
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn the_facts_of_a_workflow() {
        let mut facts = Facts::default();
        let at = |seconds: u8| format!("2026-01-31T12:00:{seconds:02}.000Z");
        for event in [
            json!({"type": "queued", "service": "workflow-api", "position": 1, "timestamp": at(0)}),
            json!({"type": "workflow_started", "step": 1, "prompt": "Add\na README", "timestamp": at(5)}),
            json!({"type": "pull_progress", "data": {"type": "completed", "targetPath": "/w/a", "branch": "main", "commit": "abc"}}),
            json!({"type": "connected", "sessionId": "s", "workspace": "/w/a"}),
            json!({"type": "message", "content": {"type": "system", "subtype": "init", "model": "opus"}}),
            json!({"type": "message", "content": {"type": "assistant", "prompt": "not this"}}),
            json!({"type": "completed", "sessionId": "s", "result": "Done.", "costUsd": 0.25, "numTurns": 3}),
            json!({"type": "workflow_complete", "timestamp": at(9)}),
        ] {
            facts.add(&event);
        }
        let text = |text: &str| Some(text.to_owned());
        let expected = Facts {
            prompt: text("Add a README"),
            checkout: text("/w/a"),
            branch: text("main"),
            commit: text("abc"),
            model: text("opus"),
            session: text("s"),
            result: text("Done."),
            cost_usd: Some(0.25),
            turns: Some(3),
            began: serde_json::from_value(json!(at(5))).ok(),
            ended: None,
        };
        assert_eq!(facts, expected);
        assert_eq!(facts.cost().as_deref(), Some("$0.2500"));
    }
}
