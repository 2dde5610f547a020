//! The job: from a request to a stream of steps.

use std::{
    fs, io,
    ops::{Deref, DerefMut},
    path::{Path, PathBuf},
    process::Stdio,
    sync::Arc,
    time::Duration,
};

use async_stream::stream;
use child_process::{
    Guest, JobBounds, Mode, Resource, Signal, Uid, become_subreaper, kill_descendants_now,
};
use contract::{
    AgentSummary, Code, EventLine, ExecuteEvent, ExecuteRequest, Limits, SessionId, Timestamp,
    Verification, WorkspacePath,
};
use futures_util::Stream;
use oneshot::{JobContext, Step, Stop, StopReason};
use tokio::task::spawn_blocking;
use tracing::{debug, info, warn};
use workspace::ResolveError;

use crate::{
    Config, Isolation, TimeLimits,
    claude::Claude,
    dialect::{Call, Dialect, Kind, Stopped, Verdict},
    isolation::{HandedOver, Places, as_user},
    refusal::Refusal,
    runner::{Cause, Conversation, Private, Run, record_answer},
    verify::{self, Checked},
};

/// Settings that do not depend on the dialect.
#[derive(Clone, Debug)]
struct RunSettings {
    time_limits: TimeLimits,
    processes: u32,
    /// Where each agent gets its private directory.
    temporary: PathBuf,
    isolation: Isolation,
    /// The directories of the programs that an agent starts, and the agent's own program.
    programs: Vec<PathBuf>,
    /// The `PATH` of the commands that check what it has done.
    path: String,
    limits: Limits,
}

impl RunSettings {
    /// New bounds for the processes of the job.
    fn bounds(&self) -> Arc<JobBounds> {
        Arc::new(match self.isolation.user.user() {
            Some(user) => JobBounds::of_user(self.processes, Uid::from_raw(user.uid)),
            None => JobBounds::new(self.processes),
        })
    }
}

/// Runs the CLI for one request: yields `connected`, the CLI's messages, the results of the commands in `verify`, and the
/// terminal event.
///
/// When `context.stop` is requested, the agent is interrupted and then forced to exit within 5 s, and its output is
/// still passed on. Before the terminal event, and when the stream is dropped, every descendant of this process is
/// killed. That is safe because a process runs one job and has no other children.
pub fn execute(
    config: Arc<Config>,
    context: JobContext,
    request: ExecuteRequest,
) -> impl Stream<Item = Step> + Send + 'static {
    let settings = RunSettings {
        time_limits: config.time_limits,
        processes: config.processes,
        temporary: config.temporary.clone(),
        isolation: config.isolation.clone(),
        programs: config.programs(),
        path: config.path.clone(),
        limits: config.policy.limits.clone(),
    };
    run(Arc::new(Claude { config }), settings, context, request)
}

