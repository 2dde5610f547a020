//! From events to lines.

use contract::{Service, Timestamp};
use serde_json::Value;

use crate::{
    Activity, Item, Line, Role, Transfer, agent::AgentMessages, duration, one_line, text_of,
    time::time_of,
};

/// The longest line, in characters. The agent's own words are not cut.
pub(crate) const LINE: usize = 400;

/// How many lines of a failed check are shown.
const LAST_LINES: usize = 10;

/// The activity before git reports its progress.
const PULLING: &str = "git is working";

/// Reads one job, event by event.
#[derive(Debug)]
pub struct Transcript {
    service: Service,
    agent: AgentMessages,
    step: Option<u64>,
    target: Option<String>,
    has_session: bool,
    began: Option<Timestamp>,
    out: Vec<Item>,
}

impl Transcript {
    /// The transcript of a job of this service.
    #[must_use]
    pub fn new(service: Service) -> Self {
        Self {
            service,
            agent: AgentMessages::default(),
            step: None,
            target: None,
            has_session: false,
            began: None,
            out: Vec::new(),
        }
    }

    /// The path of the checkout on the stack's machine, if it is known.
    #[must_use]
    pub fn target(&self) -> Option<&str> {
        self.target.as_deref()
    }

    /// Whether the agent had a session.
    #[must_use]
    pub fn has_session(&self) -> bool {
        self.has_session
    }

