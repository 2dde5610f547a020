//! Tokens: who may use which route, and what a change of the tokens does to a running gateway.

use std::collections::BTreeSet;

use contract::{JobId, Scope, Service, SessionId};
use gateway::Gateway;
use serde_json::json;

use crate::support::{REPO, Volume, ask, bearer, until};

/// The routes, as `src/routes.md` lists them, with the scope that each needs.
fn routes() -> Vec<(String, String, Option<Scope>)> {
    let table = include_str!("../../src/routes.md");
    let jobs = Service::ALL.into_iter().flat_map(|service| service.spec().job_paths);
    let jobs = jobs.map(|path| ("POST".to_owned(), (*path).to_owned(), Some(Scope::Submit)));
    let rows = table.lines().skip(3).map(|line| {
        let cells: Vec<_> = line.split('|').map(|cell| cell.trim().trim_matches('`')).collect();
        let scope = (!cells[3].is_empty()).then(|| cells[3].parse().unwrap());
        (cells[1].to_owned(), cells[2].to_owned(), scope)
    });
    jobs.chain(rows).collect()
}

/// A body that is valid for this route, if it needs one.
fn body(method: &str, path: &str) -> String {
    match (method, path) {
        ("POST", "/api/tokens") => json!({"name": "new", "scopes": ["read"]}).to_string(),
        ("POST", "/api/workflow") => json!({"prompt": "x", "repoUrl": REPO}).to_string(),
        ("POST", "/api/pull") => json!({"repoUrl": REPO}).to_string(),
        ("POST", path) if path.starts_with("/api/stream/") || path == "/api/execute" => {
            json!({"prompt": "x"}).to_string()
        }
        _ => String::new(),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_route_wants_a_token_with_its_scope() {
    let volume = Volume::new();
    let every: BTreeSet<Scope> = Scope::ALL.into();
    // One token for each scope, with all the others that do not include it.
    let without = |scope: Scope| {
        let less: Vec<_> = match scope {
            Scope::Read => vec![Scope::Submit],
            Scope::Submit => vec![Scope::ReadAll],
            _ => every.iter().copied().filter(|other| *other != Scope::Admin).collect(),
        };
        bearer(&volume.token("ci", &less))
    };
    let tokens = Scope::ALL.map(|scope| (scope, without(scope)));
    let gateway = volume.gateway(|_| {}).await;
    let mut guarded = 0;
    for (method, path, scope) in routes() {
        let at = path.replace("{id}", &JobId::new().to_string());
        let body = body(&method, &path);
        let stranger = ask(&gateway, &method, &at, "", &body).await;
        let what = format!("{method} {path}: {stranger:?}");
        let Some(scope) = scope else {
            assert_eq!(stranger.1, 200, "{what}");
            continue;
        };
        guarded += 1;
        for wrong in ["", "authorization: Bearer x\r\n", "authorization: Bearer wfs_x_y\r\n"] {
            let (head, status, error) = ask(&gateway, &method, &at, wrong, &body).await;
            assert_eq!((status, &error["code"]), (401, &json!("unauthorized")), "{what}");
            assert!(head.contains("\r\nwww-authenticate: bearer"), "{head}");
        }
        let (_, weak) = tokens.iter().find(|(of, _)| *of == scope).unwrap();
        let (_, status, error) = ask(&gateway, &method, &at, weak, &body).await;
        assert_eq!((status, &error["code"]), (403, &json!("forbidden")), "{what}");
    }
    assert!(guarded > 10, "{guarded}");
    // Strangers do not even learn which paths there are.
    assert_eq!(ask(&gateway, "GET", "/api/nope", "", "").await.1, 401);
    assert_eq!(ask(&gateway, "PUT", "/api/jobs", "", "").await.1, 401);
    assert_eq!(ask(&gateway, "GET", "/api/nope", &tokens[0].1, "").await.1, 404);
    assert_eq!(ask(&gateway, "PUT", "/api/jobs", &tokens[0].1, "").await.1, 405);
}

/// The control of the test above: without a token on the volume, the same requests succeed, except those that need an
/// administrator.
#[tokio::test(flavor = "multi_thread")]
async fn a_stack_without_tokens_is_open() {
    let volume = Volume::new();
    let gateway = volume.gateway(|_| {}).await;
    for (method, path, scope) in routes() {
        let at = path.replace("{id}", &SessionId::new().to_string());
        let (_, status, error) = ask(&gateway, &method, &at, "", &body(&method, &path)).await;
        let what = format!("{method} {path}: {status} {error}");
        match scope {
            Some(Scope::Admin) => assert_eq!(status, 403, "{what}"),
            _ => assert!(![401, 403].contains(&status), "{what}"),
        }
    }
    let (_, _, health) = ask(&gateway, "GET", "/health", "", "").await;
    assert_eq!(health["open"], true, "{health}");
    let job = ask(&gateway, "GET", "/api/jobs", "", "").await.2;
    assert_eq!(job["jobs"][0]["caller"], "anonymous", "{job}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_closes_a_running_stack_and_a_revoked_one_opens_nothing() {
    let volume = Volume::new();
    let (gateway, other) = (volume.gateway(|_| {}).await, volume.gateway(|_| {}).await);
    let status = async |gateway: &Gateway, headers: &str| {
        ask(gateway, "GET", "/api/jobs", headers, "").await.1
    };
    assert_eq!(status(&gateway, "").await, 200);
    // As `stackctl token create` does on the machine of the volume.
    let token = bearer(&volume.token("boss", &[Scope::Admin]));
    for gateway in [&gateway, &other] {
        until(async || status(gateway, "").await == 401).await;
        // The stack is closed a moment before the token is there.
        until(async || status(gateway, &token).await == 200).await;
        let (_, _, health) = ask(gateway, "GET", "/health", "", "").await;
        assert!(health.get("open").is_none(), "{health}");
    }
    let request = json!({"name": "ci", "scopes": ["read"]}).to_string();
    let (_, made, view) = ask(&gateway, "POST", "/api/tokens", &token, &request).await;
    assert_eq!(made, 201, "{view}");
    let ci = format!("authorization: Bearer {}\r\n", view["token"].as_str().unwrap());
    assert_eq!(status(&gateway, &ci).await, 200, "the gateway that made it knows it at once");
    until(async || status(&other, &ci).await == 200).await;
    let path = format!("/api/tokens/{}", view["id"].as_str().unwrap());
    assert_eq!(ask(&other, "DELETE", &path, &token, "").await.1, 200);
    assert_eq!(status(&other, &ci).await, 401);
    until(async || status(&gateway, &ci).await == 401).await;
    assert_eq!(ask(&other, "DELETE", &path, &token, "").await.1, 404);
    // Nobody is let in because the last token is gone.
    let (_, _, tokens) = ask(&gateway, "GET", "/api/tokens", &token, "").await;
    let path = format!("/api/tokens/{}", tokens["tokens"][0]["id"].as_str().unwrap());
    assert_eq!(ask(&gateway, "DELETE", &path, &token, "").await.1, 200);
    for headers in ["", &token] {
        assert_eq!(status(&gateway, headers).await, 401);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn tokens_are_created_listed_and_never_shown_again() {
    let volume = Volume::new();
    let boss = volume.token("boss", &[Scope::Admin]);
    let gateway = volume.gateway(|_| {}).await;
    let admin = bearer(&boss);
    let request = json!({
        "name": "ci", "scopes": ["submit", "read"], "expires": "2099-01-01T00:00:00.000Z",
        "limits": {"running": 2},
    });
    let create = async |body: &str| ask(&gateway, "POST", "/api/tokens", &admin, body).await;
    let (head, status, mut made) = create(&request.to_string()).await;
    assert_eq!(status, 201, "{made}");
    assert!(head.contains("cache-control: no-store"), "{head}");
    let token = made["token"].take();
    let secret = token.as_str().unwrap().rsplit('_').next().unwrap();
    for (name, value) in request.as_object().unwrap() {
        let sorted = |value: &serde_json::Value| {
            let mut list: Vec<String> =
                value.as_array().into_iter().flatten().map(ToString::to_string).collect();
            list.sort();
            list
        };
        assert!(made[name] == *value || sorted(&made[name]) == sorted(value), "{name}: {made}");
    }
    let (_, status, list) = ask(&gateway, "GET", "/api/tokens", &admin, "").await;
    assert_eq!((status, &list["count"]), (200, &json!(2)));
    assert!(!list.to_string().contains(secret), "{list}");
    assert!(list["tokens"][0]["lastUsed"].is_string(), "the administrator's: {list}");
    assert!(list["tokens"][1].get("lastUsed").is_none(), "{list}");
    for (bad, code) in [
        (
            json!({"name": "x", "scopes": ["read"], "expires": "2001-01-01T00:00:00Z"}),
            "invalid_field",
        ),
        (json!({"name": "anonymous", "scopes": ["read"]}), "invalid_field"),
        (json!({"name": "x", "scopes": ["root"]}), "invalid_field"),
        (json!({"name": "x", "scopes": ["read"], "limits": {"coffees": 1}}), "unknown_field"),
    ] {
        let (_, status, error) = create(&bad.to_string()).await;
        assert_eq!((status, &error["code"]), (400, &json!(code)), "{bad}");
    }
    // What happened is in the audit log, without secrets.
    let day = contract::Timestamp::now().to_string();
    let path = volume.workspace.audit().join(format!("{}.ndjson", &day[..10]));
    until(async || {
        let text = std::fs::read_to_string(&path).unwrap_or_default();
        assert!(!text.contains(secret) && !text.contains(boss.secret()));
        text.lines().any(|line| {
            let line: serde_json::Value = serde_json::from_str(line).unwrap();
            line["action"] == "token.create"
                && line["caller"] == "boss"
                && line["result"] == "ok"
                && line["subject"] == made["id"]
                && line["address"] == "127.0.0.1"
        })
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_operators_own_token_and_an_open_door() {
    let volume = Volume::new();
    let text = format!("wfs_{}_{}", "0".repeat(8), "a".repeat(64));
    let gateway = volume.gateway(|config| config.admin_token = text.parse().ok()).await;
    let admin = format!("authorization: Bearer {text}\r\n");
    assert_eq!(ask(&gateway, "GET", "/api/jobs", "", "").await.1, 401);
    assert_eq!(ask(&gateway, "GET", "/api/tokens", &admin, "").await.1, 200);
    let ajar = volume
        .gateway(|config| {
            config.admin_token = text.parse().ok();
            config.allow_anonymous = true;
        })
        .await;
    let ids: Vec<_> = [&*admin, ""].into_iter().map(|who| (JobId::new(), who)).collect();
    for (id, who) in &ids {
        let headers = format!("{who}x-job-id: {id}\r\n");
        let pull = json!({"repoUrl": REPO, "directory": format!("of-{id}")}).to_string();
        assert_eq!(ask(&ajar, "POST", "/api/pull", &headers, &pull).await.1, 200);
    }
    let (_, status, list) = ask(&ajar, "GET", "/api/jobs", "", "").await;
    assert_eq!((status, &list["count"]), (200, &json!(1)), "{list}");
    assert_eq!(list["jobs"][0]["jobId"], json!(ids[1].0));
    let read = async |id, who: &str| ask(&ajar, "GET", &format!("/api/jobs/{id}"), who, "").await.1;
    assert_eq!((read(ids[0].0, "").await, read(ids[1].0, "").await), (404, 200));
    assert_eq!(read(ids[1].0, &admin).await, 200, "the control");
    assert_eq!(ask(&ajar, "GET", "/api/tokens", "", "").await.1, 403);
    let (_, _, health) = ask(&ajar, "GET", "/health", "", "").await;
    assert_eq!(health["open"], true);
    let later = volume.gateway(|_| {}).await;
    assert_eq!(ask(&later, "GET", "/api/jobs", "", "").await.1, 401, "it stays closed");
    // The control: a volume that has never had a token.
    let other = Volume::new();
    assert_eq!(ask(&other.gateway(|_| {}).await, "GET", "/api/jobs", "", "").await.1, 200);
}

/// A token that may only submit pushes nothing, and a caller without a token, as an agent is on an open stack, pushes no
/// protected paths.
#[tokio::test(flavor = "multi_thread")]
async fn deliveries_need_scopes_of_their_own() {
    let volume = Volume::new();
    let gateway = volume.gateway(|_| {}).await;
    let (plain, protected) =
        (json!({"mode": "branch"}), json!({"mode": "branch", "allowProtected": true}));
    let workflow =
        |deliver| json!({"prompt": "x", "repoUrl": REPO, "deliver": deliver}).to_string();
    let statuses = async |gateway: &Gateway, who: &str| {
        let of_job = |body: &serde_json::Value| {
            let mut body = body.clone();
            body["jobId"] = json!(JobId::new());
            body.to_string()
        };
        let mut statuses = Vec::new();
        for (path, plain, protected) in [
            ("/api/workflow", workflow(&plain), workflow(&protected)),
            ("/api/deliver", of_job(&plain), of_job(&protected)),
        ] {
            for body in [plain, protected] {
                let (_, status, answer) = ask(gateway, "POST", path, who, &body).await;
                assert!(status != 403 || answer["code"] == "forbidden", "{answer}");
                statuses.push(status);
            }
        }
        statuses
    };
    // The second request is about a job that does not exist.
    assert_eq!(statuses(&gateway, "").await, [200, 403, 404, 403]);
    let token = |scopes: &[Scope]| bearer(&volume.token("ci", scopes));
    let submit = token(&[Scope::Submit, Scope::Read]);
    let deliver = token(&[Scope::Submit, Scope::Deliver]);
    let all = token(&[Scope::Submit, Scope::DeliverProtected]);
    let gateway = volume.gateway(|_| {}).await;
    assert_eq!(statuses(&gateway, &submit).await, [403, 403, 403, 403]);
    assert_eq!(statuses(&gateway, &deliver).await, [200, 403, 404, 403]);
    assert_eq!(statuses(&gateway, &all).await, [200, 200, 404, 404]);
    let ajar = volume.gateway(|config| config.allow_anonymous = true).await;
    assert_eq!(statuses(&ajar, "").await, [403, 403, 403, 403]);
}
