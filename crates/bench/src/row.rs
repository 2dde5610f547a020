//! One figure: its value, what it is compared with, and what it should be.

use serde::{Deserialize, Serialize};

use crate::Scale;

/// A figure of the report.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Row {
    /// What was measured. It stays the same from version to version, so that reports can be compared.
    pub name: String,
    /// The unit of the value and of the baseline.
    pub unit: Unit,
    /// The value; `None` if this machine does not let it be measured.
    pub value: Option<f64>,
    /// The same without the stack, or with little instead of much.
    pub baseline: Option<Baseline>,
    /// The value divided by the baseline.
    pub ratio: Option<f64>,
    /// What the value or the ratio should be.
    pub goals: Vec<Goal>,
    /// Whether all goals are met; `None` if there are none, or nothing was measured.
    pub met: Option<bool>,
    /// What a reader should know about this run.
    pub note: Option<String>,
}

/// What a value is compared with.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Baseline {
    /// What it is.
    pub what: String,
    /// How much, in the unit of the row.
    pub value: f64,
}

/// The unit of a figure.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Unit {
    /// Milliseconds.
    #[serde(rename = "ms")]
    Milliseconds,
    /// Microseconds.
    #[serde(rename = "us")]
    Microseconds,
    /// Messages per second.
    #[serde(rename = "messages/s")]
    MessagesPerSecond,
    /// A number of things.
    #[serde(rename = "count")]
    Count,
    /// Percent of one processor core.
    #[serde(rename = "percent")]
    Percent,
    /// Megabytes (10^6 bytes).
    #[serde(rename = "MB")]
    Megabytes,
}

/// What a figure should be.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Goal {
    /// What it is about.
    pub of: Subject,
    /// The limit.
    pub bound: Bound,
    /// When it counts.
    pub checked: Checked,
}

/// What a goal is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Subject {
    /// The value.
    Value,
    /// The ratio.
    Ratio,
}

/// A limit.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Bound {
    /// At most this.
    AtMost(f64),
    /// At least this.
    AtLeast(f64),
}

/// When a goal counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Checked {
    /// In every run: it is the same on every machine.
    Always,
    /// Only if that was asked for, because it depends on how fast the machine is.
    OnRequest,
}

impl Bound {
    fn holds(self, figure: f64) -> bool {
        match self {
            Self::AtMost(most) => figure <= most,
            Self::AtLeast(least) => figure >= least,
        }
    }
}

impl Row {
    pub(crate) fn new(name: &str, unit: Unit, value: impl Into<Option<f64>>) -> Self {
        Self {
            name: name.to_owned(),
            unit,
            value: value.into(),
            baseline: None,
            ratio: None,
            goals: Vec::new(),
            met: None,
            note: None,
        }
    }

    pub(crate) fn beside(mut self, what: impl Into<String>, baseline: f64) -> Self {
        self.baseline = Some(Baseline { what: what.into(), value: baseline });
        self.ratio = self.value.filter(|_| baseline > 0.0).map(|value| value / baseline);
        self
    }

    /// A goal for the ratio, which counts in every run.
    pub(crate) fn ratio(self, bound: Bound) -> Self {
        self.goal(Goal { of: Subject::Ratio, bound, checked: Checked::Always })
    }

    /// A goal for the value that holds on every machine.
    pub(crate) fn value(self, bound: Bound) -> Self {
        self.goal(Goal { of: Subject::Value, bound, checked: Checked::Always })
    }

    /// A goal for the value that depends on the machine.
    pub(crate) fn here(self, bound: Bound) -> Self {
        self.goal(Goal { of: Subject::Value, bound, checked: Checked::OnRequest })
    }

    /// Without the goals that a small run cannot judge.
    pub(crate) fn at(mut self, scale: Scale) -> Self {
        if scale == Scale::Small {
            self.goals.retain(|goal| goal.checked == Checked::Always);
            self.judge();
        }
        self
    }

    pub(crate) fn note(mut self, note: impl Into<String>) -> Self {
        self.note = Some(note.into());
        self
    }

    fn goal(mut self, goal: Goal) -> Self {
        self.goals.push(goal);
        self.judge();
        self
    }

    fn judge(&mut self) {
        let met: Option<Vec<bool>> = self.goals.iter().map(|goal| self.meets(goal)).collect();
        self.met = met.filter(|met| !met.is_empty()).map(|met| met.into_iter().all(|it| it));
    }

    /// Whether a goal is met; `None` if its subject was not measured.
    #[must_use]
    pub fn meets(&self, goal: &Goal) -> Option<bool> {
        let figure = match goal.of {
            Subject::Value => self.value,
            Subject::Ratio => self.ratio,
        };
        figure.map(|figure| goal.bound.holds(figure))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn goals() {
        let row = |value: f64| {
            Row::new("a", Unit::Count, value)
                .beside("b", 10.0)
                .ratio(Bound::AtMost(2.0))
                .here(Bound::AtLeast(5.0))
        };
        assert_eq!((row(20.0).met, row(20.0).ratio), (Some(true), Some(2.0)));
        assert_eq!(row(21.0).met, Some(false));
        assert_eq!(row(4.0).met, Some(false));
        let unknown = Row::new("a", Unit::Count, None).beside("b", 1.0).ratio(Bound::AtMost(2.0));
        assert_eq!((unknown.met, unknown.ratio), (None, None));
        assert_eq!(Row::new("a", Unit::Count, 1.0).met, None);
        let small = row(4.0).at(Scale::Small);
        assert_eq!((small.met, small.goals.len()), (Some(true), 1));
        let small = Row::new("a", Unit::Count, 9.0).here(Bound::AtMost(1.0)).at(Scale::Small);
        assert_eq!((small.met, small.goals.len()), (None, 0));
    }
}
