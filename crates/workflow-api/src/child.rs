//! A job of another service: asks for it, reads its events, and resumes reading when the stream breaks.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use boot::Secret;
use bytes::Bytes;
use contract::{Code, Ending, EventLine, JobId, RequestError, Service};
use futures_util::{Stream, StreamExt};
use http::{Method, StatusCode};
use oneshot::{Deadline, Pause};
use serde::Deserialize;
use tokio::time::Instant;
use web::{Answer, AskError, BaseUrl, ask};
use workspace::{Job, Workspace, blocking};

/// How long a connection to a service may take to be made.
const CONNECT_TIME: Duration = Duration::from_secs(5);
/// How long the head of an answer may take. The gateway sends it after it has looked for a replica.
const HEAD_TIME: Duration = Duration::from_secs(40);
/// The wait before asking again; it doubles each time, up to the longest.
const FIRST_PAUSE: Duration = Duration::from_millis(50);
const LONGEST_PAUSE: Duration = Duration::from_secs(1);
/// How much longer a job may wait than `queue_wait` before the workflow ends it. The gateway ends it before that, unless
/// the gateway is gone.
const MARGIN: Duration = Duration::from_secs(5);

/// A job that a workflow asks another service for.
#[derive(Debug)]
pub(crate) struct Child {
    pub(crate) id: JobId,
    pub(crate) parent: JobId,
    /// What proves that the parent asks for it. A replica that was called directly has none.
    pub(crate) capability: Option<Secret>,
    pub(crate) service: Service,
    /// The job path of the service.
    pub(crate) path: &'static str,
    pub(crate) base: BaseUrl,
    pub(crate) body: Bytes,
    pub(crate) workspace: Workspace,
    /// The workflow's own deadline, which is paused while its job waits.
    pub(crate) deadline: Deadline,
    /// How long the job may wait until it begins.
    pub(crate) queue_wait: Duration,
    /// Whether a service has been asked for it.
    pub(crate) began: Arc<AtomicBool>,
}

/// An event of a child.
#[derive(Debug)]
pub(crate) struct ChildEvent {
    pub(crate) line: EventLine,
    pub(crate) head: Head,
}

/// The fields of a child's event that the workflow looks at.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Head {
    #[serde(rename = "type")]
    pub(crate) kind: String,
    #[serde(default)]
    pub(crate) target_path: Option<String>,
    #[serde(default)]
    pub(crate) branch: Option<String>,
    #[serde(default)]
    pub(crate) commit: Option<String>,
    #[serde(default)]
    pub(crate) url: Option<String>,
    #[serde(default)]
    pub(crate) verified: Option<bool>,
    #[serde(default)]
    pub(crate) verify_output: Option<String>,
    #[serde(default)]
    pub(crate) error: Option<String>,
    #[serde(default)]
    pub(crate) code: Option<String>,
}

/// Why a child has no terminal event.
#[derive(Debug)]
pub(crate) struct ChildFailure {
    pub(crate) code: Code,
    pub(crate) sentence: String,
}