    /// What the next event adds to the transcript.
    pub fn event(&mut self, event: &Value) -> Vec<Item> {
        let kind = text_of(event, "type");
        // A wait in the queue is not part of the job's time.
        if self.began.is_none() && kind != "queued" {
            self.began = time_of(event);
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
                self.activity(Activity::None);
                self.step = event.get("step").and_then(Value::as_u64);
            }
            "message" if event.get("content").is_none() => {
                self.line(Role::Heading, 0, text_of(event, "message"));
                if matches!(self.step, Some(1 | 3)) {
                    self.activity(Activity::Working(PULLING.to_owned()));
                }
            }
            "pull_progress" => {
                let data = event.get("data").unwrap_or(&Value::Null);
                match text_of(data, "type") {
                    "queued" => self.queued(data),
                    // The end of the workflow repeats it.
                    "error" => self.activity(Activity::None),
                    kind => self.pull(kind, data),
                }
            }
            "delivery_progress" => {
                let data = event.get("data").unwrap_or(&Value::Null);
                match text_of(data, "type") {
                    "queued" => self.queued(data),
                    // The end of the workflow and that of the step repeat them.
                    "error" | "completed" => self.activity(Activity::None),
                    kind => self.pull(kind, data),
                }
            }
            "workflow_step_complete" => {
                self.activity(Activity::None);
                self.set_target(event);
                self.delivered(event);
            }
            "workflow_complete" => self.done(event),
            "workflow_error" => self.failed(event),
            // It ends the agent's run, and not the workflow, which has an end of its own.
            "completed" | "error" => {
                self.activity(Activity::None);
                self.agent.end(event, &mut self.out);
            }
            kind => self.execute(kind, event),
        }
    }

    fn pull(&mut self, kind: &str, event: &Value) {
        match kind {
            "connected" if self.service == Service::Pull => {
                let what =
                    if text_of(event, "resultOf").is_empty() { "Pulling" } else { "Delivering to" };
                let heading = format!("{what} {}", text_of(event, "repoUrl"));
                self.line(Role::Heading, 0, &heading);
            }
            "message" => {
                self.line(Role::Detail, 1, text_of(event, "message"));
                self.activity(Activity::Working(PULLING.to_owned()));
            }
            "progress" => {
                let count = |name| event.get(name).and_then(Value::as_u64).unwrap_or_default();
                let stage = one_line(text_of(event, "stage"), 20);
                let (done, total, bytes) = (count("received"), count("total"), count("bytes"));
                let at = time_of(event);
                self.activity(Activity::Transfer(Transfer { stage, done, total, bytes, at }));
            }
            "completed" => {
                self.activity(Activity::None);
                self.set_target(event);
                if text_of(event, "targetPath").is_empty() {
                    self.delivered(event);
                }
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
                self.activity(Activity::Working("the agent is working".to_owned()));
            }
            "message" => {
                let content = event.get("content").unwrap_or(&Value::Null);
                self.agent.message(content, &mut self.out);
            }
            "verification_started" => {
                self.line(Role::Heading, 0, &format!("Checking: {}", text_of(event, "command")));
                self.activity(Activity::Working("the check is running".to_owned()));
            }
            "verification_result" => {
                self.activity(Activity::None);
                let passed = event.get("passed").and_then(Value::as_bool).unwrap_or_default();
                if passed {
                    return self.line(Role::Success, 1, "passed");
                }
                let code = event.get("exitCode").and_then(Value::as_i64);
                let how =
                    code.map_or("a signal ended it".to_owned(), |code| format!("exit code {code}"));
                self.line(Role::Failure, 1, &format!("failed ({how})"));
                let lines: Vec<_> = text_of(event, "output").trim_end().lines().collect();
                for line in lines.iter().rev().take(LAST_LINES).rev() {
                    self.line(Role::Detail, 1, line);
                }
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
        self.activity(Activity::Waiting(one_line(&text, LINE)));
    }

    fn set_target(&mut self, event: &Value) {
        let path = text_of(event, "targetPath");
        if !path.is_empty() && self.target.is_none() {
            let path = one_line(path, LINE);
            self.line(Role::Detail, 1, &format!("in {path}"));
            self.target = Some(path);
        }
    }

    /// Where the result is, if the event says that.
    fn delivered(&mut self, event: &Value) {
        let (branch, commit) = (text_of(event, "branch"), text_of(event, "commit"));
        if branch.is_empty() {
            return;
        }
        let short = commit.get(..10).unwrap_or(commit);
        self.line(Role::Detail, 1, &format!("on the branch {branch} at {short}"));
        let url = text_of(event, "url");
        if !url.is_empty() {
            self.line(Role::Detail, 1, url);
        }
    }

    fn done(&mut self, event: &Value) {
        self.activity(Activity::None);
        let is_unverified = event.get("verified") == Some(&Value::Bool(false));
        let (role, what) = if is_unverified {
            (Role::Failure, "Done, but not verified")
        } else {
            (Role::Success, "Done")
        };
        let text = format!("{what}{}", self.account(event));
        self.line(role, 0, &text);
    }

    fn failed(&mut self, event: &Value) {
        self.activity(Activity::None);
        let code = text_of(event, "code");
        let step = event.get("step").and_then(Value::as_u64).or(self.step);
        let what = match (code, self.service, step) {
            ("cancelled" | "caller_left", ..) => "Cancelled",
            (_, Service::Workflow, Some(1)) => "The pull failed",
            (_, Service::Workflow, Some(3)) => "The delivery failed",
            _ => "Failed",
        };
        let text = format!("{what}{}: {} ({code})", self.account(event), text_of(event, "error"));
        // The sentence says what to do, so it is not cut to a line.
        let text = one_line(&text, 10 * LINE);
        self.out.push(Item::Line(Line { role: Role::Failure, indent: 0, text }));
    }

    /// The time and the cost of the job.
    fn account(&self, end: &Value) -> String {
        let took = match (self.began, time_of(end)) {
            (Some(began), Some(ended)) => {
                let ms = ended.as_millisecond().saturating_sub(began.as_millisecond());
                format!(" after {}", duration(ms.max(0).cast_unsigned()))
            }
            _ => String::new(),
        };
        took + &self.agent.account()
    }

    fn activity(&mut self, activity: Activity) {
        self.out.push(Item::Activity(activity));
    }

    fn line(&mut self, role: Role, indent: usize, text: &str) {
        let text = one_line(text, LINE);
        self.out.push(Item::Line(Line { role, indent, text }));
    }
}
