//! `stackctl bench`: a small run meets its goals, and an interrupted one leaves nothing behind. This is a separate test
//! binary, because it measures.

use std::{fs, path::PathBuf};

use nix::sys::signal::Signal;
use serde_json::Value;
use tempfile::TempDir;
use testkit::{
    CommandOutput, PATIENCE, RunningCommand, processes_of_directory, target_binary, wait_for,
};
use tokio::process::Command;

/// A place for the temporary files of a benchmark.
struct Place(TempDir);

impl Place {
    fn new() -> Self {
        Self(TempDir::new().unwrap())
    }

    fn bench(&self, arguments: &[&str]) -> RunningCommand {
        let mut command = Command::new(target_binary("stackctl"));
        command.arg("bench").args(arguments).env_clear().env("TMPDIR", self.0.path());
        command.env("PATH", std::env::var_os("PATH").unwrap());
        RunningCommand::start(command)
    }

    fn files(&self) -> Vec<PathBuf> {
        fs::read_dir(self.0.path()).unwrap().map(|entry| entry.unwrap().path()).collect()
    }

    fn assert_nothing_left(&self) {
        let processes = processes_of_directory(&self.0.path().canonicalize().unwrap());
        assert!(processes.is_empty(), "{processes:#?}");
        assert_eq!(self.files(), Vec::<PathBuf>::new());
    }
}

/// The goals of a small run are those that also a slow, busy machine meets without optimisations, but not a stack that
/// sends each message by itself, reads all jobs for each listing, or spends its time on idle replicas.
#[tokio::test]
async fn a_small_run_meets_its_goals() {
    let place = Place::new();
    let output = place.bench(&["--small", "--json"]).finish().await;
    let report = output.json();
    let missed: Vec<_> = rows(&report).filter(|row| row["met"] == false).collect();
    assert!(missed.is_empty(), "{missed:#?}");
    assert_eq!((output.code, &report["met"]), (0, &Value::Bool(true)), "{output:?}");
    let judged = |name: &str| {
        let row = rows(&report).find(|row| row["name"] == name);
        row.unwrap_or_else(|| panic!("no row {name}: {report:#}"))["met"] == true
    };
    for name in [
        "start: a process",
        "turnaround: last byte to three idle replicas",
        "workflow: in total",
        "relay: messages",
        "latency: messages that were timed",
        "pull: first clone",
        "pull: second clone",
        "listing: GET /api/jobs",
        "sessions: errors",
        "sessions: the gateway's share of a core",
        "processor: gateway, per workflow",
        "processor: up, per workflow",
    ] {
        assert!(judged(name), "{name} was not judged: {report:#}");
    }
    for name in ["relay: processor time per message", "latency: a message, p99"] {
        let row = rows(&report).find(|row| row["name"] == name).unwrap();
        assert!(row["value"].as_f64().unwrap() > 0.0, "{row}");
        assert_eq!(row["goals"], Value::Array(vec![]), "a small run cannot judge {name}");
    }
    place.assert_nothing_left();
}

fn rows(report: &Value) -> impl Iterator<Item = &Value> {
    report["rows"].as_array().unwrap().iter()
}

#[tokio::test]
async fn an_interrupted_run_leaves_nothing_behind() {
    let place = Place::new();
    let running = place.bench(&["--only", "relay", "--small"]);
    wait_for("a stack", PATIENCE, || async {
        let started = |path: PathBuf| {
            let entries = fs::read_dir(path).into_iter().flatten().flatten();
            entries.into_iter().any(|entry| entry.path().join(".stack/gateways").is_dir())
        };
        place.files().into_iter().any(started).then_some(())
    })
    .await;
    running.signal(Signal::SIGINT);
    let output = running.finish().await;
    assert_eq!((output.code, &*output.stdout), (130, ""), "{output:?}");
    place.assert_nothing_left();
}

#[tokio::test]
async fn what_cannot_be_compared_is_refused_before_anything_is_measured() {
    let place = Place::new();
    let file = place.0.path().join("before.json");
    fs::write(&file, "{}").unwrap();
    let output: CommandOutput = place.bench(&["--against", file.to_str().unwrap()]).finish().await;
    assert_eq!((output.code, &*output.stdout), (1, ""), "{output:?}");
    assert!(output.stderr.contains("was not written by `bench --json`"), "{output:?}");
    assert_eq!(place.files(), [file]);
}
