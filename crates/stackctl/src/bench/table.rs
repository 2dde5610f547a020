//! The figures for people.

use anstyle::{AnsiColor, Style};
use bench::{Bound, Goal, Report, Row, Scale, Subject, Unit};

use crate::client::table::{self, Column};

/// The table, and what has to be said below it. `before` is an earlier run to compare with.
pub(super) fn lines(report: &Report, before: Option<&Report>) -> Vec<String> {
    let mut columns = vec![
        ("FIGURE", Column::Text),
        ("VALUE", Column::Number),
        ("BASELINE", Column::Number),
        ("RATIO", Column::Number),
        ("GOAL", Column::Text),
        ("MET", Column::Text),
    ];
    if before.is_some() {
        columns.extend([("BEFORE", Column::Number), ("CHANGE", Column::Number)]);
    }
    columns.push(("BASELINE IS", Column::Text));
    let rows = report.rows.iter().map(|row| {
        let mut cells = vec![
            row.name.clone(),
            row.value.map_or_else(unknown, |value| amount(value, row.unit)),
            row.baseline.as_ref().map_or_else(String::new, |it| amount(it.value, row.unit)),
            row.ratio.map_or_else(String::new, number),
            row.goals.iter().map(|goal| goal_text(goal, row.unit)).collect::<Vec<_>>().join(", "),
            row.met.map_or_else(unknown, |met| if met { "yes" } else { "no" }.to_owned()),
        ];
        if let Some(before) = before {
            let old = before.row(&row.name).and_then(|row| row.value);
            cells.push(old.map_or_else(unknown, |value| amount(value, row.unit)));
            cells.push(change(old, row.value));
        }
        cells.push(row.baseline.as_ref().map_or_else(String::new, |it| it.what.clone()));
        (style(row), cells)
    });
    let mut lines = table::lines(&columns, rows, None);
    let noted = report.rows.iter().filter_map(|row| Some((row, row.note.as_ref()?)));
    lines.extend(noted.map(|(row, note)| format!("{}: {note}", row.name)));
    let built = if report.optimised { "" } else { ", without optimisations" };
    let small = if report.scale == Scale::Small { "; a small run" } else { "" };
    lines.push(format!(
        "{} processors{built}; it took {:.0} s{small}",
        report.processors, report.seconds
    ));
    if before.is_some_and(|it| it.scale != report.scale || it.optimised != report.optimised) {
        lines.push("The earlier run was of another kind, so the change may mean nothing.".into());
    }
    lines
}

fn style(row: &Row) -> Style {
    match row.met {
        Some(true) => AnsiColor::Green.on_default(),
        Some(false) => AnsiColor::Red.on_default(),
        None => Style::new(),
    }
}

fn unknown() -> String {
    "—".to_owned()
}

fn goal_text(goal: &Goal, unit: Unit) -> String {
    let (sign, limit) = match goal.bound {
        Bound::AtMost(limit) => ("≤", limit),
        Bound::AtLeast(limit) => ("≥", limit),
    };
    match goal.of {
        Subject::Ratio => format!("{sign} {}×", number(limit)),
        Subject::Value => format!("{sign} {}", amount(limit, unit)),
    }
}

/// The change from one value to another.
fn change(old: Option<f64>, new: Option<f64>) -> String {
    match (old, new) {
        (Some(old), Some(new)) if old != 0.0 => format!("{:+.0} %", (new / old - 1.0) * 100.0),
        _ => unknown(),
    }
}

fn amount(value: f64, unit: Unit) -> String {
    let unit = match unit {
        Unit::Milliseconds => " ms",
        Unit::Microseconds => " µs",
        Unit::MessagesPerSecond => "/s",
        Unit::Count => "",
        Unit::Percent => " %",
        Unit::Megabytes => " MB",
    };
    format!("{}{unit}", number(value))
}

/// Three significant digits.
fn number(value: f64) -> String {
    let digits = match value.abs() {
        0.0 => 0,
        ..1.0 => 3,
        ..10.0 => 2,
        ..100.0 => 1,
        _ => 0,
    };
    let text = format!("{value:.digits$}");
    if text.contains('.') {
        text.trim_end_matches('0').trim_end_matches('.').to_owned()
    } else {
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report(value: f64, scale: Scale) -> Report {
        let row = serde_json::json!({
            "name": "relay: messages", "unit": "messages/s", "value": value,
            "baseline": {"what": "the agent alone", "value": 400_000.0}, "ratio": value / 400_000.0,
            "goals": [{"of": "ratio", "bound": {"atLeast": 0.6}, "checked": "always"}],
            "met": false, "note": "a busy machine",
        });
        let rows = vec![serde_json::from_value(row).unwrap()];
        Report { scale, optimised: true, processors: 2, seconds: 9.0, met: false, rows }
    }

    fn plain(report: &Report, before: Option<&Report>) -> Vec<String> {
        let lines = lines(report, before);
        lines.iter().map(|line| anstream::adapter::strip_str(line).to_string()).collect()
    }

    #[test]
    fn a_run_alone() {
        let lines = plain(&report(100_000.0, Scale::Full), None);
        let expected = [
            "FIGURE              VALUE  BASELINE  RATIO  GOAL    MET  BASELINE IS",
            "relay: messages  100000/s  400000/s   0.25  ≥ 0.6×  no   the agent alone",
            "relay: messages: a busy machine",
            "2 processors; it took 9 s",
        ];
        assert_eq!(lines, expected);
    }

    #[test]
    fn beside_an_earlier_run() {
        let before = report(80_000.0, Scale::Small);
        let lines = plain(&report(100_000.0, Scale::Full), Some(&before));
        assert!(lines[1].contains(" 80000/s   +25 % "), "{lines:#?}");
        assert!(lines.last().unwrap().contains("of another kind"), "{lines:#?}");
    }

    #[test]
    fn numbers_have_three_digits() {
        let numbers = [0.0, 0.0123, 0.5, 2.0, 3.456, 34.56, 345.6, -0.5].map(number);
        assert_eq!(numbers, ["0", "0.012", "0.5", "2", "3.46", "34.6", "346", "-0.5"]);
    }
}
