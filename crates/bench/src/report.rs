//! The rows of a run, as they are saved and compared.

use serde::{Deserialize, Serialize};

use crate::{Checked, Row, Scale};

/// A run, as it is written with `--json` and read with `--against`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Report {
    /// How much was measured.
    pub scale: Scale,
    /// Whether the stack was built with optimisations.
    pub optimised: bool,
    /// How many processors the machine has.
    pub processors: usize,
    /// How long the run took, in seconds.
    pub seconds: f64,
    /// Whether every goal that counts is met.
    pub met: bool,
    /// The figures.
    pub rows: Vec<Row>,
}

impl Report {
    /// Whether every goal is met that counts in every run, or every goal at all. A figure that could not be measured
    /// misses no goal.
    #[must_use]
    pub fn meets(rows: &[Row], checked: Checked) -> bool {
        let missed = |row: &Row| {
            row.goals.iter().any(|goal| {
                (checked == Checked::OnRequest || goal.checked == Checked::Always)
                    && row.meets(goal) == Some(false)
            })
        };
        !rows.iter().any(missed)
    }

    /// The row with this name.
    #[must_use]
    pub fn row(&self, name: &str) -> Option<&Row> {
        self.rows.iter().find(|row| row.name == name)
    }
}

#[cfg(test)]
mod tests {
    use crate::{Bound, Unit};

    use super::*;

    #[test]
    fn goals_that_depend_on_the_machine_count_on_request() {
        let row = Row::new("a", Unit::Milliseconds, 9.0).here(Bound::AtMost(1.0));
        assert!(Report::meets(std::slice::from_ref(&row), Checked::Always));
        assert!(!Report::meets(std::slice::from_ref(&row), Checked::OnRequest));
        let row = row.beside("b", 1.0).ratio(Bound::AtMost(2.0));
        assert!(!Report::meets(&[row], Checked::Always));
    }

    #[test]
    fn a_saved_report_is_read_again() {
        let row = Row::new("a", Unit::MessagesPerSecond, 9.0).beside("b", 3.0).note("n");
        let report = Report {
            scale: Scale::Small,
            optimised: false,
            processors: 2,
            seconds: 1.5,
            met: true,
            rows: vec![row.ratio(Bound::AtLeast(0.5))],
        };
        let text = serde_json::to_string(&report).unwrap();
        assert_eq!(serde_json::from_str::<Report>(&text).unwrap(), report);
    }
}
