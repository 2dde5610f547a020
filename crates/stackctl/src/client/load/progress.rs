//! The progress of a run on standard error: a bar on a terminal, a line now and then elsewhere.

use std::{
    io::IsTerminal as _,
    time::{Duration, Instant},
};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use stack_client::{
    Api, ServiceStatus,
    load::{Results, Sample},
};

use super::options::LoadOptions;
use crate::client::{ids, note};

/// How often a line is printed without a terminal.
const PLAIN_INTERVAL: Duration = Duration::from_secs(10);
/// How many problems are printed when they occur. The report counts all.
const PRINTED: u32 = 20;

pub(super) struct ProgressDisplay {
    shown: Shown,
    jobs: u32,
    printed: u32,
}

enum Shown {
    Bar(ProgressBar),
    Lines { last: Instant },
}

impl ProgressDisplay {
    pub(super) fn start(options: &LoadOptions, api: &Api, status: &ServiceStatus) -> Self {
        let jobs = options.jobs;
        let target = ProgressDrawTarget::stderr();
        note(&format!(
            "{jobs} jobs, {} at once, for {} at {} ({} replicas idle, {} busy; {} jobs waiting)",
            options.concurrency.min(jobs),
            options.service,
            api.url,
            status.replicas.idle,
            status.replicas.busy,
            status.queue.depth,
        ));
        let shown = if std::io::stderr().is_terminal() && !target.is_hidden() {
            let bar = ProgressBar::with_draw_target(Some(u64::from(jobs)), target);
            let template = "{bar:30} {pos}/{len} {msg} {elapsed}";
            // If the template did not parse, indicatif's default would remain.
            if let Ok(style) = ProgressStyle::with_template(template) {
                bar.set_style(style);
            }
            Shown::Bar(bar)
        } else {
            Shown::Lines { last: Instant::now() }
        };
        Self { shown, jobs, printed: 0 }
    }

    /// Shows how many jobs are done, run and wait.
    pub(super) fn show(&mut self, results: &Results, running: usize, waiting: usize) {
        let done = results.kept.len();
        let bad = done - results.complete();
        let text = format!("{running} running, {waiting} waiting, {bad} not complete");
        match &mut self.shown {
            Shown::Bar(bar) => {
                bar.set_position(u64::try_from(done).unwrap_or(u64::MAX));
                bar.set_message(text);
            }
            Shown::Lines { last } if last.elapsed() >= PLAIN_INTERVAL => {
                *last = Instant::now();
                note(&format!("{done} of {} done, {text}", self.jobs));
            }
            Shown::Lines { .. } => {}
        }
    }

    /// Prints what was wrong with a job, if anything was.
    pub(super) fn done(&mut self, sample: &Sample) {
        let Some(what) = sample.fault.as_ref().or(sample.why.as_ref()) else { return };
        self.printed += 1;
        let text = match self.printed {
            ..=PRINTED => format!("job {}: {what}", ids::short(sample.job)),
            number if number == PRINTED + 1 => {
                "further problems are counted and not printed".to_owned()
            }
            _ => return,
        };
        match &self.shown {
            Shown::Bar(bar) => bar.suspend(|| note(&text)),
            Shown::Lines { .. } => note(&text),
        }
    }

    pub(super) fn finish(&mut self) {
        if let Shown::Bar(bar) = &self.shown {
            bar.finish_and_clear();
        }
    }
}
