//! A snapshot for people. Pure.

use std::{collections::BTreeMap, fmt::Write as _};

use anstyle::{AnsiColor, Style};
use contract::Timestamp;
use transcript::{between, one_line};

use super::snapshot::{Count, Exactness, Failure, ReplicaRow, ServiceRow, Snapshot};
use crate::client::table::{
    Column::{self, Elastic, Number, Text},
    lines,
};

const SERVICES: [(&str, Column); 11] = [
    ("SERVICE", Text),
    ("REPLICAS", Number),
    ("IDLE", Number),
    ("BUSY", Number),
    ("QUEUED", Number),
    ("CPU", Number),
    ("MEMORY", Number),
    ("JOBS/H", Number),
    ("FAILED", Number),
    ("RESTARTS/H", Number),
    ("STATES", Elastic),
];
const REPLICAS: [(&str, Column); 8] = [
    ("REPLICA", Text),
    ("STATE", Text),
    ("SINCE", Number),
    ("CPU", Number),
    ("MEMORY", Number),
    ("NODE", Text),
    ("JOB", Text),
    ("WORKS ON", Elastic),
];
const FAILURES: [(&str, Column); 3] =
    [("LAST FAILURE OF", Text), ("AGO", Number), ("WHAT", Elastic)];

/// The snapshot as lines of at most `width` cells. A stream that is not a terminal removes the styles.
pub(crate) fn draw(snapshot: &Snapshot, width: Option<u16>) -> String {
    let (bold, dim) = (Style::new().bold(), Style::new().dimmed());
    let mut text = format!("{bold}{}{bold:#}\n\n", capital(&snapshot.target));
    let services = snapshot.services.iter().map(|row| (style_of_service(row), service(row)));
    add(&mut text, &SERVICES, services, width);
    // Idle replicas are in the column of that name.
    let (idle, others): (Vec<_>, Vec<_>) =
        snapshot.replicas.iter().partition(|row| row.state == "idle");
    let replicas = others.into_iter().map(|row| (style_of_replica(row), replica(row, snapshot.at)));
    add(&mut text, &REPLICAS, replicas, width);
    if !idle.is_empty() {
        let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
        idle.iter().for_each(|row| *counts.entry(&row.service).or_default() += 1);
        let counts: Vec<_> =
            counts.into_iter().map(|(service, count)| format!("{count} {service}")).collect();
        let _ = writeln!(text, "{dim}idle: {}{dim:#}\n", counts.join(", "));
    }
    let red = AnsiColor::Red.on_default();
    let failures = snapshot.failures.iter().map(|it| (red, failure(it, snapshot.at)));
    add(&mut text, &FAILURES, failures, width);
    for note in &snapshot.notes {
        let _ = writeln!(text, "{dim}{}{dim:#}", one_line(note, 400));
    }
    text
}

/// Adds a table and an empty line, or nothing if it has no rows.
fn add(
    text: &mut String,
    columns: &[(&str, Column)],
    rows: impl Iterator<Item = (Style, Vec<String>)>,
    width: Option<u16>,
) {
    let lines = lines(columns, rows, width);
    if lines.len() > 1 {
        text.push_str(&lines.join("\n"));
        text.push_str("\n\n");
    }
}

fn working(row: &ServiceRow) -> usize {
    ["running", "idle", "busy"].iter().filter_map(|state| row.states.get(*state)).sum()
}

fn style_of_service(row: &ServiceRow) -> Style {
    if u64::try_from(working(row)).is_ok_and(|working| working >= row.wanted) {
        Style::new()
    } else {
        AnsiColor::Yellow.on_default()
    }
}

fn service(row: &ServiceRow) -> Vec<String> {
    let number = |value: Option<usize>| value.map_or("-".to_owned(), |value| value.to_string());
    let states = row.states.iter().map(|(state, count)| format!("{count} {state}"));
    let update = row.update.as_ref().map(|update| format!("update {update}"));
    vec![
        row.service.clone(),
        format!("{}/{}", working(row), row.wanted),
        number(row.idle),
        number(row.busy),
        number(row.queued),
        percent(row.cpu_percent),
        memory(row.memory_bytes),
        count(row.jobs),
        count(row.jobs_failed),
        count(row.restarts),
        states.chain(update).collect::<Vec<_>>().join(", "),
    ]
}

fn style_of_replica(row: &ReplicaRow) -> Style {
    match row.state.as_str() {
        "running" => Style::new(),
        "busy" => AnsiColor::Cyan.on_default(),
        _ => AnsiColor::Yellow.on_default(),
    }
}

fn replica(row: &ReplicaRow, now: Timestamp) -> Vec<String> {
    let text = |text: &Option<String>| text.clone().unwrap_or_else(|| "-".to_owned());
    vec![
        format!("{}.{}", row.service, row.slot),
        row.state.clone(),
        row.since.map_or("-".to_owned(), |since| between(since, now)),
        percent(row.cpu_percent),
        memory(row.memory_bytes),
        text(&row.node),
        text(&row.job),
        text(&row.work),
    ]
}

fn failure(failure: &Failure, now: Timestamp) -> Vec<String> {
    vec![failure.of.clone(), between(failure.at, now), failure.what.clone()]
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
