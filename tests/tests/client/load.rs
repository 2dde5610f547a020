//! `stackctl load` and the script on top of it: against a real stack, one whose gateway dies, and two that
//! break the rules.

use std::path::{Path, PathBuf};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use serde_json::{Value, json};
use testkit::{AgentScript, PATIENCE, RunningCommand};
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader},
    net::{TcpListener, TcpStream},
    process::Command,
    task::JoinSet,
};

use crate::support::{Scene, ran, stackctl};

/// The numbers in a report that are the same for every run.
fn counts(report: &Value) -> Value {
    let fields = ["jobs", "ended", "complete", "lost", "refused", "faults"];
    fields.into_iter().map(|field| (field.to_owned(), report[field].clone())).collect()
}

#[tokio::test]
async fn the_script_runs_both_loads_and_leaves_numbers_and_charts() {
    let scene = Scene::new().await;
    let out = scene.mark("out");
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("load/load.sh");
    let mut command = Command::new(script);
    command
        .args(["--repo", &scene.repo(), "--prompt", &AgentScript::new().say("{i}").prompt()])
        .args(["--jobs", "5", "--concurrency", "2", "--jitter-ms", "20"])
        .env_clear()
        .env("PATH", std::env::var_os("PATH").unwrap())
        .env("STACK_URL", scene.url())
        .env("STACKCTL", testkit::target_binary("stackctl"))
        .env("FIRST", "4")
        .env("OUT", &out)
        .kill_on_drop(true);
    let said = RunningCommand::start(command).finish().await;
    assert_eq!(said.code, 0, "{said:?}");
    for (name, jobs) in [("at-once", 4), ("sustained", 5)] {
        let report = std::fs::read(out.join(format!("{name}.json"))).unwrap();
        let report: Value = serde_json::from_slice(&report).unwrap();
        assert_eq!(
            counts(&report),
            json!({"jobs": jobs, "ended": jobs, "complete": jobs, "lost": 0, "refused": 0, "faults": 0})
        );
        let samples = report["samples"].as_array().unwrap();
        assert_eq!(samples.len(), jobs);
        for sample in samples {
            let ms = |field: &str| sample[field].as_u64().unwrap();
            assert!(ms("firstEventMs") <= ms("queueingMs"), "{sample}");
            assert!(ms("queueingMs") <= ms("totalMs"), "{sample}");
        }
        let total = &report["milliseconds"]["total"];
        assert!(total["p50"].as_u64() <= total["max"].as_u64(), "{total}");
        let chart = std::fs::read_to_string(out.join(format!("{name}.svg"))).unwrap();
        assert!(chart.starts_with("<svg") && chart.ends_with("</svg>\n"), "{chart}");
        let dots = chart.matches("<circle").count();
        assert_eq!(dots, 2 * jobs + 3, "two dots a job and a legend: {chart}");
    }
}

#[tokio::test]
async fn the_script_says_what_is_wrong() {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("load/load.sh");
    for (arguments, what) in [
        (&[][..], "--repo"),
        (&["--repo"], "needs a value"),
        (&["--repo", "u", "--jobs", "many"], "'many' is not a number"),
        (&["--faster"], "'--faster' is not an option"),
    ] {
        let mut command = Command::new(&script);
        command.args(arguments).env_clear().env("PATH", std::env::var_os("PATH").unwrap());
        let said = RunningCommand::start(command).finish().await;
        assert_eq!(said.code, 2, "{said:?}");
        assert!(said.stderr.contains(what), "{said:?}");
    }
}