/// [`execute`] for any dialect. An agent whose work fails a check continues in the same session, in the same job.
fn run<D: Dialect>(
    dialect: Arc<D>,
    settings: RunSettings,
    context: JobContext,
    mut request: ExecuteRequest,
) -> impl Stream<Item = Step> + Send + 'static {
    stream! {
        let verify = request.options.verify.take();
        let options = &request.options;
        let limits = (
            options.max_budget_usd.or(settings.limits.max_budget_usd),
            options.max_turns.or(settings.limits.max_turns),
        );
        // Of the runs before this one.
        let mut spent = AgentSummary::default();
        // A session that this job has created is its own until its end.
        let mut turn = None;
        let mut attempt = 0;
        let verdict = loop {
            let opening = {
                let (dialect, settings) = (Arc::clone(&dialect), settings.clone());
                let (context, request) = (context.clone(), request.clone());
                // Blocking: the volume may be a network file system.
                spawn_blocking(move || Opening::new(&*dialect, &settings, &context, &request)).await
            };
            let Ok(Opening { session, is_resumed, workspace, ready }) = opening else {
                yield Step::End(Refusal::new(Code::Internal, "the job could not be prepared").ending(SessionId::new()));
                return;
            };
            if attempt == 0 {
                yield event(&ExecuteEvent::Connected {
                    session_id: session,
                    resuming: is_resumed,
                    resumed_from: is_resumed.then_some(session),
                    job_id: context.id,
                    workspace: &workspace,
                    isolation: Some(settings.isolation.enforced()),
                });
            }
            let started = match ready {
                Ok((guest, aid, ready)) => {
                    let ready = OffThread(Some(ready));
                    match start(&dialect, &settings, &request, guest, &ready).await {
                        Ok(agent) => Ok((agent, aid, ready)),
                        Err(refusal) => {
                            ready.drop().await;
                            Err(refusal)
                        }
                    }
                }
                Err(refusal) => Err(refusal),
            };
            let (mut agent, aid, mut ready) = match started {
                Ok(started) => started,
                Err(Refusal { code, sentence }) => {
                    let summary = AgentSummary { session_id: Some(session), ..spent };
                    break Verdict { outcome: Err((code, sentence)), summary };
                }
            };
            info!(job = %context.id, %session, pid = %agent.id(), "the agent started");
            let mut unanswered = Some(ready.conversation.answered());
            let mut received = agent.received();
            let mut timestamp = received.to_string();
            while let Some(message) = agent.next(&context.stop).await {
                if matches!(message.kind, Kind::Answer) && let Some(file) = unanswered.take() {
                    let _ = spawn_blocking(move || record_answer(&file)).await;
                }
                // The same for all messages of a read, so it is formatted once.
                if received != agent.received() {
                    received = agent.received();
                    timestamp = received.to_string();
                }
                yield Step::Event(EventLine::agent_message(&message.content, &timestamp));
            }
            let (record, cause) = agent.record();
            drop(agent);
            let why = cause.and_then(|cause| stopped(cause, context.stop.reason(), &settings.time_limits));
            let mut verdict = dialect.verdict(session, record, &aid, why.as_ref());
            drop(aid);
            verdict.summary.add(&spent);
            let mut next = None;
            if let Some(verify) = verify.as_ref().filter(|_| verdict.outcome.is_ok()) {
                for command in &verify.run {
                    yield event(&ExecuteEvent::VerificationStarted { attempt, command, timestamp: Timestamp::now() });
                    let checked = match ready.check(&settings, command, &context.stop).await {
                        Ok(checked) => checked,
                        Err(Refusal { code, sentence }) => {
                            verdict.outcome = Err((code, sentence));
                            break;
                        }
                    };
                    let passed = checked.passed();
                    yield event(&ExecuteEvent::VerificationResult {
                        attempt,
                        command,
                        passed,
                        exit_code: checked.exit_code(),
                        output: &checked.output,
                        timestamp: Timestamp::now(),
                    });
                    if !passed {
                        next = verify::feedback(command, &checked);
                    }
                    verdict.summary.verification = Some(Verification { verified: passed, output: checked.output });
                    if let Some(reason) = context.stop.reason() {
                        verdict.outcome = Err((reason.code(), reason.sentence().to_owned()));
                    }
                    if !passed || verdict.outcome.is_err() {
                        break;
                    }
                }
            }
            turn = turn.or_else(|| ready.conversation.take_turn().filter(|_| next.is_some()));
            // Takes back what the agent had, removes its private directory and releases the session.
            ready.drop().await;
            let most = verify.as_ref().map_or(0, |verify| verify.attempts);
            let prompt = next.filter(|_| verdict.outcome.is_ok() && attempt < most);
            let Some((prompt, left)) = prompt.zip(verify::left(limits, &verdict.summary)) else {
                break verdict;
            };
            attempt += 1;
            spent = verdict.summary;
            request.prompt = prompt;
            request.workspace = WorkspacePath::parse(&workspace, context.workspace.root_text()).ok();
            request.options.resume_session_id = Some(session);
            (request.options.max_budget_usd, request.options.max_turns) = left;
        };
        let _ = spawn_blocking(move || drop(turn)).await;
        let ending = verdict.ending();
        info!(job = %context.id, state = ending.state.as_str(), code = ?ending.code, "the agent ended");
        yield Step::End(ending);
    }
}

