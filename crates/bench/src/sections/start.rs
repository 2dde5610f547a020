//! How long a process takes that does nothing, and a replica until it accepts a job.

use std::{path::Path, time::Instant};

use contract::Service;
use web::ReservedPort;

use crate::{
    Bench, Bound, Error, Result, Row, Unit,
    stack::accepts,
    statistics::{median, ms},
};

pub(crate) async fn measure(bench: &Bench) -> Result<Vec<Row>> {
    let runs = bench.scale().pick(40, 5);
    let (mut empty, mut version, mut replicas) = (Vec::new(), Vec::new(), Vec::new());
    let workspace = bench.path("workspace");
    for _ in 0..runs {
        empty.push(process(bench, Path::new("true"), &[]).await?);
        version.push(process(bench, bench.program(), &["--version"]).await?);
        replicas.push(replica(bench, &workspace).await?);
    }
    let empty = median(&empty);
    let row = |name, times: &[f64]| {
        Row::new(name, Unit::Milliseconds, median(times)).beside("an empty process (`true`)", empty)
    };
    Ok(vec![
        row("start: a process", &version).ratio(Bound::AtMost(bench.scale().pick(5.0, 30.0))),
        row("start: a replica, until it accepts a job", &replicas).here(Bound::AtMost(10.0)),
    ])
}

/// The time from the start of a process to its end.
pub(crate) async fn process(bench: &Bench, program: &Path, arguments: &[&str]) -> Result<f64> {
    let started = Instant::now();
    let child = bench.guest(program).args(arguments).spawn().await;
    let status = child.map_err(Error::io("start a process"))?.wait().await;
    let took = started.elapsed();
    match status.map_err(Error::io("wait for a process"))? {
        status if status.success() => Ok(ms(took)),
        status => {
            let program = program.display().to_string();
            Err(Error::Program { program, why: status.to_string() })
        }
    }
}

/// The time until a replica listens. It is killed then.
async fn replica(bench: &Bench, workspace: &Path) -> Result<f64> {
    let port = ReservedPort::new().map_err(Error::io("find a free port"))?;
    let address = port.address();
    let started = Instant::now();
    let _replica = bench
        .guest(bench.program())
        .args(["serve", Service::Claude.name()])
        .env("CLAUDE_BIN", bench.agent())
        .env("WORKSPACE_DIR", workspace)
        .env("BIND_ADDRESS", address.ip().to_string())
        .env("PORT", address.port().to_string())
        .spawn()
        .await
        .map_err(Error::io("start a replica"))?;
    accepts(address, started).await.map(ms).ok_or_else(|| Error::Program {
        program: "stackctl serve".to_owned(),
        why: "it does not listen".to_owned(),
    })
}
