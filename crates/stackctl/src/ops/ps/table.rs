//! A snapshot for people. Pure.

use std::fmt::Write as _;

use anstyle::{AnsiColor, Style};
use contract::Timestamp;

use super::snapshot::{Count, Exactness, ReplicaRow, ServiceRow, Snapshot};
use crate::client::{between, one_line};

/// Draws it; the stream takes the styles out where they are not seen.
pub(crate) fn draw(snapshot: &Snapshot) -> String {
    let (bold, dim) = (Style::new().bold(), Style::new().dimmed());
    let mut text = format!("{bold}{}{bold:#}\n\n", capital(&snapshot.target));
    let _ = writeln!(
        text,
        "{bold}{:<17}{:>9}{:>6}{:>6}{:>7}{:>8}{:>11}{:>8}{:>8}{:>11}  STATES{bold:#}",
        "SERVICE",
        "REPLICAS",
        "IDLE",
        "BUSY",
        "QUEUED",
        "CPU",
        "MEMORY",
        "JOBS/H",
        "FAILED",
        "RESTARTS/H"
    );
    for row in &snapshot.services {
        service(&mut text, row);
    }
    if !snapshot.replicas.is_empty() {
        let _ = writeln!(
            text,
            "\n{bold}{:<20}{:<11}{:>12}{:>8}{:>11}  {:<10}NODE{bold:#}",
            "REPLICA", "STATE", "SINCE", "CPU", "MEMORY", "JOB"
        );
    }
    for row in &snapshot.replicas {
        replica(&mut text, row, snapshot.at);
    }
    if !snapshot.failures.is_empty() {
        let _ = writeln!(text, "\n{bold}LAST FAILURES{bold:#}");
    }
    for failure in &snapshot.failures {
        let red = AnsiColor::Red.on_default();
        let ago = between(failure.at, snapshot.at);
        let _ = writeln!(text, "{red}{:<20}{red:#}{ago:>12} ago  {}", failure.of, failure.what);
    }
    for note in &snapshot.notes {
        let _ = writeln!(text, "\n{dim}{}{dim:#}", one_line(note, 400));
    }
    text
}

fn service(text: &mut String, row: &ServiceRow) {
    let there: usize =
        row.states.iter().filter(|(state, _)| *state != "leaving").map(|(_, count)| count).sum();
    let up: usize =
        ["running", "idle", "busy"].iter().filter_map(|state| row.states.get(*state)).sum();
    let style = if u64::try_from(up).is_ok_and(|up| up >= row.wanted) {
        AnsiColor::Green.on_default()
    } else if there > 0 || row.wanted > 0 {
        AnsiColor::Yellow.on_default()
    } else {
        Style::new()
    };
    let number = |value: Option<usize>| value.map_or("-".to_owned(), |value| value.to_string());
    let states: Vec<_> =
        row.states.iter().map(|(state, count)| format!("{count} {state}")).collect();
    let update =
        row.update.as_ref().map(|update| format!("  (update {update})")).unwrap_or_default();
    let _ = writeln!(
        text,
        "{:<17}{style}{:>9}{style:#}{:>6}{:>6}{:>7}{:>8}{:>11}{:>8}{:>8}{:>11}  {}{update}",
        row.service,
        format!("{up}/{}", row.wanted),
        number(row.idle),
        number(row.busy),
        number(row.queued),
        percent(row.cpu_percent),
        memory(row.memory_bytes),
        count(row.jobs),
        count(row.jobs_failed),
        count(row.restarts),
        states.join(", "),
    );
}

fn replica(text: &mut String, row: &ReplicaRow, now: Timestamp) {
    let style = match row.state.as_str() {
        "idle" | "running" => AnsiColor::Green.on_default(),
        "busy" => AnsiColor::Cyan.on_default(),
        _ => AnsiColor::Yellow.on_default(),
    };
    let line = format!(
        "{:<20}{style}{:<11}{style:#}{:>12}{:>8}{:>11}  {:<10}{}",
        format!("{}.{}", row.service, row.slot),
        row.state,
        row.since.map(|since| between(since, now)).unwrap_or_default(),
        percent(row.cpu_percent),
        memory(row.memory_bytes),
        row.job.as_deref().unwrap_or("-"),
        row.node.as_deref().unwrap_or("-"),
    );
    text.push_str(line.trim_end());
    text.push('\n');
}

fn percent(value: Option<f64>) -> String {
    value.map_or("-".to_owned(), |value| format!("{value:.1} %"))
}

fn memory(bytes: Option<u64>) -> String {
    bytes.map_or("-".to_owned(), |bytes| indicatif::BinaryBytes(bytes).to_string())
}

fn count(count: Option<Count>) -> String {
    match count {
        None => "-".to_owned(),
        Some(Count { count, exact: Exactness::Exact }) => count.to_string(),
        Some(Count { count, exact: Exactness::About }) => format!("~{count}"),
        Some(Count { count, exact: Exactness::AtLeast }) => format!("{count}+"),
    }
}

fn capital(text: &str) -> String {
    let mut chars = text.chars();
    chars.next().map(|first| first.to_uppercase().chain(chars).collect()).unwrap_or_default()
}