/// Kills every descendant of this process at once, for a second signal.
pub fn kill_now() {
    let left = kill_descendants_now(&[], Duration::from_millis(500));
    if !left.is_empty() {
        warn!(?left, "some processes of the agent could not be killed");
    }
}

fn event(event: &ExecuteEvent<'_>) -> Step {
    Step::Event(EventLine::encode(event))
}

/// What is known before the agent starts.
struct Opening<D: Dialect> {
    session: SessionId,
    is_resumed: bool,
    /// The absolute path of its working directory, even if it could not be opened.
    workspace: String,
    ready: Result<(Guest, D::Aid, Ready<D>), Refusal>,
}

/// What takes long to drop, such as a checkout that is taken back. It is dropped where that blocks nobody, also with the stream.
struct OffThread<T: Send + 'static>(Option<T>);

impl<T: Send + 'static> OffThread<T> {
    /// Drops it, and waits until that is done.
    async fn drop(mut self) {
        let it = self.0.take();
        let _ = spawn_blocking(move || drop(it)).await;
    }
}

impl<T: Send + 'static> Deref for OffThread<T> {
    type Target = T;

    #[expect(clippy::expect_used, reason = "it is there until it is dropped")]
    fn deref(&self) -> &T {
        self.0.as_ref().expect("it is dropped")
    }
}

impl<T: Send + 'static> DerefMut for OffThread<T> {
    #[expect(clippy::expect_used, reason = "it is there until it is dropped")]
    fn deref_mut(&mut self) -> &mut T {
        self.0.as_mut().expect("it is dropped")
    }
}

impl<T: Send + 'static> Drop for OffThread<T> {
    fn drop(&mut self) {
        if let Some(it) = self.0.take() {
            drop(spawn_blocking(move || drop(it)));
        }
    }
}

/// Everything an agent needs while it runs.
struct Ready<D: Dialect> {
    /// The first to be dropped: the rest is removed or kept by this process's user.
    _handed_over: Option<HandedOver>,
    conversation: Conversation<D>,
    cwd: String,
    /// The volume.
    root: PathBuf,
    /// What contains the working directory.
    checkout: PathBuf,
    private: Private,
    bounds: Arc<JobBounds>,
}

impl<D: Dialect> Opening<D> {
    fn new(
        dialect: &D,
        settings: &RunSettings,
        context: &JobContext,
        request: &ExecuteRequest,
    ) -> Self {
        let id = request.options.resume_session_id.unwrap_or_else(SessionId::new);
        let root = context.workspace.root_text();
        let found = request
            .options
            .resume_session_id
            .map(|id| Conversation::find(&context.workspace, id))
            .transpose();
        let found = found.and_then(|found| {
            let earlier = found.as_ref().map(Conversation::place).transpose()?.flatten();
            Ok((found, earlier))
        });
        let is_resumed = match &found {
            Ok((found, _)) => found.as_ref().is_some_and(Conversation::is_resumed),
            Err(_) => true,
        };
        let earlier = found.as_ref().ok().and_then(|(_, earlier)| earlier.clone());
        let asked = request.workspace.clone().or(earlier);
        let own = format!("jobs/{}/work", context.id);
        let named = asked.as_ref().map_or(own.as_str(), WorkspacePath::as_str);
        let mut workspace = format!("{root}/{named}");
        let ready = found.and_then(|(found, _)| {
            let place = place(context, asked.as_ref(), &own)?;
            workspace = format!("{root}/{place}");
            settings.isolation.check()?;
            dialect.may_run(&request.options)?;
            let conversation = match found {
                Some(found) => found,
                None => Conversation::begin(&context.workspace, id, &place)?,
            };
            Ready::new(dialect, settings, context, request, conversation, &place)
        });
        Self { session: id, is_resumed, workspace, ready }
    }
}