impl Child {
    /// The child's events, in batches of what came together. The last one is its terminal event, or the stream ends with
    /// a failure.
    pub(crate) fn events(
        self,
    ) -> impl Stream<Item = Result<Vec<ChildEvent>, ChildFailure>> + Send + 'static {
        async_stream::try_stream! {
            let mut wait = Wait::begin(&self);
            let mut seen = Seen::default();
            if let Opened::Stream(answer) = self.open(wait.ends).await? {
                // Our own services send comments when they have no events; others may not.
                let ours = answer.header(web::header::JOB_ID).is_some();
                let silence = if ours { web::SILENCE } else { Duration::MAX };
                let mut batches = Box::pin(answer.event_batches(silence));
                while let Some(batch) = self.next(&mut batches, &mut wait).await? {
                    let frames = match batch {
                        Ok(frames) => frames,
                        Err(error) => {
                            tracing::info!(child = %self.id, %error, "a stream broke: reading the job's journal instead");
                            break;
                        }
                    };
                    let mut events = Vec::with_capacity(frames.len());
                    let mut end = None;
                    for frame in frames {
                        let event = match self.parse(&frame.data) {
                            Ok(event) => event,
                            Err(failure) => {
                                end = Some(Err(failure));
                                break;
                            }
                        };
                        if event.head.kind != "queued" {
                            wait.end();
                            seen.one(frame.id.as_deref());
                        }
                        let ends = self.service.is_terminal(&event.head.kind);
                        events.push(event);
                        if ends {
                            end = Some(Ok(()));
                            break;
                        }
                    }
                    yield events;
                    if let Some(end) = end {
                        end?;
                        return;
                    }
                }
            }
            // The journal has the rest. A service that keeps no journal cannot be asked twice.
            let (workspace, id) = (self.workspace.clone(), self.id);
            let job = match blocking(move || Job::open(&workspace, id)).await {
                Ok(Some(job)) => Ok(job),
                Ok(None) => Err(ChildFailure {
                    code: Code::ReplicaLost,
                    sentence: format!("the stream of {} broke before its end", self.service),
                }),
                Err(error) => {
                    tracing::error!(child = %self.id, error = &error as &dyn std::error::Error, "cannot look for a job");
                    Err(internal("the workspace cannot be read: see the workflow's log"))
                }
            }?;
            let mut entries = Box::pin(workspace::follow(job, seen.position()).skip(seen.to_skip()));
            while let Some(entry) = self.next(&mut entries, &mut wait).await? {
                let entry = entry.map_err(|error| {
                    tracing::error!(child = %self.id, error = &error as &dyn std::error::Error, "cannot read a journal");
                    internal("the job's journal cannot be read: see the workflow's log")
                })?;
                let event = self.parse(&entry.json)?;
                wait.end();
                let ends = self.service.is_terminal(&event.head.kind);
                yield vec![event];
                if ends {
                    return;
                }
            }
        }
    }

    fn parse(&self, data: &[u8]) -> Result<ChildEvent, ChildFailure> {
        let nonsense = || {
            internal(&format!(
                "{} sent an event that cannot be understood: check that it is of the same version",
                self.service
            ))
        };
        let (line, head) = EventLine::parse::<Head>(data).map_err(|_| nonsense())?;
        // Only the workflow itself may send these: callers rely on them.
        if head.kind.starts_with("workflow_") {
            return Err(nonsense());
        }
        Ok(ChildEvent { line, head })
    }

    /// The next of `items`. If the job waits for too long, this ends it first, unless a replica has taken it.
    async fn next<T>(
        &self,
        items: &mut (impl Stream<Item = T> + Unpin),
        wait: &mut Wait,
    ) -> Result<Option<T>, ChildFailure> {
        if wait.pause.is_some() {
            if let Ok(next) = tokio::time::timeout_at(wait.ends + MARGIN, items.next()).await {
                return Ok(next);
            }
            if self.end_wait().await? == OnVolume::No {
                let RequestError { code, message, .. } = self.queue_timeout();
                return Err(ChildFailure { code, sentence: message });
            }
            // It has ended or begun, and its events say which.
            wait.end();
        }
        Ok(items.next().await)
    }

    fn queue_timeout(&self) -> RequestError {
        RequestError::queue_timeout(self.service, self.queue_wait)
    }

    /// Ends the job if no replica has taken it.
    async fn end_wait(&self) -> Result<OnVolume, ChildFailure> {
        let (workspace, id) = (self.workspace.clone(), self.id);
        let error = self.queue_timeout();
        let ending = Ending::failure(self.service, id, error.code, &error.message);
        let ended = blocking(move || match Job::open(&workspace, id)? {
            Some(job) => job.end_unclaimed("workflow-api", ending).map(|_| OnVolume::Yes),
            None => Ok(OnVolume::No),
        });
        ended.await.map_err(|error| {
            tracing::error!(child = %self.id, error = &error as &dyn std::error::Error, "cannot end a job");
            internal("the workspace cannot be used: see the workflow's log")
        })
    }

    /// Asks until the service answers or the wait `ends`. Asking again is safe, because the job has an id.
    async fn open(&self, ends: Instant) -> Result<Opened, ChildFailure> {
        let mut pause = FIRST_PAUSE;
        loop {
            self.began.store(true, Ordering::SeqCst);
            let sentence = match self.ask().await {
                Ok(answer) if answer.status == StatusCode::OK => {
                    return Ok(Opened::Stream(Box::new(answer)));
                }
                Ok(answer) => {
                    let status = answer.status;
                    let error = answer.bytes(64 * 1024).await.ok();
                    let error =
                        error.and_then(|body| serde_json::from_slice::<Refusal>(&body).ok());
                    if status == StatusCode::CONFLICT && self.look(|_| Ok(true)).await {
                        return Ok(Opened::Taken);
                    }
                    let again = [
                        StatusCode::SERVICE_UNAVAILABLE,
                        StatusCode::BAD_GATEWAY,
                        StatusCode::GATEWAY_TIMEOUT,
                        StatusCode::MISDIRECTED_REQUEST,
                        StatusCode::TOO_MANY_REQUESTS,
                    ];
                    let sentence = error
                        .as_ref()
                        .map_or_else(|| status.to_string(), |error| error.error.clone());
                    if !again.contains(&status) {
                        let code = error
                            .and_then(|error| Code::from_name(&error.code))
                            .unwrap_or(Code::Internal);
                        return Err(ChildFailure { code, sentence });
                    }
                    sentence
                }
                // The request arrived, and then the gateway went away: the journal has the events.
                Err(_) if self.look(|job| Ok(job.claimed()?.is_some())).await => {
                    return Ok(Opened::Taken);
                }
                Err(error) => {
                    let cause = std::error::Error::source(&error).map(|cause| format!(": {cause}"));
                    format!("failed to {error}{}", cause.unwrap_or_default())
                }
            };
            if Instant::now() + pause > ends {
                if self.end_wait().await? == OnVolume::Yes {
                    return Ok(Opened::Taken);
                }
                let RequestError { code, message, .. } = self.queue_timeout();
                return Err(ChildFailure { code, sentence: format!("{message} ({sentence})") });
            }
            tracing::debug!(child = %self.id, sentence, "asking again");
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
    }

    /// Whether the job is on the volume and `is` holds for it. If the volume cannot be read, this is no: the job is then
    /// asked for again, which is safe.
    async fn look(&self, is: fn(&Job) -> workspace::Result<bool>) -> bool {
        let (workspace, id) = (self.workspace.clone(), self.id);
        blocking(move || Job::open(&workspace, id)?.as_ref().map_or(Ok(false), is))
            .await
            .unwrap_or_else(|error| {
                tracing::warn!(child = %self.id, error = &error as &dyn std::error::Error, "cannot look at a job");
                false
            })
    }

    async fn ask(&self) -> Result<Answer, AskError> {
        let mut headers = vec![
            ("content-type", "application/json".to_owned()),
            ("accept", "text/event-stream".to_owned()),
            (web::header::JOB_ID, self.id.to_string()),
            (web::header::PARENT_JOB_ID, self.parent.to_string()),
        ];
        let capability = self.capability.as_ref().map(|secret| secret.expose().to_owned());
        headers.extend(capability.map(|text| (web::header::CAPABILITY, text)));
        let asked =
            ask(&self.base, Method::POST, self.path, &headers, self.body.clone(), CONNECT_TIME);
        tokio::time::timeout(HEAD_TIME, asked).await.unwrap_or(Err(AskError::Silent(HEAD_TIME)))
    }
}

