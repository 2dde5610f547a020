//! A job as people see it: a pure function from events to lines.
//!
//! Nothing here knows of terminals, colours or time: a [`Draw`] says what a line is, and the renderers decide how that
//! looks. Every string of an event is cleaned before it becomes part of a line.

mod agent;

use contract::{Service, Timestamp};
use serde_json::Value;
use stack_client::one_line;

use agent::Agent;

/// The longest line, in characters. The agent's own words are not cut.
const LINE: usize = 400;

/// The status before git reports its progress.
const PULLING: &str = "git is working";

/// One thing to draw.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Draw {
    /// A line that stays.
    Line(Line),
    /// What is going on until the next status.
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

/// What kind of line it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Role {
    /// The beginning of a step.
    Heading,
    /// Something good to know.
    Detail,
    /// What the agent says.
    Words,
    /// A tool that the agent uses.
    Tool,
    /// Something went wrong.
    Trouble,
    /// The job succeeded.
    Success,
    /// The job failed.
    Failure,
}

/// What is going on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Status {
    /// Nothing worth a line.
    None,
    /// The job, or one of its own jobs, waits in a queue.
    Waiting(String),
    /// A transfer, or other work of known length.
    Progress(Progress),
    /// Work of unknown length.
    Working(String),
}

/// The progress of a stage of a pull.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Progress {
    pub(crate) stage: String,
    pub(crate) done: u64,
    /// 0 if it is not known.
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
    has_session: bool,
    began: Option<Timestamp>,
    out: Vec<Draw>,
}

impl Drawing {
    pub(crate) fn new(service: Service) -> Self {
        let agent = Agent::default();
        Self {
            service,
            agent,
            step: None,
            target: None,
            has_session: false,
            began: None,
            out: Vec::new(),
        }
    }

    /// The path of the checkout on the stack's machine, if it is known.
    pub(crate) fn target(&self) -> Option<&str> {
        self.target.as_deref()
    }

    /// Whether the agent had a session.
    pub(crate) fn has_session(&self) -> bool {
        self.has_session
    }

    /// What an event looks like.
    pub(crate) fn event(&mut self, event: &Value) -> Vec<Draw> {
        let kind = text_of(event, "type");
        // A wait in the queue is not part of the job's time.
        if self.began.is_none() && kind != "queued" {
            self.began = time(event);
        }
        if kind == "queued" {
            self.queued(event);
        } else if self.service == Service::Workflow {
            self.workflow(kind, event);
        } else if self.service == Service::Pull {
            self.pull(kind, event);
        } else {
            self.execute(kind, event);
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
                    // The end of the workflow repeats it.
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
            // It ends the agent's run, and not the workflow, which has an end of its own.
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
                self.has_session |= !text_of(event, "sessionId").is_empty();
                self.agent.connected(text_of(event, "workspace"));
                if self.service == Service::Claude {
                    self.target = Some(one_line(text_of(event, "workspace"), LINE));
                    self.line(Role::Heading, 0, "Running Claude Code");
                }
                self.status(Status::Working("the agent is working".to_owned()));
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
            ("cancelled" | "caller_left", ..) => "Cancelled",
            (_, Service::Workflow, Some(1)) => "The pull failed",
            _ => "Failed",
        };
        let text = format!("{what}{}: {} ({code})", self.account(event), text_of(event, "error"));
        // The sentence says what to do, so it is not cut to a line.
        let text = one_line(&text, 10 * LINE);
        self.out.push(Draw::Line(Line { role: Role::Failure, indent: 0, text }));
    }

    /// The time and the cost of the job.
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

pub(super) fn text_of<'a>(event: &'a Value, field: &str) -> &'a str {
    event.get(field).and_then(Value::as_str).unwrap_or_default()
}

pub(super) fn time(event: &Value) -> Option<Timestamp> {
    serde_json::from_value(event.get("timestamp")?.clone()).ok()
}

/// A time for people: `0.3 s`, `42.0 s`, `3 min 20 s`, `2 h 5 min`.
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
