//! Checkouts and sessions, which one job at a time may use.

use contract::{Policy, Service};
use futures_util::StreamExt;
use http::{Method, StatusCode};
use serde_json::{Value, json};
use workspace::{Registry, Session};

use super::super::*;
use super::bench::{Bench, contents, events, record};

#[tokio::test(flavor = "multi_thread")]
async fn a_directory_in_use_is_refused_unless_its_workflow_holds_it() {
    let bench = Bench::idle().await;
    let app = Turn::Directory(contract::DirectoryName::parse("app").unwrap());
    let turn = bench.workspace.take_turn(&app, TurnUse::Lend).unwrap().unwrap();
    let body = json!({"prompt": "x", "workspace": "app"}).to_string();
    let headers = [("content-type", "application/json".to_owned())];
    let answer = bench.ask(Method::POST, "/api/execute", &headers, &body).await;
    assert_eq!(answer.status, StatusCode::SERVICE_UNAVAILABLE);
    let error: Value = serde_json::from_slice(&answer.bytes(1000).await.unwrap()).unwrap();
    assert_eq!(error["field"], "directory");
    drop(turn);
    bench.gate.send(true).unwrap();
    let answer = bench.ask(Method::POST, "/api/execute", &headers, &body).await;
    assert_eq!(contents(&events(answer).await), ["x", "after", "completed"]);
    assert!(bench.workspace.take_turn(&app, TurnUse::Lend).unwrap().is_some());
}

