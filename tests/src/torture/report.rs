//! What a campaign has seen.

use std::{collections::BTreeMap, fmt, time::Duration};

use serde::Serialize;
use serde_json::Value;

/// How many broken promises are quoted at most; a campaign that breaks one often breaks it often.
const QUOTED: usize = 20;

/// The figures of a campaign, and the promises it has seen broken.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Report {
    /// Its name on the command line.
    pub campaign: &'static str,
    /// What the random part of it came from.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub seed: Option<u64>,
    /// What was counted and measured, in the order it is to be read.
    pub figures: Vec<Figure>,
    /// How many promises were broken.
    pub broken_count: usize,
    /// The first of them, each a sentence.
    pub broken: Vec<String>,
}

/// One line of a report.
#[derive(Clone, Debug, Serialize)]
pub struct Figure {
    /// What it is, with its unit.
    pub name: String,
    /// How much.
    pub value: Value,
}

impl Report {
    pub(crate) fn new(campaign: &'static str, seed: Option<u64>) -> Self {
        Self { campaign, seed, figures: Vec::new(), broken_count: 0, broken: Vec::new() }
    }

    pub(crate) fn figure(&mut self, name: impl Into<String>, value: impl Into<Value>) {
        self.figures.push(Figure { name: name.into(), value: value.into() });
    }

    /// Figures in milliseconds: the middle, the 95th percentile and the longest of some times, if there are any.
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

    pub(crate) fn break_promise(&mut self, sentence: impl Into<String>) {
        self.broken_count += 1;
        if self.broken.len() < QUOTED {
            self.broken.push(sentence.into());
        }
    }

    pub(crate) fn demand(&mut self, holds: bool, otherwise: impl FnOnce() -> String) {
        if !holds {
            self.break_promise(otherwise());
        }
    }

    /// A figure's value, if there is one of that name.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&Value> {
        self.figures.iter().find(|figure| figure.name == name).map(|figure| &figure.value)
    }

    /// Whether every promise was kept.
    #[must_use]
    pub fn is_whole(&self) -> bool {
        self.broken_count == 0
    }

    /// Prints the figures, for a test that keeps its promises.
    ///
    /// # Panics
    /// If a promise was broken, with the whole report.
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
            0 => write!(f, "every promise was kept"),
            count => {
                write!(f, "BROKEN: {count} times")?;
                self.broken.iter().try_for_each(|sentence| write!(f, "\n  - {sentence}"))
            }
        }
    }
}

/// JSON as a person reads it.
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

/// Of times in order; zero if there are none.
pub(crate) fn percentile(sorted: &[Duration], hundredths: usize) -> Duration {
    let rank = (sorted.len() * hundredths).div_ceil(100);
    sorted.get(rank.saturating_sub(1)).copied().unwrap_or_default()
}

/// How often each name came.
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
    fn a_broken_promise_is_told_and_counted() {
        let mut report = Report::new("kill", Some(7));
        report.figure("jobs", 3);
        assert!(report.is_whole());
        for _ in 0..30 {
            report.demand(false, || "a job was lost".to_owned());
        }
        let text = report.to_string();
        assert!(text.contains("kill (seed 7)") && text.contains("BROKEN: 30 times"), "{text}");
        assert_eq!(text.matches("a job was lost").count(), QUOTED);
    }
}
