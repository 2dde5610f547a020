//! A full workspace.

use std::{fs, path::Path, process::Command};

use serde_json::{Value, json};
use testkit::{AgentScript, GitServer, Stack, http_json, skip, wait_for};

use crate::support::{
    Marks, PATIENCE, all_jobs, events_of, execute, get, post_execute, post_pull, post_workflow,
    terminal, wait_for_state, workflow,
};

/// A small file system of its own.
struct Volume {
    directory: tempfile::TempDir,
}

impl Volume {
    fn mount(megabytes: u32) -> Option<Self> {
        let directory = tempfile::tempdir().unwrap();
        let size = format!("size={megabytes}m");
        let mounted = Command::new("mount")
            .args(["-t", "tmpfs", "-o", &size, "tmpfs"])
            .arg(directory.path())
            .output()
            .is_ok_and(|output| output.status.success());
        mounted.then_some(Self { directory })
    }

    fn path(&self) -> &Path {
        self.directory.path()
    }

    /// Fills all the space that is left.
    fn fill(&self) {
        use std::io::Write as _;
        let mut file = fs::File::create(self.path().join("filler")).unwrap();
        for block in [1 << 20, 1 << 12, 1] {
            while file.write_all(&vec![b'x'; block]).is_ok() {}
        }
    }

    fn make_room(&self) {
        fs::remove_file(self.path().join("filler")).unwrap();
    }
}

impl Drop for Volume {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(self.path()).status();
    }
}

/// Waits until `/health` reports this status. It looks at the volume at most once a second.
async fn wait_for_health(stack: &Stack, status: &str) -> Value {
    let url = format!("{}/health", stack.workflow_url());
    wait_for(&format!("/health to be {status}"), PATIENCE, || async {
        let (answer, health) = get(&url).await;
        assert_eq!(answer, 200, "{health}");
        (health["status"] == status).then_some(health)
    })
    .await
}

async fn refusal(stack: &Stack, body: &Value) -> (u16, Value) {
    let url = format!("{}/api/execute", stack.claude_url());
    let headers = [("content-type", "application/json")];
    let (status, _, error) = http_json("POST", &url, Some(body.to_string().into()), &headers).await;
    (status.as_u16(), error)
}

