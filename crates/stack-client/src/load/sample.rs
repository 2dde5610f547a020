//! The record of one job, and counts and percentiles of many. No I/O.

use std::time::Duration;

use contract::{JobId, Service};
use serde::Serialize;

/// The maximum number of different outcomes to count, because their names come from outside.
const KINDS: usize = 100;

/// How a job ended, from its caller's view.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ended {
    /// With this terminal event.
    Terminal {
        /// Its type.
        kind: String,
        /// Its code.
        code: Option<String>,
    },
    /// It was not accepted as a job.
    Refused {
        /// The HTTP status.
        status: u16,
        /// The error code.
        code: Option<String>,
    },
    /// It has no visible outcome.
    Lost,
}

impl Ended {
    /// Whether the job succeeded.
    #[must_use]
    pub fn is_complete(&self) -> bool {
        let is_success = |kind: &str| Service::ALL.iter().any(|it| it.spec().success_event == kind);
        matches!(self, Self::Terminal { kind, .. } if is_success(kind))
    }

    /// The name under which it is counted.
    #[must_use]
    pub fn label(&self) -> String {
        let with = |text: String, code: &Option<String>| match code {
            Some(code) => format!("{text} {code}"),
            None => text,
        };
        match self {
            Self::Terminal { kind, code } => with(kind.clone(), code),
            Self::Refused { status, code } => with(format!("refused {status}"), code),
            Self::Lost => "lost".to_owned(),
        }
    }
}

/// A job, from its caller's view.
#[derive(Clone, Debug)]
pub struct Sample {
    /// The job.
    pub job: JobId,
    /// When it was requested, since the start of the run.
    pub start: Duration,
    /// The time in the queue: until the first event of its replica.
    pub queueing: Option<Duration>,
    /// The time until the first event of any kind, including those of the queue.
    pub first: Option<Duration>,
    /// The time until the end.
    pub total: Duration,
    /// How it ended.
    pub ended: Ended,
    /// How often its connection broke.
    pub breaks: u32,
    /// How often it lost its place in the queue and was requested again.
    pub again: u32,
    /// The rule of the stream that was violated.
    pub fault: Option<String>,
    /// Why it was refused, or counts as lost.
    pub why: Option<String>,
}

impl Sample {
    /// A job with this outcome, of which nothing else is known.
    #[must_use]
    pub fn new(job: JobId, ended: Ended) -> Self {
        Self {
            job,
            start: Duration::ZERO,
            queueing: None,
            first: None,
            total: Duration::ZERO,
            ended,
            breaks: 0,
            again: 0,
            fault: None,
            why: None,
        }
    }
}

/// A job in a few bytes, because there may be a million. Times are in milliseconds.
#[derive(Clone, Copy, Debug)]
pub struct Kept {
    /// The job.
    pub job: JobId,
    /// See [`Sample::start`].
    pub start: u32,
    /// See [`Sample::queueing`].
    pub queueing: Option<u32>,
    /// See [`Sample::first`].
    pub first: Option<u32>,
    /// See [`Sample::total`].
    pub total: u32,
    /// The index of its outcome.
    outcome: u16,
}

/// An outcome, and how often it occurred.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct OutcomeCount {
    /// Its name.
    #[serde(rename = "outcome")]
    pub label: String,
    /// Whether it is a success.
    pub complete: bool,
    /// The number of jobs.
    pub count: usize,
}

/// A problem with a job.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct JobProblem {
    /// The job.
    #[serde(rename = "jobId")]
    pub job: JobId,
    /// What went wrong.
    pub what: String,
}

/// The maximum number of problems to keep.
const MAX_PROBLEMS: usize = 100;

/// All finished jobs of a run.
#[derive(Clone, Debug, Default)]
pub struct Results {
    /// Each job.
    pub kept: Vec<Kept>,
    /// The count of each outcome.
    pub outcomes: Vec<OutcomeCount>,
    /// The first jobs with a problem.
    pub problems: Vec<JobProblem>,
    /// Jobs without an outcome.
    pub lost: usize,
    /// Requests that were refused.
    pub refused: usize,
    /// Streams that violated a rule.
    pub faults: usize,
    /// Connections that broke.
    pub breaks: u64,
    /// Requests that were repeated because a job had lost its place in the queue.
    pub again: u64,
}

impl Results {
    /// Adds a finished job.
    pub fn add(&mut self, sample: Sample) {
        match &sample.ended {
            Ended::Lost => self.lost += 1,
            Ended::Refused { .. } => self.refused += 1,
            Ended::Terminal { .. } => {}
        }
        self.faults += usize::from(sample.fault.is_some());
        self.breaks += u64::from(sample.breaks);
        self.again += u64::from(sample.again);
        let label = sample.ended.label();
        let told = sample.fault.or_else(|| sample.why.map(|why| format!("{label}: {why}")));
        if let Some(what) = told
            && self.problems.len() < MAX_PROBLEMS
        {
            self.problems.push(JobProblem { job: sample.job, what });
        }
        let outcome = self.outcome(label, sample.ended.is_complete());
        self.kept.push(Kept {
            job: sample.job,
            start: milliseconds(sample.start),
            queueing: sample.queueing.map(milliseconds),
            first: sample.first.map(milliseconds),
            total: milliseconds(sample.total),
            outcome,
        });
    }

