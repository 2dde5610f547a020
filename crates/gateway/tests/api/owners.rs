//! What belongs to one caller is not there for another.

use std::{fs, os::unix::fs::symlink};

use contract::{JobId, Scope, SessionId};
use gateway::Gateway;
use serde_json::{Value, json};

use crate::support::{REPO, Volume, ask, bearer};

const PLAIN: &[Scope] = &[Scope::Submit, Scope::Read, Scope::Deliver];

struct Bench {
    volume: Volume,
    gateway: Gateway,
    /// The header lines of two callers, of one that may read everything, and of an administrator.
    ann: String,
    bob: String,
    eye: String,
    admin: String,
}

impl Bench {
    async fn start() -> Self {
        let volume = Volume::new();
        let [ann, bob] = ["ann", "bob"].map(|name| bearer(&volume.token(name, PLAIN)));
        let eye = bearer(&volume.token("eye", &[Scope::Submit, Scope::ReadAll, Scope::Deliver]));
        let admin = bearer(&volume.token("boss", &[Scope::Admin]));
        let gateway = volume.gateway(|_| {}).await;
        Self { volume, gateway, ann, bob, eye, admin }
    }

    async fn ask(&self, who: &str, method: &str, path: &str, body: &Value) -> (u16, Value) {
        let body = if body.is_null() { String::new() } else { body.to_string() };
        let (_, status, answer) = ask(&self.gateway, method, path, who, &body).await;
        (status, answer)
    }

    /// A job of Ann's that has ended because she left.
    async fn job_of_ann(&self, path: &str, body: &Value) -> String {
        let id = JobId::new().to_string();
        let headers = format!("{}x-job-id: {id}\r\n", self.ann);
        let (_, status, first) =
            ask(&self.gateway, "POST", path, &headers, &body.to_string()).await;
        assert_eq!((status, &first["type"]), (200, &json!("queued")), "{first}");
        id
    }
}

