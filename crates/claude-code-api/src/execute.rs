//! The job.

use std::{fs, io, process::Stdio, sync::Arc, time::Duration};

use async_stream::stream;
use child_process::{Guest, JobBounds, Signal, become_subreaper, kill_descendants_now};
use contract::{
    Code, Ending, EventLine, ExecuteEvent, ExecuteRequest, SessionId, Timestamp, WorkspacePath,
};
use futures_util::Stream;
use oneshot::{JobContext, Step, StopReason};
use tokio::task::spawn_blocking;
use tracing::{debug, info, warn};
use workspace::ResolveError;

use crate::{
    Config,
    agent::{Agent, Cause, Remains},
    config::{REFUSES_ROOT, no_agent},
    instructions,
    invocation::{arguments, environment, user_line},
    message::Kind,
    private::Private,
    refusal::Refusal,
    session::{Conversation, note_answer},
    verdict::{Ended, Evidence},
};

/// Runs the CLI on one request: `connected`, the CLI's messages, and the end.
///
/// When `context.stop` is requested the agent is ended, politely and then firmly, within 5 s; its output is
/// passed on meanwhile. Before the end comes, every process below this one is killed: a process runs one
/// job, and has no children of its own. The same happens when the stream is dropped.
pub fn execute(
    config: Arc<Config>,
    context: JobContext,
    request: ExecuteRequest,
) -> impl Stream<Item = Step> + Send + 'static {
    stream! {
        let opening = {
            let (config, context, request) = (Arc::clone(&config), context.clone(), request.clone());
            // The volume may be a network file system.
            spawn_blocking(move || Opening::new(&config, &context, &request)).await
        };
        let Ok(Opening { session, is_resumed, workspace, ready }) = opening else {
            yield Step::End(Refusal::new(Code::Internal, "the job could not be prepared").ending(SessionId::new()));
            return;
        };
        yield event(&ExecuteEvent::Connected {
            session_id: session,
            resuming: is_resumed,
            resumed_from: is_resumed.then_some(session),
            job_id: context.id,
            workspace: &workspace,
        });
        let ready = match ready {
            Ok(ready) => ready,
            Err(refusal) => {
                yield Step::End(refusal.ending(session));
                return;
            }
        };
        let mut agent = match start(&config, &request, &ready).await {
            Ok(agent) => agent,
            Err(refusal) => {
                yield Step::End(refusal.ending(session));
                return;
            }
        };
        info!(job = %context.id, %session, pid = %agent.id(), "the agent runs");
        let mut unanswered = Some(ready.conversation.answered());
        while let Some(message) = agent.next(&context.stop).await {
            if matches!(message.kind, Kind::Answer) && let Some(file) = unanswered.take() {
                let _ = spawn_blocking(move || note_answer(&file)).await;
            }
            let (content, timestamp) = (&*message.content, Timestamp::now());
            yield event(&ExecuteEvent::Message { content, timestamp });
        }
        let remains = agent.remains();
        drop(agent);
        // What is private goes, and the session is free. Not waited for if the stream is dropped here: it then
        // ends by itself.
        let _ = spawn_blocking(move || drop(ready)).await;
        let ending = judge(remains, session, &config, context.stop.reason());
        info!(job = %context.id, %session, state = ending.state.as_str(), code = ?ending.code, "the agent ended");
        yield Step::End(ending);
    }
}

/// Kills every process below this one at once; for a second signal.
pub fn kill_now() {
    let left = kill_descendants_now(&[], Duration::from_millis(500));
    if !left.is_empty() {
        warn!(?left, "processes of the agent cannot be killed");
    }
}

fn event(event: &ExecuteEvent<'_>) -> Step {
    Step::Event(EventLine::encode(event))
}

/// What is known before the agent starts.
struct Opening {
    session: SessionId,
    is_resumed: bool,
    /// The absolute path it works in, or was to work in.
    workspace: String,
    ready: Result<Ready, Refusal>,
}

/// All that an agent needs.
struct Ready {
    conversation: Conversation,
    cwd: String,
    append_system_prompt: Option<String>,
    private: Private,
    bounds: Arc<JobBounds>,
}

impl Opening {
    fn new(config: &Config, context: &JobContext, request: &ExecuteRequest) -> Self {
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
            may_run(config, request)?;
            let conversation = match found {
                Some(found) => found,
                None => Conversation::begin(&context.workspace, id, &place)?,
            };
            Ready::new(config, context, request, conversation, &place)
        });
        Self { session: id, is_resumed, workspace, ready }
    }
}

/// Whether the CLI would run at all.
fn may_run(config: &Config, request: &ExecuteRequest) -> Result<(), Refusal> {
    let skips = request.options.dangerously_skip_permissions;
    if skips && !config.is_sandbox && nix::unistd::geteuid().is_root() {
        return Err(Refusal::new(Code::AgentRefusesRoot, REFUSES_ROOT));
    }
    Ok(())
}