/// The other services, failures that are outcomes, and loads that cannot start.
#[tokio::test]
async fn what_becomes_of_jobs() {
    let scene = Scene::new().await;
    let repo = scene.repo();
    let missing = scene.git.url("missing");
    let (pull, claude) = (scene.stack.pull_url(), scene.stack.claude_url());
    let base = ["load", "-n", "3", "-c", "2", "--json", "-"];
    let load = async |more: &[&str]| ran(&scene.url(), &[&base, more].concat()).await;

    let done =
        load(&["--service", "pull", "--url", &pull, "--repo", &repo, "--directory", "d{i}"]).await;
    assert_eq!((done.code, &done.json()["complete"]), (0, &json!(3)), "{done:?}");
    assert!(done.stderr.contains("nothing lost"), "{done:?}");
    let repos: Vec<_> = ["d1", "d2", "d3"].map(|name| scene.stack.workspace().join(name)).into();
    assert!(repos.iter().all(|path: &PathBuf| path.is_dir()), "{repos:?}");
    let done = load(&["--service", "claude", "--url", &claude, "--prompt", "hello"]).await;
    assert_eq!((done.code, &done.json()["complete"]), (0, &json!(3)), "{done:?}");

    let failing = ["--repo", &missing, "--prompt", "p"];
    let failed = load(&failing).await;
    assert_eq!(failed.code, 0, "an outcome is an outcome: {failed:?}");
    let outcomes = &failed.json()["outcomes"];
    assert_eq!(outcomes.as_array().unwrap().len(), 1, "{outcomes}");
    assert_eq!(outcomes[0]["count"], 3);
    assert!(outcomes[0]["outcome"].as_str().unwrap().starts_with("workflow_error "), "{outcomes}");
    let failed = load(&[&failing[..], &["--all-complete"]].concat()).await;
    assert_eq!(failed.code, 1, "{failed:?}");

    let refused = load(&["--repo", "ftp://u", "--prompt", "p"]).await;
    assert_eq!((refused.code, &refused.json()["refused"]), (1, &json!(3)), "{refused:?}");
    for (arguments, code, what) in [
        (&["load", "--prompt", "p"][..], 2, "--repo"),
        (&["load", "--repo", "u", "--svg", "/dev/null/x"], 2, "/dev/null/x"),
        (&["load", "--repo", "u", "--url", "http://127.0.0.1:1"], 3, "stackctl up"),
    ] {
        let said = ran(&scene.url(), arguments).await;
        assert_eq!(said.code, code, "{said:?}");
        assert!(said.stderr.contains(what), "{said:?}");
    }
}

#[tokio::test]
async fn a_gateway_that_dies_costs_no_job() {
    let scene = Scene::new().await;
    let prompt = scene.gated().prompt();
    let arguments =
        ["load", "-n", "4", "-c", "4", "--repo", &scene.repo(), "--prompt", &prompt, "--json", "-"];
    let running = RunningCommand::start(stackctl(&scene.url(), &arguments));
    scene.marked("began").await;
    for gateway in scene.stack.processes_of("gateway") {
        kill(Pid::from_raw(gateway.cast_signed()), Signal::SIGKILL).unwrap();
    }
    scene.open("gate");
    let said = running.finish().await;
    assert_eq!(said.code, 0, "{said:?}");
    let report = said.json();
    assert_eq!((&report["complete"], &report["lost"]), (&json!(4), &json!(0)), "{report}");
    assert!(report["breaks"].as_u64().unwrap() > 0, "{report}");
}

#[tokio::test]
async fn ctrl_c_reports_what_there_is() {
    let scene = Scene::new().await;
    let prompt = scene.gated().prompt();
    let arguments =
        ["load", "-n", "9", "-c", "3", "--repo", &scene.repo(), "--prompt", &prompt, "--json", "-"];
    let running = RunningCommand::start(stackctl(&scene.url(), &arguments));
    scene.marked("began").await;
    // The two others are in the queue, and stay there.
    testkit::wait_for("two jobs to wait", PATIENCE, || async {
        let jobs = scene.jobs().await;
        (jobs.iter().filter(|job| job["state"] == "queued").count() == 2).then_some(())
    })
    .await;
    running.signal(Signal::SIGINT);
    let said = running.finish().await;
    assert_eq!(said.code, 130, "{said:?}");
    assert_eq!(said.json()["stopped"], json!({"running": 1, "waiting": 2}), "{said:?}");
    assert!(said.stderr.contains("6 were never requested"), "{said:?}");
    scene.open("gate");
    scene.stack.wait_until_idle().await;
}

/// A server that answers a request for a job with `stream`, and a question about a job with `job`.
/// It ends with a panic if a request is not whole.
async fn impostor(stream: &'static str, job: Option<&'static str>) -> (String, JoinSet<()>) {
    let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let mut serving = JoinSet::new();
    serving.spawn(async move {
        let mut connections = JoinSet::new();
        loop {
            tokio::select! {
                accepted = listener.accept() => {
                    connections.spawn(answer(accepted.unwrap().0, stream, job));
                }
                // What fails in an answer fails the test.
                Some(answered) = connections.join_next() => answered.unwrap(),
            }
        }
    });
    (url, serving)
}

