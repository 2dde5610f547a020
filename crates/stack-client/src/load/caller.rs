//! A caller: posts jobs and follows each to its end.

use std::{
    pin::pin,
    time::{Duration, Instant},
};

use contract::{Code, JobId, JobState, Service};
use futures_util::StreamExt as _;
use http::StatusCode;
use serde_json::Value;
use tokio::sync::mpsc;
use transcript::one_line;

use super::sample::{Ended, Sample};
use crate::{AfterEnd, Api, Error, Follow, FollowEvent, JobSource, follow};

/// The longest name of an event or a code that is counted, in characters.
const NAME: usize = 60;
/// The pause between two attempts to start a job.
const PAUSE: Duration = Duration::from_millis(500);
/// How long a job without a terminal event may take to show its outcome.
const OUTCOME_TIME: Duration = Duration::from_secs(15);

/// What a caller reports.
#[derive(Debug)]
pub enum LoadEvent {
    /// It has requested a job.
    Submitted,
    /// A replica is running the job, which would continue without the caller.
    Started,
    /// The job has ended.
    Done(Box<Sample>),
}

/// The identity and the parameters of a caller.
#[derive(Clone, Debug)]
pub(super) struct Caller {
    pub(super) number: u32,
    pub(super) api: Api,
    pub(super) service: Service,
    pub(super) patience: Duration,
    /// When the run started.
    pub(super) epoch: Instant,
    pub(super) events: mpsc::Sender<(u32, LoadEvent)>,
}

impl Caller {
    /// Starts a job and follows it to its end.
    pub(super) async fn call(&self, body: &Value) {
        let asked = Instant::now();
        self.tell(LoadEvent::Submitted).await;
        let mut seen = Seen::default();
        let ended = loop {
            match self.attempt(body, asked, &mut seen).await {
                Ok(ended) => break ended,
                // The stack was available when the run started, so this is temporary.
                Err(error) if is_for_later(&error) && asked.elapsed() < self.patience => {
                    seen.breaks += 1;
                    tokio::time::sleep(PAUSE).await;
                }
                Err(error) => break self.judge(error, &mut seen).await,
            }
        };
        let sample = Sample {
            job: seen.job.unwrap_or_else(JobId::new),
            start: asked.duration_since(self.epoch),
            queueing: seen.queueing,
            first: seen.first,
            total: asked.elapsed(),
            ended,
            breaks: seen.breaks,
            again: seen.again,
            fault: seen.fault,
            why: seen.why,
        };
        self.tell(LoadEvent::Done(Box::new(sample))).await;
    }

    async fn tell(&self, event: LoadEvent) {
        // Fails only if the run is being stopped.
        let _ = self.events.send((self.number, event)).await;
    }

    async fn attempt(&self, body: &Value, asked: Instant, seen: &mut Seen) -> Result<Ended, Error> {
        let mut events = pin!(follow(Follow {
            api: self.api.clone(),
            service: self.service,
            start: JobSource::Post(body.to_string().into()),
            patience: self.patience,
            after: AfterEnd::Check,
        }));
        seen.job = None;
        let mut ended = None;
        while let Some(next) = events.next().await {
            match next? {
                FollowEvent::Named(job) => seen.again += u32::from(seen.job.replace(job).is_some()),
                FollowEvent::Event(event) => {
                    seen.first.get_or_insert_with(|| asked.elapsed());
                    if event.journalled && seen.queueing.is_none() {
                        seen.queueing = Some(asked.elapsed());
                        self.tell(LoadEvent::Started).await;
                    }
                    if event.terminal {
                        let code = event.code.map(|code| one_line(&code, NAME));
                        ended = Some(Ended::Terminal { kind: one_line(&event.kind, NAME), code });
                    }
                }
                FollowEvent::Lost(_) => seen.breaks += 1,
                FollowEvent::Back => {}
                FollowEvent::Surplus(what) => seen.fault = Some(what),
            }
        }
        // Without a terminal event, the stream ends with an error instead.
        Ok(ended.unwrap_or(Ended::Lost))
    }

    /// How a job ended whose stream cannot be followed. It only counts as lost if it has no outcome.
    async fn judge(&self, error: Error, seen: &mut Seen) -> Ended {
        seen.why = Some(one_line(&error.to_string(), 300));
        if let (Error::Refused { status, code, .. }, None) = (&error, seen.first) {
            return Ended::Refused { status: status.as_u16(), code: code.clone() };
        }
        let Some(job) = seen.job else { return Ended::Lost };
        let deadline = Instant::now() + OUTCOME_TIME;
        loop {
            if let Ok(view) = self.api.job(job).await
                && view.state.has_ended()
            {
                seen.why = Some(format!(
                    "its stream broke, but the job has ended: {}",
                    view.state.as_str()
                ));
                return outcome(self.service, view.state, view.code.map(|code| code.to_string()));
            }
            if Instant::now() > deadline {
                return Ended::Lost;
            }
            tokio::time::sleep(PAUSE).await;
        }
    }
}

/// What was observed of a job so far.
#[derive(Debug, Default)]
struct Seen {
    job: Option<JobId>,
    queueing: Option<Duration>,
    first: Option<Duration>,
    breaks: u32,
    again: u32,
    fault: Option<String>,
    why: Option<String>,
}

/// Whether to retry a job that was not accepted. A full queue is a final answer.
fn is_for_later(error: &Error) -> bool {
    match error {
        Error::Unreachable { .. } => true,
        Error::Refused { status, code, .. } => {
            *status == StatusCode::SERVICE_UNAVAILABLE
                && code.as_deref() != Some(Code::QueueFull.as_str())
        }
        _ => false,
    }
}

/// The terminal event of a job that ended in this state.
fn outcome(service: Service, state: JobState, code: Option<String>) -> Ended {
    let spec = service.spec();
    let kind = if state == JobState::Succeeded { spec.success_event } else { spec.failure_event };
    Ended::Terminal { kind: kind.to_owned(), code }
}
