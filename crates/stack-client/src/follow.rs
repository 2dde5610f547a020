//! Follows a job's events, each once and in order, however often the connection breaks.
//!
//! The client chooses the job's ID. So it can repeat a request that was not answered, and gets the same job. Once
//! events have arrived, it resumes the stream after the last one. A stream that ends without a terminal event was
//! interrupted, whatever the reason.
//!
//! The terminal event is the last one of its stream. An event of such a type that others follow is not the end: somebody has
//! written it into the journal. It is left out.

use std::time::Duration;

use bytes::Bytes;
use contract::{Code, EventLine, JobId, Service};
use futures_util::{Stream, StreamExt};
use http::{Method, StatusCode};
use serde_json::Value;
use tokio::time::Instant;
use transcript::{chain, one_line};
use web::{Answer, AskError, Frame};

use crate::{Api, Error};

/// The pause between attempts doubles, up to the longest.
const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(2);
/// How soon a stream must end after its terminal event, with [`AfterEnd::Check`].
const END_TIME: Duration = Duration::from_secs(10);

/// Which job to follow, and how.
#[derive(Clone, Debug)]
pub struct Follow {
    /// The stack.
    pub api: Api,
    /// The job's service.
    pub service: Service,
    /// Whether to start the job.
    pub start: JobSource,
    /// How long a stack that has answered may be unreachable.
    pub patience: Duration,
    /// What to do after the terminal event.
    pub after: AfterEnd,
}

/// What to do after the terminal event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AfterEnd {
    /// Nothing: the stream has ended with it.
    Leave,
    /// Yield it at once, then read the stream to its end, which must come soon and without further events.
    Check,
}

/// The origin of the job.
#[derive(Clone, Debug)]
pub enum JobSource {
    /// Start it by posting this body to the job path of the service.
    Post(Bytes),
    /// Start it by posting this body to another path.
    PostTo(String, Bytes),
    /// It already exists.
    Known(JobId),
}

/// What [`follow`] yields.
#[derive(Debug)]
pub enum FollowEvent {
    /// The job's ID. It comes first, and again if the job has to be started again.
    Named(JobId),
    /// The next event.
    Event(Event),
    /// The connection broke for this reason. The client reconnects.
    Lost(String),
    /// The connection is restored.
    Back,
    /// Something followed the terminal event, or the stream did not end. Only with [`AfterEnd::Check`], as the last
    /// item.
    Surplus(String),
}

/// An event, unchanged, with the fields that every user needs.
#[derive(Debug)]
pub struct Event {
    /// The unchanged bytes.
    pub line: EventLine,
    /// The parsed event.
    pub value: Value,
    /// Its `type`.
    pub kind: String,
    /// Whether it is the job's terminal event.
    pub terminal: bool,
    /// Whether it is in the journal. If not, it is about the queue.
    pub journalled: bool,
    /// Its `code`.
    pub code: Option<String>,
}

impl Event {
    fn parse(service: Service, id: Option<&str>, data: Vec<u8>) -> Option<Self> {
        let line = EventLine::from_json(&data).ok()?;
        let value: Value = line.peek().ok()?;
        let text = |field: &str| value.get(field).and_then(Value::as_str).map(str::to_owned);
        let (kind, code) = (text("type")?, text("code"));
        let terminal = service.is_terminal(&kind);
        Some(Self { line, value, kind, terminal, journalled: id.is_some(), code })
    }
}