async fn answer(connection: TcpStream, stream: &str, job: Option<&str>) {
    let mut connection = BufReader::new(connection);
    let (mut head, mut length) = (String::new(), 0);
    loop {
        let read = connection.read_line(&mut head).await.unwrap();
        let line = head[head.len() - read..].trim_end().to_ascii_lowercase();
        if let Some(value) = line.strip_prefix("content-length: ") {
            length = value.parse().unwrap();
        }
        assert_ne!(read, 0, "the client closed the connection in the middle of a request: {head}");
        if line.is_empty() {
            break;
        }
    }
    let mut body = vec![0; length];
    connection.read_exact(&mut body).await.unwrap();
    let (status, kind, content) = if head.starts_with("GET /status") {
        (
            "200 OK",
            "application/json",
            r#"{"replicas": {"idle": 1, "busy": 0}, "queue": {"depth": 0}}"#,
        )
    } else if head.starts_with("POST") {
        ("200 OK", "text/event-stream", stream)
    } else if let (Some(job), false) = (job, head.contains("/events")) {
        ("200 OK", "application/json", job)
    } else {
        (
            "503 Service Unavailable",
            "application/json",
            r#"{"error": "not now", "code": "internal"}"#,
        )
    };
    let answer = format!(
        "HTTP/1.1 {status}\r\ncontent-type: {kind}\r\ncontent-length: {}\r\nconnection: close\r\n\r\n{content}",
        content.len()
    );
    // The client may have seen enough.
    let _ = connection.get_mut().write_all(answer.as_bytes()).await;
}

#[tokio::test]
async fn what_follows_the_end_is_seen() {
    let (url, mut serving) = impostor(
        "id: 1\ndata: {\"type\":\"workflow_complete\"}\n\nid: 2\ndata: {\"type\":\"workflow_error\"}\n\n",
        None,
    )
    .await;
    let said = ran(&url, &["load", "-n", "2", "--repo", "u", "--json", "-"]).await;
    assert_eq!(said.code, 1, "{said:?}");
    let report = said.json();
    assert_eq!((&report["faults"], &report["complete"]), (&json!(2), &json!(2)), "{report}");
    assert_eq!(report["problems"][0]["what"], "workflow_error after the terminal event");
    assert!(serving.try_join_next().is_none(), "the impostor failed");
}

const CUT: &str = "id: 1\ndata: {\"type\":\"message\"}\n\n";

/// Its stream breaks every time, but the job has ended.
#[tokio::test]
async fn a_job_with_an_outcome_is_not_lost() {
    let job = r#"{"jobId": "019aa001-0000-7000-8000-0123456789ab", "service": "workflow-api",
        "state": "failed", "created": "2026-01-01T00:00:00.000Z", "code": "agent_failed"}"#;
    let (url, mut serving) = impostor(CUT, Some(job)).await;
    let arguments = ["load", "-n", "2", "--repo", "u", "--retry-seconds", "1", "--json", "-"];
    let said = ran(&url, &arguments).await;
    assert_eq!(said.code, 0, "{said:?}");
    let report = said.json();
    assert_eq!(
        report["outcomes"],
        json!([{"outcome": "workflow_error agent_failed", "complete": false, "count": 2}])
    );
    let told = report["problems"].to_string();
    assert!(told.contains("but the job has ended: failed"), "{told}");
    assert!(serving.try_join_next().is_none(), "the impostor failed");
}

#[tokio::test]
async fn a_job_without_an_outcome_is_lost() {
    let (url, mut serving) = impostor(CUT, None).await;
    let arguments = ["load", "-n", "2", "--repo", "u", "--retry-seconds", "1", "--json", "-"];
    let said = ran(&url, &arguments).await;
    assert_eq!(said.code, 1, "{said:?}");
    let report = said.json();
    assert_eq!((&report["lost"], &report["complete"]), (&json!(2), &json!(0)), "{report}");
    assert_eq!(report["outcomes"], json!([{"outcome": "lost", "complete": false, "count": 2}]));
    assert!(serving.try_join_next().is_none(), "the impostor failed");
}
