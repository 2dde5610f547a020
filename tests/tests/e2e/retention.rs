//! What is old is deleted, and what somebody uses stays.

use std::{fs, path::Path};

use contract::Timestamp;
use hmac::{Hmac, KeyInit as _, Mac as _};
use serde_json::{Value, json};
use sha2::Sha256;
use testkit::{
    AgentScript, CommandOutput, GitServer, RunningCommand, Stack, http_json, target_binary,
    wait_for,
};
use tokio::process::Command;

use crate::support::{
    Marks, PATIENCE, all_jobs, execute, job, post_execute, post_workflow, terminal, workflow,
};

/// Runs `stackctl gc` on a workspace.
async fn gc(workspace: &Path, arguments: &[&str]) -> CommandOutput {
    let mut command = Command::new(target_binary("stackctl"));
    command.arg("gc").args(arguments).arg("--workspace").arg(workspace);
    RunningCommand::start(command).finish().await
}

/// The kinds and names of what `gc` reports.
fn items(output: &CommandOutput) -> Vec<(String, String)> {
    assert_eq!(output.code, 0, "{output:?}");
    let report: Value = serde_json::from_str(&output.stdout).unwrap();
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    let items = report["items"].as_array().unwrap().iter();
    items.map(|item| (text(&item["kind"]), text(&item["name"]))).collect()
}

/// Sets a time in a record that many days back, and signs it as the stack does. `about` says what it is about.
fn set_back(secret: &str, about: &str, path: &Path, field: &str, days: i64) {
    let mut file: Value = serde_json::from_slice(&fs::read(path).unwrap()).unwrap();
    let then = Timestamp::now().as_millisecond() - days * 86_400_000;
    assert!(file[field].is_string(), "{file}");
    file[field] = json!(Timestamp::from_millisecond(then));
    file.as_object_mut().unwrap().remove("proof");
    fs::remove_file(path).unwrap();
    let record = file.to_string();
    let key: Vec<u8> =
        (0..64).step_by(2).map(|at| u8::from_str_radix(&secret[at..at + 2], 16).unwrap()).collect();
    let mut mac = Hmac::<Sha256>::new_from_slice(&key).unwrap();
    mac.update(format!("{about}\n{record}").as_bytes());
    let proof = mac.finalize().into_bytes().into_iter().map(|byte| format!("{byte:02x}"));
    let proof: String = proof.collect();
    fs::write(path, format!(r#"{{"proof":"{proof}",{}"#, &record[1..])).unwrap();
}

/// Runs a workflow, and returns its ID and its session.
async fn run(stack: &Stack, body: &Value) -> (String, String) {
    let mut response = post_workflow(stack, body).send().await;
    let events = response.collect_all().await;
    assert_eq!(terminal(&events)["type"], "workflow_complete");
    let connected = events.iter().rfind(|event| event.json["sessionId"].is_string()).unwrap();
    (response.job_id(), connected.json["sessionId"].as_str().unwrap().to_owned())
}

#[tokio::test]
async fn old_checkouts_go_and_one_in_which_a_job_works_stays() {
    let git = GitServer::start().await;
    git.create_repo("app.git", &[("README.md", "hello\n")]);
    let repo = git.url("app.git");
    let stack = Stack::builder().replicas(1, 1, 1).start().await;
    let workspace = stack.workspace().to_owned();
    let (old, old_session) = run(&stack, &workflow(&repo, &AgentScript::new())).await;
    let (used, session) = run(&stack, &workflow(&repo, &AgentScript::new())).await;
    let (new, _) = run(&stack, &workflow(&repo, &AgentScript::new())).await;
    let mut body = workflow(&repo, &AgentScript::new());
    body["retain"] = "none".into();
    let (discarded, _) = run(&stack, &body).await;
    let checkout = |id: &str| workspace.join("jobs").join(id);
    wait_for("the checkout to be discarded", PATIENCE, || async {
        (!checkout(&discarded).exists()).then_some(())
    })
    .await;

    let secret = fs::read_to_string(workspace.join(".stack/secret")).unwrap();
    for (id, session) in [(&old, &old_session), (&used, &session)] {
        let job = workspace.join(".stack/jobs").join(id);
        let record: Value =
            serde_json::from_slice(&fs::read(job.join("job.json")).unwrap()).unwrap();
        let about = format!("record outcome {id} {}", record["proof"].as_str().unwrap());
        set_back(&secret, &about, &job.join("outcome"), "ended", 8);
        let meta = workspace.join(".stack/sessions").join(session).join("meta.json");
        set_back(&secret, &format!("record session {session}"), &meta, "updated", 8);
    }
    // The index has the old times. Without it, it is built again. The gateway may be building it at any time, so it goes
    // with one rename.
    fs::rename(workspace.join(".stack/ended"), workspace.join(".stack/old-index")).unwrap();
    let marks = Marks::new();
    let script = AgentScript::new().touch(marks.path("began")).wait_file(marks.path("gate"));
    let mut body = execute(&script);
    body["resumeSessionId"] = session.clone().into();
    let mut running = post_execute(&stack, &body).send().await;
    marks.wait("began").await;

    let expected =
        [("session".to_owned(), old_session.clone()), ("checkout".to_owned(), old.clone())];
    assert_eq!(items(&gc(&workspace, &["--dry-run", "--json"]).await), expected);
    assert!(checkout(&old).exists(), "a look deletes nothing");
    assert_eq!(items(&gc(&workspace, &["--json"]).await), expected);
    assert!(!checkout(&old).exists());
    for kept in [&used, &new] {
        assert!(checkout(kept).join("app").exists(), "{kept}");
    }
    assert_eq!(job(&stack, &old).await["state"], "succeeded", "its record stays");
    let table = gc(&workspace, &[]).await;
    assert!(table.stdout.starts_with("nothing is too old; "), "{table:?}");
    marks.open("gate");
    assert_eq!(terminal(&running.collect_all().await)["type"], "completed");

    let url = format!("{}/api/jobs/{new}", stack.workflow_url());
    let (status, _, deleted) = http_json("DELETE", &url, None, &[]).await;
    assert_eq!((status.as_u16(), &deleted["jobId"]), (200, &json!(new)));
    assert!(!checkout(&new).exists());
    let listed = all_jobs(&stack).await;
    assert!(listed.iter().all(|job| job["jobId"] != new && job["parent"] != new), "{listed:?}");
    assert!(listed.iter().any(|job| job["jobId"] == old));
}

#[tokio::test]
async fn gc_makes_no_workspace() {
    let directory = tempfile::tempdir().unwrap();
    let output = gc(&directory.path().join("none"), &[]).await;
    assert_eq!(output.code, 3, "{output:?}");
    assert!(output.stderr.contains("--workspace"), "{output:?}");
    assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 0);
}
