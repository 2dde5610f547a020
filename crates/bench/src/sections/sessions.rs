//! Many agents at once that do nothing: what the stack costs while it only waits.

use std::{
    fs::{self, File, Permissions},
    io,
    os::unix::fs::PermissionsExt as _,
    path::Path,
    time::{Duration, Instant},
};

use claude_stand_in::workload::{HELD, Workload};
use contract::Service;
use nix::{sys::stat::Mode, unistd::mkfifo};
use serde_json::json;
use tokio::{sync::mpsc, task::JoinSet};

use crate::{
    Bench, Bound, Error, Result, Row, Unit,
    caller::{self, Observe},
    sections::memory::ONLY_ROOT,
    stack::Stack,
    statistics::{ms, percentile},
    usage::{Usage, proportional_memory},
};

/// How often the number of busy replicas is looked up.
const POLL: Duration = Duration::from_millis(5);
/// How long it may take until all are busy, and until all have ended.
const PATIENCE: Duration = Duration::from_secs(120);

/// What is seen while all agents wait.
struct Waiting {
    until_busy: Duration,
    gateway: f64,
    up: f64,
    health: f64,
    memory: Option<f64>,
}

pub(crate) async fn measure(bench: &Bench) -> Result<Vec<Row>> {
    let sessions = bench.size().sessions;
    let stack = Stack::start(bench, [1, 1, sessions]).await?;
    let pipe = bench.path("pipe");
    let made = mkfifo(&pipe, Mode::S_IRUSR | Mode::S_IWUSR)
        .map_err(io::Error::from)
        // The umask must not keep out agents that have a user of their own.
        .and_then(|()| fs::set_permissions(&pipe, Permissions::from_mode(0o644)));
    made.map_err(Error::io("create a named pipe"))?;
    let (mut callers, held) = call(&stack, sessions, &pipe);
    let seen = watch(bench, &stack, sessions, held).await?;
    // For reading and writing, so that it does not wait for an agent. It stays open for agents that come late.
    let open = File::options().read(true).write(true).open(&pipe);
    let _open = open.map_err(Error::io("open a named pipe"))?;
    let mut complete: u16 = 0;
    let ended = async {
        while let Some(ended) = callers.join_next().await {
            complete += u16::from(ended?.is_ok());
        }
        Ok::<_, Error>(())
    };
    // Callers that are still there count as errors.
    let _in_time = tokio::time::timeout(PATIENCE, ended).await;
    stack.stop().await?;
    let share = Bound::AtMost(bench.scale().pick(5.0, 50.0));
    let mut memory = Row::new(
        "sessions: memory of the stack for each",
        Unit::Megabytes,
        seen.memory.map(|bytes| bytes / f64::from(sessions) / 1e6),
    );
    if memory.value.is_none() {
        memory = memory.note(ONLY_ROOT);
    }
    Ok(vec![
        Row::new("sessions: errors", Unit::Count, f64::from(sessions - complete))
            .value(Bound::AtMost(0.0))
            .note(format!("{sessions} agents at once")),
        Row::new("sessions: until all are busy", Unit::Milliseconds, ms(seen.until_busy)),
        Row::new("sessions: the gateway's share of a core", Unit::Percent, seen.gateway)
            .value(share),
        Row::new("sessions: the share of `up`", Unit::Percent, seen.up).value(share),
        memory.here(Bound::AtMost(3.0)),
        Row::new("sessions: GET /health, p99", Unit::Milliseconds, seen.health)
            .here(Bound::AtMost(50.0)),
    ])
}

/// Tells when an agent has said that it waits.
struct Announces(mpsc::UnboundedSender<()>);

impl Observe for Announces {
    fn arrived(&mut self, bytes: &[u8], _: Instant) {
        if memchr::memmem::find(bytes, HELD.as_bytes()).is_some() {
            // Nobody may be there any more to hear it.
            let _ = self.0.send(());
        }
    }
}

/// So many callers, and a channel that says which agents wait.
fn call(
    stack: &Stack,
    sessions: u16,
    pipe: &Path,
) -> (JoinSet<Result<caller::Read>>, mpsc::UnboundedReceiver<()>) {
    let (sender, held) = mpsc::unbounded_channel();
    let request = json!({"prompt": Workload::Held { pipe: pipe.to_owned() }.prompt()});
    let address = stack.address(Service::Claude);
    let mut callers = JoinSet::new();
    for _ in 0..sessions {
        let (mut observer, request) = (Announces(sender.clone()), request.clone());
        callers.spawn(async move {
            caller::post(address, Service::Claude, &request, &mut observer).await
        });
    }
    (callers, held)
}

/// Looks at the stack from its first request until nothing more can be seen.
async fn watch(
    bench: &Bench,
    stack: &Stack,
    sessions: u16,
    mut held: mpsc::UnboundedReceiver<()>,
) -> Result<Waiting> {
    let started = Instant::now();
    let api = stack.api(Service::Claude)?;
    let all_wait = async {
        while api.status().await?.replicas.busy < usize::from(sessions) {
            tokio::time::sleep(POLL).await;
        }
        let until_busy = started.elapsed();
        for _ in 0..sessions {
            held.recv().await;
        }
        Ok::<_, Error>(until_busy)
    };
    let all_wait = tokio::time::timeout(PATIENCE, all_wait).await;
    let until_busy = all_wait.unwrap_or_else(|_| {
        let why = format!("not all of them run after {} s", PATIENCE.as_secs());
        Err(Error::Program { program: format!("{sessions} agents"), why })
    })?;
    let window = bench.scale().pick(Duration::from_secs(5), Duration::from_secs(2));
    let usage = || Ok::<_, Error>((Usage::of(stack.gateway())?, Usage::of(stack.up())?));
    let (before, began) = (usage()?, Instant::now());
    tokio::time::sleep(window).await;
    let (after, passed) = (usage()?, began.elapsed().as_secs_f64());
    let share = |after: Usage, before: Usage| after.minus(before).micros / 1e6 / passed * 100.0;
    let mut health = Vec::new();
    for _ in 0..bench.scale().pick(300, 100) {
        health
            .push(ms(caller::get(stack.address(Service::Claude), "/health", &mut ()).await?.last));
    }
    let mut pids = vec![stack.up(), stack.gateway()];
    for service in Service::ALL {
        pids.extend(stack.processes(service.name()).await?);
    }
    let memory = pids.iter().map(|pid| proportional_memory(*pid)).sum();
    Ok(Waiting {
        until_busy,
        gateway: share(after.0, before.0),
        up: share(after.1, before.1),
        health: percentile(&health, 99),
        memory,
    })
}
