use std::net::Ipv4Addr;

use contract::{ExecuteRequest, Policy, ReplicaId, Service};
use futures_util::{Stream, StreamExt};
use http::{Method, StatusCode};
use serde_json::{Value, json};
use tokio::{sync::watch, task::JoinHandle};
use web::{Answer, BaseUrl, ask};
use workspace::{Registry, Session};

use super::*;
use crate::Step;

/// A service whose job emits a message, waits at a gate, emits another message, and ends.
struct Gated {
    gate: watch::Receiver<bool>,
    policy: Policy,
}

impl JobService for Gated {
    const SERVICE: Service = Service::Claude;
    type Request = ExecuteRequest;

    fn policy(&self) -> &Policy {
        &self.policy
    }

    fn run(
        &self,
        context: JobContext,
        request: ExecuteRequest,
    ) -> impl Stream<Item = Step> + Send + 'static {
        let mut gate = self.gate.clone();
        async_stream::stream! {
            let say = |text: &str| Step::Event(contract::EventLine::encode(&json!({"type": "message", "content": text})));
            yield say(request.prompt.as_str());
            assert_ne!(request.prompt.as_str(), "panic");
            if request.prompt.as_str() == "settle" {
                let settling = context.stop.settle().unwrap();
                let work = tokio::spawn(async move {
                    let _ = gate.wait_for(|open| *open).await;
                    drop(settling);
                });
                // Ignores a request to stop.
                let _ = work.await;
                std::future::pending::<()>().await;
                return;
            }
            let open = async { gate.wait_for(|open| *open).await.is_ok() };
            let stopped = tokio::select! {
                _ = open => None,
                reason = context.stop.requested() => Some(reason),
            };
            yield say("after");
            yield Step::End(match stopped {
                Some(reason) => Ending::failure(Service::Claude, context.id, reason.code(), reason.sentence()),
                None => Ending::success(&json!({"type": "completed"})),
            });
        }
    }
}

struct Bench {
    _dir: tempfile::TempDir,
    workspace: Workspace,
    base: BaseUrl,
    gate: watch::Sender<bool>,
    orders: mpsc::UnboundedSender<Order>,
    id: ReplicaId,
    exit: JoinHandle<Exit>,
}

impl Bench {
    async fn start(grace: Option<Duration>, policy: Policy) -> Self {
        Self::start_with(grace, Duration::from_secs(15), policy).await
    }

