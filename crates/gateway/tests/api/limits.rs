//! What one caller may use.

use contract::{CallerLimits, Ending, EventLine, ExecuteRequest, Scope, Service, Usd};
use serde_json::{Value, json};
use tokio::{io::AsyncWriteExt as _, net::TcpStream};

use crate::support::{PATIENCE, REPO, Volume, answer, ask, bearer, until};

#[tokio::test(flavor = "multi_thread")]
async fn a_caller_that_asks_too_often_is_told_when_to_come_back() {
    let volume = Volume::new();
    let limits = CallerLimits { requests_per_minute: Some(3), ..CallerLimits::default() };
    let [one, two] = [0, 1].map(|_| bearer(&volume.limited_token("ci", &[Scope::Read], limits)));
    let other = bearer(&volume.token("other", &[Scope::Read]));
    let gateway = volume.gateway(|_| {}).await;
    for (token, left) in [(&one, 2), (&two, 1), (&one, 0)] {
        let (head, status, _) = ask(&gateway, "GET", "/api/jobs", token, "").await;
        assert_eq!(status, 200);
        assert!(head.contains(&format!("ratelimit-remaining: {left}\r\n")), "{head}");
    }
    let (head, status, error) = ask(&gateway, "GET", "/api/jobs", &two, "").await;
    assert_eq!((status, &error["code"]), (429, &json!("rate_limited")), "{error}");
    for name in
        ["ratelimit-limit: 3", "ratelimit-remaining: 0", "ratelimit-reset: ", "retry-after: "]
    {
        assert!(head.contains(name), "{name}: {head}");
    }
    let (head, status, _) = ask(&gateway, "GET", "/api/jobs", &other, "").await;
    assert!(status == 200 && !head.contains("ratelimit"), "{head}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_caller_has_its_own_part_of_the_queue() {
    let volume = Volume::new();
    let limits = CallerLimits { queued: Some(1), ..CallerLimits::default() };
    let limited = bearer(&volume.limited_token("ci", &[Scope::Submit], limits));
    let other = bearer(&volume.token("other", &[Scope::Submit]));
    let gateway = volume.gateway(|_| {}).await;
    let body = json!({"repoUrl": REPO}).to_string();
    // It waits for as long as its caller is connected.
    let mut waiting = TcpStream::connect(gateway.address(contract::Service::Pull)).await.unwrap();
    let request = format!(
        "POST /api/pull HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n{limited}content-length: {}\r\n\r\n{body}",
        body.len()
    );
    waiting.write_all(request.as_bytes()).await.unwrap();
    assert!(answer(&mut waiting).await.contains(r#""type":"queued""#));
    let (head, status, error) = ask(&gateway, "POST", "/api/pull", &limited, &body).await;
    assert_eq!((status, &error["code"]), (429, &json!("rate_limited")), "{error}");
    assert!(head.contains("retry-after: "), "{head}");
    let execute = json!({"prompt": "x"}).to_string();
    let of_another_service = ask(&gateway, "POST", "/api/execute", &limited, &execute).await;
    assert_eq!(of_another_service.1, 429, "the limit is of the caller, not of a service");
    let another = json!({"repoUrl": REPO, "directory": "others"}).to_string();
    assert_eq!(ask(&gateway, "POST", "/api/pull", &other, &another).await.1, 200);
}

/// A replica that takes every job, and whose jobs never end.
async fn replica(volume: &Volume, service: contract::Service) -> workspace::Registration {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (id, address) = (contract::ReplicaId::new(), listener.local_addr().unwrap());
    let workspace = volume.workspace.clone();
    tokio::spawn(async move {
        let mut kept = Vec::new();
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut seen = Vec::new();
            while !seen.ends_with(b"}") {
                tokio::io::AsyncReadExt::read_buf(&mut stream, &mut seen).await.unwrap();
            }
            let text = String::from_utf8(seen).unwrap().to_ascii_lowercase();
            let job = text.lines().find_map(|line| line.strip_prefix("x-job-id: ")).unwrap();
            let job = workspace::Job::open(&workspace, job.parse().unwrap()).unwrap().unwrap();
            kept.push(job.claim("test").unwrap().unwrap());
            let answer =
                "HTTP/1.1 202 Accepted\r\ncontent-length: 2\r\nconnection: close\r\n\r\n{}";
            stream.write_all(answer.as_bytes()).await.unwrap();
        }
    });
    workspace::Registration::announce(&volume.workspace, service, id, address, None).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_over_the_limit_waits_although_a_replica_is_free() {
    let volume = Volume::new();
    let limits = CallerLimits { running: Some(1), ..CallerLimits::default() };
    let scopes = [Scope::Submit, Scope::Read];
    let limited = bearer(&volume.limited_token("ci", &scopes, limits));
    let other = bearer(&volume.token("other", &scopes));
    // They stay idle in the registry, so that there is always another replica.
    let _replica = replica(&volume, contract::Service::Pull).await;
    let gateway = volume.gateway(|_| {}).await;
    let pull = |directory: &str| {
        ("/api/pull", json!({"repoUrl": REPO, "directory": directory}).to_string())
    };
    let (_first, first) = submit(&gateway, &limited, pull("a")).await;
    until(async || state(&gateway, &limited, first).await == "running").await;
    let (mut waits, second) = submit(&gateway, &limited, pull("b")).await;
    assert!(answer(&mut waits).await.contains(r#""type":"queued""#));
    // The control: another caller's job passes it.
    let (_third, third) = submit(&gateway, &other, pull("c")).await;
    until(async || state(&gateway, &other, third).await == "running").await;
    assert_eq!(state(&gateway, &limited, second).await, "queued");
    let job = workspace::Job::open(&volume.workspace, first).unwrap().unwrap();
    std::fs::write(job.directory().join("outcome"), outcome(0.0)).unwrap();
    until(async || state(&gateway, &limited, second).await == "running").await;
}

/// Asks for a job. Its caller is connected as long as the stream is there.
async fn submit(
    gateway: &gateway::Gateway,
    token: &str,
    (path, body): (&str, String),
) -> (TcpStream, contract::JobId) {
    let mut stream = TcpStream::connect(gateway.address(Service::Pull)).await.unwrap();
    let id = contract::JobId::new();
    let request = format!(
        "POST {path} HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\nx-job-id: {id}\r\n{token}content-length: {}\r\n\r\n{body}",
        body.len()
    );
    stream.write_all(request.as_bytes()).await.unwrap();
    (stream, id)
}

async fn view(gateway: &gateway::Gateway, token: &str, id: contract::JobId) -> Value {
    ask(gateway, "GET", &format!("/api/jobs/{id}"), token, "").await.2
}

async fn state(gateway: &gateway::Gateway, token: &str, id: contract::JobId) -> String {
    view(gateway, token, id).await["state"].as_str().unwrap_or("none").to_owned()
}

/// The end of an agent that has cost so much.
fn ending(job: contract::JobId, cost: f64) -> Ending {
    let ending = Ending::failure(Service::Claude, job, contract::Code::AgentFailed, "x");
    Ending { event: EventLine::encode(&json!({"type": "error", "costUsd": cost})), ..ending }
}

/// The file of a job that has failed and cost so much.
fn outcome(cost: f64) -> Vec<u8> {
    let volume = Volume::new();
    let job = volume.job_of::<ExecuteRequest>(r#"{"prompt":"x"}"#, "anybody");
    job.end_unclaimed("test", ending(job.id(), cost)).unwrap().unwrap();
    std::fs::read(job.directory().join("outcome")).unwrap()
}

/// Budgets begin anew at midnight (UTC). Waits for it if it is near.
async fn not_at_midnight() {
    const DAY: u64 = 24 * 3600 * 1000;
    let now = u64::try_from(contract::Timestamp::now().as_millisecond()).unwrap();
    let left = std::time::Duration::from_millis(DAY - now % DAY);
    if left < 2 * PATIENCE {
        tokio::time::sleep(left).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_caller_that_has_spent_its_budget_is_refused_until_tomorrow() {
    not_at_midnight().await;
    let volume = Volume::new();
    let limits =
        CallerLimits { budget_usd_per_day: Usd::from_dollars(0.5), ..CallerLimits::default() };
    let limited = bearer(&volume.limited_token("ci", &[Scope::Submit], limits));
    let admin = bearer(&volume.token("boss", &[Scope::Admin]));
    let gateway = volume.gateway(|_| {}).await;
    let body = json!({"repoUrl": REPO}).to_string();
    let submit = async |token: &str| ask(&gateway, "POST", "/api/pull", token, &body).await;
    let spent = async |name: &str| {
        let (_, _, list) = ask(&gateway, "GET", "/api/tokens", &admin, "").await;
        let tokens = list["tokens"].as_array().unwrap();
        tokens.iter().find(|token| token["name"] == name).unwrap()["spentTodayUsd"].clone()
    };
    for (cost, sum) in [(0.3, 0.3), (0.2, 0.5)] {
        assert_eq!(submit(&limited).await.1, 200, "less than the budget");
        let job = volume.job_of::<ExecuteRequest>(r#"{"prompt":"x"}"#, "ci");
        job.end_unclaimed("test", ending(job.id(), cost)).unwrap().unwrap();
        until(async || spent("ci").await == json!(sum)).await;
    }
    let (_, status, error) = submit(&limited).await;
    assert_eq!((status, &error["code"]), (402, &json!("budget_exceeded")), "{error}");
    assert!(error["error"].as_str().unwrap().contains("cost 0.5 USD"), "{error}");
    assert_eq!(submit(&admin).await.1, 200, "another caller");
    assert_eq!(spent("boss").await, json!(null));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_queued_job_does_not_begin_when_the_budget_is_spent() {
    not_at_midnight().await;
    let volume = Volume::new();
    let limits = CallerLimits {
        running: Some(1),
        budget_usd_per_day: Usd::from_dollars(0.5),
        ..CallerLimits::default()
    };
    let limited = bearer(&volume.limited_token("ci", &[Scope::Submit, Scope::Read], limits));
    let _replica = replica(&volume, Service::Claude).await;
    let gateway = volume.gateway(|_| {}).await;
    let mut streams = Vec::new();
    let mut jobs = Vec::new();
    for _ in 0..3 {
        let execute = ("/api/execute", json!({"prompt": "x"}).to_string());
        let (stream, id) = submit(&gateway, &limited, execute).await;
        let is_known =
            async || ["queued", "running"].contains(&&*state(&gateway, &limited, id).await);
        until(is_known).await;
        streams.push(stream);
        jobs.push(id);
    }
    for (id, cost) in [(jobs[0], 0.3), (jobs[1], 0.2)] {
        until(async || state(&gateway, &limited, id).await == "running").await;
        let job = workspace::Job::open(&volume.workspace, id).unwrap().unwrap();
        std::fs::write(job.directory().join("outcome"), outcome(cost)).unwrap();
    }
    until(async || state(&gateway, &limited, jobs[2]).await != "queued").await;
    let last = view(&gateway, &limited, jobs[2]).await;
    assert_eq!(
        (&last["state"], &last["code"]),
        (&json!("failed"), &json!("budget_exceeded")),
        "{last}"
    );
}
