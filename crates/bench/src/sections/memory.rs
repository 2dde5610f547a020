//! The memory of idle processes.

use contract::Service;

use crate::{Bench, Bound, Result, Row, Unit, stack::Stack, usage::proportional_memory};

/// Why there may be no figures.
pub(crate) const ONLY_ROOT: &str = "only root may read the memory maps of the stack";

pub(crate) async fn measure(bench: &Bench) -> Result<Vec<Row>> {
    let stack = Stack::start(bench, [1, 1, 1]).await?;
    let mut parts = vec![("up", vec![stack.up()]), ("gateway", vec![stack.gateway()])];
    for service in Service::ALL {
        parts.push((service.name(), stack.processes(service.name()).await?));
    }
    let row = |(name, pids): (&str, Vec<_>)| {
        let memory = pids.first().and_then(|pid| proportional_memory(*pid));
        let name = format!("memory: {name}, idle");
        let row = Row::new(&name, Unit::Megabytes, memory.map(|bytes| bytes / 1e6));
        let row = row.here(Bound::AtMost(3.0));
        if memory.is_none() { row.note(ONLY_ROOT) } else { row }
    };
    let rows = parts.into_iter().map(row).collect();
    stack.stop().await?;
    Ok(rows)
}