    async fn start_with(grace: Option<Duration>, stop_budget: Duration, policy: Policy) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let workspace = Workspace::open(dir.path()).unwrap();
        let (gate, gates) = watch::channel(false);
        let (orders, received) = mpsc::unbounded_channel();
        let config = ReplicaConfig {
            bind: (Ipv4Addr::LOCALHOST, 0).into(),
            advertise: crate::Advertise::default(),
            workspace: dir.path().to_owned(),
            grace,
            stop_budget,
            journal_limit: 1000,
            cors: web::Cors::default(),
            id: ReplicaId::new(),
        };
        let id = config.id;
        let exit = tokio::spawn(serve(Gated { gate: gates, policy }, config, received));
        let replicas = Registry::new(&workspace, Service::Claude);
        let mut watch = replicas.watch();
        let base = loop {
            match replicas.idle().unwrap().first() {
                Some(replica) => break replica.address.into(),
                None => watch.changed().await,
            }
        };
        Self { _dir: dir, workspace, base, gate, orders, id, exit }
    }

    async fn idle() -> Self {
        Self::start(None, Policy::default()).await
    }

    async fn ask(
        &self,
        method: Method,
        path: &str,
        headers: &[(&'static str, String)],
        body: &str,
    ) -> Answer {
        let body = body.to_owned().into();
        ask(&self.base, method, path, headers, body, Duration::from_secs(5)).await.unwrap()
    }

    async fn execute(&self, prompt: &str, extra: &[(&'static str, String)]) -> Answer {
        let mut headers = vec![("content-type", "application/json".to_owned())];
        headers.extend_from_slice(extra);
        self.ask(Method::POST, "/api/execute", &headers, &json!({"prompt": prompt}).to_string())
            .await
    }

    async fn get(&self, path: &str) -> Value {
        let answer = self.ask(Method::GET, path, &[], "").await;
        serde_json::from_slice(&answer.bytes(10_000).await.unwrap()).unwrap()
    }
}

fn record(workspace: &Workspace, body: &str) -> JobRecord {
    let request = ExecuteRequest::parse(body.as_bytes(), "/w", &Policy::default()).unwrap();
    let digest = RequestDigest::of(&request, body.as_bytes(), None);
    JobRecord::of(workspace, &request, digest, JobId::new(), None).unwrap()
}

async fn events(answer: Answer) -> Vec<Value> {
    assert_eq!(answer.status, StatusCode::OK);
    answer
        .events()
        .map(|frame| serde_json::from_slice(&frame.unwrap().data).unwrap())
        .collect()
        .await
}

fn contents(events: &[Value]) -> Vec<&str> {
    events
        .iter()
        .map(|event| event["content"].as_str().or(event["type"].as_str()).unwrap())
        .collect()
}

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

#[tokio::test(flavor = "multi_thread")]
async fn a_disconnect_does_not_stop_the_job() {
    let bench = Bench::idle().await;
    let answer = bench.execute("first", &[]).await;
    let job: JobId = answer.header("x-job-id").unwrap().parse().unwrap();
    drop(answer);
    bench.gate.send(true).unwrap();
    assert_eq!(bench.exit.await.unwrap(), Exit::Ok);
    let job = Job::open(&bench.workspace, job).unwrap().unwrap();
    let entries: Vec<_> = workspace::follow(job, 0).collect().await;
    assert_eq!(entries.len(), 3);
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
async fn a_job_that_exceeds_its_journal_is_ended() {
    let bench = Bench::idle().await;
    let long = "x".repeat(950);
    bench.gate.send(true).unwrap();
    let events = events(bench.execute(&long, &[]).await).await;
    assert_eq!(contents(&events), [&*long, "error"]);
    assert_eq!(events[1]["code"], "journal_full");
    assert_eq!(bench.exit.await.unwrap(), Exit::Ok);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_disconnect_cancels_the_job_only_on_request() {
    for (wish, code) in [("cancel", Some(Code::Cancelled)), ("continue", None)] {
        let bench = Bench::idle().await;
        let answer = bench.execute("first", &[(web::header::ON_DISCONNECT, wish.into())]).await;
        let job: JobId = answer.header("x-job-id").unwrap().parse().unwrap();
        let mut frames = Box::pin(answer.events());
        frames.next().await.unwrap().unwrap();
        drop(frames);
        let job = Job::open(&bench.workspace, job).unwrap().unwrap();
        if code.is_none() {
            // This request is processed after the disconnect was noticed.
            bench.get("/status").await;
            bench.gate.send(true).unwrap();
        }
        assert_eq!(bench.exit.await.unwrap(), Exit::Ok);
        assert_eq!(job.outcome().unwrap().unwrap().code, code, "{wish}");
    }
    let bench = Bench::idle().await;
    let answer = bench.execute("first", &[(web::header::ON_DISCONNECT, "maybe".into())]).await;
    assert_eq!(answer.status, StatusCode::BAD_REQUEST);
    assert!(Registry::new(&bench.workspace, Service::Claude).contains(bench.id).unwrap());
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

#[tokio::test(flavor = "multi_thread")]
async fn an_idle_connection_does_not_delay_the_exit() {
    let bench = Bench::idle().await;
    let address = bench.base.to_string().replace("http://", "");
    let silent = tokio::net::TcpStream::connect(&address).await.unwrap();
    let mut slow = tokio::net::TcpStream::connect(&address).await.unwrap();
    tokio::io::AsyncWriteExt::write_all(&mut slow, b"GET /hea").await.unwrap();
    // This request is answered, so both connections were accepted.
    bench.get("/health").await;
    bench.gate.send(true).unwrap();
    events(bench.execute("first", &[]).await).await;
    let exit = tokio::time::timeout(FLUSH_TIME / 2, bench.exit).await;
    assert_eq!(exit.unwrap().unwrap(), Exit::Ok);
    drop((silent, slow));
}

/// If the caller was gone before the claim was written, the claim and the job were once dropped with it.
#[tokio::test(flavor = "multi_thread")]
async fn a_job_continues_if_its_caller_disconnects_at_once() {
    let mut heard_count = 0;
    for _ in 0..20 {
        let bench = Bench::idle().await;
        bench.gate.send(true).unwrap();
        let address = bench.base.to_string().replace("http://", "");
        let mut caller = tokio::net::TcpStream::connect(&address).await.unwrap();
        let body = r#"{"prompt":"first"}"#;
        let head = "POST /api/execute HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n";
        let request = format!("{head}content-length: {}\r\n\r\n{body}", body.len());
        tokio::io::AsyncWriteExt::write_all(&mut caller, request.as_bytes()).await.unwrap();
        drop(caller);
        // The connection may have been closed before the request was read. Then there is no job, and the replica is
        // still idle.
        let heard = async {
            while Job::list(&bench.workspace).unwrap().is_empty() {
                tokio::task::yield_now().await;
            }
        };
        if tokio::time::timeout(Duration::from_millis(300), heard).await.is_ok() {
            heard_count += 1;
            assert_eq!(bench.exit.await.unwrap(), Exit::Ok);
            let id = Job::list(&bench.workspace).unwrap()[0];
            let outcome =
                Job::open(&bench.workspace, id).unwrap().unwrap().settle().unwrap().unwrap();
            assert_eq!(outcome.state, contract::JobState::Succeeded, "{:?}", outcome.error);
        }
    }
    assert!(heard_count > 0, "no request arrived before its caller disconnected");
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
        cors: web::Cors::default(),
        id: ReplicaId::new(),
    };
    let exit = tokio::spawn(serve(Gated { gate, policy: Policy::default() }, config, received));
    orders.send(Order::Leave).unwrap();
    assert_eq!(exit.await.unwrap(), Exit::Ok);
    assert!(!dir.path().join(".stack").exists(), "it must not touch the volume");
}

/// A caller with `X-On-Disconnect: cancel` may also disconnect before it gets an answer.
#[tokio::test(flavor = "multi_thread")]
async fn a_job_is_cancelled_if_its_caller_asked_and_disconnects_at_once() {
    for n in 0..20 {
        let bench = Bench::idle().await;
        let address = bench.base.to_string().replace("http://", "");
        let request = "POST /api/execute HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n\
                       x-on-disconnect: cancel\r\ncontent-length: 14\r\n\r\n{\"prompt\":\"x\"}";
        let mut stream = tokio::net::TcpStream::connect(&address).await.unwrap();
        tokio::io::AsyncWriteExt::write_all(&mut stream, request.as_bytes()).await.unwrap();
        tokio::time::sleep(Duration::from_micros(n * 100)).await;
        drop(stream);
        // The request may not have been read. Then the replica has no job.
        bench.orders.send(Order::Leave).unwrap();
        let exit = tokio::time::timeout(Duration::from_secs(10), bench.exit).await;
        assert_eq!(
            exit.expect("its job was not cancelled").unwrap(),
            Exit::Ok,
            "after {n} x 100 us"
        );
    }
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
