//! How soon a caller hears something, and how soon after a workflow the next one finds idle replicas.

use std::{fs::File, io::Write as _, time::Instant};

use crate::{
    Bench, Bound, Error, Result, Row, Unit,
    sections::{NOTHING, run_workflow, small_repository, start},
    stack::Stack,
    statistics::{median, ms},
};

pub(crate) async fn measure(bench: &Bench) -> Result<Vec<Row>> {
    let runs = bench.scale().pick(40, 4);
    let repository = small_repository(bench).await?;
    let mut stack = Stack::start(bench, [1, 1, 1]).await?;
    run_workflow(&stack, &repository, &NOTHING, &mut ()).await?;
    stack.wait_until_idle().await?;
    let (mut first, mut turnaround) = (Vec::new(), Vec::new());
    let (mut flush, mut process) = (Vec::new(), Vec::new());
    for _ in 0..runs {
        flush.push(flushed(bench)?);
        process.push(start::process(bench, bench.program(), &["--version"]).await?);
        let read = run_workflow(&stack, &repository, &NOTHING, &mut ()).await?;
        stack.wait_until_idle().await?;
        first.push(ms(read.first));
        turnaround.push(ms(read.ended.elapsed()));
    }
    stack.stop().await?;
    Ok(vec![
        Row::new("first event: from the request", Unit::Milliseconds, median(&first))
            .beside("a small file, flushed", median(&flush))
            .here(Bound::AtMost(2.5)),
        Row::new(
            "turnaround: last byte to three idle replicas",
            Unit::Milliseconds,
            median(&turnaround),
        )
        .beside("a process", median(&process))
        .ratio(Bound::AtMost(bench.scale().pick(6.0, 40.0)))
        .here(Bound::AtMost(15.0)),
    ])
}

/// The time to write a small file and flush it to the disk, as must happen before a job counts as accepted.
fn flushed(bench: &Bench) -> Result<f64> {
    let path = bench.path("flushed");
    let write = || {
        let started = Instant::now();
        let mut file = File::create(path)?;
        file.write_all(b"{}")?;
        file.sync_all()?;
        Ok(ms(started.elapsed()))
    };
    tokio::task::block_in_place(write).map_err(Error::io("write a file"))
}