/// The time until a job begins. The workflow's deadline is paused meanwhile.
struct Wait {
    ends: Instant,
    /// `None` once the job has begun.
    pause: Option<Pause>,
}

impl Wait {
    fn begin(child: &Child) -> Self {
        let ends = Instant::now() + child.queue_wait;
        Self { ends, pause: Some(child.deadline.pause()) }
    }

    fn end(&mut self) {
        self.pause = None;
    }
}

/// Whether a job is on the volume.
#[derive(Debug, PartialEq, Eq)]
enum OnVolume {
    Yes,
    No,
}

enum Opened {
    Stream(Box<Answer>),
    /// An earlier request arrived, but its answer did not.
    Taken,
}

#[derive(Deserialize)]
struct Refusal {
    error: String,
    #[serde(default)]
    code: String,
}

/// How much of a child's journal has been read: by id if the stream has ids, by count if it has not.
#[derive(Debug, Default)]
struct Seen {
    id: Option<u64>,
    since_id: usize,
}

impl Seen {
    fn one(&mut self, id: Option<&str>) {
        match id.and_then(|id| id.parse().ok()) {
            Some(id) => (self.id, self.since_id) = (Some(id), 0),
            None => self.since_id += 1,
        }
    }

    fn position(&self) -> u64 {
        self.id.unwrap_or(0)
    }

    fn to_skip(&self) -> usize {
        self.since_id
    }
}

pub(crate) fn internal(sentence: &str) -> ChildFailure {
    ChildFailure { code: Code::Internal, sentence: sentence.to_owned() }
}
