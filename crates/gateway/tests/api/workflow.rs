//! What a workflow may ask for, and what only looks like one.

use contract::{Code, Ending, JobId, Scope, Service};
use serde_json::{Value, json};
use workspace::{ClaimedJob, Job};

use crate::support::{REPO, Volume, ask, bearer};

struct Bench {
    volume: Volume,
    gateway: gateway::Gateway,
    workflow: ClaimedJob,
}

impl Bench {
    async fn start() -> Self {
        let volume = Volume::new();
        volume.token("ann", &[Scope::Submit]);
        let workflow = volume.running_workflow_of("app", "ann");
        let gateway = volume.gateway(|_| {}).await;
        Self { volume, gateway, workflow }
    }

    fn id(&self) -> JobId {
        self.workflow.job().id()
    }

    async fn post(&self, path: &str, headers: &str, body: &Value) -> (u16, Value) {
        let (_, status, answer) =
            ask(&self.gateway, "POST", path, headers, &body.to_string()).await;
        (status, answer)
    }

    async fn pull(&self, headers: &str) -> (u16, Value) {
        self.post("/api/pull", headers, &json!({"repoUrl": REPO})).await
    }

    /// The workflow asks for this job.
    async fn child(&self, path: &str, body: &Value) -> (JobId, u16, Value) {
        let id = JobId::new();
        let headers = format!("{}x-job-id: {id}\r\n", self.volume.as_workflow(self.id()));
        let (status, answer) = self.post(path, &headers, body).await;
        (id, status, answer)
    }

