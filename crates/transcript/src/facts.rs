//! What a job's events say about it.

use contract::{Service, Timestamp};
use serde_json::Value;

use crate::{cost, one_line, text_of, time::time_of, turns};

/// The longest text that is kept, in characters.
const TEXT: usize = 2000;

/// What is known so far.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Facts {
    /// What the agent was to do.
    pub prompt: Option<String>,
    /// The path of the checkout on the stack's machine.
    pub checkout: Option<String>,
    /// The branch that was checked out.
    pub branch: Option<String>,
    /// The commit that was checked out.
    pub commit: Option<String>,
    /// Where the result was delivered: the URL of a pull request, or a branch.
    pub delivered: Option<String>,
    /// The agent's model.
    pub model: Option<String>,
    /// The session's ID.
    pub session: Option<String>,
    /// The agent's last words.
    pub result: Option<String>,
    /// What the job cost, in US dollars.
    pub cost_usd: Option<f64>,
    /// How many turns the agent took.
    pub turns: Option<u64>,
    /// Whether the checks of the result passed in the end.
    pub verified: Option<bool>,
    /// The time of the first event, without the wait in the queue.
    pub began: Option<Timestamp>,
    /// The time of the terminal event.
    pub ended: Option<Timestamp>,
}

impl Facts {
    /// Adds what the next event of a job of `service` says.
    pub fn add(&mut self, service: Service, event: &Value) {
        let kind = text_of(event, "type");
        if kind == "queued" {
            return;
        }
        if service.is_terminal(kind) {
            self.ended = time_of(event);
        }
        if self.began.is_none() {
            self.began = time_of(event);
        }
        match kind {
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
            "workflow_step_complete" if text_of(event, "targetPath").is_empty() => {
                put(&mut self.delivered, event, "branch");
                put(&mut self.delivered, event, "url");
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
        self.verified = event.get("verified").and_then(Value::as_bool).or(self.verified);
        self.turns = event.get("numTurns").and_then(Value::as_u64).or(self.turns);
    }

    /// What the job cost, for people.
    #[must_use]
    pub fn cost(&self) -> Option<String> {
        self.cost_usd.map(cost)
    }

    /// What the job cost and how many turns it took, for people.
    #[must_use]
    pub fn account(&self) -> Option<String> {
        let turns = self.turns.map(|count| format!(" ({})", turns(count)));
        Some(self.cost()? + &turns.unwrap_or_default())
    }
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
            facts.add(Service::Workflow, &event);
        }
        let text = |text: &str| Some(text.to_owned());
        let expected = Facts {
            prompt: text("Add a README"),
            checkout: text("/w/a"),
            branch: text("main"),
            commit: text("abc"),
            delivered: None,
            model: text("opus"),
            session: text("s"),
            result: text("Done."),
            cost_usd: Some(0.25),
            turns: Some(3),
            began: serde_json::from_value(json!(at(5))).ok(),
            ended: serde_json::from_value(json!(at(9))).ok(),
            verified: None,
        };
        assert_eq!(facts, expected);
        assert_eq!(facts.account().as_deref(), Some("$0.2500 (3 turns)"));
    }
}
