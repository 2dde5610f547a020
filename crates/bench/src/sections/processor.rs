//! The processor time that the two parts which stay, the gateway and `up`, take for a workflow.

use std::{path::Path, sync::Arc, time::Duration};

use contract::Service;
use stack_client::load::{Load, RunningLoad};

use crate::{
    Bench, Bound, Error, Result, Row, Unit,
    sections::{NOTHING, small_repository, workflow},
    stack::{Replicas, Stack},
    statistics::count,
    usage::Usage,
};

/// A small stack and a large one.
const SMALL: Replicas = [5, 3, 3];
const LARGE: Replicas = [100, 4, 100];
/// How many workflows run at once.
const CALLERS: u32 = 3;
/// How long the stack may be unreachable. It never is.
const PATIENCE: Duration = Duration::from_secs(10);

/// The processor time per workflow, in milliseconds.
struct PerWorkflow {
    gateway: f64,
    up: f64,
}

pub(crate) async fn measure(bench: &Bench) -> Result<Vec<Row>> {
    let repository = small_repository(bench).await?;
    let workflows = bench.scale().pick(60, 10);
    let large = bench.scale().pick(LARGE, [15, 4, 15]);
    let few = of_stack(bench, SMALL, &repository, workflows).await?;
    let many = of_stack(bench, large, &repository, workflows).await?;
    let with = |replicas: Replicas| {
        format!("with {} replicas", replicas.map(|count| count.to_string()).join("/"))
    };
    let row = |part: &str, many: f64, few: f64| {
        Row::new(&format!("processor: {part}, per workflow"), Unit::Milliseconds, many)
            .beside(with(SMALL), few)
            .ratio(Bound::AtMost(bench.scale().pick(1.25, 5.0)))
            .here(Bound::AtMost(3.0))
            .note(with(large))
    };
    Ok(vec![row("gateway", many.gateway, few.gateway), row("up", many.up, few.up)])
}

async fn of_stack(
    bench: &Bench,
    replicas: Replicas,
    repository: &Path,
    workflows: u32,
) -> Result<PerWorkflow> {
    let mut stack = Stack::start(bench, replicas).await?;
    run(&stack, repository, CALLERS).await?;
    stack.wait_until_idle().await?;
    let usage = || Ok::<_, Error>((Usage::of(stack.gateway())?, Usage::of(stack.up())?));
    let before = usage()?;
    run(&stack, repository, workflows).await?;
    let after = usage()?;
    stack.stop().await?;
    let per_workflow =
        |after: Usage, before: Usage| after.minus(before).micros / count(workflows.into()) / 1e3;
    Ok(PerWorkflow {
        gateway: per_workflow(after.0, before.0),
        up: per_workflow(after.1, before.1),
    })
}

/// Runs so many workflows, a few at once.
async fn run(stack: &Stack, repository: &Path, workflows: u32) -> Result<()> {
    let request = workflow(repository, &NOTHING);
    let load = Load {
        api: stack.api(Service::Workflow)?,
        service: Service::Workflow,
        jobs: workflows,
        concurrency: CALLERS,
        jitter: Duration::ZERO,
        patience: PATIENCE,
        request: Arc::new(move |_| request.clone()),
    };
    let results = RunningLoad::start(&load).finish().await;
    match results.outcomes.iter().find(|outcome| !outcome.complete) {
        None => Ok(()),
        Some(outcome) => {
            Err(Error::Job { service: Service::Workflow.name(), tail: outcome.label.clone() })
        }
    }
}
