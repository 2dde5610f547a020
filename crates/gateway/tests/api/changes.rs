//! What a job has left: its diff, and the files of its checkout.

use std::{fs, os::unix::fs::symlink, time::Duration};

use contract::{Code, Ending, ExecuteRequest, JobId, Scope, Service, Timestamp, WorkflowEvent};
use serde_json::json;
use workspace::Job;

use crate::support::{Volume, ask, bearer, until};

/// A workflow of `caller` that has succeeded, with a checkout.
fn done(volume: &Volume, caller: &str) -> Job {
    let running = volume.running_workflow_of("app", caller);
    let job = running.job().clone();
    let target = volume.workspace.root().join("app");
    fs::create_dir_all(&target).unwrap();
    let pulled = json!({"type": "completed", "targetPath": target, "commit": "c"});
    let pull = volume.pull(Some(job.id()), Duration::ZERO);
    pull.end_unclaimed("test", Ending::success(&pulled)).unwrap().unwrap();
    let event = WorkflowEvent::WorkflowComplete {
        workflow_id: job.id(),
        delivery: None,
        verified: None,
        verify_output: None,
        timestamp: Timestamp::now(),
    };
    running.finish(Ending::success(&event)).unwrap();
    job
}

/// Leaves an answer beside the record of a job, as the pull service does.
fn leave(job: &Job) {
    fs::create_dir(job.changes()).unwrap();
    fs::write(job.changes().join("patch"), "diff --git a/x b/x\n").unwrap();
    fs::write(job.changes().join("summary.json"), r#"{"base":"b","files":[]}"#).unwrap();
}

fn looks(volume: &Volume) -> Vec<Job> {
    let jobs = Job::list(&volume.workspace).unwrap();
    let jobs = jobs.into_iter().map(|id| Job::open(&volume.workspace, id).unwrap().unwrap());
    jobs.filter(|job| job.record().unwrap().path() == "/api/changes").collect()
}

#[tokio::test]
async fn a_diff_is_read_from_the_volume() {
    let volume = Volume::new();
    let gateway = volume.gateway(|_| {}).await;
    let job = done(&volume, "anonymous");
    leave(&job);
    let path = format!("/api/jobs/{}/diff", job.id());
    let (head, status, _) = ask(&gateway, "GET", &path, "", "").await;
    assert_eq!(status, 200, "{head}");
    for line in [
        "content-type: text/x-diff; charset=utf-8",
        "content-length: 19",
        "x-content-type-options: nosniff",
        "vary: accept",
    ] {
        assert!(head.contains(line), "{line}: {head}");
    }
    let (json_head, status, body) =
        ask(&gateway, "GET", &path, "accept: application/json\r\n", "").await;
    assert_eq!((status, &body["base"]), (200, &json!("b")));
    assert!(json_head.contains("content-type: application/json"), "{json_head}");
    let tag = |head: &str| {
        head.lines().find_map(|line| line.strip_prefix("etag: ")).unwrap().trim().to_owned()
    };
    assert_ne!(tag(&head), tag(&json_head));
    let known = format!("if-none-match: {}\r\n", tag(&head));
    assert_eq!(ask(&gateway, "GET", &path, &known, "").await.1, 304);
    let (head, status, _) = ask(&gateway, "HEAD", &path, "", "").await;
    assert!(status == 200 && head.contains("content-length: 19"), "{head}");
    assert!(looks(&volume).is_empty(), "nobody had to look");
}

#[tokio::test]
async fn jobs_without_a_diff_are_refused_at_once() {
    let volume = Volume::new();
    let gateway = volume.gateway(|_| {}).await;
    let running = volume.running_workflow("app");
    let pull = volume.pull(None, Duration::ZERO);
    // Its pull is unknown, its checkout was deleted, another job has worked there.
    let unknown = done(&volume, "anonymous");
    let its_pull = unknown.children().unwrap().remove(0);
    fs::remove_dir_all(volume.workspace.root().join(".stack/jobs").join(its_pull.to_string()))
        .unwrap();
    let superseded = done(&volume, "anonymous");
    let ended = superseded.outcome().unwrap().unwrap().ended;
    until(async || Timestamp::now() > ended).await;
    let gone = done(&volume, "anonymous");
    fs::remove_dir(volume.workspace.root().join("app")).unwrap();
    for (id, status, code) in [
        (running.job().id(), 409, Code::Running),
        (pull.id(), 409, Code::NoBase),
        (JobId::new(), 404, Code::NotFound),
        (unknown.id(), 409, Code::NoBase),
        (superseded.id(), 409, Code::Superseded),
        (gone.id(), 410, Code::WorkspaceGone),
    ] {
        let answer = ask(&gateway, "GET", &format!("/api/jobs/{id}/diff"), "", "").await;
        assert_eq!((answer.1, &answer.2["code"]), (status, &json!(code.as_str())), "{answer:?}");
    }
    // Only the gateway itself starts a look.
    let body = format!(r#"{{"jobId":"{}"}}"#, pull.id());
    let answer = ask(&gateway, "POST", "/api/changes", "", &body).await;
    assert_eq!((answer.1, &answer.2["code"]), (404, &json!("not_found")), "{answer:?}");
    assert!(looks(&volume).is_empty());
}

#[tokio::test]
async fn the_first_who_asks_starts_a_job() {
    let volume = Volume::new();
    let gateway = volume.gateway(|_| {}).await;
    let job = done(&volume, "anonymous");
    let path = format!("/api/jobs/{}/diff", job.id());
    let get = || ask(&gateway, "GET", &path, "", "");
    let fail = async {
        until(async || looks(&volume).len() == 1).await;
        let look = looks(&volume).remove(0);
        let ending = Ending::pull_failure(Code::ReplicaLost, "it died");
        look.end_unclaimed("test", ending).unwrap().unwrap();
    };
    let (answer, ()) = tokio::join!(get(), fail);
    assert_eq!(answer.2["code"], json!("replica_lost"), "{answer:?}");
    // One that succeeds has left its answer.
    let succeed = async {
        until(async || looks(&volume).len() == 2).await;
        let look = looks(&volume).pop().unwrap();
        leave(&job);
        let event = json!({"type": "completed"});
        look.end_unclaimed("test", Ending::success(&event)).unwrap();
    };
    let (answer, ()) = tokio::join!(get(), succeed);
    assert_eq!(answer.1, 200, "{answer:?}");
    let record = looks(&volume).pop().unwrap().record().unwrap();
    let directory = record.directory.map(|it| it.to_string());
    assert_eq!((record.service, directory.as_deref()), (Service::Pull, Some("app")));
    // What would fail again is not tried again at once.
    let job = done(&volume, "anonymous");
    let path = format!("/api/jobs/{}/diff", job.id());
    let get = || ask(&gateway, "GET", &path, "", "");
    let gone = async {
        until(async || looks(&volume).len() == 3).await;
        let look = looks(&volume).pop().unwrap();
        look.end_unclaimed("test", Ending::pull_failure(Code::WorkspaceGone, "gone")).unwrap();
    };
    let (answer, ()) = tokio::join!(get(), gone);
    assert_eq!((answer.1, &answer.2["code"]), (410, &json!("workspace_gone")), "{answer:?}");
    let answer = get().await;
    assert_eq!((answer.1, &answer.2["code"]), (410, &json!("workspace_gone")), "{answer:?}");
    assert_eq!(looks(&volume).len(), 3);
    // What is too large is nobody's fault.
    let job = done(&volume, "anonymous");
    let path = format!("/api/jobs/{}/diff", job.id());
    let large = async {
        until(async || looks(&volume).len() == 4).await;
        let look = looks(&volume).pop().unwrap();
        look.end_unclaimed("test", Ending::pull_failure(Code::TooLarge, "large")).unwrap();
    };
    let (answer, ()) = tokio::join!(ask(&gateway, "GET", &path, "", ""), large);
    assert_eq!((answer.1, &answer.2["code"]), (409, &json!("too_large")), "{answer:?}");
}

/// A job in a session works where the session does, and says so in its first event.
#[tokio::test]
async fn files_of_a_job_in_a_session() {
    let volume = Volume::new();
    let gateway = volume.gateway(|_| {}).await;
    let root = volume.workspace.root();
    fs::create_dir(root.join("app")).unwrap();
    fs::write(root.join("app/a"), "1").unwrap();
    let job = volume.job_of::<ExecuteRequest>(r#"{"prompt":"x"}"#, "anonymous");
    let claimed = job.claim("test").unwrap().unwrap();
    let path = format!("/api/jobs/{}/files/a", job.id());
    assert_eq!(ask(&gateway, "GET", &path, "", "").await.1, 410);
    let connected = json!({"type": "connected", "workspace": root.join("app")});
    fs::write(job.directory().join("events.ndjson"), format!("{connected}\n")).unwrap();
    assert_eq!(ask(&gateway, "GET", &path, "", "").await.1, 200);
    drop(claimed);
}

#[tokio::test]
async fn files_are_read_and_nothing_else() {
    let volume = Volume::new();
    let (ann, bob) = (
        volume.token("ann", &[Scope::Submit, Scope::Read]),
        volume.token("bob", &[Scope::Submit, Scope::Read]),
    );
    let gateway = volume.gateway(|_| {}).await;
    let ann_name = "ann".parse().unwrap();
    let app = contract::DirectoryName::parse("app").unwrap();
    volume.workspace.claim_directory(&app, &ann_name).unwrap();
    let root = volume.workspace.root().join("app");
    fs::create_dir_all(root.join(".git")).unwrap();
    fs::create_dir(root.join("d")).unwrap();
    fs::write(root.join("page.html"), "<script>0123456789").unwrap();
    fs::write(root.join("d/ü"), "1").unwrap();
    fs::write(root.join(".git/config"), "secret").unwrap();
    symlink("/etc/passwd", root.join("link")).unwrap();
    let (header, url) = (bearer(&ann), "/api/execute");
    let (_, status, body) =
        ask(&gateway, "POST", url, &header, r#"{"prompt":"x","workspace":"app"}"#).await;
    assert_eq!(status, 200, "{body}");
    let job = Job::list(&volume.workspace).unwrap().pop().unwrap();
    let get = async |method: &str, name: &str, more: &str| {
        let path = format!("/api/jobs/{job}/files/{name}");
        ask(&gateway, method, &path, &format!("{header}{more}"), "").await
    };
    let (head, status, _) = get("GET", "page.html", "").await;
    assert_eq!(status, 200, "{head}");
    for line in [
        "content-type: application/octet-stream",
        "x-content-type-options: nosniff",
        "content-disposition: attachment",
        "content-length: 18",
        "accept-ranges: bytes",
    ] {
        assert!(head.contains(line), "{line}: {head}");
    }
    let (head, status, _) = get("GET", "page.html", "range: bytes=-10\r\n").await;
    assert!(status == 206 && head.contains("content-range: bytes 8-17/18"), "{head}");
    let (head, status, _) = get("GET", "page.html", "range: bytes=18-\r\n").await;
    assert!(status == 416 && head.contains("content-range: bytes */18"), "{head}");
    let (head, status, _) = get("HEAD", "page.html", "").await;
    assert!(status == 200 && head.contains("content-length: 18"), "{head}");
    assert_eq!(get("GET", "d/%C3%BC", "").await.1, 200);
    for (name, status) in [
        ("d", 400),
        ("link", 400),
        (".git/config", 404),
        ("%2Egit/config", 404),
        ("..%2F..%2Fetc%2Fpasswd", 404),
        ("none", 404),
        ("%FF", 404),
    ] {
        let answer = get("GET", name, "").await;
        assert_eq!(answer.1, status, "{name}: {answer:?}");
    }
    // Another caller sees no such job.
    let path = format!("/api/jobs/{job}/files/page.html");
    assert_eq!(ask(&gateway, "GET", &path, &bearer(&bob), "").await.1, 404);
    // The directory belongs to somebody else now.
    fs::remove_file(volume.workspace.root().join(".stack/owners/app")).unwrap();
    assert_eq!(get("GET", "page.html", "").await.1, 410);
}
