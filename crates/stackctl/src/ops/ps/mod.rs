//! `stackctl ps`.

mod gateway;
mod local;
mod snapshot;
mod swarm;
mod table;
#[cfg(test)]
mod tests;

use std::{
    collections::{BTreeMap, HashMap},
    io::{self, IsTerminal as _, Write as _},
    time::Duration,
};

use contract::Timestamp;

use super::{
    options::{Gateway, PsOptions},
    target::Target,
};
use crate::{
    client::{ClientError, Interrupts, table::terminal_width},
    command::exit,
};
use gateway::GatewayReport;
use snapshot::Snapshot;

/// Shows a stack, once or until somebody has seen enough.
pub(crate) async fn ps(options: PsOptions) -> anyhow::Result<u8> {
    let gateway = options.gateway.clone().parse()?;
    let target = Target::find(&options.target).await?;
    let mut interrupts = Interrupts::listen()?;
    loop {
        let looking = look(&target, &gateway);
        let snapshot = tokio::select! {
            snapshot = looking => snapshot?,
            _ = interrupts.next(), if options.watch => return Ok(exit::COMPLETE),
        };
        match print(&snapshot, &options) {
            // Whoever reads has seen enough.
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => return Ok(exit::COMPLETE),
            printed => printed.map_err(ClientError::Output)?,
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
        // Each line overwrites the old one, so that nothing flickers.
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

async fn look(target: &Target, gateway: &Gateway) -> anyhow::Result<Snapshot> {
    let now = Timestamp::now();
    let apis = gateway.apis(target).await?;
    let (mut rows, report) = match target {
        Target::Swarm(stack) => {
            let (view, report) = tokio::join!(stack.view(), GatewayReport::read(&apis, now));
            (swarm::rows(view?), report)
        }
        Target::Local(local) => {
            let status = local.status().await?;
            let pids: Vec<i32> = status.slots.iter().filter_map(|slot| slot.pid).collect();
            let (used, mut report) =
                tokio::join!(local::measure(pids), GatewayReport::read(&apis, now));
            let used = used.unwrap_or_else(|error| {
                report.notes.push(format!("CPU and memory are not known: {error:#}"));
                HashMap::new()
            });
            let running = report.running.iter().map(|job| job.job_id);
            let claims = local::claims(local.workspace(), running).unwrap_or_else(|error| {
                report.notes.push(format!("it is not known which replica runs which job: {error}"));
                BTreeMap::new()
            });
            (local::rows(&status, &used, &claims, &report.running), report)
        }
    };
    report.add_to(&mut rows);
    let mut notes = report.notes;
    if apis.is_empty() {
        let note = "the Swarm does not publish the gateway's ports; name its address with --url";
        notes.push(note.to_owned());
    }
    Ok(Snapshot::new(target.describe(), now, rows, notes))
}
