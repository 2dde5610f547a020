//! A flood of messages through the whole chain: agent, agent's replica, gateway, workflow's replica, gateway, caller.

use std::path::Path;

use claude_stand_in::workload::{Cost, Workload};

use crate::{
    Bench, Bound, Error, Result, Row, Unit, agent,
    caller::FloodClock,
    sections::{run_workflow, small_repository},
    stack::Stack,
    statistics::{count, median},
    usage::Usage,
};

/// The length of a message, in bytes.
const BYTES: usize = 200;

/// A flood that went through the stack.
struct Flood {
    /// Messages per second.
    rate: f64,
    /// What the stack used, without the agent.
    usage: Usage,
}

pub(crate) async fn measure(bench: &Bench) -> Result<Vec<Row>> {
    let messages = bench.scale().pick(200_000, 10_000);
    let runs = bench.scale().pick(5, 2);
    let repository = small_repository(bench).await?;
    let mut stack = Stack::start(bench, [1, 1, 1]).await?;
    flood(&mut stack, &repository, 0).await?;
    let (mut alone, mut rates) = (Vec::new(), Vec::new());
    let (mut micros, mut calls) = (Vec::new(), Vec::new());
    for _ in 0..runs {
        let mut clock = FloodClock::default();
        agent::alone(bench, &Workload::Flood { messages, bytes: BYTES }, &mut clock).await?;
        alone.push(clock.rate(messages));
        // What a workflow costs without messages is not the relay's.
        let without = flood(&mut stack, &repository, 0).await?.usage;
        let with = flood(&mut stack, &repository, messages).await?;
        let usage = with.usage.minus(without);
        rates.push(with.rate);
        micros.push(usage.micros / count(messages));
        calls.extend(usage.calls.map(|calls| calls / count(messages)));
    }
    stack.stop().await?;
    let calls = (!calls.is_empty()).then(|| median(&calls));
    let mut calls = Row::new("relay: reads and writes per message", Unit::Count, calls)
        .value(Bound::AtMost(bench.scale().pick(0.2, 1.0)));
    if calls.value.is_none() {
        calls = calls.note("only root may read /proc/<pid>/io of the stack");
    }
    Ok(vec![
        Row::new("relay: messages", Unit::MessagesPerSecond, median(&rates))
            .beside("the agent alone", median(&alone))
            .ratio(Bound::AtLeast(bench.scale().pick(0.6, 0.01))),
        Row::new("relay: processor time per message", Unit::Microseconds, median(&micros))
            .here(Bound::AtMost(6.0)),
        calls,
    ])
}

/// Runs one workflow whose agent floods.
async fn flood(stack: &mut Stack, repository: &Path, messages: u64) -> Result<Flood> {
    stack.wait_until_idle().await?;
    let before = stack.usage()?;
    let mut clock = FloodClock::default();
    let workload = Workload::Flood { messages, bytes: BYTES };
    let read = run_workflow(stack, repository, &workload, &mut clock).await?;
    stack.wait_until_idle().await?;
    let Some(cost) = Cost::find(&read.tail) else {
        let why = "its result does not say what it has cost".to_owned();
        return Err(Error::Program { program: "the agent".to_owned(), why });
    };
    let agent = Usage { micros: count(cost.cpu_micros), calls: Some(count(cost.calls)) };
    let usage = stack.usage()?.minus(before).minus(agent);
    Ok(Flood { rate: clock.rate(messages), usage })
}