    fn outcome(&mut self, label: String, complete: bool) -> u16 {
        let label = if self.outcomes.len() < KINDS { label } else { "other".to_owned() };
        let same = |outcome: &OutcomeCount| outcome.label == label && outcome.complete == complete;
        let at = self.outcomes.iter().position(same).unwrap_or_else(|| {
            self.outcomes.push(OutcomeCount { label, complete, count: 0 });
            self.outcomes.len() - 1
        });
        if let Some(outcome) = self.outcomes.get_mut(at) {
            outcome.count += 1;
        }
        u16::try_from(at).unwrap_or(u16::MAX)
    }

    /// The number of successful jobs.
    #[must_use]
    pub fn complete(&self) -> usize {
        self.outcomes.iter().filter(|it| it.complete).map(|it| it.count).sum()
    }

    /// Whether the job succeeded.
    #[must_use]
    pub fn is_complete(&self, kept: &Kept) -> bool {
        self.outcomes.get(usize::from(kept.outcome)).is_some_and(|outcome| outcome.complete)
    }

    /// The name of the job's outcome.
    #[must_use]
    pub fn label(&self, kept: &Kept) -> &str {
        self.outcomes.get(usize::from(kept.outcome)).map_or("", |outcome| &outcome.label)
    }

    /// The percentiles of a time, over the jobs that have one.
    #[must_use]
    pub fn spread(&self, of: impl Fn(&Kept) -> Option<u32>) -> Option<Spread> {
        Spread::of(self.kept.iter().filter_map(of).collect())
    }
}

/// Percentiles in milliseconds by the nearest-rank method: each is a measured value.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Spread {
    /// Half of the values are at most this.
    pub p50: u32,
    /// 90 % of the values are at most this.
    pub p90: u32,
    /// 99 % of the values are at most this.
    pub p99: u32,
    /// The largest value.
    pub max: u32,
}

impl Spread {
    /// The percentiles of these values, or `None` if there are none.
    #[must_use]
    pub fn of(mut values: Vec<u32>) -> Option<Self> {
        values.sort_unstable();
        let max = *values.last()?;
        let rank = |percent: usize| {
            let at = (values.len() * percent).div_ceil(100).max(1) - 1;
            values.get(at).copied().unwrap_or(max)
        };
        Some(Self { p50: rank(50), p90: rank(90), p99: rank(99), max })
    }
}

fn milliseconds(time: Duration) -> u32 {
    u32::try_from(time.as_millis()).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample(ended: Ended) -> Sample {
        Sample::new("019aa001-0000-7000-8000-0123456789ab".parse().unwrap(), ended)
    }

    fn terminal(kind: &str, code: Option<&str>) -> Ended {
        Ended::Terminal { kind: kind.to_owned(), code: code.map(str::to_owned) }
    }

    #[test]
    fn percentiles_are_measured_values() {
        assert_eq!(Spread::of(vec![]), None);
        assert_eq!(Spread::of(vec![7]), Some(Spread { p50: 7, p90: 7, p99: 7, max: 7 }));
        let hundred = (1..=100).rev().collect();
        assert_eq!(Spread::of(hundred), Some(Spread { p50: 50, p90: 90, p99: 99, max: 100 }));
        let ten = (1..=10).collect();
        assert_eq!(Spread::of(ten), Some(Spread { p50: 5, p90: 9, p99: 10, max: 10 }));
    }

    #[test]
    fn outcomes_are_counted_separately() {
        let mut results = Results::default();
        results.add(sample(terminal("workflow_complete", None)));
        results.add(sample(terminal("workflow_error", Some("agent_failed"))));
        results.add(sample(terminal("workflow_complete", None)));
        let mut lost = sample(Ended::Lost);
        (lost.why, lost.breaks) = (Some("gone".into()), 3);
        results.add(lost);
        let refused = Ended::Refused { status: 503, code: Some("queue_full".into()) };
        results.add(sample(refused));
        let mut fault = sample(terminal("completed", None));
        fault.fault = Some("message after the terminal event".into());
        results.add(fault);
        let counts: Vec<_> =
            results.outcomes.iter().map(|it| (&*it.label, it.complete, it.count)).collect();
        assert_eq!(
            counts,
            [
                ("workflow_complete", true, 2),
                ("workflow_error agent_failed", false, 1),
                ("lost", false, 1),
                ("refused 503 queue_full", false, 1),
                ("completed", true, 1),
            ]
        );
        assert_eq!((results.lost, results.refused, results.faults, results.breaks), (1, 1, 1, 3));
        assert_eq!(results.complete(), 3);
        let told: Vec<_> = results.problems.iter().map(|it| &*it.what).collect();
        assert_eq!(told, ["lost: gone", "message after the terminal event"]);
    }

    #[test]
    fn the_number_of_distinct_codes_is_limited() {
        let mut results = Results::default();
        for number in 0..1000 {
            let code = format!("code_{number}");
            results.add(sample(terminal("workflow_error", Some(&code))));
        }
        assert_eq!(results.outcomes.len(), KINDS + 1);
        assert_eq!(results.outcomes.last().map(|it| it.count), Some(1000 - KINDS));
        assert_eq!(results.kept.len(), 1000);
    }
}
