//! The numbers of a run, for people and for programs.

use std::{fmt::Write as _, io, time::Duration};

use anstyle::{AnsiColor, Style};
use contract::{JobId, Service, Timestamp};
use serde::Serialize;
use stack_client::load::{JobProblem, Kept, OutcomeCount, Results, Spread};

use crate::{
    client::table::{Column, lines},
    program,
};

/// A run that has ended or was stopped.
#[derive(Clone, Debug)]
pub(crate) struct LoadReport {
    pub(crate) service: Service,
    pub(crate) url: String,
    pub(crate) jobs: u32,
    pub(crate) concurrency: u32,
    pub(crate) began: Timestamp,
    pub(crate) took: Duration,
    pub(crate) results: Results,
    /// The jobs that had not ended when it was stopped.
    pub(crate) left: Option<Left>,
}

/// Jobs that have lost their callers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Left {
    /// They continue.
    pub(crate) running: usize,
    /// They are cancelled.
    pub(crate) waiting: usize,
}

impl LoadReport {
    /// How many jobs ended in a second.
    fn throughput(&self) -> f64 {
        let ended = u32::try_from(self.results.kept.len()).unwrap_or(u32::MAX);
        f64::from(ended) / self.took.as_secs_f64().max(0.001)
    }

    /// The three times of a job, by name.
    pub(super) fn spreads(&self) -> [(&'static str, Option<Spread>); 3] {
        let results = &self.results;
        [
            ("queueing", results.spread(|kept| kept.queueing)),
            ("first event", results.spread(|kept| kept.first)),
            ("total", results.spread(|kept| kept.first.and(Some(kept.total)))),
        ]
    }
}

/// For people, with styles that the output stream removes where they are not wanted.
pub(crate) fn text(run: &LoadReport) -> String {
    let results = &run.results;
    let (bold, good, bad) =
        (Style::new().bold(), AnsiColor::Green.on_default(), AnsiColor::Red.on_default().bold());
    let mut text = String::new();
    let _ = writeln!(
        text,
        "{bold}{} of {} jobs ended in {:.1} s, {:.2} a second{bold:#}",
        results.kept.len(),
        run.jobs,
        run.took.as_secs_f64(),
        run.throughput()
    );
    let columns = [("OUTCOME", Column::Text), ("JOBS", Column::Number)];
    let outcomes = results.outcomes.iter().map(|it| {
        let style = if it.complete { good } else { bad };
        (style, vec![it.label.clone(), it.count.to_string()])
    });
    let seconds = ["p50", "p90", "p99", "max"].map(|name| (name, Column::Number));
    let times: Vec<_> = std::iter::once(("SECONDS", Column::Text)).chain(seconds).collect();
    let spreads = run.spreads().into_iter().filter_map(|(name, spread)| {
        let Spread { p50, p90, p99, max } = spread?;
        let values = [p50, p90, p99, max].map(|ms| format!("{:.3}", f64::from(ms) / 1000.0));
        Some((Style::new(), std::iter::once(name.to_owned()).chain(values).collect()))
    });
    for line in lines(&columns, outcomes, None).into_iter().chain(lines(&times, spreads, None)) {
        let _ = writeln!(text, "  {line}");
    }
    if results.breaks + results.again > 0 {
        let _ = writeln!(
            text,
            "connections that broke or had to wait for the stack: {}; jobs requested again: {}",
            results.breaks, results.again
        );
    }
    let lost = results.lost;
    let style = if lost == 0 { good } else { bad };
    let _ = writeln!(
        text,
        "{style}{} lost{style:#}",
        if lost == 0 { "nothing".to_owned() } else { lost.to_string() }
    );
    if results.faults > 0 {
        let _ = writeln!(text, "{bad}{} streams broke a rule{bad:#}", results.faults);
    }
    for problem in &results.problems {
        let _ = writeln!(text, "  {}: {}", problem.job, problem.what);
    }
    if let Some(left) = run.left {
        let never = usize::try_from(run.jobs)
            .unwrap_or_default()
            .saturating_sub(results.kept.len() + left.running + left.waiting);
        let _ = writeln!(
            text,
            "stopped: {} jobs continue without their callers (`{} jobs --state running` lists them), {} that \
             were waiting are cancelled, {never} were never requested",
            left.running,
            program::name(),
            left.waiting,
        );
    }
    text
}

/// For programs: the numbers and every job.
///
/// # Errors
/// If it cannot be written.
pub(crate) fn json(run: &LoadReport, out: &mut dyn io::Write) -> io::Result<()> {
    let results = &run.results;
    let [(_, queueing), (_, first_event), (_, total)] = run.spreads();
    let document = Document {
        service: run.service,
        url: &run.url,
        jobs: run.jobs,
        concurrency: run.concurrency,
        began: run.began,
        seconds: run.took.as_secs_f64(),
        ended: results.kept.len(),
        per_second: run.throughput(),
        complete: results.complete(),
        lost: results.lost,
        refused: results.refused,
        faults: results.faults,
        breaks: results.breaks,
        asked_again: results.again,
        stopped: run.left,
        outcomes: &results.outcomes,
        milliseconds: Milliseconds { queueing, first_event, total },
        problems: &results.problems,
        samples: Samples(results),
    };
    serde_json::to_writer_pretty(&mut *out, &document)?;
    out.write_all(b"\n")
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Document<'a> {
    service: Service,
    url: &'a str,
    jobs: u32,
    concurrency: u32,
    began: Timestamp,
    seconds: f64,
    ended: usize,
    per_second: f64,
    complete: usize,
    lost: usize,
    refused: usize,
    faults: usize,
    breaks: u64,
    asked_again: u64,
    stopped: Option<Left>,
    outcomes: &'a [OutcomeCount],
    milliseconds: Milliseconds,
    problems: &'a [JobProblem],
    samples: Samples<'a>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Milliseconds {
    queueing: Option<Spread>,
    first_event: Option<Spread>,
    total: Option<Spread>,
}

/// Serialized one by one, without a copy of all.
struct Samples<'a>(&'a Results);

