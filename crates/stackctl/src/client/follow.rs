//! A job's events, each once and in order, however often the connection breaks.
//!
//! The job is named here, before it is asked for. So a request whose answer never came is simply sent again,
//! and the gateway gives the same job; once events have come, the stream is taken up after the last of them.
//! A stream that ends without a terminal event was cut, whatever the reason.

use std::time::Duration;

use bytes::Bytes;
use contract::{EventLine, JobId, Service};
use futures_util::{Stream, StreamExt};
use http::{Method, StatusCode};
use serde_json::Value;
use tokio::time::Instant;
use web::{Answer, AskError, Frame};

use super::{
    api::Api,
    draw::one_line,
    error::{ClientError, chain},
};

/// Between two attempts; doubled up to the longest.
const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(2);
/// How soon a stream must end after its terminal event, where that is checked.
const END_TIME: Duration = Duration::from_secs(10);

/// Which job, and what may be done for its events.
#[derive(Clone, Debug)]
pub(crate) struct Follow {
    pub(crate) api: Api,
    pub(crate) service: Service,
    pub(crate) start: Start,
    /// How long a stack that was there may be away.
    pub(crate) patience: Duration,
    pub(crate) after: After,
}

/// What is done once the terminal event has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum After {
    /// Nothing more is heard.
    Leave,
    /// The stream is heard to its end, which must come at once and with nothing before it.
    Check,
}

/// How the job comes about.
#[derive(Clone, Debug)]
pub(crate) enum Start {
    /// It is asked for with this body.
    Post(Bytes),
    /// It is there already.
    Known(JobId),
}

/// What is told of a job.
#[derive(Debug)]
pub(crate) enum Told {
    /// The job has this name. Told first, and again if the job has to be asked for anew.
    Named(JobId),
    /// The next event.
    Event(Event),
    /// The connection broke, for this reason; it is being made again.
    Lost(String),
    /// It is there again.
    Back,
    /// Something came after the terminal event, or the stream did not end with it: only with
    /// [`After::Check`], and the very last that is told.
    Surplus(String),
}

/// One event, as it came and as far as everyone has to know it.
#[derive(Debug)]
pub(crate) struct Event {
    pub(crate) line: EventLine,
    pub(crate) value: Value,
    pub(crate) kind: String,
    /// Whether it is the job's last.
    pub(crate) terminal: bool,
    /// Whether it stands in the journal: if not, it is about the queue.
    pub(crate) journalled: bool,
    pub(crate) code: Option<String>,
}

impl Event {
    fn parse(service: Service, id: Option<&str>, data: Vec<u8>) -> Option<Self> {
        let line = EventLine::from_json(data).ok()?;
        let value: Value = line.peek().ok()?;
        let text = |field: &str| value.get(field).and_then(Value::as_str).map(str::to_owned);
        let (kind, code) = (text("type")?, text("code"));
        let terminal = service.is_terminal(&kind);
        Some(Self { line, value, kind, terminal, journalled: id.is_some(), code })
    }
}

/// Follows a job to its terminal event, which is the last that is told, unless what comes after it is to be
/// checked. An error is the end too.
pub(crate) fn follow(follow: Follow) -> impl Stream<Item = Result<Told, ClientError>> + Send {
    async_stream::stream! {
        let mut job = match follow.start {
            Start::Known(id) => id,
            Start::Post(_) => JobId::new(),
        };
        yield Ok(Told::Named(job));
        let mut contact = Contact::new(follow.patience);
        // The id of the last event; none before the first.
        let mut last: Option<String> = None;
        // Whether the gateway has answered for this job.
        let mut known = matches!(follow.start, Start::Known(_));
        loop {
            let answer = match &follow.start {
                Start::Post(body) if !known => post(&follow, job, body.clone()).await,
                _ => events(&follow, job, last.as_deref()).await,
            };
            let trouble = match answer {
                Ok(answer) if answer.status == StatusCode::OK => {
                    if !is_stream(&answer) {
                        let what = "its answer is no stream of events".to_owned();
                        yield Err(ClientError::NotAStack { url: follow.api.url.clone(), what });
                        return;
                    }
                    known = true;
                    if contact.made() {
                        yield Ok(Told::Back);
                    }
                    let mut frames = Box::pin(answer.events_within(web::SILENCE));
                    let mut again = false;
                    let mut trouble = "it ended before the job did".to_owned();
                    while let Some(frame) = frames.next().await {
                        let frame = match frame {
                            Ok(frame) => frame,
                            Err(error) => {
                                trouble = chain(&error);
                                break;
                            }
                        };
                        let Some(event) = Event::parse(follow.service, frame.id.as_deref(), frame.data)
                        else {
                            continue;
                        };
                        contact.heard();
                        if contact.was_lost && last.is_none() && lost_its_place(&follow, &event) {
                            again = true;
                            break;
                        }
                        if frame.id.is_some() {
                            last = frame.id;
                        }
                        let terminal = event.terminal;
                        yield Ok(Told::Event(event));
                        if terminal {
                            if follow.after == After::Check
                                && let Some(what) = surplus(&follow, &mut frames).await
                            {
                                yield Ok(Told::Surplus(what));
                            }
                            return;
                        }
                    }
                    if again {
                        // It never began, so asking again repeats nothing.
                        job = JobId::new();
                        known = false;
                        yield Ok(Told::Named(job));
                        continue;
                    }
                    trouble
                }
                Ok(answer) => {
                    let later = answer.status.is_server_error() && contact.ever;
                    let refusal = follow.api.refusal(answer).await;
                    if !later {
                        yield Err(refusal);
                        return;
                    }
                    refusal.to_string()
                }
                Err(cause @ (AskError::Connect(..) | AskError::Header(_))) if !contact.ever => {
                    yield Err(ClientError::Unreachable { url: follow.api.url.clone(), cause });
                    return;
                }
                Err(error) => chain(&error),
            };
            if contact.lost() {
                yield Ok(Told::Lost(trouble));
            }
            if !contact.pause().await {
                yield Err(ClientError::Lost {
                    url: follow.api.url.clone(),
                    seconds: follow.patience.as_secs(),
                    come_back: follow.api.command("attach", job),
                });
                return;
            }
        }
    }
}

