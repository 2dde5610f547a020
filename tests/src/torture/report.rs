//! The result of a campaign.

use std::{collections::BTreeMap, fmt, time::Duration};

use serde::Serialize;
use serde_json::Value;

/// How many violations are quoted at most. A campaign that finds one often finds it many times.
const QUOTED: usize = 20;

/// The figures of a campaign, and the violations it has found.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Report {
    /// Its name on the command line.
    pub campaign: &'static str,
    /// The seed of its random part.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub seed: Option<u64>,
    /// Counts and measurements, in the order in which to print them.
    pub figures: Vec<Figure>,
    /// The number of violations.
    pub broken_count: usize,
    /// The first violations, one sentence each.
    pub broken: Vec<String>,
}

/// One line of a report.
#[derive(Clone, Debug, Serialize)]
pub struct Figure {
    /// What was measured, with its unit.
    pub name: String,
    /// The value.
    pub value: Value,
}

impl Report {
    pub(crate) fn new(campaign: &'static str, seed: Option<u64>) -> Self {
        Self { campaign, seed, figures: Vec::new(), broken_count: 0, broken: Vec::new() }
    }

    pub(crate) fn figure(&mut self, name: impl Into<String>, value: impl Into<Value>) {
        self.figures.push(Figure { name: name.into(), value: value.into() });
    }

    /// The median, the 95th percentile and the maximum of some durations in milliseconds, if there
    /// are any.
    pub(crate) fn times(&mut self, name: &str, times: &mut [Duration]) {
        if times.is_empty() {
            return;
        }
        times.sort_unstable();
        for (part, hundredths) in [("median", 50), ("p95", 95), ("longest", 100)] {
            self.figure(
                format!("{name}, {part} (ms)"),
                milliseconds(percentile(times, hundredths)),
            );
        }
    }

    pub(crate) fn violate(&mut self, sentence: impl Into<String>) {
        self.broken_count += 1;
        if self.broken.len() < QUOTED {
            self.broken.push(sentence.into());
        }
    }

    pub(crate) fn check(&mut self, holds: bool, otherwise: impl FnOnce() -> String) {
        if !holds {
            self.violate(otherwise());
        }
    }

    /// The value of the figure with this name, if there is one.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&Value> {
        self.figures.iter().find(|figure| figure.name == name).map(|figure| &figure.value)
    }

    /// Whether every guarantee held.
    #[must_use]
    pub fn is_whole(&self) -> bool {
        self.broken_count == 0
    }

    /// Prints the figures, for a test.
    ///
    /// # Panics
    /// If a guarantee was broken; the message is the whole report.
    pub fn assert_whole(&self) {
        assert!(self.is_whole(), "{self}");
        eprintln!("{self}");
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.campaign)?;
        if let Some(seed) = self.seed {
            write!(f, " (seed {seed})")?;
        }
        writeln!(f)?;
        let width = self.figures.iter().map(|figure| figure.name.len()).max().unwrap_or_default();
        for Figure { name, value } in &self.figures {
            writeln!(f, "  {name:width$}  {}", plain(value))?;
        }
        match self.broken_count {
            0 => write!(f, "every guarantee held"),
            count => {
                write!(f, "VIOLATIONS: {count}")?;
                self.broken.iter().try_for_each(|sentence| write!(f, "\n  - {sentence}"))
            }
        }
    }
}

/// JSON in a form that is easy to read.
fn plain(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Object(map) => {
            let parts: Vec<_> =
                map.iter().map(|(name, value)| format!("{name} {}", plain(value))).collect();
            parts.join(", ")
        }
        other => other.to_string(),
    }
}

pub(crate) fn milliseconds(time: Duration) -> f64 {
    (time.as_secs_f64() * 10_000.0).round() / 10.0
}

pub(crate) fn seconds(time: Duration) -> f64 {
    (time.as_secs_f64() * 10.0).round() / 10.0
}

/// A percentile of sorted durations; zero if there are none.
pub(crate) fn percentile(sorted: &[Duration], hundredths: usize) -> Duration {
    let rank = (sorted.len() * hundredths).div_ceil(100);
    sorted.get(rank.saturating_sub(1)).copied().unwrap_or_default()
}

/// How often each name occurs.
pub(crate) fn count(names: impl IntoIterator<Item = String>) -> BTreeMap<String, usize> {
    let mut counts = BTreeMap::new();
    for name in names {
        *counts.entry(name).or_default() += 1;
    }
    counts
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_times_that_were_measured() {
        let times: Vec<_> = (1..=200).map(Duration::from_millis).collect();
        assert_eq!(percentile(&times, 50), Duration::from_millis(100));
        assert_eq!(percentile(&times, 95), Duration::from_millis(190));
        assert_eq!(percentile(&times, 100), Duration::from_millis(200));
        assert_eq!(percentile(&times[..1], 50), Duration::from_millis(1));
        assert_eq!(percentile(&[], 95), Duration::ZERO);
    }

    #[test]
    fn violations_are_reported_and_counted() {
        let mut report = Report::new("kill", Some(7));
        report.figure("jobs", 3);
        assert!(report.is_whole());
        for _ in 0..30 {
            report.check(false, || "a job was lost".to_owned());
        }
        let text = report.to_string();
        assert!(text.contains("kill (seed 7)") && text.contains("VIOLATIONS: 30"), "{text}");
        assert_eq!(text.matches("a job was lost").count(), QUOTED);
    }
}