impl Serialize for Samples<'_> {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(self.0.kept.iter().map(|kept| Row::new(self.0, kept)))
    }
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Row<'a> {
    job_id: JobId,
    outcome: &'a str,
    start_ms: u32,
    queueing_ms: Option<u32>,
    first_event_ms: Option<u32>,
    total_ms: u32,
}

impl<'a> Row<'a> {
    fn new(results: &'a Results, kept: &Kept) -> Self {
        Self {
            job_id: kept.job,
            outcome: results.label(kept),
            start_ms: kept.start,
            queueing_ms: kept.queueing,
            first_event_ms: kept.first,
            total_ms: kept.total,
        }
    }
}

#[cfg(test)]
pub(super) mod tests {
    use stack_client::load::{Ended, Sample};

    use super::*;

    pub(crate) fn run() -> LoadReport {
        let ms = Duration::from_millis;
        let job = "019aa001-0000-7000-8000-0123456789ab".parse().unwrap();
        let sample = |start, queueing: u64, total, ended| Sample {
            start: ms(start),
            queueing: Some(ms(queueing)),
            first: Some(ms(queueing.min(5))),
            total: ms(total),
            ..Sample::new(job, ended)
        };
        let terminal = |kind: &str, code: Option<&str>| Ended::Terminal {
            kind: kind.to_owned(),
            code: code.map(str::to_owned),
        };
        let mut results = Results::default();
        for number in 0..40 {
            let ended = match number % 20 {
                7 => terminal("workflow_error", Some("agent_failed")),
                _ => terminal("workflow_complete", None),
            };
            results.add(sample(number * 250, number * 40, 1000 + number * 100, ended));
        }
        let why = Some("<gone> & \"away\"".into());
        results.add(Sample { why, ..sample(9000, 9, 900, Ended::Lost) });
        LoadReport {
            service: Service::Workflow,
            url: "http://127.0.0.1:5000".into(),
            jobs: 50,
            concurrency: 5,
            began: Timestamp::from_millisecond(1_000_000),
            took: Duration::from_millis(16_000),
            results,
            left: Some(Left { running: 3, waiting: 2 }),
        }
    }

    #[test]
    fn for_people() {
        let text = anstream::adapter::strip_str(&text(&run())).to_string();
        insta::assert_snapshot!(text);
    }

    #[test]
    fn for_programs() {
        let mut run = run();
        run.results.kept.truncate(2);
        let mut bytes = Vec::new();
        json(&run, &mut bytes).unwrap();
        insta::assert_snapshot!(String::from_utf8(bytes).unwrap());
    }
}
