//! Many long jobs at once, and whether the stack still answers.

use std::time::{Duration, Instant};

use tokio::{task::JoinSet, time::MissedTickBehavior};

use super::{
    caller::Caller,
    kill::sentence,
    report::{Report, count, milliseconds, percentile, seconds},
};
use crate::{AgentScript, Stack, http_json, wait_for};

/// The longest time that 95 of 100 answers may take.
const P95: Duration = Duration::from_millis(50);

/// Time between two requests.
const EVERY: Duration = Duration::from_millis(20);

/// How long the jobs may take to start. It matters only if a guarantee is broken.
const PATIENCE: Duration = Duration::from_secs(120);

/// The size of the campaign.
#[derive(Clone, Copy, Debug)]
pub struct SideBySide {
    /// How many jobs run at once.
    pub jobs: usize,
    /// How long `/health` is requested while all of them run.
    pub time: Duration,
}

impl SideBySide {
    /// Runs the campaign.
    ///
    /// # Panics
    /// If a stack cannot be started.
    pub async fn run(self) -> Report {
        let mut report = Report::new("side-by-side", None);
        let stack =
            Stack::builder().replicas(1, 1, self.jobs).env("LOG_LEVEL", "warn").start().await;
        let marks = crate::scratch();
        let gate = marks.path().join("gate");
        let mut callers = JoinSet::new();
        for number in 0..self.jobs {
            let mut script = AgentScript::new().touch(marks.path().join(number.to_string()));
            // About twenty messages per second, like a working agent.
            for _ in 0..self.time.as_millis() / 250 {
                script = script.flood(5, 500).sleep_ms(250);
            }
            let caller = Caller::execute(&stack, &script.wait_file(&gate));
            callers.spawn(async move { caller.read().await });
        }
        wait_for("all agents", PATIENCE, || async {
            (0..self.jobs)
                .all(|number| marks.path().join(number.to_string()).exists())
                .then_some(())
        })
        .await;
        let mut times = self.ask(&stack, &mut report).await;
        std::fs::write(&gate, "").unwrap();
        let mut ends = Vec::new();
        while let Some(read) = callers.join_next().await {
            match read.map_err(sentence) {
                Ok(read) => ends.push(read.end),
                Err(broken) => report.violate(broken),
            }
        }
        let ends = count(ends);
        report.figure("jobs at once", self.jobs);
        report.figure("questions", times.len());
        report.times("/health answers after", &mut times);
        let p95 = percentile(&times, 95);
        report
            .check(p95 < P95, || format!("95 of 100 answers took up to {} ms", milliseconds(p95)));
        report.check(ends.get("complete") == Some(&self.jobs), || format!("ends: {ends:?}"));
        report
    }

    /// Asks each service in turn, as long as the jobs run.
    async fn ask(self, stack: &Stack, report: &mut Report) -> Vec<Duration> {
        let mut ticks = tokio::time::interval(EVERY);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let urls = [stack.workflow_url(), stack.pull_url(), stack.claude_url()];
        let (started, mut times) = (Instant::now(), Vec::new());
        for url in urls.iter().cycle() {
            if started.elapsed() > self.time {
                break;
            }
            ticks.tick().await;
            let asked = Instant::now();
            let (status, _, body) = http_json("GET", &format!("{url}/health"), None, &[]).await;
            times.push(asked.elapsed());
            report.check(status == 200, || format!("{status}: {body}"));
        }
        report.figure("seconds", seconds(started.elapsed()));
        times
    }
}