/// A second one once ran beside it, and took the files away from it when it ended.
#[tokio::test(flavor = "multi_thread")]
async fn a_job_has_the_turn_of_its_own_directory_and_others_wait_for_it() {
    let first = Bench::idle().await;
    let answer = first.execute("x", &[]).await;
    let id: JobId = answer.header("x-job-id").unwrap().parse().unwrap();
    let own = Turn::Own(id.into());
    assert!(first.workspace.take_turn(&own, TurnUse::Work).unwrap().is_none());
    first.gate.send(true).unwrap();
    assert_eq!(contents(&events(answer).await), ["x", "after", "completed"]);
    assert!(first.workspace.take_turn(&own, TurnUse::Work).unwrap().is_some());

    let bench = Bench::idle().await;
    let earlier = record(&bench.workspace, r#"{"prompt":"x"}"#);
    assert!(matches!(Job::create(&bench.workspace, &earlier).unwrap(), NewJob::Created(_)));
    let place = format!("jobs/{}/work", earlier.job_id);
    std::fs::create_dir_all(bench.workspace.root().join(&place).join("deep")).unwrap();
    let headers = [("content-type", "application/json".to_owned())];
    let body = |place: String| json!({"prompt": "x", "workspace": place}).to_string();
    let turn = bench.workspace.take_turn(&Turn::Own(earlier.job_id.into()), TurnUse::Lend);
    let turn = turn.unwrap().unwrap();
    for there in [place.clone(), format!("{place}/deep"), format!("jobs/{}", earlier.job_id)] {
        let answer = bench.ask(Method::POST, "/api/execute", &headers, &body(there)).await;
        assert_eq!(answer.status, StatusCode::SERVICE_UNAVAILABLE);
        let error: Value = serde_json::from_slice(&answer.bytes(1000).await.unwrap()).unwrap();
        assert_eq!(error["field"], "workspace");
    }
    drop(turn);
    bench.gate.send(true).unwrap();
    let answer = bench.ask(Method::POST, "/api/execute", &headers, &body(place)).await;
    assert_eq!(contents(&events(answer).await), ["x", "after", "completed"]);
}

/// The turn belongs to the checkout that a job really works in.
#[tokio::test(flavor = "multi_thread")]
async fn a_link_does_not_bypass_a_turn() {
    let bench = Bench::idle().await;
    let root = bench.workspace.root();
    std::fs::create_dir_all(root.join("app/src")).unwrap();
    std::fs::create_dir(root.join("lib")).unwrap();
    std::os::unix::fs::symlink("../app/src", root.join("lib/x")).unwrap();
    let app = Turn::Directory(contract::DirectoryName::parse("app").unwrap());
    let turn = bench.workspace.take_turn(&app, TurnUse::Lend).unwrap().unwrap();
    let body = json!({"prompt": "x", "workspace": "lib/x"}).to_string();
    let headers = [("content-type", "application/json".to_owned())];
    let answer = bench.ask(Method::POST, "/api/execute", &headers, &body).await;
    assert_eq!(answer.status, StatusCode::SERVICE_UNAVAILABLE);
    drop(turn);
    bench.gate.send(true).unwrap();
    let answer = bench.ask(Method::POST, "/api/execute", &headers, &body).await;
    assert_eq!(answer.status, StatusCode::OK);
    assert_eq!(bench.exit.await.unwrap(), Exit::Ok);
}

/// A workflow's process may die before its agent. The agent's directory must stay locked until the agent is gone.
#[tokio::test(flavor = "multi_thread")]
async fn a_directory_is_not_free_while_a_job_of_a_dead_workflow_works_there() {
    let bench = Bench::idle().await;
    let app = Turn::Directory(contract::DirectoryName::parse("app").unwrap());
    let guest = bench.workspace.join_turn(&app).unwrap().unwrap();
    let body = json!({"prompt": "x", "workspace": "app"}).to_string();
    let headers = [("content-type", "application/json".to_owned())];
    let answer = bench.ask(Method::POST, "/api/execute", &headers, &body).await;
    assert_eq!(answer.status, StatusCode::SERVICE_UNAVAILABLE);
    drop(guest);
    bench.gate.send(true).unwrap();
    let answer = bench.ask(Method::POST, "/api/execute", &headers, &body).await;
    assert_eq!(answer.status, StatusCode::OK);
    assert_eq!(bench.exit.await.unwrap(), Exit::Ok);
}

/// The replica that runs it holds its turn, so a repeated request must not be told to wait for it.
#[tokio::test(flavor = "multi_thread")]
async fn a_claimed_job_does_not_wait_for_its_own_turn() {
    let bench = Bench::idle().await;
    let body = json!({"prompt": "x", "workspace": "app"}).to_string();
    let record = record(&bench.workspace, &body);
    let (NewJob::Created(job) | NewJob::Exists(job)) =
        Job::create(&bench.workspace, &record).unwrap();
    let app = Turn::Directory(contract::DirectoryName::parse("app").unwrap());
    let turn = bench.workspace.take_turn(&app, TurnUse::Lend).unwrap().unwrap();
    let taken = job.claim("another").unwrap().unwrap();
    let headers = [
        ("content-type", "application/json".to_owned()),
        (web::header::JOB_ID, job.id().to_string()),
    ];
    let answer = bench.ask(Method::POST, "/api/execute", &headers, &body).await;
    assert_eq!(answer.status, StatusCode::CONFLICT);
    assert!(Registry::new(&bench.workspace, Service::Claude).contains(bench.id).unwrap());
    drop((taken, turn));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_is_continued_by_its_id_and_in_turn() {
    let bench = Bench::idle().await;
    let id = contract::SessionId::new();
    let place = bench.workspace.make_session_place(id).unwrap();
    drop(Session::create(&bench.workspace, id, &place).unwrap());
    let headers = [("content-type", "application/json".to_owned())];
    let body = format!(r#"{{"prompt":"x","resumeSessionId":"{id}"}}"#);
    // The gateway serves sessions, repositories and jobs.
    let theirs =
        ["/api/sessions", &format!("/api/stream/{id}"), "/api/repos", "/api/jobs", "/metrics"];
    for path in theirs {
        for method in [Method::GET, Method::POST] {
            let answer = bench.ask(method, path, &headers, &body).await;
            assert_eq!(answer.status, StatusCode::NOT_FOUND, "{path}");
        }
    }
    let turn = bench.workspace.take_turn(&Turn::Session(id), TurnUse::Lend).unwrap().unwrap();
    let busy = bench.ask(Method::POST, "/api/execute", &headers, &body).await;
    assert_eq!(busy.status, StatusCode::SERVICE_UNAVAILABLE);
    let error: Value = serde_json::from_slice(&busy.bytes(1000).await.unwrap()).unwrap();
    assert_eq!(error["field"], "resumeSessionId");
    drop(turn);
    bench.gate.send(true).unwrap();
    let events = events(bench.ask(Method::POST, "/api/execute", &headers, &body).await).await;
    assert_eq!(contents(&events), ["x", "after", "completed"]);
    let job =
        Job::open(&bench.workspace, Job::list(&bench.workspace).unwrap()[0]).unwrap().unwrap();
    assert_eq!(job.record().unwrap().session, Some(id));
    assert_eq!(bench.exit.await.unwrap(), Exit::Ok);
}

/// Once, the next job got the turn while the previous one was still moving files into place.
#[tokio::test(flavor = "multi_thread")]
async fn a_checkout_is_not_free_while_a_job_settles_in_it() {
    let budget = Duration::from_millis(1500);
    let bench = Bench::start_with(None, budget, Policy::default()).await;
    let app = Turn::Directory(contract::DirectoryName::parse("app").unwrap());
    let body = json!({"prompt": "settle", "workspace": "app"}).to_string();
    let headers = [("content-type", "application/json".to_owned())];
    let answer = bench.ask(Method::POST, "/api/execute", &headers, &body).await;
    let job: JobId = answer.header("x-job-id").unwrap().parse().unwrap();
    let job = Job::open(&bench.workspace, job).unwrap().unwrap();
    let mut frames = Box::pin(answer.events());
    frames.next().await.unwrap().unwrap();
    job.request_cancel().unwrap();
    // Longer than the stop budget. Nothing may change meanwhile.
    tokio::time::sleep(budget * 5 / 4).await;
    assert!(job.outcome().unwrap().is_none());
    assert!(bench.workspace.take_turn(&app, TurnUse::Lend).unwrap().is_none());
    bench.gate.send(true).unwrap();
    let end: Value = serde_json::from_slice(&frames.next().await.unwrap().unwrap().data).unwrap();
    assert_eq!(end["code"], "cancelled");
    assert!(bench.workspace.take_turn(&app, TurnUse::Lend).unwrap().is_some());
    assert_eq!(bench.exit.await.unwrap(), Exit::Ok);
}
