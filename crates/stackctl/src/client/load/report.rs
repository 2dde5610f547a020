//! The numbers of a run, for people and for programs.

use std::{fmt::Write as _, io, time::Duration};

use anstyle::{AnsiColor, Style};
use contract::{JobId, Service, Timestamp};
use serde::Serialize;

use super::sample::{Kept, Results, Spread};

/// A run, whether it came to its end or not.
#[derive(Clone, Debug)]
pub(crate) struct Run {
    pub(crate) service: Service,
    pub(crate) url: String,
    pub(crate) jobs: u32,
    pub(crate) concurrency: u32,
    pub(crate) began: Timestamp,
    pub(crate) took: Duration,
    pub(crate) results: Results,
    /// What was in the middle when it was stopped.
    pub(crate) left: Option<Left>,
}

/// Jobs without their callers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Left {
    /// They go on.
    pub(crate) running: usize,
    /// They are given up.
    pub(crate) waiting: usize,
}

impl Run {
    /// Jobs that ended, a second.
    fn throughput(&self) -> f64 {
        let ended = u32::try_from(self.results.kept.len()).unwrap_or(u32::MAX);
        f64::from(ended) / self.took.as_secs_f64().max(0.001)
    }

    /// The three waits, by name.
    pub(super) fn spreads(&self) -> [(&'static str, Option<Spread>); 3] {
        let results = &self.results;
        [
            ("queueing", results.spread(|kept| kept.queueing)),
            ("first event", results.spread(|kept| kept.first)),
            ("total", results.spread(|kept| kept.first.and(Some(kept.total)))),
        ]
    }
}

/// For people; with styles, which the stream takes out where they are not seen.
pub(crate) fn text(run: &Run) -> String {
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
    for outcome in &results.outcomes {
        let style = if outcome.complete { good } else { bad };
        let _ = writeln!(text, "  {style}{:<40}{style:#}{:>9}", outcome.label, outcome.count);
    }
    let _ = writeln!(
        text,
        "{bold}{:<14}{:>9}{:>9}{:>9}{:>9}{bold:#}",
        "seconds", "p50", "p90", "p99", "max"
    );
    for (name, spread) in run.spreads() {
        let Some(Spread { p50, p90, p99, max }) = spread else { continue };
        let _ = write!(text, "  {name:<12}");
        for value in [p50, p90, p99, max] {
            let _ = write!(text, "{:>9.3}", f64::from(value) / 1000.0);
        }
        text.push('\n');
    }
    if results.breaks + results.again > 0 {
        let _ = writeln!(
            text,
            "connections that broke or had to wait for the stack: {}; jobs asked for again: {}",
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
        let _ = writeln!(text, "{bad}{} streams broke the rules{bad:#}", results.faults);
    }
    for trouble in &results.troubles {
        let _ = writeln!(text, "  {}: {}", trouble.job, trouble.what);
    }
    if let Some(left) = run.left {
        let _ = writeln!(
            text,
            "stopped: {} jobs go on without their callers (`stackctl jobs --state running` shows them), \
             {} that still waited are given up, {} were never asked for",
            left.running,
            left.waiting,
            usize::try_from(run.jobs)
                .unwrap_or_default()
                .saturating_sub(results.kept.len() + left.running + left.waiting),
        );
    }
    text
}

/// For programs: the numbers, and every job.
///
/// # Errors
/// If it cannot be written.
pub(crate) fn json(run: &Run, out: &mut dyn io::Write) -> io::Result<()> {
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
        outcomes: results
            .outcomes
            .iter()
            .map(|it| Outcome { outcome: &it.label, complete: it.complete, count: it.count })
            .collect(),
        milliseconds: Milliseconds {
            queueing: queueing.map(Percentiles::from),
            first_event: first_event.map(Percentiles::from),
            total: total.map(Percentiles::from),
        },
        troubles: results
            .troubles
            .iter()
            .map(|it| Trouble { job_id: it.job, what: &it.what })
            .collect(),
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
    outcomes: Vec<Outcome<'a>>,
    milliseconds: Milliseconds,
    troubles: Vec<Trouble<'a>>,
    samples: Samples<'a>,
}

#[derive(Serialize)]
struct Outcome<'a> {
    outcome: &'a str,
    complete: bool,
    count: usize,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Milliseconds {
    queueing: Option<Percentiles>,
    first_event: Option<Percentiles>,
    total: Option<Percentiles>,
}

#[derive(Serialize)]
struct Percentiles {
    p50: u32,
    p90: u32,
    p99: u32,
    max: u32,
}

impl From<Spread> for Percentiles {
    fn from(Spread { p50, p90, p99, max }: Spread) -> Self {
        Self { p50, p90, p99, max }
    }
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Trouble<'a> {
    job_id: JobId,
    what: &'a str,
}

/// Written one by one, not built first.
struct Samples<'a>(&'a Results);

impl Serialize for Samples<'_> {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(self.0.kept.iter().map(|kept| Sample::new(self.0, kept)))
    }
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Sample<'a> {
    job_id: JobId,
    outcome: &'a str,
    start_ms: u32,
    queueing_ms: Option<u32>,
    first_event_ms: Option<u32>,
    total_ms: u32,
}

impl<'a> Sample<'a> {
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
    use super::{
        super::sample::{
            Ended,
            tests::{sample, terminal},
        },
        *,
    };

    pub(crate) fn run() -> Run {
        let mut results = Results::default();
        for number in 0..40 {
            let ended = match number % 20 {
                7 => terminal("workflow_error", Some("agent_failed")),
                _ => terminal("workflow_complete", None),
            };
            results.add(sample(number * 250, number * 40, 1000 + number * 100, ended));
        }
        let mut lost = sample(9000, 9, 900, Ended::Lost);
        lost.why = Some("<gone> & \"away\"".into());
        results.add(lost);
        Run {
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
        insta::assert_snapshot!(anstream::adapter::strip_str(&text(&run())).to_string());
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
