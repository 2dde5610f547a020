//! Runs a stack from start to exit.

use std::{
    collections::BTreeMap,
    fmt,
    net::TcpListener,
    path::PathBuf,
    sync::Arc,
    time::{Duration, Instant},
};

use boot::{Env as _, ProcessEnv, Settings, Signal, SignalListener};
use contract::Service;
use tokio::{sync::mpsc, task::JoinSet};
use workspace::Workspace;

use crate::{
    Error, Part, Plan,
    control::{Control, Socket, serve},
    environment::{Environment, check_settings},
    log_files::LogFiles,
    output::Output,
    ready::{announce, ready},
    roster::Roster,
    slot::FirstStart,
    slots::{SlotContext, Slots, StackPhase},
};

/// How long killed processes may take to disappear.
const KILL_TIME: Duration = Duration::from_secs(5);
/// How long replicas may take to end jobs after the grace period. A replica gives its job 15 s.
const END_TIME: Duration = Duration::from_secs(20);

/// Runs a stack until this process gets SIGINT, SIGTERM or SIGHUP. Then lets every job finish, within the configured
/// grace period. A second signal kills everything.
///
/// # Errors
/// If the stack cannot be started, if a part of it cannot be restarted, or if processes remain.
pub async fn run(plan: Plan) -> Result<(), Error> {
    check_settings(plan.read_settings, &ProcessEnv)?;
    let grace = grace()?;
    check_ports(&plan)?;
    let workspace = Workspace::open(&plan.workspace).map_err(Error::Workspace)?;
    let given = ProcessEnv.get("STACK_SECRET_FILE").filter(|file| !file.is_empty());
    let secret_file = given.map_or_else(|| workspace.stack_secret_file(), PathBuf::from);
    // No part could start, and each would be restarted again and again.
    workspace.sign_with(Some(&secret_file)).map_err(Error::Secret)?;
    child_process::become_subreaper()
        .map_err(Error::system("adopt the processes that replicas leave behind"))?;
    boot::raise_file_limit();
    // It contains the settings of all parts, and the agent runs as the same user.
    child_process::hide_environment()
        .map_err(Error::system("hide the environment from the agent"))?;
    let mut interrupts = Interrupts::listen()?;
    let socket = Socket::open(workspace.root());
    // Only the owner of the socket writes the logs.
    let files = socket.as_ref().ok().map(|_| LogFiles::open(workspace.root())).transpose();
    let (files, no_files) = match files {
        Ok(files) => (files, None),
        Err(error) => (None, Some(error)),
    };
    let output = Output::start(files);
    if let Some(error) = no_files {
        output.note(&format!("failed to write logs to the workspace: {error}"));
    }
    let roster = Arc::new(Roster::new(&workspace));
    let secret_file = secret_file.to_string_lossy();
    let environment = Environment::new(&plan, workspace.root_text(), &secret_file, &ProcessEnv);
    let mut slots = Slots::new(SlotContext {
        program: plan.program.clone(),
        workspace: workspace.clone(),
        environment: Arc::new(environment),
        output: output.clone(),
        roster: Arc::clone(&roster),
    });
    slots.scale(Part::Gateway, 1, FirstStart::MustSucceed);
    for (service, count) in plan.replicas.iter() {
        slots.scale(Part::Replica(service), *count, FirstStart::MustSucceed);
    }
    let (changes, mut changed) = mpsc::channel::<BTreeMap<Service, u16>>(16);
    let mut tasks = JoinSet::new();
    match socket {
        Ok(socket) => {
            let control = Control {
                roster: Arc::clone(&roster),
                output: output.clone(),
                host: plan.gateway_host(),
                ports: plan.ports,
                changes,
            };
            tasks.spawn(serve(socket, control));
        }
        Err(error) => {
            output.note(&format!("{error}: ps, scale and logs do not work for this stack"))
        }
    }
    output.note(&format!("starting {} in {}", Counts(&plan), workspace.root_text()));
    let ready = ready(&plan, &roster);
    let mut ready = std::pin::pin!(ready);
    let mut announced = false;
    loop {
        tokio::select! {
            () = interrupts.next() => break,
            () = &mut ready, if !announced => {
                announced = true;
                announce(&plan, &output);
            }
            Some(wanted) = changed.recv() => {
                for (service, count) in wanted {
                    output.note(&format!("scaling {service} to {count} replicas"));
                    slots.scale(Part::Replica(service), count, FirstStart::MayFail);
                }
            }
            Some(ended) = slots.ended() => {
                if ended.was_leaving && ended.result.is_ok() {
                    continue;
                }
                // A slot that ends by itself cannot be restarted; most likely the program is gone.
                kill(&mut slots).await;
                return ended.result.and(Err(Error::Task));
            }
        }
    }
    // From now on, requests for more replicas are refused.
    drop(changed);
    stop(&mut slots, grace, &mut interrupts, &output).await;
    let left = child_process::kill_descendants(&[], Instant::now() + KILL_TIME).await;
    output.finish().await;
    if left.is_empty() { Ok(()) } else { Err(Error::Left(left)) }
}

