//! A whole workflow beside its two steps by hand.

use crate::{
    Bench, Bound, Result, Row, Unit, agent, repository,
    sections::{NOTHING, run_workflow, small_repository},
    stack::Stack,
    statistics::{median, ms},
};

pub(crate) async fn measure(bench: &Bench) -> Result<Vec<Row>> {
    let runs = bench.scale().pick(20, 2);
    let repository = small_repository(bench).await?;
    let url = repository::url(&repository);
    let mut stack = Stack::start(bench, [1, 1, 1]).await?;
    run_workflow(&stack, &repository, &NOTHING, &mut ()).await?;
    let (mut ours, mut by_hand) = (Vec::new(), Vec::new());
    for _ in 0..runs {
        stack.wait_until_idle().await?;
        ours.push(ms(run_workflow(&stack, &repository, &NOTHING, &mut ()).await?.last));
        let (_, clone) = repository::clone(bench, &url).await?;
        let agent = agent::alone(bench, &NOTHING, &mut ()).await?.last;
        by_hand.push(ms(clone + agent));
    }
    stack.stop().await?;
    let row = Row::new("workflow: in total", Unit::Milliseconds, median(&ours))
        .beside("git clone and the agent", median(&by_hand))
        .ratio(Bound::AtMost(bench.scale().pick(8.0, 60.0)));
    Ok(vec![row])
}