/// The agent's working directory: the requested one, or a new one for this job.
fn place(
    context: &JobContext,
    asked: Option<&WorkspacePath>,
    own: &str,
) -> Result<WorkspacePath, Refusal> {
    let gone = |error| match error {
        ResolveError::Refused(why) => Refusal::new(Code::WorkspaceGone, why),
        ResolveError::Volume(error) => Refusal::volume(&error),
    };
    if let Some(asked) = asked {
        let real = context.workspace.resolve(asked).map_err(gone)?;
        let is_allowed = context.workspace.may_work_in(context.id, &real);
        return if is_allowed.map_err(|error| Refusal::volume(&error))? {
            Ok(real)
        } else {
            // As if it did not exist, which is what its caller was told, or would be.
            Err(Refusal::new(
                Code::WorkspaceGone,
                format!("'{asked}' does not exist in the workspace"),
            ))
        };
    }
    fs::create_dir_all(context.workspace.root().join(own))
        .map_err(|error| Refusal::io("make the job's directory", &error))?;
    let own = WorkspacePath::parse(own, context.workspace.root_text())
        .map_err(|why| gone(ResolveError::Refused(why)))?;
    context.workspace.resolve(&own).map_err(gone)
}

impl<D: Dialect> Ready<D> {
    fn new(
        dialect: &D,
        settings: &RunSettings,
        context: &JobContext,
        request: &ExecuteRequest,
        conversation: Conversation<D>,
        place: &WorkspacePath,
    ) -> Result<(Guest, D::Aid, Self), Refusal> {
        let cwd = format!("{}/{place}", context.workspace.root_text());
        let private = Private::create(&settings.temporary)
            .map_err(|error| Refusal::io("make the agent's private directory", &error))?;
        conversation.open(&private, place, &cwd)?;
        let bounds = settings.bounds();
        debug!(
            limited_by = ?bounds.limited_by(),
            has_cgroup = bounds.has_cgroup(),
            "limiting the job's processes"
        );
        let workspace = &context.workspace;
        let session = conversation.argument();
        let (guest, aid) =
            dialect.command(&Call { request, session, workspace, place, private: &private })?;
        let root = workspace.root().to_owned();
        let checkout = root.join(checkout(place));
        let mut ready =
            Self { _handed_over: None, conversation, cwd, root, checkout, private, bounds };
        let guest = ready.in_places(settings, |places| {
            confined(guest, &ready.cwd, &settings.isolation, places)
                .map_err(|error| Refusal::io("confine the agent", &error))
        })?;
        if let Some(user) = settings.isolation.user.user() {
            let handed_over = ready.in_places(settings, |places| {
                HandedOver::new(user, places, workspace, &context.stop)
            });
            ready._handed_over = Some(handed_over?);
        }
        Ok((guest, aid, ready))
    }