    fn end(&self, id: JobId, service: Service, code: Code) {
        let job = Job::open(&self.volume.workspace, id).unwrap().unwrap();
        job.end_unclaimed("test", Ending::failure(service, id, code, "x")).unwrap().unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn only_a_workflow_with_its_capability_gets_jobs() {
    let bench = Bench::start().await;
    let id = bench.id();
    let other = bench.volume.as_workflow(JobId::new());
    let of_another = other.split_once("\r\n").unwrap().1;
    let own = bench.volume.as_workflow(id);
    for (why, headers) in [
        ("none", format!("x-parent-job-id: {id}\r\n")),
        ("of another job", format!("x-parent-job-id: {id}\r\n{of_another}")),
        ("no hexadecimal", format!("x-parent-job-id: {id}\r\nx-job-capability: x\r\n")),
        (
            "cut short",
            own.replace("\r\n", "\n").trim_end().replace('\n', "\r\n")[..own.len() - 4].to_owned()
                + "\r\n",
        ),
    ] {
        let (status, error) = bench.pull(&headers).await;
        assert_eq!((status, &error["code"]), (403, &json!("forbidden")), "{why}: {error}");
    }
    // It is a job's, not a caller's: it opens nothing else.
    for (method, path) in [
        ("GET", "/api/jobs"),
        ("GET", &*format!("/api/jobs/{id}")),
        ("POST", &*format!("/api/jobs/{id}/cancel")),
    ] {
        assert_eq!(ask(&bench.gateway, method, path, &own, "").await.1, 401, "{method} {path}");
    }
    // The control: with its capability and without any token, it gets its job.
    let (child, status, first) = bench.child("/api/pull", &json!({"repoUrl": REPO})).await;
    assert_eq!((status, &first["type"]), (200, &json!("queued")), "{first}");
    let job = Job::open(&bench.volume.workspace, child).unwrap().unwrap();
    assert_eq!(job.record().unwrap().caller.as_str(), "ann", "the caller of its parent");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_capability_is_good_for_its_own_jobs_and_no_more() {
    let bench = Bench::start().await;
    let (pull, execute) = (json!({"repoUrl": REPO}), json!({"prompt": "x"}));
    let refused = |status: u16, error: &Value| {
        assert_eq!((status, &error["code"]), (403, &json!("forbidden")), "{error}");
    };
    let (first, status, _) = bench.child("/api/pull", &pull).await;
    assert_eq!(status, 200);
    let (_, status, error) = bench.child("/api/pull", &pull).await;
    refused(status, &error);
    bench.end(first, Service::Pull, Code::ReplicaLost);
    let (second, status, _) = bench.child("/api/pull", &pull).await;
    assert_eq!(status, 200, "its replica died");
    // Asked for again, because the answer was lost.
    let headers = format!("{}x-job-id: {second}\r\n", bench.volume.as_workflow(bench.id()));
    assert_eq!(bench.pull(&headers).await.0, 200);
    bench.end(second, Service::Pull, Code::ReplicaLost);
    let (_, status, error) = bench.child("/api/pull", &pull).await;
    refused(status, &error);
    let (agent, status, _) = bench.child("/api/execute", &execute).await;
    assert_eq!(status, 200);
    bench.end(agent, Service::Claude, Code::AgentFailed);
    let (_, status, error) = bench.child("/api/execute", &execute).await;
    refused(status, &error);
    let workflow = json!({"prompt": "x", "repoUrl": REPO});
    let (_, status, error) = bench.child("/api/workflow", &workflow).await;
    refused(status, &error);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_workflow_that_has_ended_gets_nothing() {
    let bench = Bench::start().await;
    let headers = bench.volume.as_workflow(bench.id());
    let id = bench.id();
    let Bench { volume, gateway, workflow } = bench;
    workflow.finish(Ending::failure(Service::Workflow, id, Code::Internal, "x")).unwrap();
    let body = json!({"repoUrl": REPO}).to_string();
    let (_, status, error) = ask(&gateway, "POST", "/api/pull", &headers, &body).await;
    assert_eq!((status, &error["code"]), (404, &json!("not_found")), "{error}");
    drop(volume);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_workflow_works_only_where_its_caller_may() {
    let bench = Bench::start().await;
    let bob = bearer(&bench.volume.token("bob", &[Scope::Submit]));
    crate::support::until(async || {
        let body = json!({"repoUrl": REPO, "directory": "bobs"});
        bench.post("/api/pull", &bob, &body).await.0 == 200
    })
    .await;
    let body = json!({"repoUrl": REPO, "directory": "bobs"});
    let (_, status, error) = bench.child("/api/pull", &body).await;
    assert_eq!((status, &error["code"]), (404, &json!("not_found")), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_workflow_delivers_its_own_result_and_once() {
    let bench = Bench::start().await;
    let volume = &bench.volume;
    let name = contract::DirectoryName::parse("app").unwrap();
    volume.workspace.claim_directory(&name, &"ann".parse().unwrap()).unwrap();
    std::fs::create_dir(volume.workspace.checkout(&name)).unwrap();
    let deliver = |job: JobId| json!({"jobId": job, "mode": "branch"});
    let (_, status, error) = bench.child("/api/deliver", &deliver(bench.id())).await;
    assert_eq!((status, &error["code"]), (409, &json!("nothing_to_deliver")), "no agent: {error}");
    let execute = json!({"prompt": "x", "workspace": "app"});
    let (agent, status, told) = bench.child("/api/execute", &execute).await;
    assert_eq!(status, 200, "{told}");
    bench.end(agent, Service::Claude, Code::AgentFailed);
    let other = volume.running_workflow_of("other", "ann").job().id();
    for job in [other, JobId::new()] {
        let (_, status, error) = bench.child("/api/deliver", &deliver(job)).await;
        assert_eq!((status, &error["code"]), (403, &json!("forbidden")), "{error}");
    }
    let (first, status, told) = bench.child("/api/deliver", &deliver(bench.id())).await;
    assert_eq!((status, &told["type"]), (200, &json!("queued")), "{told}");
    let record = Job::open(&volume.workspace, first).unwrap().unwrap().record().unwrap();
    assert_eq!((record.path(), record.caller.as_str()), ("/api/deliver", "ann"));
    let (_, status, error) = bench.child("/api/deliver", &deliver(bench.id())).await;
    assert_eq!((status, &error["code"]), (403, &json!("forbidden")), "{error}");
    bench.end(first, Service::Pull, Code::ReplicaLost);
    let (_, status, told) = bench.child("/api/deliver", &deliver(bench.id())).await;
    assert_eq!((status, &told["type"]), (200, &json!("queued")), "its replica died: {told}");
}
