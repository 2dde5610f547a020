//! Watching a job to its end: events in, a transcript out, and Ctrl-C between them.

use std::{io, pin::pin, time::Duration};

use contract::{Code, JobId, Service};
use futures_util::StreamExt;
use stack_client::{AfterEnd, Api, Event, Follow, FollowEvent, JobSource, follow};
use transcript::{Item, Line, Role, Transcript};

use super::{
    command_on,
    error::ClientError,
    interrupt::{Choice, Interrupt, Interrupts, somebody_is_there},
    render::{Renderer, note},
};
use crate::command::exit;

/// How long a cancelled job may take to end before its watcher leaves.
const CANCEL_TIME: Duration = Duration::from_secs(30);

/// How a watch ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct WatchResult {
    /// The job that was watched.
    pub(crate) job: JobId,
    /// How it ended.
    pub(crate) end: End,
    /// The path of its checkout on the stack's machine, if it got that far.
    pub(crate) target: Option<String>,
    /// Whether there is a session to continue.
    pub(crate) has_session: bool,
}

/// How a job ended, for its watcher.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum End {
    /// It succeeded.
    Complete,
    /// It failed.
    Failed,
    /// It was cancelled.
    Cancelled,
    /// It continues without its watcher.
    Left,
}

impl WatchResult {
    pub(crate) fn exit_code(&self) -> u8 {
        match self.end {
            End::Complete => exit::COMPLETE,
            End::Failed => exit::FAILED,
            End::Cancelled | End::Left => exit::CANCELLED,
        }
    }
}

/// The job to watch, and how.
pub(crate) struct Watch<'a> {
    pub(crate) api: Api,
    pub(crate) service: Service,
    pub(crate) start: JobSource,
    pub(crate) patience: Duration,
    pub(crate) json: bool,
    pub(crate) interrupts: &'a mut Interrupts,
}

/// Watches a job to its end, or until the watcher leaves.
///
/// # Errors
/// If the stack refuses the job, or is away for too long.
pub(crate) async fn watch(watch: Watch<'_>) -> Result<WatchResult, ClientError> {
    let interrupts = watch.interrupts;
    let ours = !matches!(watch.start, JobSource::Known(_));
    let mut watcher = Watcher {
        api: watch.api.clone(),
        transcript: Transcript::new(watch.service),
        renderer: Renderer::new(watch.json),
        job: None,
        announced: false,
        // Until an event says otherwise, it may be waiting.
        waits: ours,
    };
    let events = follow(Follow {
        api: watch.api,
        service: watch.service,
        start: watch.start,
        patience: watch.patience,
        after: AfterEnd::Leave,
    });
    let mut events = pin!(events);
    let mut cancelled_at = None;
    loop {
        let late = async {
            match cancelled_at {
                Some(at) => tokio::time::sleep_until(at + CANCEL_TIME).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            next = events.next() => {
                // The item before the end says why.
                let Some(next) = next else { return watcher.left() };
                match watcher.take(next.map_err(ClientError::from)?) {
                    Ok(None) => {}
                    Ok(Some(end)) => return watcher.ended(end),
                    // The reader has closed the pipe.
                    Err(error) if error.kind() == io::ErrorKind::BrokenPipe => return watcher.left(),
                    Err(error) => return Err(ClientError::Output(error)),
                }
            }
            interrupt = interrupts.next() => {
                if cancelled_at.is_some() {
                    return watcher.left();
                }
                match watcher.choice(interrupt, interrupts).await {
                    Choice::GoOn => watcher.renderer.resume(),
                    Choice::Leave => return watcher.left(),
                    Choice::Cancel => {
                        watcher.cancel().await;
                        cancelled_at = Some(tokio::time::Instant::now());
                    }
                }
            }
            () = late => return watcher.left(),
        }
    }
}

struct Watcher {
    api: Api,
    transcript: Transcript,
    renderer: Renderer,
    job: Option<JobId>,
    /// Whether its id was printed. A refused request never becomes a job.
    announced: bool,
    /// Whether the job waits, and would be cancelled with its last watcher.
    waits: bool,
}

impl Watcher {
    /// Shows an item. Returns how the job ended if that was the item.
    fn take(&mut self, event: FollowEvent) -> io::Result<Option<End>> {
        match event {
            FollowEvent::Named(job) => {
                if self.job.replace(job).is_some() {
                    self.announced = false;
                    self.renderer.note("the job lost its place in the queue: requesting it again");
                }
            }
            FollowEvent::Event(event) => {
                self.waits &= !event.journalled;
                self.show(&event)?;
                return Ok(event.terminal.then(|| end_of(&event)));
            }
            FollowEvent::Lost(why) => {
                self.renderer.note(&format!("the connection broke ({why}): trying again"));
            }
            FollowEvent::Back => {
                self.renderer.note("the connection is back");
                self.renderer.resume();
            }
            // It comes only with `AfterEnd::Check`.
            FollowEvent::Surplus(_) => {}
        }
        Ok(None)
    }

    fn show(&mut self, event: &Event) -> io::Result<()> {
        if let (Some(job), false) = (self.job, self.announced) {
            self.announced = true;
            let text = format!("Job {job}");
            self.renderer.item(&Item::Line(Line { role: Role::Heading, indent: 0, text }))?;
        }
        self.renderer.event(&event.line)?;
        let items = self.transcript.event(&event.value);
        items.iter().try_for_each(|item| self.renderer.item(item))
    }

    async fn choice(&mut self, interrupt: Interrupt, interrupts: &mut Interrupts) -> Choice {
        let choice = if interrupt == Interrupt::Keyboard && somebody_is_there() {
            self.renderer.pause();
            let question = if self.waits {
                "The job still waits, and is cancelled if you leave. [c]ancel it, or press Enter to go on waiting:"
            } else {
                "[c]ancel the job, [l]eave it running, or press Enter to go on watching:"
            };
            interrupts.ask(question).await
        } else {
            Choice::Leave
        };
        // It asks the gateway rather than waiting for it to notice.
        if choice == Choice::Leave && self.waits { Choice::Cancel } else { choice }
    }

    async fn cancel(&mut self) {
        let Some(job) = self.job else { return };
        match self.api.cancel(job).await {
            Ok(_) => self.renderer.note("cancelling"),
            Err(error) => {
                let again = command_on(&self.api.url, "cancel", job);
                self.renderer.note(&format!("cannot cancel: {error}; try `{again}`"));
            }
        }
    }

    fn ended(mut self, end: End) -> Result<WatchResult, ClientError> {
        self.renderer.pause();
        Ok(self.outcome(end))
    }

    fn left(mut self) -> Result<WatchResult, ClientError> {
        self.renderer.pause();
        if let Some(job) = self.job {
            let cancel = command_on(&self.api.url, "cancel", job);
            note(&format!(
                "left the job running: come back with `{}`, end it with `{cancel}`",
                command_on(&self.api.url, "attach", job)
            ));
        }
        Ok(self.outcome(End::Left))
    }

    fn outcome(&self, end: End) -> WatchResult {
        // A watch learns the id before anything else.
        let job = self.job.unwrap_or_else(JobId::new);
        let target = self.transcript.target().map(str::to_owned);
        WatchResult { job, end, target, has_session: self.transcript.has_session() }
    }
}

fn end_of(event: &Event) -> End {
    let code = event.code.as_deref().and_then(Code::from_name);
    if Service::ALL.iter().any(|service| service.spec().success_event == event.kind) {
        End::Complete
    } else if matches!(code, Some(Code::Cancelled | Code::CallerLeft)) {
        End::Cancelled
    } else {
        End::Failed
    }
}
