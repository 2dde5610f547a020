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
    ///
    /// A line of a journal does not prove who wrote it; the outcome of a job does. So an event of a service of ours that looks
    /// like the job's end is not believed: the rest is read on the volume, where the outcome says what the end is.
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
                                end = Some(StreamEnd::Failed(failure));
                                break;
                            }
                        };
                        let ends = self.service.is_terminal(&event.head.kind);
                        if ends && ours {
                            end = Some(StreamEnd::LooksLikeIt);
                            break;
                        }
                        if event.head.kind != "queued" {
                            wait.end();
                            seen.one(frame.id.as_deref());
                        }
                        events.push(event);
                        if ends {
                            end = Some(StreamEnd::Terminal);
                            break;
                        }
                    }
                    yield events;
                    match end {
                        None => {}
                        Some(StreamEnd::Terminal) => return,
                        Some(StreamEnd::LooksLikeIt) => break,
                        Some(StreamEnd::Failed(failure)) => Err(failure)?,
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
            let mut is_reported = false;
            let mut entries = Box::pin(workspace::follow(job, seen.position()).skip(seen.to_skip()));
            while let Some(entry) = self.next(&mut entries, &mut wait).await? {
                let entry = entry.map_err(|error| {
                    tracing::error!(child = %self.id, error = &error as &dyn std::error::Error, "cannot read a journal");
                    internal("the job's journal cannot be read: see the workflow's log")
                })?;
                let event = self.parse(&entry.json)?;
                wait.end();
                if !entry.terminal && self.service.is_terminal(&event.head.kind) {
                    if !std::mem::replace(&mut is_reported, true) {
                        tracing::error!(child = %self.id, "ignoring a line of the job's journal that this stack did not write: it looks like the job's end");
                    }
                    continue;
                }
                yield vec![event];
                if entry.terminal {
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

/// Why a stream of events is not read any further.
enum StreamEnd {
    /// With the terminal event of a service that is not of this stack.
    Terminal,
    /// With an event that looks like a terminal one.
    LooksLikeIt,
    /// With something that cannot be understood.
    Failed(ChildFailure),
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

#[cfg(test)]
mod tests {
    use std::{fs::OpenOptions, io::Write as _};

    use contract::{JobRequest as _, Policy, PullRequest};
    use serde_json::json;
    use tokio::{
        io::{AsyncReadExt as _, AsyncWriteExt as _},
        net::TcpListener,
    };
    use workspace::{ClaimedJob, JobRecord, NewJob, RequestDigest, follow};

    use super::*;

    fn message(text: &str) -> EventLine {
        EventLine::encode(&json!({"type": "message", "message": text}))
    }

    /// A pull that runs, whose journal has a line that another has written.
    fn pull(workspace: &Workspace) -> ClaimedJob {
        let body = br#"{"repoUrl":"https://h/r.git"}"#;
        let request = PullRequest::parse(body, "/w", &Policy::default()).unwrap();
        let digest = RequestDigest::of(&request, body, None);
        let record = JobRecord::of(workspace, &request, digest, JobId::new(), None).unwrap();
        let NewJob::Created(job) = Job::create(workspace, &record).unwrap() else { panic!() };
        let mut claimed = job.claim("replica").unwrap().unwrap();
        claimed.append(&message("before")).unwrap();
        let journal = job.directory().join("events.ndjson");
        let mut journal = OpenOptions::new().append(true).open(journal).unwrap();
        journal.write_all(b"{\"type\":\"completed\",\"targetPath\":\"/evil\"}\n").unwrap();
        claimed.append(&message("after")).unwrap();
        claimed
    }

    /// Answers one request with the journal of `job`, as a gateway does.
    async fn serve(listener: TcpListener, job: Job, header: String) {
        let (mut stream, _) = listener.accept().await.unwrap();
        let mut request = Vec::new();
        while !request.ends_with(b"}") {
            assert!(stream.read_buf(&mut request).await.unwrap() > 0);
        }
        let head = format!(
            "HTTP/1.1 200 OK\r\n{header}content-type: text/event-stream\r\nconnection: close\r\n\r\n"
        );
        stream.write_all(head.as_bytes()).await.unwrap();
        let mut entries = Box::pin(follow(job, 0));
        while let Some(entry) = entries.next().await {
            let entry = entry.unwrap();
            let json = String::from_utf8_lossy(&entry.json);
            let frame = format!("id: {}\ndata: {json}\n\n", entry.id);
            // The workflow may read no further.
            if stream.write_all(frame.as_bytes()).await.is_err() {
                return;
            }
        }
    }

    /// What a workflow sees of a pull that ends after its second message: the messages, and the path of its end.
    async fn seen(is_ours: bool) -> Vec<String> {
        let dir = tempfile::tempdir().unwrap();
        let workspace = Workspace::open(dir.path()).unwrap();
        let claimed = pull(&workspace);
        let (job, id) = (claimed.job().clone(), claimed.job().id());
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let base = listener.local_addr().unwrap().into();
        let header = if is_ours { format!("x-job-id: {id}\r\n") } else { String::new() };
        let server = tokio::spawn(serve(listener, job, header));
        let child = Child {
            id,
            parent: JobId::new(),
            capability: None,
            service: Service::Pull,
            path: Service::Pull.job_path(),
            base,
            body: "{}".into(),
            workspace,
            deadline: Deadline::new(Duration::from_secs(60)),
            queue_wait: Duration::from_secs(60),
            began: Arc::default(),
        };
        let (mut events, mut claimed) = (Box::pin(child.events()), Some(claimed));
        let mut seen = Vec::new();
        let all = async {
            while let Some(batch) = events.next().await {
                for event in batch.unwrap() {
                    let value: serde_json::Value = event.line.peek().unwrap();
                    let text = value["message"].as_str().or(value["targetPath"].as_str());
                    seen.push(text.unwrap().to_owned());
                }
                if seen.iter().any(|text| text == "after")
                    && let Some(claimed) = claimed.take()
                {
                    let end = json!({"type": "completed", "targetPath": "/real"});
                    claimed.finish(Ending::success(&end)).unwrap();
                }
            }
        };
        tokio::time::timeout(Duration::from_secs(20), all).await.expect("the stream ends");
        server.abort();
        seen
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_job_ends_with_its_outcome_and_not_with_a_line_of_its_journal() {
        assert_eq!(seen(true).await, ["before", "after", "/real"]);
        // The control: a service that is not of this stack is believed.
        assert_eq!(seen(false).await, ["before", "/evil"]);
    }
}