/// The directory the agent works in: the one asked for, or a fresh one of the job's own.
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
        return context.workspace.resolve(asked).map_err(gone);
    }
    fs::create_dir_all(context.workspace.root().join(own))
        .map_err(|error| Refusal::io("make the job's directory", &error))?;
    let own = WorkspacePath::parse(own, context.workspace.root_text())
        .map_err(|why| gone(ResolveError::Refused(why)))?;
    context.workspace.resolve(&own).map_err(gone)
}

impl Ready {
    fn new(
        config: &Config,
        context: &JobContext,
        request: &ExecuteRequest,
        conversation: Conversation,
        place: &WorkspacePath,
    ) -> Result<Self, Refusal> {
        let cwd = format!("{}/{place}", context.workspace.root_text());
        // With the repository's settings the CLI reads its CLAUDE.md by itself.
        let repository = if config.trust_repository_settings {
            None
        } else {
            let directory = context.workspace.open_directory(place);
            directory.ok().and_then(|directory| instructions::of_repository(&directory))
        };
        let caller = request.options.append_system_prompt.as_deref();
        let private = Private::create(&config.temporary)
            .map_err(|error| Refusal::io("make the agent's private directory", &error))?;
        conversation.open(&private.config(), place, &cwd)?;
        let append_system_prompt = instructions::argument(repository.as_deref(), caller);
        let bounds = Arc::new(JobBounds::new(config.processes));
        debug!(limited_by = ?bounds.limited_by(), has_cgroup = bounds.has_cgroup(), "the job's processes are bounded");
        Ok(Self { conversation, cwd, append_system_prompt, private, bounds })
    }
}

async fn start(config: &Config, request: &ExecuteRequest, ready: &Ready) -> Result<Agent, Refusal> {
    let Some(program) = &config.claude_bin else {
        return Err(Refusal::new(Code::AgentNotFound, no_agent("it is not on the PATH")));
    };
    if let Err(error) = become_subreaper() {
        warn!(%error, "failed to become a subreaper: processes the agent leaves behind may live on");
    }
    let prompt = ready.append_system_prompt.clone();
    let mut guest = Guest::new(program)
        .args(arguments(config, &request.options, ready.conversation.argument(), prompt))
        .cwd(&ready.cwd)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        // SIGTERM would leave its shell commands running; so does this, but it cannot be set aside.
        .die_with_parent(Signal::SIGKILL);
    for (name, value) in environment(config, &ready.private) {
        guest = guest.env(name, value);
    }
    if let Some(credential) = &config.credential {
        guest = guest
            .secret(credential.variable(), credential.secret().expose().as_bytes())
            .map_err(|error| Refusal::io("hand over the credential", &error))?;
    }
    Agent::start(guest, Arc::clone(&ready.bounds), user_line(&request.prompt), config.patience)
        .await
        .map_err(|error| not_started(&error, &ready.cwd))
}

/// Why a process could not be made.
fn not_started(error: &io::Error, cwd: &str) -> Refusal {
    use io::ErrorKind;
    if !fs::metadata(cwd).is_ok_and(|metadata| metadata.is_dir()) {
        return Refusal::new(Code::WorkspaceGone, format!("'{cwd}' is not there any more"));
    }
    match error.kind() {
        ErrorKind::NotFound
        | ErrorKind::PermissionDenied
        | ErrorKind::NotADirectory
        | ErrorKind::IsADirectory => {
            Refusal::new(Code::AgentNotFound, no_agent(&error.to_string()))
        }
        // Not a program for this machine.
        _ if error.raw_os_error() == Some(nix::libc::ENOEXEC) => {
            Refusal::new(Code::AgentNotFound, no_agent(&error.to_string()))
        }
        _ => Refusal::io("start the agent", error),
    }
}

fn judge(
    remains: Remains,
    session: SessionId,
    config: &Config,
    reason: Option<StopReason>,
) -> Ending {
    let Remains { cause, began, result, exit, stderr } = remains;
    let secret = config.credential.as_ref().map(crate::Credential::secret);
    let evidence = Evidence { session, result, began, exit, stderr: stderr.text(secret) };
    match (cause, reason) {
        (Some(Cause::Stopped), Some(reason)) => {
            let sentence = reason.sentence().to_owned();
            evidence.ending_of(&Ended { code: reason.code(), sentence })
        }
        (Some(Cause::Silent), _) => {
            let seconds = config.patience.silence.as_secs();
            let sentence = format!(
                "the agent printed nothing for {seconds} seconds: send the job again, or raise \
                 SILENCE_TIMEOUT_SECONDS"
            );
            evidence.ending_of(&Ended { code: Code::Silence, sentence })
        }
        (Some(Cause::Stopped) | None, _) => evidence.ending(),
    }
}