#[tokio::test]
async fn on_a_full_volume_jobs_end_reads_work_and_it_recovers() {
    let test = "on_a_full_volume_jobs_end_reads_work_and_it_recovers";
    let Some(volume) = Volume::mount(32) else {
        return skip(test, "a tmpfs cannot be mounted here");
    };
    let git = GitServer::start().await;
    git.create_repo("app", &[("a", "a")]);
    let stack = Stack::builder().replicas(2, 1, 2).workspace(volume.path()).start().await;
    let marks = Marks::new();
    let before = post_workflow(&stack, &workflow(&git.url("app"), &AgentScript::new().say("x")))
        .send()
        .await
        .collect_all()
        .await;
    assert_eq!(terminal(&before)["type"], "workflow_complete");
    stack.wait_until_idle().await;

    // A workflow and an agent run are in progress, and a third job waits for a replica.
    let script = |name: &str| {
        AgentScript::new().touch(marks.path(name)).wait_file(marks.path("gate")).flood(1000, 1000)
    };
    let mut flow = post_workflow(&stack, &workflow(&git.url("app"), &script("flow"))).send().await;
    let mut run = post_execute(&stack, &execute(&script("run"))).send().await;
    marks.wait("flow").await;
    marks.wait("run").await;
    let mut waiting = post_execute(&stack, &execute(&AgentScript::new().say("x"))).send().await;
    waiting.next_of_kind("queued").await;
    let mut unwanted = post_execute(&stack, &execute(&AgentScript::new().say("x"))).send().await;
    unwanted.next_of_kind("queued").await;

    volume.fill();
    let cancel = format!("{}/api/jobs/{}/cancel", stack.claude_url(), unwanted.job_id());
    assert_eq!(http_json("POST", &cancel, None, &[]).await.0.as_u16(), 202);
    assert_eq!(terminal(&unwanted.collect_all().await)["code"], "cancelled");
    let (status, error) = refusal(&stack, &execute(&AgentScript::new().say("x"))).await;
    assert_eq!((status, &error["code"]), (507, &json!("disk_full")), "{error}");
    let events = events_of(&stack, &flow.job_id(), contract::Service::Workflow);
    let mut second_reader = events.send().await;
    marks.open("gate");
    for (name, response) in [("the workflow", &mut flow), ("the run", &mut run)] {
        let events = response.collect_all().await;
        assert_eq!(terminal(&events)["code"], "disk_full", "{name}: {}", terminal(&events));
    }
    assert_eq!(terminal(&second_reader.collect_all().await)["code"], "disk_full");

    // Reads are answered all the time.
    let health = wait_for_health(&stack, "degraded").await;
    assert!(health["problems"].to_string().contains("the workspace is full"), "{health}");
    assert_eq!(get(&format!("{}/status", stack.claude_url())).await.0, 200);
    // The job that waited has a free replica now, and may be running at this moment. The agent of the workflow is being ended.
    wait_for("the others to end", PATIENCE, || async {
        let jobs = all_jobs(&stack).await;
        let mut others = jobs.iter().filter(|job| job["jobId"] != waiting.job_id());
        others.all(|job| job["state"] != "running").then_some(())
    })
    .await;

    volume.make_room();
    // The job that waited has either run or ended with `disk_full`; it is not forgotten.
    let end = waiting.collect_all().await;
    let end = terminal(&end);
    assert!(end["type"] == "completed" || end["code"] == "disk_full", "{end}");
    let after = post_workflow(&stack, &workflow(&git.url("app"), &AgentScript::new().say("x")))
        .send()
        .await
        .collect_all()
        .await;
    assert_eq!(terminal(&after)["type"], "workflow_complete");
    stack.wait_until_idle().await;
    wait_for_health(&stack, "ok").await;
    assert_eq!(fs::read_dir(volume.path().join(".stack/tmp")).unwrap().count(), 0);
}

#[tokio::test]
async fn a_pull_that_does_not_fit_ends_and_leaves_nothing_behind() {
    let test = "a_pull_that_does_not_fit_ends_and_leaves_nothing_behind";
    let Some(volume) = Volume::mount(16) else {
        return skip(test, "a tmpfs cannot be mounted here");
    };
    let git = GitServer::start().await;
    git.create_big_repo("big", 40, 1_000_000);
    git.create_repo("small", &[("a", "a")]);
    let stack = Stack::builder().workspace(volume.path()).start().await;
    let events =
        post_pull(&stack, &json!({"repoUrl": git.url("big")})).send().await.collect_all().await;
    assert_eq!(terminal(&events)["code"], "disk_full", "{}", terminal(&events));
    let events =
        post_pull(&stack, &json!({"repoUrl": git.url("small")})).send().await.collect_all().await;
    assert_eq!(terminal(&events)["type"], "completed", "{}", terminal(&events));
}

#[tokio::test]
async fn a_journal_has_a_size_limit() {
    let stack = Stack::builder().env("JOURNAL_LIMIT_MIB", "1").start().await;
    let script = AgentScript::new().flood(3000, 1000);
    let mut response = post_execute(&stack, &execute(&script)).send().await;
    let events = response.collect_all().await;
    assert_eq!(terminal(&events)["code"], "journal_full", "{}", terminal(&events));
    let journal =
        stack.workspace().join(".stack/jobs").join(response.job_id()).join("events.ndjson");
    let length = fs::metadata(journal).unwrap().len();
    assert!((1_000_000..=1 << 20).contains(&length), "{length}");
    wait_for_state(&stack, &response.job_id(), "failed").await;
    stack.wait_until_idle().await;
}
