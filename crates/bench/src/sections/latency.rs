//! One message through the whole chain, from the agent's write to the caller's read.

use std::time::{Instant, SystemTime, UNIX_EPOCH};

use claude_stand_in::workload::Workload;

use crate::{
    Bench, Bound, Result, Row, Unit, agent,
    caller::Observe,
    sections::{run_workflow, small_repository},
    stack::Stack,
    statistics::percentile,
};

/// The time from one message to the next, in microseconds. Long enough that each one travels alone.
const PERIOD_MICROS: u64 = 3000;

/// How long messages have travelled, in milliseconds.
#[derive(Debug, Default)]
struct Travels(Vec<f64>);

impl Observe for Travels {
    fn arrived(&mut self, bytes: &[u8], _: Instant) {
        // The agent's clock is another process's, so it must be the time of day.
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_nanos();
        let found = memchr::memmem::find_iter(bytes, b"sent=").filter_map(|at| {
            let rest = bytes.get(at + 5..)?;
            let digits = rest.get(..rest.iter().position(|byte| *byte == b';')?)?;
            std::str::from_utf8(digits).ok()?.parse::<u128>().ok()
        });
        self.0.extend(found.filter_map(|sent| {
            let nanos = u32::try_from(now.checked_sub(sent)?).ok()?;
            Some(f64::from(nanos) / 1e6)
        }));
    }
}

pub(crate) async fn measure(bench: &Bench) -> Result<Vec<Row>> {
    let messages = bench.scale().pick(1000, 100);
    let workload = Workload::Paced { messages, period_micros: PERIOD_MICROS };
    let repository = small_repository(bench).await?;
    let (mut alone, mut ours) = (Travels::default(), Travels::default());
    agent::alone(bench, &workload, &mut alone).await?;
    let mut stack = Stack::start(bench, [1, 1, 1]).await?;
    run_workflow(&stack, &repository, &workload, &mut ours).await?;
    stack.wait_until_idle().await?;
    stack.stop().await?;
    let row = |name, percent, goal| {
        Row::new(name, Unit::Milliseconds, percentile(&ours.0, percent))
            .beside("the agent alone", percentile(&alone.0, percent))
            .here(Bound::AtMost(goal))
    };
    Ok(vec![
        row("latency: a message, p50", 50, 0.5),
        row("latency: a message, p99", 99, 3.0),
        Row::new(
            "latency: messages that were timed",
            Unit::Count,
            crate::statistics::count(ours.0.len() as u64),
        )
        .value(Bound::AtLeast(crate::statistics::count(messages))),
    ])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_found_in_events() {
        let mut travels = Travels::default();
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_nanos();
        let text =
            format!("data: {{\"text\":\"sent={};\"}}\n\nsent=x; sent={now}", now - 2_000_000);
        travels.arrived(text.as_bytes(), Instant::now());
        assert_eq!(travels.0.len(), 1);
        assert!((2.0..1000.0).contains(&travels.0[0]), "{travels:?}");
    }
}