/// Follows a job to its terminal event, which is the last item without [`AfterEnd::Check`]. An error is also the last
/// item.
pub fn follow(follow: Follow) -> impl Stream<Item = Result<FollowEvent, Error>> + Send {
    async_stream::stream! {
        let mut job = match follow.start {
            JobSource::Known(id) => id,
            JobSource::Post(_) | JobSource::PostTo(..) => JobId::new(),
        };
        yield Ok(FollowEvent::Named(job));
        let mut contact = Contact::new(follow.patience);
        // The ID of the last event, if any.
        let mut last: Option<String> = None;
        // Whether the gateway has accepted this job.
        let mut known = matches!(follow.start, JobSource::Known(_));
        loop {
            let answer = match &follow.start {
                JobSource::Post(body) if !known => {
                    post(&follow, follow.service.job_path(), job, body.clone()).await
                }
                JobSource::PostTo(path, body) if !known => {
                    post(&follow, path, job, body.clone()).await
                }
                _ => events(&follow, job, last.as_deref()).await,
            };
            let trouble = match answer {
                Ok(answer) if answer.status == StatusCode::OK => {
                    if !is_stream(&answer) {
                        let what = "its response is not an event stream".to_owned();
                        yield Err(Error::NotAStack { url: follow.api.url.clone(), what });
                        return;
                    }
                    known = true;
                    if contact.made() {
                        yield Ok(FollowEvent::Back);
                    }
                    let mut frames = Box::pin(answer.events_within(web::SILENCE));
                    let mut again = false;
                    let mut trouble = "it ended before the job".to_owned();
                    let mut end = None;
                    while let Some(frame) = frames.next().await {
                        let frame = match frame {
                            Ok(frame) => frame,
                            Err(error) => {
                                // It comes again.
                                end = None;
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
                        // Something follows it.
                        end = None;
                        if event.terminal && follow.after == AfterEnd::Leave {
                            end = Some(event);
                            continue;
                        }
                        if frame.id.is_some() {
                            last = frame.id;
                        }
                        let terminal = event.terminal;
                        yield Ok(FollowEvent::Event(event));
                        if terminal {
                            if let Some(what) = surplus(&follow, &mut frames).await {
                                yield Ok(FollowEvent::Surplus(what));
                            }
                            return;
                        }
                    }
                    if let Some(end) = end {
                        yield Ok(FollowEvent::Event(end));
                        return;
                    }
                    if again {
                        // The job never started, so starting it again repeats nothing.
                        job = JobId::new();
                        known = false;
                        yield Ok(FollowEvent::Named(job));
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
                    yield Err(Error::Unreachable { url: follow.api.url.clone(), cause });
                    return;
                }
                Err(error) => chain(&error),
            };
            if contact.lost() {
                yield Ok(FollowEvent::Lost(trouble));
            }
            if !contact.pause().await {
                yield Err(Error::Lost {
                    url: follow.api.url.clone(),
                    seconds: follow.patience.as_secs(),
                    job,
                });
                return;
            }
        }
    }
}

async fn post(follow: &Follow, path: &str, job: JobId, body: Bytes) -> Result<Answer, AskError> {
    let headers = [
        ("content-type", "application/json".to_owned()),
        // Requests event IDs, which are needed to resume.
        ("accept", "text/event-stream".to_owned()),
        (web::header::JOB_ID, job.to_string()),
    ];
    follow.api.send(Method::POST, path, &headers, body).await
}

async fn events(follow: &Follow, job: JobId, last: Option<&str>) -> Result<Answer, AskError> {
    let mut headers = vec![("accept", "text/event-stream".to_owned())];
    headers.extend(last.map(|last| ("last-event-id", last.to_owned())));
    let path = format!("/api/jobs/{job}/events");
    follow.api.send(Method::GET, &path, &headers, Bytes::new()).await
}

/// What is wrong with the stream after its terminal event, if anything.
async fn surplus(
    follow: &Follow,
    frames: &mut (impl Stream<Item = Result<Frame, AskError>> + Unpin),
) -> Option<String> {
    match tokio::time::timeout(END_TIME, frames.next()).await {
        // A connection that breaks here is harmless.
        Ok(None | Some(Err(_))) => None,
        Ok(Some(Ok(frame))) => {
            let event = Event::parse(follow.service, frame.id.as_deref(), frame.data);
            let kind =
                event.map_or_else(|| "bytes that are not an event".to_owned(), |event| event.kind);
            Some(format!("{} after the terminal event", one_line(&kind, 80)))
        }
        Err(_) => Some(format!("the stream is still open {END_TIME:?} after the terminal event")),
    }
}

fn is_stream(answer: &Answer) -> bool {
    answer.header("content-type").is_some_and(|kind| kind.starts_with("text/event-stream"))
}

/// Whether the gateway treated the broken connection as a disconnect and cancelled the waiting job.
fn lost_its_place(follow: &Follow, event: &Event) -> bool {
    !matches!(follow.start, JobSource::Known(_))
        && event.terminal
        && event.code.as_deref() == Some(Code::CallerLeft.as_str())
}

/// Whether the stack answers, and since when it has not.
struct Contact {
    patience: Duration,
    pause: Duration,
    /// When it last answered or sent an event.
    last: Instant,
    /// Whether it ever accepted a connection.
    ever: bool,
    away: bool,
    was_lost: bool,
}

impl Contact {
    fn new(patience: Duration) -> Self {
        let (pause, last) = (FIRST_PAUSE, Instant::now());
        Self { patience, pause, last, ever: false, away: false, was_lost: false }
    }

    /// There is a response. Returns whether the connection was broken before.
    fn made(&mut self) -> bool {
        self.ever = true;
        self.last = Instant::now();
        std::mem::take(&mut self.away)
    }

    fn heard(&mut self) {
        self.last = Instant::now();
        self.pause = FIRST_PAUSE;
    }

    /// The connection broke. Returns whether it worked before.
    fn lost(&mut self) -> bool {
        if !self.away {
            // The stack was available as long as the stream was.
            self.last = Instant::now();
        }
        (self.ever, self.was_lost) = (true, true);
        !std::mem::replace(&mut self.away, true)
    }

    /// Waits before the next attempt. Returns false if there is no time left for one.
    async fn pause(&mut self) -> bool {
        if self.last.elapsed() >= self.patience {
            return false;
        }
        tokio::time::sleep(self.pause).await;
        self.pause = (self.pause * 2).min(LONGEST_PAUSE);
        true
    }
}

#[cfg(test)]
mod tests {
    use tokio::{
        io::{AsyncReadExt as _, AsyncWriteExt as _},
        net::TcpListener,
    };

    use super::*;

    /// Answers one request after the other with these events, and cuts all connections off but the last. Returns from
    /// which event on each one asked for them.
    async fn serve(listener: TcpListener, answers: &[&[(u64, &str)]]) -> Vec<Option<String>> {
        let mut asked = Vec::new();
        for (number, events) in answers.iter().enumerate() {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut request = Vec::new();
            while !request.windows(4).any(|end| end == b"\r\n\r\n") {
                assert!(stream.read_buf(&mut request).await.unwrap() > 0);
            }
            let request = String::from_utf8(request).unwrap();
            let last = request.lines().find_map(|line| line.strip_prefix("last-event-id: "));
            asked.push(last.map(str::to_owned));
            let head = "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n";
            stream.write_all(head.as_bytes()).await.unwrap();
            for (id, kind) in *events {
                let frame = format!("id: {id}\ndata: {{\"type\":\"{kind}\"}}\n\n");
                let chunk = format!("{:x}\r\n{frame}\r\n", frame.len());
                stream.write_all(chunk.as_bytes()).await.unwrap();
            }
            if number + 1 == answers.len() {
                stream.write_all(b"0\r\n\r\n").await.unwrap();
            }
        }
        asked
    }

    /// What is yielded for a job with these answers, without what is said about the connection.
    async fn followed(answers: &[&[(u64, &str)]]) -> (Vec<String>, Vec<Option<String>>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let api = Api::new(listener.local_addr().unwrap()).unwrap();
        let events = follow(Follow {
            api,
            service: Service::Pull,
            start: JobSource::Known(JobId::new()),
            patience: Duration::from_secs(20),
            after: AfterEnd::Leave,
        });
        let kinds = events.filter_map(async |next| match next.unwrap() {
            FollowEvent::Event(event) => Some(event.kind),
            _ => None,
        });
        let both = async { tokio::join!(kinds.collect::<Vec<_>>(), serve(listener, answers)) };
        tokio::time::timeout(Duration::from_secs(20), both).await.expect("it ends")
    }

    #[tokio::test]
    async fn an_event_that_looks_like_the_end_is_none_if_others_follow() {
        let (kinds, asked) = followed(&[
            &[(1, "connected"), (2, "completed"), (3, "message")],
            &[(4, "message"), (5, "completed")],
            &[(5, "completed")],
        ])
        .await;
        assert_eq!(kinds, ["connected", "message", "message", "completed"]);
        // An end whose connection breaks with it is asked for again: it may be none.
        assert_eq!(asked, [None, Some("3".to_owned()), Some("4".to_owned())]);
    }
}
