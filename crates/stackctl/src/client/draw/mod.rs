//! What a person sees of a job: a pure function from events, one after the other, to lines.
//!
//! Nothing here knows of terminals, colours or time: a [`Draw`] says what a line is, and the renderers say
//! how that looks. Every string of an event is cleaned before it becomes part of a line.

mod agent;
mod text;

use contract::{Service, Timestamp};
use serde_json::Value;

use agent::Agent;
pub(crate) use text::{clean, one_line};

/// The longest line that is made of something which is not the agent's own words, in characters.
const LINE: usize = 400;

/// What goes on before git tells how far it is.
const PULLING: &str = "git is at work";

/// One thing to draw.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Draw {
    /// A line that stays.
    Line(Line),
    /// What is going on, until the next of these.
    Status(Status),
}

/// A line that stays.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Line {
    pub(crate) role: Role,
    /// In steps of two spaces.
    pub(crate) indent: usize,
    /// Without a line break.
    pub(crate) text: String,
}

/// What a line is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Role {
    /// The beginning of something.
    Heading,
    /// What is good to know.
    Detail,
    /// What the agent says.
    Words,
    /// A tool that the agent uses.
    Tool,
    /// Something that did not go well.
    Trouble,
    /// A good end.
    Success,
    /// A bad one.
    Failure,
}

/// What is going on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Status {
    /// Nothing that would have to be said.
    None,
    /// The job, or one that it needs, is in a queue.
    Waiting(String),
    /// A transfer, or another work of known length.
    Progress(Progress),
    /// Something of unknown length.
    Working(String),
}

/// How far a stage of a pull is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Progress {
    pub(crate) stage: String,
    pub(crate) done: u64,
    /// 0 as long as it is not known.
    pub(crate) total: u64,
    pub(crate) bytes: u64,
}

/// Draws one job.
#[derive(Debug)]
pub(crate) struct Drawing {
    service: Service,
    agent: Agent,
    step: Option<u64>,
    target: Option<String>,
    began: Option<Timestamp>,
    out: Vec<Draw>,
}

impl Drawing {
    pub(crate) fn new(service: Service) -> Self {
        let agent = Agent::default();
        Self { service, agent, step: None, target: None, began: None, out: Vec::new() }
    }

    /// Where the checkout is, if that has been said; as the stack names it.
    pub(crate) fn target(&self) -> Option<&str> {
        self.target.as_deref()
    }

    /// What an event looks like.
    pub(crate) fn event(&mut self, event: &Value) -> Vec<Draw> {
        if self.began.is_none() {
            self.began = time(event);
        }
        let kind = text_of(event, "type");
        match (self.service, kind) {
            (_, "queued") => self.queued(event),
            (Service::Workflow, _) => self.workflow(kind, event),
            (Service::Pull, _) => self.pull(kind, event),
            (Service::Claude, _) => self.execute(kind, event),
        }
        std::mem::take(&mut self.out)
    }

    fn workflow(&mut self, kind: &str, event: &Value) {
        match kind {
            "workflow_started" => {
                self.status(Status::None);
                self.step = event.get("step").and_then(Value::as_u64);
            }
            "message" if event.get("content").is_none() => {
                self.line(Role::Heading, 0, text_of(event, "message"));
                if self.step == Some(1) {
                    self.status(Status::Working(PULLING.to_owned()));
                }
            }
            "pull_progress" => {
                let data = event.get("data").unwrap_or(&Value::Null);
                match text_of(data, "type") {
                    "queued" => self.queued(data),
                    // The end of a workflow says it too.
                    "error" => self.status(Status::None),
                    kind => self.pull(kind, data),
                }
            }
            "workflow_step_complete" => {
                self.status(Status::None);
                self.set_target(event);
            }
            "workflow_complete" => self.done(event),
            "workflow_error" => self.failed(event),
            // Terminal for the agent's run, and not for the workflow, whose own end says the rest.
            "completed" | "error" => {
                self.status(Status::None);
                self.agent.end(event, &mut self.out);
            }
            kind => self.execute(kind, event),
        }
    }

