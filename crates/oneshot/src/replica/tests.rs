//! A replica from its announcement to its exit.

mod bench;
mod disconnect;
mod turns;

use std::net::Ipv4Addr;

use contract::{Policy, ReplicaId, Service};
use futures_util::StreamExt;
use http::{Method, StatusCode};
use tokio::sync::watch;
use web::ask;
use workspace::Registry;

use super::*;
use bench::{Bench, Gated, contents, events, record};

#[tokio::test(flavor = "multi_thread")]
async fn a_replica_serves_one_job_and_exits() {
    let bench = Bench::idle().await;
    assert_eq!(bench.get("/status").await["status"], "idle");
    let answer = bench.execute("first", &[]).await;
    assert_eq!(answer.header("content-type"), Some("text/event-stream"));
    let job: JobId = answer.header("x-job-id").unwrap().parse().unwrap();
    let mut frames = Box::pin(answer.events());
    assert!(frames.next().await.unwrap().unwrap().id.is_none(), "ids are only sent on request");
    assert_eq!(bench.get("/status").await["status"], "busy");
    assert_eq!(bench.get("/health").await["status"], "ok");
    let registry = Registry::new(&bench.workspace, Service::Claude);
    assert!(!registry.contains(bench.id).unwrap());
    assert_eq!(registry.busy().unwrap()[0].id, bench.id);
    let second = bench.execute("second", &[]).await;
    assert_eq!(second.status, StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(second.header("retry-after"), Some("1"));
    bench.gate.send(true).unwrap();
    frames.next().await.unwrap().unwrap();
    frames.next().await.unwrap().unwrap();
    // The terminal event was read, so the listener is already closed.
    let error = ask(&bench.base, Method::GET, "/health", &[], "".into(), Duration::from_secs(5))
        .await
        .unwrap_err();
    assert!(matches!(error, web::AskError::Connect(..)), "{error}");
    assert!(!registry.is_any_busy().unwrap());
    assert!(frames.next().await.is_none());
    assert_eq!(bench.exit.await.unwrap(), Exit::Ok);
    let view = Job::open(&bench.workspace, job).unwrap().unwrap().view().unwrap();
    assert_eq!(view.state, contract::JobState::Succeeded);
}

/// Only the gateway is strict: during an update, its version may be newer than the replica's.
#[tokio::test(flavor = "multi_thread")]
async fn a_replica_ignores_unknown_fields() {
    let bench = Bench::idle().await;
    let headers = [("content-type", "application/json".to_owned())];
    let body = r#"{"prompt": "first", "ofTomorrow": true}"#;
    let answer = bench.ask(Method::POST, "/api/execute", &headers, body).await;
    bench.gate.send(true).unwrap();
    assert_eq!(contents(&events(answer).await), ["first", "after", "completed"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refused_request_does_not_consume_the_replica() {
    let bench = Bench::idle().await;
    let json_type = [("content-type", "application/json".to_owned())];
    for (method, path, headers, body, status) in [
        (Method::POST, "/api/execute", &json_type[..], "", StatusCode::BAD_REQUEST),
        (Method::POST, "/api/execute", &json_type, "{", StatusCode::BAD_REQUEST),
        (Method::POST, "/api/execute", &json_type, r#"{"prompt":""}"#, StatusCode::BAD_REQUEST),
        (
            Method::POST,
            "/api/execute",
            &[],
            r#"{"prompt":"x"}"#,
            StatusCode::UNSUPPORTED_MEDIA_TYPE,
        ),
        (Method::GET, "/api/execute", &[], "", StatusCode::METHOD_NOT_ALLOWED),
        (Method::DELETE, "/health", &[], "", StatusCode::METHOD_NOT_ALLOWED),
        (Method::GET, "/none", &[], "", StatusCode::NOT_FOUND),
        (Method::HEAD, "/health", &[], "", StatusCode::OK),
    ] {
        let answer = bench.ask(method.clone(), path, headers, body).await;
        assert_eq!(answer.status, status, "{method} {path} {body}");
        if status == StatusCode::METHOD_NOT_ALLOWED {
            assert!(answer.header("allow").is_some());
        }
    }
    let misdirected =
        bench.execute("x", &[(web::header::REPLICA_ID, ReplicaId::new().to_string())]).await;
    assert_eq!(misdirected.status, StatusCode::MISDIRECTED_REQUEST);
    let large = "x".repeat(2 << 20);
    assert_eq!(bench.execute(&large, &[]).await.status, StatusCode::PAYLOAD_TOO_LARGE);
    assert!(Registry::new(&bench.workspace, Service::Claude).contains(bench.id).unwrap());
    assert!(Job::list(&bench.workspace).unwrap().is_empty());
    bench.orders.send(Order::Leave).unwrap();
    assert_eq!(bench.exit.await.unwrap(), Exit::Ok);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replica_of_a_stack_takes_jobs_only_from_its_gateway() {
    let bench = Bench::with_secret().await;
    let secret = bench.workspace.stack_secret().unwrap();
    let (job, replica) = (JobId::new(), bench.id);
    let proof = |replica, job| secret.prove(Statement::Dispatch { replica, job });
    let id = (web::header::JOB_ID, job.to_string());
    let with = |proof: String| [id.clone(), (web::header::DISPATCH_PROOF, proof)];
    let forbidden = async |headers: &[(&'static str, String)]| {
        assert_eq!(bench.execute("x", headers).await.status, StatusCode::FORBIDDEN, "{headers:?}");
    };
    forbidden(&[]).await;
    forbidden(std::slice::from_ref(&id)).await;
    forbidden(&with("0".repeat(64))).await;
    // Proofs for others.
    forbidden(&with(proof(ReplicaId::new(), job))).await;
    forbidden(&with(proof(replica, JobId::new()))).await;
    forbidden(&with(secret.prove(Statement::JobsOf(job)))).await;
    forbidden(&[(web::header::DISPATCH_PROOF, proof(replica, job))]).await;
    let of_a_gateway = [id.clone(), (web::header::REPLICA_ID, replica.to_string())];
    let answer = bench.execute("x", &of_a_gateway).await;
    assert_eq!(answer.status, StatusCode::MISDIRECTED_REQUEST, "it keeps the job");
    assert!(Job::list(&bench.workspace).unwrap().is_empty());
    bench.gate.send(true).unwrap();
    let headers = [&with(proof(replica, job))[..], &[("prefer", "respond-async".into())]].concat();
    assert_eq!(bench.execute("x", &headers).await.status, StatusCode::ACCEPTED);
    assert_eq!(bench.exit.await.unwrap(), Exit::Ok);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_whose_record_was_changed_is_refused_and_the_next_is_signed() {
    let bench = Bench::with_secret().await;
    let file = bench.workspace.stack_secret_file();
    let secret = bench.workspace.sign_with(Some(&file)).unwrap().unwrap();
    let with = |job: &Job| {
        let proof = secret.prove(Statement::Dispatch { replica: bench.id, job: job.id() });
        let id = (web::header::JOB_ID, job.id().to_string());
        [id, (web::header::DISPATCH_PROOF, proof), ("prefer", "respond-async".to_owned())]
    };
    let create = || {
        let record = record(&bench.workspace, r#"{"prompt":"x"}"#);
        let (NewJob::Created(job) | NewJob::Exists(job)) =
            Job::create(&bench.workspace, &record).unwrap();
        job
    };
    let (changed, whole) = (create(), create());
    let path = changed.directory().join("job.json");
    let text = std::fs::read_to_string(&path).unwrap();
    std::fs::write(&path, text.replace(r#""caller":"anonymous""#, r#""caller":"boss""#)).unwrap();
    let answer = bench.execute("x", &with(&changed)).await;
    assert_eq!(answer.status, StatusCode::INTERNAL_SERVER_ERROR);
    let body = answer.bytes(10_000).await.unwrap();
    assert!(String::from_utf8_lossy(&body).contains("record_forged"), "{body:?}");
    assert!(changed.claimed().unwrap().is_none());
    bench.gate.send(true).unwrap();
    assert_eq!(bench.execute("x", &with(&whole)).await.status, StatusCode::ACCEPTED);
    assert_eq!(bench.exit.await.unwrap(), Exit::Ok);
    // What it wrote is believed by others that sign.
    assert_eq!(whole.view().unwrap().state, contract::JobState::Succeeded);
    assert_ne!(whole.claimed().unwrap().unwrap().by, "unknown");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_claimed_job_is_refused_and_the_replica_stays_idle() {
    let bench = Bench::idle().await;
    let record = record(&bench.workspace, r#"{"prompt":"x"}"#);
    let (NewJob::Created(job) | NewJob::Exists(job)) =
        Job::create(&bench.workspace, &record).unwrap();
    let taken = job.claim("another").unwrap().unwrap();
    let name = [(web::header::JOB_ID, job.id().to_string())];
    assert_eq!(bench.execute("x", &name).await.status, StatusCode::CONFLICT);
    assert!(Registry::new(&bench.workspace, Service::Claude).contains(bench.id).unwrap());
    drop(taken);
    bench.gate.send(true).unwrap();
    let later = [("prefer", "respond-async".to_owned())];
    assert_eq!(bench.execute("y", &later).await.status, StatusCode::ACCEPTED);
    assert_eq!(bench.exit.await.unwrap(), Exit::Ok);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stopped_replica_finishes_its_job_or_ends_it_after_the_grace_period() {
    for (grace, last) in [(None, "completed"), (Some(Duration::from_millis(50)), "error")] {
        let bench = Bench::start(grace, Policy::default()).await;
        let answer = bench.execute("first", &[]).await;
        bench.orders.send(Order::Leave).unwrap();
        if grace.is_none() {
            bench.gate.send(true).unwrap();
        }
        let events = events(answer).await;
        assert_eq!(contents(&events), ["first", "after", last]);
        if grace.is_some() {
            assert_eq!(events[2]["code"], "terminated");
        }
        assert_eq!(bench.exit.await.unwrap(), Exit::Ok);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_order_kills_and_still_ends_the_job() {
    let bench = Bench::idle().await;
    let answer = bench.execute("first", &[]).await;
    let job: JobId = answer.header("x-job-id").unwrap().parse().unwrap();
    bench.orders.send(Order::Leave).unwrap();
    bench.orders.send(Order::Leave).unwrap();
    assert_eq!(bench.exit.await.unwrap(), Exit::Killed);
    let outcome = Job::open(&bench.workspace, job).unwrap().unwrap().outcome().unwrap().unwrap();
    assert_eq!(outcome.code, Some(Code::Terminated));
}

#[tokio::test(flavor = "multi_thread")]
async fn cancel_and_deadline_end_a_job_with_their_codes() {
    let mut policy = Policy::default();
    let bench = Bench::start(None, policy.clone()).await;
    let answer = bench.execute("first", &[]).await;
    let job: JobId = answer.header("x-job-id").unwrap().parse().unwrap();
    Job::open(&bench.workspace, job).unwrap().unwrap().request_cancel().unwrap();
    assert_eq!(events(answer).await[2]["code"], "cancelled");
    policy.limits.job_timeout_seconds = 1;
    let bench = Bench::start(None, policy).await;
    let answer = bench.execute("first", &[]).await;
    assert_eq!(events(answer).await[2]["code"], "deadline");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_that_panics_ends_with_an_error() {
    let bench = Bench::idle().await;
    let events = events(bench.execute("panic", &[]).await).await;
    assert_eq!(contents(&events), ["panic", "error"]);
    assert_eq!(events[1]["code"], "internal");
    assert_eq!(bench.exit.await.unwrap(), Exit::Ok);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_that_exceeds_its_journal_is_ended() {
    let bench = Bench::idle().await;
    let long = "x".repeat(950);
    bench.gate.send(true).unwrap();
    let events = events(bench.execute(&long, &[]).await).await;
    assert_eq!(contents(&events), [&*long, "error"]);
    assert_eq!(events[1]["code"], "journal_full");
    assert_eq!(bench.exit.await.unwrap(), Exit::Ok);
}

#[tokio::test]
async fn a_replica_that_waits_for_its_gateway_exits_when_told_to() {
    let dir = tempfile::tempdir().unwrap();
    let (_gate, gate) = watch::channel(false);
    let (orders, received) = mpsc::unbounded_channel();
    let config = ReplicaConfig {
        bind: (Ipv4Addr::UNSPECIFIED, 0).into(),
        // The top-level domain "invalid" has no hosts (RFC 2606).
        advertise: crate::Advertise::Towards("gateway.invalid".into()),
        workspace: dir.path().to_owned(),
        grace: None,
        stop_budget: Duration::from_secs(15),
        journal_limit: 1000,
        secret_file: None,
        cors: web::Cors::default(),
        id: ReplicaId::new(),
    };
    let exit = tokio::spawn(serve(Gated { gate, policy: Policy::default() }, config, received));
    orders.send(Order::Leave).unwrap();
    assert_eq!(exit.await.unwrap(), Exit::Ok);
    assert!(!dir.path().join(".stack").exists(), "it must not touch the volume");
}

#[tokio::test]
async fn a_replica_that_cannot_sign_as_its_stack_does_not_start() {
    let dir = tempfile::tempdir().unwrap();
    let workspace = Workspace::open(dir.path()).unwrap();
    workspace.sign_with(Some(&workspace.stack_secret_file())).unwrap();
    let other = dir.path().join("other");
    std::fs::write(&other, "8".repeat(64)).unwrap();
    for secret_file in [None, Some(other)] {
        let (_gate, gate) = watch::channel(false);
        let (_orders, received) = mpsc::unbounded_channel();
        let config = ReplicaConfig {
            bind: (Ipv4Addr::LOCALHOST, 0).into(),
            advertise: crate::Advertise::default(),
            workspace: dir.path().to_owned(),
            grace: None,
            stop_budget: Duration::from_secs(15),
            journal_limit: 1000,
            secret_file,
            cors: web::Cors::default(),
            id: ReplicaId::new(),
        };
        let exit = serve(Gated { gate, policy: Policy::default() }, config, received);
        let exit = tokio::time::timeout(Duration::from_secs(20), exit).await;
        assert_eq!(exit.expect("it exits"), Exit::Unavailable);
        assert!(Registry::new(&workspace, Service::Claude).idle().unwrap().is_empty());
    }
}
