//! A replica whose job waits at a gate.

use std::{net::Ipv4Addr, path::PathBuf};

use contract::{ExecuteRequest, Policy, ReplicaId, Service};
use futures_util::{Stream, StreamExt};
use http::{Method, StatusCode};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::{sync::watch, task::JoinHandle};
use web::{Answer, BaseUrl, ask};
use workspace::Registry;

use super::super::*;
use crate::Step;

/// A service whose job emits a message, waits at a gate, emits another message, and ends.
pub(super) struct Gated {
    pub(super) gate: watch::Receiver<bool>,
    pub(super) policy: Policy,
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

pub(super) struct Bench {
    _dir: tempfile::TempDir,
    pub(super) workspace: Workspace,
    pub(super) base: BaseUrl,
    pub(super) gate: watch::Sender<bool>,
    pub(super) orders: mpsc::UnboundedSender<Order>,
    pub(super) id: ReplicaId,
    pub(super) exit: JoinHandle<Exit>,
}

impl Bench {
    pub(super) async fn start(grace: Option<Duration>, policy: Policy) -> Self {
        Self::start_with(grace, Duration::from_secs(15), policy).await
    }

    pub(super) async fn start_with(
        grace: Option<Duration>,
        stop_budget: Duration,
        policy: Policy,
    ) -> Self {
        Self::open(tempfile::tempdir().unwrap(), grace, stop_budget, policy, None).await
    }

    /// One that knows the secret of its stack.
    pub(super) async fn with_secret() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let file = Workspace::open(dir.path()).unwrap().stack_secret_file();
        Self::open(dir, None, Duration::from_secs(15), Policy::default(), Some(file)).await
    }

    async fn open(
        dir: TempDir,
        grace: Option<Duration>,
        stop_budget: Duration,
        policy: Policy,
        secret_file: Option<PathBuf>,
    ) -> Self {
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
            secret_file,
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

    pub(super) async fn idle() -> Self {
        Self::start(None, Policy::default()).await
    }

    pub(super) async fn ask(
        &self,
        method: Method,
        path: &str,
        headers: &[(&'static str, String)],
        body: &str,
    ) -> Answer {
        let body = body.to_owned().into();
        ask(&self.base, method, path, headers, body, Duration::from_secs(5)).await.unwrap()
    }

    pub(super) async fn execute(&self, prompt: &str, extra: &[(&'static str, String)]) -> Answer {
        let mut headers = vec![("content-type", "application/json".to_owned())];
        headers.extend_from_slice(extra);
        self.ask(Method::POST, "/api/execute", &headers, &json!({"prompt": prompt}).to_string())
            .await
    }

    pub(super) async fn get(&self, path: &str) -> Value {
        let answer = self.ask(Method::GET, path, &[], "").await;
        serde_json::from_slice(&answer.bytes(10_000).await.unwrap()).unwrap()
    }
}

pub(super) fn record(workspace: &Workspace, body: &str) -> JobRecord {
    let request = ExecuteRequest::parse(body.as_bytes(), "/w", &Policy::default()).unwrap();
    let digest = RequestDigest::of(&request, body.as_bytes(), None);
    JobRecord::of(workspace, &request, digest, JobId::new(), None).unwrap()
}

pub(super) async fn events(answer: Answer) -> Vec<Value> {
    assert_eq!(answer.status, StatusCode::OK);
    answer
        .events()
        .map(|frame| serde_json::from_slice(&frame.unwrap().data).unwrap())
        .collect()
        .await
}

pub(super) fn contents(events: &[Value]) -> Vec<&str> {
    events
        .iter()
        .map(|event| event["content"].as_str().or(event["type"].as_str()).unwrap())
        .collect()
}