async fn post(follow: &Follow, job: JobId, body: Bytes) -> Result<Answer, AskError> {
    let headers = [
        ("content-type", "application/json".to_owned()),
        // With it, events carry the ids to come back to.
        ("accept", "text/event-stream".to_owned()),
        (web::header::JOB_ID, job.to_string()),
    ];
    follow.api.send(Method::POST, follow.service.job_path(), &headers, body).await
}

async fn events(follow: &Follow, job: JobId, last: Option<&str>) -> Result<Answer, AskError> {
    let mut headers = vec![("accept", "text/event-stream".to_owned())];
    headers.extend(last.map(|last| ("last-event-id", last.to_owned())));
    let path = format!("/api/jobs/{job}/events");
    follow.api.send(Method::GET, &path, &headers, Bytes::new()).await
}

/// What is wrong with how a stream goes on after its terminal event, if anything is.
async fn surplus(
    follow: &Follow,
    frames: &mut (impl Stream<Item = Result<Frame, AskError>> + Unpin),
) -> Option<String> {
    match tokio::time::timeout(END_TIME, frames.next()).await {
        // That it breaks where it should end costs nobody anything.
        Ok(None | Some(Err(_))) => None,
        Ok(Some(Ok(frame))) => {
            let event = Event::parse(follow.service, frame.id.as_deref(), frame.data);
            let kind = event.map_or_else(|| "what is no event".to_owned(), |event| event.kind);
            Some(format!("{} after the terminal event", one_line(&kind, 80)))
        }
        Err(_) => Some(format!("the stream is still open {END_TIME:?} after the terminal event")),
    }
}

fn is_stream(answer: &Answer) -> bool {
    answer.header("content-type").is_some_and(|kind| kind.starts_with("text/event-stream"))
}

/// Whether the gateway took the broken connection for a caller who left, and gave up the job that waited.
fn lost_its_place(follow: &Follow, event: &Event) -> bool {
    matches!(follow.start, Start::Post(_))
        && event.terminal
        && event.code.as_deref() == Some(contract::Code::CallerLeft.as_str())
}

/// Whether the stack is there, and how long it has not been.
struct Contact {
    patience: Duration,
    pause: Duration,
    /// When it last gave a sign of life.
    last: Instant,
    /// Whether a connection to it was ever made.
    ever: bool,
    away: bool,
    was_lost: bool,
}

impl Contact {
    fn new(patience: Duration) -> Self {
        let (pause, last) = (FIRST_PAUSE, Instant::now());
        Self { patience, pause, last, ever: false, away: false, was_lost: false }
    }

    /// There is an answer; returns whether it was missed.
    fn made(&mut self) -> bool {
        self.ever = true;
        self.last = Instant::now();
        std::mem::take(&mut self.away)
    }

    fn heard(&mut self) {
        self.last = Instant::now();
        self.pause = FIRST_PAUSE;
    }

    /// There is none any more; returns whether that is news.
    fn lost(&mut self) -> bool {
        if !self.away {
            // As long as the stream stood, the stack was there.
            self.last = Instant::now();
        }
        (self.ever, self.was_lost) = (true, true);
        !std::mem::replace(&mut self.away, true)
    }

    /// Waits before the next attempt; returns whether there is to be one.
    async fn pause(&mut self) -> bool {
        if self.last.elapsed() >= self.patience {
            return false;
        }
        tokio::time::sleep(self.pause).await;
        self.pause = (self.pause * 2).min(LONGEST_PAUSE);
        true
    }
}
