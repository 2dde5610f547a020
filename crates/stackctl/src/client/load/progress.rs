//! How far a run is: a bar on a terminal, a line now and then elsewhere. Always on standard error.

use std::{
    io::IsTerminal as _,
    time::{Duration, Instant},
};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use super::{
    options::LoadOptions,
    sample::{Results, Sample},
};
use crate::client::{
    api::{Api, Status},
    ids,
    render::note,
};

/// Without a terminal, progress is told this often.
const PLAIN_INTERVAL: Duration = Duration::from_secs(10);
/// How many troubles are told of as they come; the report counts all.
const TOLD: u32 = 20;

pub(super) struct Progress {
    shown: Shown,
    jobs: u32,
    told: u32,
}

enum Shown {
    Bar(ProgressBar),
    Lines { last: Instant },
}

impl Progress {
    pub(super) fn start(options: &LoadOptions, api: &Api, status: &Status) -> Self {
        let jobs = options.jobs;
        let target = ProgressDrawTarget::stderr();
        note(&format!(
            "{jobs} jobs, {} at once, for {} at {} ({} replicas idle, {} busy; {} jobs waiting)",
            options.concurrency.min(jobs),
            options.service(),
            api.url,
            status.replicas.idle,
            status.replicas.busy,
            status.queue.depth,
        ));
        let shown = if std::io::stderr().is_terminal() && !target.is_hidden() {
            let bar = ProgressBar::with_draw_target(Some(u64::from(jobs)), target);
            let template = "{bar:30} {pos}/{len} {msg} {elapsed}";
            // A template that does not parse would leave indicatif's own.
            if let Ok(style) = ProgressStyle::with_template(template) {
                bar.set_style(style);
            }
            Shown::Bar(bar)
        } else {
            Shown::Lines { last: Instant::now() }
        };
        Self { shown, jobs, told: 0 }
    }

    /// Shows how many are done, run and wait.
    pub(super) fn show(&mut self, results: &Results, running: usize, busy: usize) {
        let done = results.kept.len();
        let bad = done - results.complete();
        let text = format!(
            "{running} running, {} waiting, {bad} not complete",
            busy.saturating_sub(running)
        );
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

    /// Tells of a job that did not go as a job should.
    pub(super) fn told(&mut self, sample: &Sample) {
        let Some(what) = sample.fault.as_ref().or(sample.why.as_ref()) else { return };
        self.told += 1;
        let text = match self.told {
            ..=TOLD => format!("job {}: {what}", ids::short(sample.job)),
            number if number == TOLD + 1 => "more of these are counted, not told".to_owned(),
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