/// Stops a stack: jobs may finish, are ended after the grace period, or are killed on a second signal.
async fn stop(slots: &mut Slots, grace: Duration, interrupts: &mut Interrupts, output: &Output) {
    output.note(&format!(
        "letting running jobs finish for at most {} s, then ending them within {} s; press Ctrl-C again to kill \
         them",
        grace.as_secs(),
        END_TIME.as_secs()
    ));
    let drain = async {
        if tokio::time::timeout(grace, slots.drain()).await.is_ok() {
            return;
        }
        output.note("ending the jobs that are still running");
        slots.end_jobs();
        if tokio::time::timeout(END_TIME, slots.drain()).await.is_err() {
            kill(slots).await;
        }
    };
    let killed = tokio::select! {
        () = drain => false,
        () = interrupts.next() => true,
    };
    if killed {
        output.note("killing all jobs");
        kill(slots).await;
    }
}

/// Kills all parts. Only those that the kernel cannot end yet remain after it.
async fn kill(slots: &mut Slots) {
    slots.tell(StackPhase::Kill);
    let _ = tokio::time::timeout(KILL_TIME, slots.all_ended()).await;
}

/// How long running jobs may take to finish when the stack is stopped: `GRACE_SECONDS`, or else the maximum duration
/// of a job, `JOB_TIMEOUT_SECONDS`.
fn grace() -> Result<Duration, Error> {
    let mut settings = Settings::new(&ProcessEnv);
    let job = settings.seconds("JOB_TIMEOUT_SECONDS", 3600);
    let grace = settings.seconds("GRACE_SECONDS", job.as_secs());
    settings.finish()?;
    Ok(grace)
}

/// The signals that stop a stack.
struct Interrupts {
    receiver: mpsc::UnboundedReceiver<()>,
    _listeners: JoinSet<()>,
}

impl Interrupts {
    fn listen() -> Result<Self, Error> {
        let (sender, receiver) = mpsc::unbounded_channel();
        let mut listeners = JoinSet::new();
        for signal in [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP] {
            let listener = SignalListener::new(signal);
            let mut listener = listener.map_err(Error::system("install signal handlers"))?;
            let sender = sender.clone();
            listeners.spawn(async move {
                loop {
                    listener.recv().await;
                    if sender.send(()).is_err() {
                        return;
                    }
                }
            });
        }
        Ok(Self { receiver, _listeners: listeners })
    }

    /// The next signal. Cancel-safe.
    async fn next(&mut self) {
        if self.receiver.recv().await.is_none() {
            // The listeners end only with this value.
            std::future::pending().await
        }
    }
}

/// `5 workflow-api, 3 github-pull-api and 3 claude-code-api replicas`.
struct Counts<'a>(&'a Plan);

impl fmt::Display for Counts<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let of_service =
            self.0.replicas.iter().map(|(service, count)| format!("{count} {service}"));
        write!(f, "replicas: {}", of_service.collect::<Vec<_>>().join(", "))
    }
}

/// Reports ports that are in use before anything is started.
fn check_ports(plan: &Plan) -> Result<(), Error> {
    let mut taken = Vec::new();
    let mut listeners = Vec::new();
    for service in Service::ALL {
        let address = plan.address(service);
        match TcpListener::bind(address) {
            // Held until all are checked, so that a duplicate port is noticed.
            Ok(listener) => listeners.push(listener),
            Err(error) => {
                let flag = service.spec().short_name;
                taken.push(format!("{address}: {error} (choose another with --port-{flag})"));
            }
        }
    }
    if taken.is_empty() { Ok(()) } else { Err(Error::Ports(taken)) }
}