/// For every route with an ID, the thing of another caller and one that does not exist have the same answer.
#[tokio::test(flavor = "multi_thread")]
async fn the_things_of_another_caller_are_not_there() {
    let bench = Bench::start().await;
    let job = bench.job_of_ann("/api/pull", &json!({"repoUrl": REPO})).await;
    let (status, session) = bench.ask(&bench.ann, "POST", "/api/sessions", &Value::Null).await;
    assert_eq!(status, 200, "{session}");
    let session = session["sessionId"].as_str().unwrap().to_owned();
    let table = include_str!("../../src/routes.md");
    let mut looked_at = 0;
    for line in table.lines().skip(3).filter(|line| line.contains("{id}")) {
        let cells: Vec<_> = line.split('|').map(|cell| cell.trim().trim_matches('`')).collect();
        let (method, path) = (cells[1], cells[2]);
        let (own, none) = match path.split('/').nth(2) {
            Some("jobs") => (job.clone(), JobId::new().to_string()),
            Some("sessions" | "stream") => (session.clone(), SessionId::new().to_string()),
            // Only for administrators, who may do everything.
            Some("tokens") => continue,
            _ => panic!("say whose {path} is"),
        };
        let body = if path.contains("stream") { json!({"prompt": "x"}) } else { Value::Null };
        let at = |id: &str| path.replace("{id}", id);
        let hidden = bench.ask(&bench.bob, method, &at(&own), &body).await;
        let absent = bench.ask(&bench.bob, method, &at(&none), &body).await;
        assert_eq!(hidden.0, 404, "{method} {path}: {hidden:?}");
        assert_eq!(hidden, absent, "{method} {path}");
        // Who may read everything sees it, but may not change it.
        let seen = bench.ask(&bench.eye, method, &at(&own), &body).await;
        let expected = match (method, path.split('/').nth(4)) {
            // This job has neither, which is said of it.
            (_, Some("diff")) => 409,
            (_, Some("files")) => 404,
            ("GET", _) => 200,
            _ => 403,
        };
        assert_eq!(seen.0, expected, "{method} {path}: {seen:?}");
        assert_ne!(seen, absent, "{method} {path}");
        looked_at += 1;
    }
    assert!(looked_at > 6, "{looked_at}");
    // The job may also be in the body.
    let deliver = |id: &str| json!({"jobId": id, "mode": "branch"});
    let hidden = bench.ask(&bench.bob, "POST", "/api/deliver", &deliver(&job)).await;
    let absent =
        bench.ask(&bench.bob, "POST", "/api/deliver", &deliver(&JobId::new().to_string())).await;
    assert_eq!((hidden.0, &hidden), (404, &absent));
    let own = bench.ask(&bench.ann, "POST", "/api/deliver", &deliver(&job)).await;
    assert_eq!((own.0, &own.1["code"]), (400, &json!("invalid_field")), "it is no workflow");
    for (path, list, id) in
        [("/api/jobs", "jobs", "jobId"), ("/api/sessions", "sessions", "sessionId")]
    {
        let ids = async |who: &str| {
            let (_, answer) = bench.ask(who, "GET", path, &Value::Null).await;
            let list = answer[list].as_array().unwrap().clone();
            assert_eq!(answer["count"], list.len());
            list.iter().map(|it| it[id].as_str().unwrap().to_owned()).collect::<Vec<_>>()
        };
        let own = if path == "/api/jobs" { &job } else { &session };
        assert_eq!(ids(&bench.bob).await, Vec::<String>::new(), "{path}");
        for who in [&bench.ann, &bench.eye, &bench.admin] {
            assert_eq!(ids(who).await, [own.as_str()], "{path}");
        }
    }
    // The control: the owner may do all of it, and so may an administrator.
    let (status, view) =
        bench.ask(&bench.ann, "GET", &format!("/api/jobs/{job}"), &Value::Null).await;
    assert_eq!((status, &view["caller"]), (200, &json!("ann")));
    let events =
        bench.ask(&bench.ann, "GET", &format!("/api/jobs/{job}/events"), &Value::Null).await;
    assert_eq!(events.0, 200);
    let deleted = bench.ask(&bench.ann, "DELETE", &format!("/api/jobs/{job}"), &Value::Null).await;
    assert_eq!(deleted.0, 200, "{deleted:?}");
    let deleted =
        bench.ask(&bench.admin, "DELETE", &format!("/api/sessions/{session}"), &Value::Null).await;
    assert_eq!(deleted.0, 200, "{deleted:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_works_in_the_checkout_or_the_session_of_another() {
    let bench = Bench::start().await;
    let root = bench.volume.workspace.root().to_owned();
    let pull = json!({"repoUrl": REPO, "directory": "app"});
    let job = bench.job_of_ann("/api/pull", &pull).await;
    fs::create_dir_all(root.join("app/.git")).unwrap();
    fs::create_dir_all(root.join("old/.git")).unwrap();
    fs::create_dir_all(root.join(format!("jobs/{job}/repo"))).unwrap();
    fs::create_dir_all(root.join("bobs/src")).unwrap();
    fs::write(
        root.join(".stack/owners/bobs"),
        json!({"caller": "bob", "since": "2026-01-31T12:00:00.000Z"}).to_string(),
    )
    .unwrap();
    symlink("../app", root.join("bobs/link")).unwrap();
    let (_, session) = bench.ask(&bench.ann, "POST", "/api/sessions", &Value::Null).await;
    let session = session["sessionId"].as_str().unwrap();
    let execute = |workspace: &str| json!({"prompt": "x", "workspace": workspace});
    let workflow = |field: &str, value: &str| json!({"prompt": "x", "repoUrl": REPO, field: value});
    for (path, body) in [
        ("/api/pull", pull.clone()),
        ("/api/workflow", workflow("directory", "app")),
        // It was made before there were callers.
        ("/api/pull", json!({"repoUrl": REPO, "directory": "old"})),
        ("/api/execute", execute("app")),
        ("/api/execute", execute(root.join("app").to_str().unwrap())),
        ("/api/execute", execute("bobs/link")),
        ("/api/execute", execute(&format!("jobs/{job}/repo"))),
        ("/api/execute", execute(&format!("jobs/{session}/work"))),
        ("/api/sessions", json!({"workspace": "app"})),
        ("/api/execute", json!({"prompt": "x", "resumeSessionId": session})),
        ("/api/workflow", workflow("resumeSessionId", session)),
    ] {
        let (status, error) = bench.ask(&bench.bob, "POST", path, &body).await;
        assert_eq!(status, 404, "{path} {body}: {error}");
        let (status, error) = bench.ask(&bench.eye, "POST", path, &body).await;
        assert_eq!(status, 403, "{path} {body}: {error}");
    }
    // A session of one's own, in whose place an agent has put a link.
    fs::create_dir(root.join("bobs/sub")).unwrap();
    let own = json!({"workspace": "bobs/sub"});
    let (_, own) = bench.ask(&bench.bob, "POST", "/api/sessions", &own).await;
    let own = own["sessionId"].as_str().unwrap().to_owned();
    let resumed = json!({"prompt": "x", "resumeSessionId": own});
    let in_session = format!("/api/stream/{own}");
    let again = [("/api/execute", &resumed), (&*in_session, &json!({"prompt": "x"}))];
    fs::remove_dir(root.join("bobs/sub")).unwrap();
    symlink("../app", root.join("bobs/sub")).unwrap();
    for (path, body) in again {
        let (status, error) = bench.ask(&bench.bob, "POST", path, body).await;
        assert_eq!(status, 404, "{path} {body}: {error}");
    }
    fs::remove_file(root.join("bobs/sub")).unwrap();
    symlink("src", root.join("bobs/sub")).unwrap();
    for (path, body) in again {
        let (status, first) = bench.ask(&bench.bob, "POST", path, body).await;
        assert_eq!((status, &first["type"]), (200, &json!("queued")), "{path} {body}: {first}");
    }
    let names = async |who: &str| {
        let (_, repos) = bench.ask(who, "GET", "/api/repos", &Value::Null).await;
        let repos = repos["repos"].as_array().unwrap().clone();
        repos.iter().map(|repo| repo["name"].as_str().unwrap().to_owned()).collect::<Vec<_>>()
    };
    assert_eq!(names(&bench.ann).await, ["app"]);
    assert_eq!(names(&bench.bob).await, Vec::<String>::new());
    assert_eq!(names(&bench.admin).await, ["app", "old"]);
    // The control: their owner and an administrator may.
    for (who, path, body) in [
        (&bench.ann, "/api/execute", execute("app")),
        (&bench.ann, "/api/execute", execute(&format!("jobs/{job}/repo"))),
        (&bench.ann, "/api/execute", json!({"prompt": "x", "resumeSessionId": session})),
        (&bench.bob, "/api/execute", execute("bobs/src")),
        (&bench.admin, "/api/execute", execute("app")),
        (&bench.admin, "/api/pull", json!({"repoUrl": REPO, "directory": "old"})),
    ] {
        let (status, first) = bench.ask(who, "POST", path, &body).await;
        assert_eq!((status, &first["type"]), (200, &json!("queued")), "{path} {body}: {first}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_id_of_a_job_belongs_to_one_caller_and_to_this_day() {
    let bench = Bench::start().await;
    let body = json!({"repoUrl": REPO}).to_string();
    let post = async |who: &str, id: &str| {
        let headers = format!("{who}x-job-id: {id}\r\n");
        let (_, status, answer) = ask(
            &bench.gateway,
            "POST",
            "/api/execute",
            &headers,
            &json!({"prompt": "x"}).to_string(),
        )
        .await;
        (status, answer)
    };
    let id = JobId::new().to_string();
    assert_eq!(post(&bench.ann, &id).await.0, 200);
    let (status, taken) = post(&bench.bob, &id).await;
    assert_eq!((status, &taken["code"]), (409, &json!("claimed")));
    assert!(!taken.to_string().contains("ann"), "{taken}");
    let headers = format!("{}x-job-id: {id}\r\n", bench.ann);
    let other = ask(&bench.gateway, "POST", "/api/pull", &headers, &body).await;
    assert_eq!(other.2, taken, "the same as for another request of the owner");
    assert_eq!(post(&bench.ann, &id).await.0, 200, "her own request, repeated");
    for (bad, status) in [
        ("00000000-0000-7000-8000-000000000001", 400),
        ("ffffffff-ffff-7fff-bfff-ffffffffffff", 400),
    ] {
        let (got, error) = post(&bench.ann, bad).await;
        assert_eq!((got, &error["code"]), (status, &json!("invalid_field")), "{bad}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_that_is_refused_takes_no_name_away() {
    let volume = Volume::new();
    let [ann, bob] = ["ann", "bob"].map(|name| bearer(&volume.token(name, PLAIN)));
    let owner = volume.workspace.root().join(".stack/owners/app");
    let pull = json!({"repoUrl": REPO, "directory": "app"}).to_string();
    let full = volume.gateway(|config| config.queue_limit = 0).await;
    let (_, status, error) = ask(&full, "POST", "/api/pull", &ann, &pull).await;
    assert_eq!((status, &error["code"]), (503, &json!("queue_full")), "{error}");
    let drained = volume.gateway(|config| config.drain = true).await;
    let (_, status, error) = ask(&drained, "POST", "/api/pull", &ann, &pull).await;
    assert_eq!((status, &error["code"]), (503, &json!("terminated")), "{error}");
    assert!(!owner.exists());
    // The control: the job of the next one makes it the owner.
    let gateway = volume.gateway(|_| {}).await;
    assert_eq!(ask(&gateway, "POST", "/api/pull", &bob, &pull).await.1, 200);
    assert!(fs::read_to_string(&owner).unwrap().contains("bob"));
    assert_eq!(ask(&gateway, "POST", "/api/pull", &ann, &pull).await.1, 404);
}