    /// What the agent and the commands that check its work can reach.
    fn in_places<T>(&self, settings: &RunSettings, work: impl FnOnce(&Places<'_>) -> T) -> T {
        work(&Places {
            workspace: &self.root,
            temporary: &settings.temporary,
            programs: &settings.programs,
            checkout: &self.checkout,
            private: &[self.private.home(), self.private.config(), self.private.temporary()],
            session: &self.conversation.project(),
        })
    }

    /// Runs a command that checks the agent's work, confined as the agent was, and without its credential.
    async fn check(
        &self,
        settings: &RunSettings,
        command: &str,
        stop: &Stop,
    ) -> Result<Checked, Refusal> {
        let failed = |error| Refusal::io("run a command in 'verify'", &error);
        let guest = Guest::new(verify::SHELL)
            .args(["-c", &verify::script(command)])
            .env("PATH", &settings.path)
            .env("HOME", self.private.home())
            .env("TMPDIR", self.private.temporary())
            .env("LANG", "C.UTF-8");
        let guest = self
            .in_places(settings, |places| confined(guest, &self.cwd, &settings.isolation, places));
        // The bounds of the agent ended with it.
        verify::run(guest.map_err(failed)?, settings.bounds(), stop).await.map_err(failed)
    }
}

/// The checkout that contains an agent's working directory: `<directory>`, or `jobs/<id>/<name>`. An agent can write
/// to all of it, because git needs the top, but not replace it.
fn checkout(place: &WorkspacePath) -> PathBuf {
    let place = Path::new(place.as_str());
    let depth = if place.starts_with("jobs") { 3 } else { 1 };
    place.components().take(depth).collect()
}

/// The variables that the operator passes on to agents. A proxy among them is not for loopback, where the agent's Messages
/// endpoint is.
fn passed_on(guest: Guest, isolation: &Isolation) -> Guest {
    const LOOPBACK: &str = "127.0.0.1,localhost";
    let variables = || isolation.environment();
    let is_proxied = variables().any(|(name, _)| name.to_ascii_lowercase().ends_with("_proxy"));
    let guest =
        if is_proxied { guest.env("NO_PROXY", LOOPBACK).env("no_proxy", LOOPBACK) } else { guest };
    variables().fold(guest, |guest, (name, value)| match name {
        "NO_PROXY" | "no_proxy" => guest.env(name, format!("{value},{LOOPBACK}")),
        _ => guest.env(name, value),
    })
}

/// The only place that confines an agent, whatever its dialect.
fn confined(
    guest: Guest,
    cwd: &str,
    isolation: &Isolation,
    places: &Places<'_>,
) -> io::Result<Guest> {
    let guest = passed_on(guest, isolation)
        .cwd(cwd)
        // What it makes has the usual modes, although this process keeps its own files to itself. The directories
        // above are closed to others.
        .umask(Mode::from_bits_truncate(0o022))
        .limit(Resource::RLIMIT_CORE, 0)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        // SIGTERM would leave its shell commands running. So does SIGKILL, but the agent cannot ignore it.
        .die_with_parent(Signal::SIGKILL);
    let guest = match isolation.user.user() {
        Some(user) => as_user(guest, user),
        None => guest,
    };
    match isolation.confinement(places)? {
        Some(confinement) => guest.confine(&confinement),
        None => Ok(guest),
    }
}

async fn start<D: Dialect>(
    dialect: &Arc<D>,
    settings: &RunSettings,
    request: &ExecuteRequest,
    guest: Guest,
    ready: &Ready<D>,
) -> Result<Run<D>, Refusal> {
    if let Err(error) = become_subreaper() {
        warn!(%error, "failed to become a subreaper: orphaned processes of the agent may survive");
    }
    let prompt = dialect.prompt(&request.prompt);
    let bounds = Arc::clone(&ready.bounds);
    Run::start(Arc::clone(dialect), guest, bounds, prompt, settings.time_limits)
        .await
        .map_err(|error| not_started(&**dialect, &error, &ready.cwd))
}

/// Why a process could not be started.
fn not_started<D: Dialect>(dialect: &D, error: &io::Error, cwd: &str) -> Refusal {
    use io::ErrorKind;
    if !Path::new(cwd).is_dir() {
        return Refusal::new(Code::WorkspaceGone, format!("'{cwd}' does not exist any more"));
    }
    match error.kind() {
        ErrorKind::PermissionDenied => dialect.cannot_start(&format!(
            "{error}; what it needs in a home directory must be named in AGENT_READ_PATHS"
        )),
        ErrorKind::NotFound | ErrorKind::NotADirectory | ErrorKind::IsADirectory => {
            dialect.cannot_start(&error.to_string())
        }
        // Not an executable for this machine.
        _ if error.raw_os_error() == Some(nix::libc::ENOEXEC) => {
            dialect.cannot_start(&error.to_string())
        }
        _ => Refusal::io("start the agent", error),
    }
}

/// What to tell the caller about a run that the runner ended.
fn stopped(cause: Cause, reason: Option<StopReason>, time_limits: &TimeLimits) -> Option<Stopped> {
    match cause {
        Cause::Stopped => reason
            .map(|reason| Stopped { code: reason.code(), sentence: reason.sentence().to_owned() }),
        Cause::Silent => {
            let seconds = time_limits.silence.as_secs();
            let sentence = format!(
                "the agent printed nothing for {seconds} seconds: send the job again, or raise \
                 SILENCE_TIMEOUT_SECONDS"
            );
            Some(Stopped { code: Code::Silence, sentence })
        }
    }
}