    fn pull(&mut self, kind: &str, event: &Value) {
        match kind {
            "connected" if self.service == Service::Pull => {
                let heading = format!("Pulling {}", text_of(event, "repoUrl"));
                self.line(Role::Heading, 0, &heading);
            }
            "message" => {
                self.line(Role::Detail, 1, text_of(event, "message"));
                self.status(Status::Working(PULLING.to_owned()));
            }
            "progress" => {
                let count = |name| event.get(name).and_then(Value::as_u64).unwrap_or_default();
                let stage = one_line(text_of(event, "stage"), 20);
                let (done, total, bytes) = (count("received"), count("total"), count("bytes"));
                self.status(Status::Progress(Progress { stage, done, total, bytes }));
            }
            "completed" => {
                self.status(Status::None);
                self.set_target(event);
                if self.service == Service::Pull {
                    self.done(event);
                }
            }
            "error" => self.failed(event),
            _ => {}
        }
    }

    fn execute(&mut self, kind: &str, event: &Value) {
        match kind {
            "connected" => {
                self.agent.connected(text_of(event, "workspace"));
                if self.service == Service::Claude {
                    self.target = Some(one_line(text_of(event, "workspace"), LINE));
                    self.line(Role::Heading, 0, "Running Claude Code");
                }
                self.status(Status::Working("the agent is at work".to_owned()));
            }
            "message" => {
                let content = event.get("content").unwrap_or(&Value::Null);
                self.agent.message(content, &mut self.out);
            }
            "completed" => {
                self.agent.end(event, &mut self.out);
                self.done(event);
            }
            "error" => {
                self.agent.end(event, &mut self.out);
                self.failed(event);
            }
            _ => {}
        }
    }

    fn queued(&mut self, event: &Value) {
        let position = event.get("position").and_then(Value::as_u64).unwrap_or_default();
        let mut text =
            format!("Waiting: place {position} in the queue of {}", text_of(event, "service"));
        if let Some(holder) = event.get("waitingFor").and_then(Value::as_str) {
            text.push_str(&format!(", for {holder}"));
        }
        self.status(Status::Waiting(one_line(&text, LINE)));
    }

    fn set_target(&mut self, event: &Value) {
        let path = text_of(event, "targetPath");
        if !path.is_empty() && self.target.is_none() {
            let path = one_line(path, LINE);
            self.line(Role::Detail, 1, &format!("in {path}"));
            self.target = Some(path);
        }
    }

    fn done(&mut self, event: &Value) {
        self.status(Status::None);
        let text = format!("Done{}", self.account(event));
        self.line(Role::Success, 0, &text);
    }

    fn failed(&mut self, event: &Value) {
        self.status(Status::None);
        let code = text_of(event, "code");
        let step = event.get("step").and_then(Value::as_u64).or(self.step);
        let what = match (code, self.service, step) {
            ("cancelled", ..) => "Cancelled",
            (_, Service::Workflow, Some(1)) => "The pull failed",
            _ => "Failed",
        };
        let text = format!("{what}{}: {} ({code})", self.account(event), text_of(event, "error"));
        // The sentence says what to do, so none of it is cut off.
        let text = one_line(&text, 10 * LINE);
        self.out.push(Draw::Line(Line { role: Role::Failure, indent: 0, text }));
    }

    /// How long the job took, and what it cost.
    fn account(&self, end: &Value) -> String {
        let took = match (self.began, time(end)) {
            (Some(began), Some(ended)) => {
                let ms = ended.as_millisecond().saturating_sub(began.as_millisecond());
                format!(" after {}", duration(ms.max(0).cast_unsigned()))
            }
            _ => String::new(),
        };
        took + &self.agent.account()
    }

    fn status(&mut self, status: Status) {
        self.out.push(Draw::Status(status));
    }

    fn line(&mut self, role: Role, indent: usize, text: &str) {
        let text = one_line(text, LINE);
        self.out.push(Draw::Line(Line { role, indent, text }));
    }
}

fn text_of<'a>(event: &'a Value, field: &str) -> &'a str {
    event.get(field).and_then(Value::as_str).unwrap_or_default()
}

fn time(event: &Value) -> Option<Timestamp> {
    serde_json::from_value(event.get("timestamp")?.clone()).ok()
}

/// For people: `0.3 s`, `42.0 s`, `3 min 20 s`, `2 h 5 min`.
pub(crate) fn duration(ms: u64) -> String {
    let seconds = ms / 1000;
    match seconds {
        0..60 => format!("{}.{} s", seconds, ms % 1000 / 100),
        60..3600 => format!("{} min {} s", seconds / 60, seconds % 60),
        _ => format!("{} h {} min", seconds / 3600, seconds % 3600 / 60),
    }
}

#[cfg(test)]
mod tests;
