//! `stackctl up`: the whole stack on one machine.
//!
//! Every replica is a process of its own, started as `stackctl serve …` in a group of its own, with the part
//! of the environment that its service needs and nothing else. It dies with this process, and this process
//! adopts whatever it leaves behind.

pub(crate) mod control;
mod environment;
mod history;
mod output;
mod roster;
mod slot;
mod slots;

use std::{
    net::{SocketAddr, TcpListener},
    process::ExitCode,
    sync::Arc,
    time::{Duration, Instant},
};

use contract::Service;
use tokio::{
    signal::unix::{SignalKind, signal},
    sync::mpsc,
    task::JoinSet,
};
use workspace::{Replicas, Workspace};

use crate::cli::{Part, UpOptions};
use control::Control;
pub(crate) use environment::passed;
use environment::{Environment, gateway_host};
use output::Output;
use roster::Roster;
use slot::{Origin, Phase};
use slots::{Slots, Supplies};

/// Exit codes, after `sysexits.h`.
const UNAVAILABLE: u8 = 69;
const FAILED: u8 = 70;

/// How long killed processes may take to be gone.
const KILL_TIME: Duration = Duration::from_secs(5);

pub(crate) fn main(options: UpOptions) -> ExitCode {
    let runtime =
        match tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build() {
            Ok(runtime) => runtime,
            Err(error) => {
                anstream::eprintln!("error: cannot start threads: {error}");
                return ExitCode::from(FAILED);
            }
        };
    match runtime.block_on(up(options)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            anstream::eprintln!("error: {error:#}");
            ExitCode::from(UNAVAILABLE)
        }
    }
}

async fn up(options: UpOptions) -> anyhow::Result<()> {
    use anyhow::Context;
    let ports = [options.port_workflow, options.port_pull, options.port_claude];
    check_ports(&options, ports)?;
    let workspace = Workspace::open(&options.workspace).map_err(|error| {
        let cause =
            std::error::Error::source(&error).map(|cause| format!(": {cause}")).unwrap_or_default();
        anyhow::anyhow!("failed to {error}{cause}; choose another directory with --workspace")
    })?;
    child_process::become_subreaper()
        .context("cannot adopt the processes that replicas leave behind")?;
    boot::raise_file_limit();
    let program = std::env::current_exe().context("cannot find my own program")?;
    // The settings of all parts are in it, and the agent is a process of the same user.
    child_process::hide_environment().context("cannot hide my environment from the agent")?;
    let output = Output::start();
    let environment = Arc::new(Environment::new(&options, &workspace));
    let roster = Arc::new(Roster::new(&workspace));
    let mut slots = Slots::new(Supplies {
        program,
        workspace: workspace.clone(),
        environment,
        output: output.clone(),
        roster: Arc::clone(&roster),
    });
    let counts = [
        (Part::Gateway, 1),
        (Part::WorkflowApi, options.workflow),
        (Part::GithubPullApi, options.pull),
        (Part::ClaudeCodeApi, options.claude),
    ];
    for (part, count) in counts {
        slots.scale(part, count, Origin::Beginning);
    }
    let (changes, mut changed) = mpsc::channel(16);
    let mut tasks = JoinSet::new();
    match control::open(workspace.root()).await {
        Ok(socket) => {
            let (host, output) = (gateway_host(&options), output.clone());
            let control = Control { roster, output, host, ports, changes };
            tasks.spawn(control::serve(socket, control));
        }
        Err(error) => output.note(&format!("ps, scale and logs do not reach this stack: {error}")),
    }
    output.note(&format!(
        "starting {}/{}/{} replicas in {}",
        options.workflow,
        options.pull,
        options.claude,
        workspace.root_text()
    ));
    let mut signals = JoinSet::new();
    let (interrupts, mut interrupted) = tokio::sync::mpsc::unbounded_channel();
    for kind in [SignalKind::interrupt(), SignalKind::terminate(), SignalKind::hangup()] {
        let mut stream = signal(kind).context("cannot listen to signals")?;
        let interrupts = interrupts.clone();
        signals.spawn(async move {
            while stream.recv().await.is_some() && interrupts.send(()).is_ok() {}
        });
    }
    let ready = announce(&options, &workspace, &output);
    let mut ready = std::pin::pin!(ready);
    let mut told = false;
    loop {
        tokio::select! {
            _ = interrupted.recv() => break,
            () = &mut ready, if !told => told = true,
            Some(wanted) = changed.recv() => {
                for (service, count) in wanted {
                    output.note(&format!("{service} is to have {count} replicas"));
                    slots.scale(Part::from(service), count, Origin::Scaled);
                }
            }
            Some(ended) = slots.ended() => {
                if let Ok(Ok((part, number))) = &ended
                    && slots.has_left(*part, *number)
                {
                    continue;
                }
                // A slot that ends by itself cannot be restarted: the program is gone, most likely.
                slots.tell(Phase::Kill);
                slots.all_ended().await;
                ended??;
                anyhow::bail!("a part of the stack ended by itself");
            }
        }
    }
    // From now on, whoever wants more replicas is told that there will be none.
    drop(changed);
    output.note("letting running jobs finish; once more to kill them");
    tokio::select! {
        () = slots.drain() => {}
        _ = interrupted.recv() => {
            output.note("killing");
            slots.tell(Phase::Kill);
            slots.all_ended().await;
        }
    }
    let left = child_process::kill_descendants(&[], Instant::now() + KILL_TIME).await;
    output.finish().await;
    anyhow::ensure!(left.is_empty(), "these processes cannot be killed: {left:?}");
    Ok(())
}

/// Says so if a port is taken, before anything is started.
fn check_ports(options: &UpOptions, ports: [u16; 3]) -> anyhow::Result<()> {
    let flags = ["--port-workflow", "--port-pull", "--port-claude"];
    let mut taken = Vec::new();
    let mut listeners = Vec::new();
    for (port, flag) in ports.into_iter().zip(flags) {
        match TcpListener::bind(SocketAddr::new(options.bind, port)) {
            // Held until all are checked, so that the same port twice is seen too.
            Ok(listener) => listeners.push(listener),
            Err(error) => {
                taken.push(format!("{}:{port}: {error} (choose another with {flag})", options.bind))
            }
        }
    }
    anyhow::ensure!(taken.is_empty(), "cannot listen on {}", taken.join("; "));
    Ok(())
}

/// Waits until everything is there, and tells what to do with it.
async fn announce(options: &UpOptions, workspace: &Workspace, output: &Output) {
    let wanted = [
        (Service::Workflow, options.workflow),
        (Service::Pull, options.pull),
        (Service::Claude, options.claude),
    ];
    for (service, count) in wanted {
        let replicas = Replicas::new(workspace, service);
        let mut watch = replicas.watch();
        while replicas.idle().map_or(0, |idle| idle.len()) < usize::from(count) {
            watch.changed().await;
        }
    }
    let address = SocketAddr::new(options.bind, options.port_workflow);
    let base = address.into();
    let connect = Duration::from_secs(1);
    while web::ask(&base, http::Method::GET, "/health", &[], bytes::Bytes::new(), connect)
        .await
        .is_err()
    {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    output.note(&format!(
        "ready. Try:\n  curl -N http://{address}/api/workflow -H 'Content-Type: application/json' \\\n    \
         -d '{{\"prompt\": \"Add a README\", \"repoUrl\": \"https://github.com/user/repo.git\"}}'"
    ));
}
