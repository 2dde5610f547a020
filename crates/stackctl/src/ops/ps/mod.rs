//! `stackctl ps`.

mod gateway;
mod local;
mod snapshot;
pub(super) mod swarm;
mod table;
#[cfg(test)]
mod tests;

use std::{
    collections::HashMap,
    io::{self, IsTerminal as _, Write as _},
    time::Duration,
};

use bollard::models::Service as SwarmService;
use contract::{Service, Timestamp};
use web::BaseUrl;

use supervisor::{Connection, Part};

use super::{engine::Engine, error::OpsError, options::PsOptions, target::Target};
use crate::client::{Interrupts, exit, table::terminal_width};
use snapshot::Snapshot;

/// Shows a stack, once or until somebody has seen enough.
pub(super) async fn ps(options: PsOptions) -> anyhow::Result<u8> {
    let target = Target::find(&options.target).await?;
    let mut interrupts = Interrupts::listen()?;
    loop {
        let looking = look(&target, options.target.url.as_ref());
        let snapshot = tokio::select! {
            snapshot = looking => snapshot?,
            _ = interrupts.next(), if options.watch => return Ok(exit::COMPLETE),
        };
        match print(&snapshot, &options) {
            // Whoever reads has seen enough.
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => return Ok(exit::COMPLETE),
            printed => printed.map_err(OpsError::Output)?,
        }
        if !options.watch {
            return Ok(exit::COMPLETE);
        }
        tokio::select! {
            () = tokio::time::sleep(Duration::from_secs(options.every)) => {}
            _ = interrupts.next() => return Ok(exit::COMPLETE),
        }
    }
}

fn print(snapshot: &Snapshot, options: &PsOptions) -> io::Result<()> {
    let mut out = anstream::stdout();
    if options.json {
        let json = if options.watch {
            serde_json::to_string(snapshot)?
        } else {
            serde_json::to_string_pretty(snapshot)?
        };
        writeln!(out, "{json}")?;
    } else if options.watch && io::stdout().is_terminal() {
        // Drawn over what was there, line by line, so that nothing flickers.
        let text = table::draw(snapshot, terminal_width()).replace('\n', "\x1b[K\n");
        let mut raw =
            anstream::AutoStream::new(io::stdout(), anstream::AutoStream::choice(&io::stdout()));
        io::stdout().write_all(b"\x1b[H")?;
        write!(raw, "{text}")?;
        io::stdout().write_all(b"\x1b[J")?;
    } else {
        write!(out, "{}", table::draw(snapshot, terminal_width()))?;
        if options.watch {
            writeln!(out)?;
        }
    }
    out.flush()
}

async fn look(target: &Target, url: Option<&BaseUrl>) -> Result<Snapshot, OpsError> {
    let snapshot = Snapshot {
        target: target.describe(),
        at: Timestamp::now(),
        services: Vec::new(),
        replicas: Vec::new(),
        failures: Vec::new(),
        notes: Vec::new(),
    };
    match target {
        Target::Swarm(engine) => look_at_swarm(engine, url, snapshot).await,
        Target::Local(local) => look_at_local(local, url, snapshot).await,
    }
}

async fn look_at_swarm(
    engine: &Engine,
    url: Option<&BaseUrl>,
    mut snapshot: Snapshot,
) -> Result<Snapshot, OpsError> {
    let services = engine.services().await?;
    let addresses = addresses_on_swarm(engine, &services, url);
    let (tasks, nodes, history_limit) =
        tokio::join!(engine.tasks(), engine.nodes(), engine.history_limit());
    let (tasks, nodes) = (tasks?, nodes?);
    let here = tasks.iter().filter(|task| task.node_id.as_deref() == Some(&engine.node));
    let containers = here.filter_map(swarm::container).map(str::to_owned).collect();
    let (stats, heard) =
        tokio::join!(engine.stats(containers), gateway::hear(&addresses, snapshot.at));
    let services = services.into_iter().map(|it| (engine.short_name(&it), it)).collect();
    let said = swarm::Said { services, tasks, nodes, stats, history_limit };
    let rows = swarm::rows(&said, snapshot.at);
    (snapshot.services, snapshot.replicas, snapshot.failures) =
        (rows.services, rows.replicas, rows.failures);
    heard.add_to(&mut snapshot.services, &mut snapshot.failures);
    snapshot.notes = heard.notes;
    if addresses.is_empty() {
        let note = "the gateway publishes no ports here; name its address with --url";
        snapshot.notes.push(note.to_owned());
    }
    Ok(snapshot.complete())
}

/// Where the gateway of a stack is reached, by the ports that it publishes.
pub(super) fn addresses_on_swarm(
    engine: &Engine,
    services: &[SwarmService],
    url: Option<&BaseUrl>,
) -> Vec<(Service, BaseUrl)> {
    if let Some(url) = url {
        return vec![(Service::Workflow, url.clone())];
    }
    // A remote engine's gateway is on its host.
    let host = engine.host.strip_prefix("tcp://").and_then(|rest| rest.rsplit_once(':'));
    let host = host.map_or("127.0.0.1", |(host, _)| host);
    let gateway = services.iter().find(|it| engine.short_name(it) == Part::GATEWAY);
    let ports = gateway.and_then(|it| it.endpoint.as_ref()?.ports.clone()).unwrap_or_default();
    let published = |service: Service| {
        let target = i64::from(service.default_port());
        let port = ports.iter().find(|port| port.target_port == Some(target))?.published_port?;
        format!("http://{host}:{port}").parse().ok().map(|url| (service, url))
    };
    Service::ALL.into_iter().filter_map(published).collect()
}

async fn look_at_local(
    local: &Connection,
    url: Option<&BaseUrl>,
    mut snapshot: Snapshot,
) -> Result<Snapshot, OpsError> {
    let status = local.status().await?;
    let addresses = match url {
        Some(url) => vec![(Service::Workflow, url.clone())],
        None => status.addresses(),
    };
    let pids: Vec<i32> = status.slots.iter().filter_map(|slot| slot.pid).collect();
    let (used, heard) = tokio::join!(local::measure(pids), gateway::hear(&addresses, snapshot.at));
    let claims = local::claims(local.workspace(), heard.running.iter().map(|job| job.job_id));
    let (used, unmeasured) = match used {
        Ok(used) => (used, None),
        Err(error) => (HashMap::new(), Some(format!("CPU and memory are not known: {error:#}"))),
    };
    let rows = local::rows(&status, &used, &claims, &heard.running);
    (snapshot.services, snapshot.replicas, snapshot.failures) =
        (rows.services, rows.replicas, rows.failures);
    heard.add_to(&mut snapshot.services, &mut snapshot.failures);
    snapshot.notes = heard.notes.into_iter().chain(unmeasured).collect();
    Ok(snapshot.complete())
}
