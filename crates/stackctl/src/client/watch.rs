//! Watching a job to its end: events in, a drawing out, and Ctrl-C between them.

use std::{io, pin::pin, time::Duration};

use contract::{JobId, Service};
use futures_util::StreamExt;

use super::{
    api::Api,
    draw::{Draw, Drawing, Line, Role},
    error::{ClientError, exit},
    follow::{After, Event, Follow, Start, Told, follow},
    interrupt::{Interrupt, Interrupts, Wish, somebody_is_there},
    render::{Renderer, note},
};

/// How long a job that was cancelled may take to say so before it is left.
const CANCEL_TIME: Duration = Duration::from_secs(30);

/// How a watch ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Outcome {
    /// The job that was watched.
    pub(crate) job: JobId,
    /// How it ended.
    pub(crate) end: End,
    /// Where its checkout is, as the stack names it, if it came so far.
    pub(crate) target: Option<String>,
}

/// How a job ended, for whoever watched it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum End {
    /// It did what it was for.
    Complete,
    /// It did not.
    Failed,
    /// Somebody cancelled it.
    Cancelled,
    /// It goes on without its watcher.
    Left,
}

impl Outcome {
    pub(crate) fn exit_code(&self) -> u8 {
        match self.end {
            End::Complete => exit::COMPLETE,
            End::Failed => exit::FAILED,
            End::Cancelled | End::Left => exit::CANCELLED,
        }
    }
}

/// The job to watch, and for whom.
pub(crate) struct Watch {
    pub(crate) api: Api,
    pub(crate) service: Service,
    pub(crate) start: Start,
    pub(crate) patience: Duration,
    pub(crate) json: bool,
    pub(crate) interrupts: Interrupts,
}

/// Watches a job to its end, or until the person who watches has seen enough.
///
/// # Errors
/// If the stack refuses it, or is not there for too long.
pub(crate) async fn watch(watch: Watch) -> Result<Outcome, ClientError> {
    let mut interrupts = watch.interrupts;
    let ours = matches!(watch.start, Start::Post(_));
    let mut watcher = Watcher {
        api: watch.api.clone(),
        drawing: Drawing::new(watch.service),
        renderer: Renderer::new(watch.json),
        job: None,
        announced: false,
        // Until something of the job is heard, it may be waiting.
        waits: ours,
    };
    let told = follow(Follow {
        api: watch.api,
        service: watch.service,
        start: watch.start,
        patience: watch.patience,
        after: After::Leave,
    });
    let mut told = pin!(told);
    let mut cancelled_at = None;
    loop {
        let late = async {
            match cancelled_at {
                Some(at) => tokio::time::sleep_until(at + CANCEL_TIME).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            next = told.next() => {
                // The stream says why it ends before it does.
                let Some(next) = next else { return watcher.left() };
                match watcher.told(next?) {
                    Ok(None) => {}
                    Ok(Some(end)) => return watcher.ended(end),
                    // Whoever reads has seen enough.
                    Err(error) if error.kind() == io::ErrorKind::BrokenPipe => return watcher.left(),
                    Err(error) => return Err(ClientError::Output(error)),
                }
            }
            interrupt = interrupts.next() => {
                if cancelled_at.is_some() {
                    return watcher.left();
                }
                match watcher.wish(interrupt, &mut interrupts).await {
                    Wish::GoOn => watcher.renderer.resume(),
                    Wish::Leave => return watcher.left(),
                    Wish::Cancel => {
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
    drawing: Drawing,
    renderer: Renderer,
    job: Option<JobId>,
    /// Whether its name was shown. A request that is refused never becomes a job.
    announced: bool,
    /// Whether the job waits, and would be given up with its last watcher.
    waits: bool,
}

impl Watcher {
    /// Shows what is told; returns how the job ended, if that is what it was.
    fn told(&mut self, told: Told) -> io::Result<Option<End>> {
        match told {
            Told::Named(job) => {
                if self.job.replace(job).is_some() {
                    self.announced = false;
                    self.renderer.note("the job lost its place in the queue: asking for it again");
                }
            }
            Told::Event(event) => {
                self.waits &= !event.journalled;
                self.show(&event)?;
                return Ok(event.terminal.then(|| end_of(&event)));
            }
            Told::Lost(why) => {
                self.renderer.note(&format!("the connection broke ({why}): trying again"));
            }
            Told::Back => {
                self.renderer.note("the connection is back");
                self.renderer.resume();
            }
            // Not asked for.
            Told::Surplus(_) => {}
        }
        Ok(None)
    }

    fn show(&mut self, event: &Event) -> io::Result<()> {
        if let (Some(job), false) = (self.job, self.announced) {
            self.announced = true;
            let text = format!("Job {job}");
            self.renderer.draw(&Draw::Line(Line { role: Role::Heading, indent: 0, text }))?;
        }
        self.renderer.event(&event.line)?;
        let drawn = self.drawing.event(&event.value);
        drawn.iter().try_for_each(|draw| self.renderer.draw(draw))
    }

    async fn wish(&mut self, interrupt: Interrupt, interrupts: &mut Interrupts) -> Wish {
        let wish = if interrupt == Interrupt::Keyboard && somebody_is_there() {
            self.renderer.pause();
            let question = if self.waits {
                "The job still waits, and is given up if you leave. [c]ancel it, or Enter to go on waiting:"
            } else {
                "[c]ancel the job, [l]eave it running, or Enter to go on watching:"
            };
            interrupts.ask(question).await
        } else {
            Wish::Leave
        };
        // Said to the gateway, not left to it to notice.
        if wish == Wish::Leave && self.waits { Wish::Cancel } else { wish }
    }

    async fn cancel(&mut self) {
        let Some(job) = self.job else { return };
        match self.api.cancel(job).await {
            Ok(_) => self.renderer.note("cancelling"),
            Err(error) => {
                let again = self.api.command("cancel", job);
                self.renderer.note(&format!("cannot cancel: {error}; try `{again}`"));
            }
        }
    }

    fn ended(mut self, end: End) -> Result<Outcome, ClientError> {
        self.renderer.pause();
        Ok(self.outcome(end))
    }

    fn left(mut self) -> Result<Outcome, ClientError> {
        self.renderer.pause();
        if let Some(job) = self.job {
            let cancel = self.api.command("cancel", job);
            note(&format!(
                "left the job running: come back with `{}`, end it with `{cancel}`",
                self.api.command("attach", job)
            ));
        }
        Ok(self.outcome(End::Left))
    }

    fn outcome(&self, end: End) -> Outcome {
        // A watch has a name before it has anything else.
        let job = self.job.unwrap_or_else(JobId::new);
        Outcome { job, end, target: self.drawing.target().map(str::to_owned) }
    }
}

fn end_of(event: &Event) -> End {
    match (event.kind.as_str(), event.code.as_deref()) {
        ("workflow_complete" | "completed", _) => End::Complete,
        (_, Some("cancelled")) => End::Cancelled,
        _ => End::Failed,
    }
}
