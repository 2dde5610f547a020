//! Ctrl-C where nobody can be asked.

use std::process::Stdio;

use nix::sys::signal::Signal;
use serde_json::json;
use testkit::{AgentScript, Fault, PATIENCE, RunningCommand, SseClient, wait_for};

use crate::support::{Scene, id_of, ran, stackctl};

#[tokio::test]
async fn interrupted_it_leaves_a_running_job_alone_and_says_how_to_come_back() {
    let scene = Scene::new().await;
    let url = scene.url();
    let run = RunningCommand::start(scene.run(&url, &scene.gated(), &[]));
    run.prints("began").await;
    run.signal(Signal::SIGINT);
    let said = run.finish().await;
    assert_eq!(said.code, 130, "{said:?}");
    let id = id_of(&scene.workflow_is("running").await);
    let end = &id[id.len() - 8..];
    let come_back = format!("`stackctl attach {end} --url {url}`");
    assert!(said.stderr.contains(&come_back) && said.stderr.contains("cancel"), "{said:?}");

    let attach = RunningCommand::start(stackctl(&url, &["attach", end]));
    attach.prints("began").await;
    scene.open("gate");
    let said = attach.finish().await;
    assert_eq!(said.code, 0, "{said:?}");
    assert!(said.stdout.contains("  began\n  went on\n"), "{said:?}");
}

/// Nobody else waits for it, and it has not cost anything.
#[tokio::test]
async fn a_job_that_waits_is_given_up() {
    let scene = Scene::new().await;
    let url = scene.url();
    let running = RunningCommand::start(scene.run(&url, &scene.gated(), &[]));
    running.prints("began").await;
    for signal in [Signal::SIGINT, Signal::SIGTERM] {
        let never = AgentScript::new().log_run(scene.mark("never"));
        let waiting = RunningCommand::start(scene.run(&url, &never, &[]));
        waiting.prints("Waiting: place 1 in the queue of workflow-api").await;
        waiting.signal(signal);
        let said = waiting.finish().await;
        assert_eq!(said.code, 130, "{said:?}");
        assert!(said.stdout.lines().last().unwrap().starts_with("Cancelled"), "{said:?}");
        scene.workflow_is("cancelled").await;
    }
    scene.open("gate");
    assert_eq!(running.finish().await.code, 0);
    assert!(!scene.mark("never").exists());
    assert_eq!(ran(&url, &["jobs"]).await.stdout.matches("cancelled").count(), 4);
}

/// As `head` does.
#[tokio::test]
async fn a_reader_who_has_seen_enough_leaves_the_job_alone() {
    let scene = Scene::new().await;
    let url = scene.url();
    let mut command = scene.run(&url, &scene.gated().flood(5, 100), &[]);
    let mut run = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    scene.marked("began").await;
    drop(run.stdout.take());
    scene.open("gate");
    let output = tokio::time::timeout(PATIENCE, run.wait_with_output()).await.unwrap().unwrap();
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(130), "{stderr}");
    assert!(stderr.contains("left the job running"), "{stderr}");
    scene.workflow_is("succeeded").await;
}

/// The job is complete, but no replica is there to look at what it has changed.
#[tokio::test]
async fn a_look_at_the_changes_ends_with_a_signal() {
    let scene = Scene::new().await;
    let url = scene.url();
    scene.git.create_repo("slow", &[("a", "1\n")]);
    scene.git.set_fault("slow", Fault::Stall);
    for (more, signal, code) in [
        (&[][..], Signal::SIGINT, 0),
        (&["--apply"][..], Signal::SIGINT, 130),
        (&["--apply", "--json"][..], Signal::SIGTERM, 130),
    ] {
        let gate = scene.mark("gate");
        let _ = std::fs::remove_file(&gate);
        let _ = std::fs::remove_file(scene.mark("began"));
        let mut command = scene.run(&url, &scene.gated(), more);
        command
            .current_dir(env!("CARGO_MANIFEST_DIR"))
            .env("PATH", std::env::var_os("PATH").unwrap());
        let run = RunningCommand::start(command);
        scene.marked("began").await;
        let body = json!({"repoUrl": scene.git.url("slow")});
        let pull = SseClient::post(&format!("{}/api/pull", scene.stack.pull_url()), &body);
        let mut pull = pull.allow_cut().header("x-on-disconnect", "cancel").send().await;
        pull.next_of_kind("connected").await;
        scene.open("gate");
        wait_for("the look to wait", PATIENCE, || async {
            let jobs = scene.jobs().await;
            jobs.iter()
                .any(|job| job["changesOf"].is_string() && job["state"] == "queued")
                .then_some(())
        })
        .await;
        run.signal(signal);
        let said = run.finish().await;
        assert_eq!(said.code, code, "{said:?}");
        assert_eq!(said.stderr.contains("Nothing was applied"), code == 130, "{said:?}");
        let plain = !more.contains(&"--json");
        assert_eq!(said.stdout.contains("\nNext: "), plain, "{said:?}");
        drop(pull);
        scene.stack.wait_until_idle().await;
    }
}
