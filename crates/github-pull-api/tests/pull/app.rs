//! A GitHub App: a token for each job, for one repository, with the permissions that the job needs.

use std::{path::PathBuf, sync::Arc};

use base64::{Engine as _, prelude::BASE64_STANDARD};
use boot::Secret;
use contract::Code;
use github_pull_api::GitHubApp;
use oneshot::{Stop, StopReason};
use serde_json::json;
use testkit::{Fault, GitHubApi, GitServer, PATIENCE, wait_for};

use crate::{
    deliver::{settings, short, write},
    support::{Scene, files_with, git, run},
};

const APP: &str = "123456";
const ALL: [(&str, &str); 5] = [
    ("metadata", "read"),
    ("contents", "write"),
    ("pull_requests", "write"),
    ("workflows", "write"),
    ("administration", "write"),
];

/// A GitHub with the private repositories `o/app` and `o/other`, and a stack with the App, which is not installed yet. `None`, with
/// a word about it, without openssl.
async fn github(test: &str) -> Option<(GitServer, GitHubApi, Scene)> {
    let server = GitServer::start().await;
    let api = GitHubApi::start(&server);
    if !api.register_app(APP) {
        testkit::skip(test, "there is no openssl");
        return None;
    }
    for name in ["o/app", "o/other"] {
        server.create_repo(name, &[("a", "1\n")]);
        server.allow_push(name);
        api.protect(&server, name);
    }
    let host = server.address().to_string();
    let mut scene = Scene::new();
    scene.config.app = Some(GitHubApp::new(APP, &api.key()).unwrap());
    scene.config.credential_hosts = vec![host.clone()];
    scene.config.deliver = settings(&[("GIT_FORGES", &format!("{host}=github"))]);
    Some((server, api, scene))
}

/// The permissions of each token that was made, as `name: level`.
fn permissions(api: &GitHubApi) -> Vec<Vec<String>> {
    let of = |it: testkit::IssuedToken| {
        it.permissions.iter().map(|(name, level)| format!("{name}: {level}")).collect()
    };
    api.issued().into_iter().map(of).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pull_gets_a_token_that_reads_one_repository_and_is_revoked() {
    let Some((server, api, mut scene)) = github("pulls with a GitHub App").await else { return };
    api.install("o/app", &ALL);
    api.install("o/other", &ALL);
    let url = server.url("o/app");
    for _ in 0..2 {
        scene.pull(&url).await.commit();
    }
    let read = ["contents: read", "metadata: read"].map(str::to_owned).to_vec();
    assert_eq!(permissions(&api), [read.clone(), read], "one for each job");
    let issued = api.issued();
    assert!(issued.iter().all(|it| it.repository == "o/app" && it.is_revoked), "{issued:?}");
    let of_a_job = [
        "GET /api/v3/repos/o/app/installation",
        "POST /api/v3/app/installations/4000/access_tokens",
        "DELETE /api/v3/installation/token",
    ];
    assert_eq!(api.requests(), [of_a_job, of_a_job].concat());
    api.assert_valid();
    let root = scene.workspace.root();
    for secret in [&issued[0].token, api.key().lines().nth(3).unwrap()] {
        assert_eq!(files_with(root, secret), [] as [PathBuf; 0]);
    }

    // The control: what does not have the App gets nowhere, ...
    scene.config.app = None;
    let sentence = scene.pull(&url).await.failed(Code::AuthenticationFailed).to_owned();
    assert!(sentence.contains("GITHUB_TOKEN"), "{sentence}");
    // ... and the server takes no other token.
    let (own, other) = (api.issue("o/app", &ALL), api.issue("o/other", &ALL));
    let with = |token: &str| server.url_with_credentials("o/app", "x-access-token", token);
    scene.pull(&with(&own)).await.commit();
    api.expire(&own);
    for token in [&own, &other, &issued[0].token] {
        scene.pull(&with(token)).await.failed(Code::AuthenticationFailed);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_app_comes_after_the_url_and_before_the_token() {
    let Some((server, api, mut scene)) = github("the order of credentials").await else { return };
    let url = server.url("o/app");
    // Not installed, and nothing else: a private repository stays closed, and any other one open.
    let sentence = scene.pull(&url).await.failed(Code::AuthenticationFailed).to_owned();
    assert!(sentence.contains("install the GitHub App"), "{sentence}");
    server.create_repo("o/open", &[("a", "1\n")]);
    scene.pull_with(json!({"repoUrl": server.url("o/open"), "directory": "open"})).await.commit();
    // Not installed, with a token.
    api.add_token("t0ken-of-ours");
    scene.config.token = Some(Secret::new("t0ken-of-ours".into()));
    scene.pull(&url).await.commit();
    assert!(api.issued().is_empty());
    // Installed.
    api.install("o/app", &ALL);
    let before = server.seen_authorization("o/app").len();
    scene.pull(&url).await.commit();
    let [token] = api.issued().try_into().unwrap();
    let login = format!("x-access-token:{}", token.token);
    let login = format!("Basic {}", BASE64_STANDARD.encode(login));
    let seen = server.seen_authorization("o/app");
    assert!(seen[before..].iter().all(|it| *it == login), "{:?}", &seen[before..]);
    // With credentials in the URL, it is not asked, unless they are refused.
    let asked = api.requests().len();
    let with = |token: &str| server.url_with_credentials("o/app", "x-access-token", token);
    scene.pull(&with("t0ken-of-ours")).await.commit();
    assert_eq!(api.requests().len(), asked);
    scene.pull(&with("0ld-token")).await.commit();
    assert_eq!(api.issued().len(), 2);
    // It is for the hosts that the settings name, and for GitHub.
    scene.config.credential_hosts = vec!["github.com".to_owned()];
    scene.pull(&url).await.failed(Code::AuthenticationFailed);
    scene.config.credential_hosts = vec![server.address().to_string()];
    scene.config.deliver = settings(&[]);
    scene.pull(&url).await.commit();
    assert_eq!(api.issued().len(), 2, "the token of the settings was taken");
    api.assert_valid();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_that_is_stopped_leaves_no_token() {
    let Some((server, api, scene)) = github("a stop with a GitHub App").await else { return };
    api.install("o/app", &ALL);
    server.set_fault("o/app", Fault::Stall);
    let stop = Stop::default();
    let request = scene.request(&json!({"repoUrl": server.url("o/app"), "directory": "repo"}));
    let config = Arc::new(scene.config.clone());
    let asked =
        || async { (!api.issued().is_empty()).then(|| stop.request(StopReason::Cancelled)) };
    let (outcome, _) = tokio::join!(
        run(config, scene.context(&stop), request, |_| {}),
        wait_for("the token", PATIENCE, asked)
    );
    outcome.failed(Code::Cancelled);
    assert!(matches!(api.issued().as_slice(), [it] if it.is_revoked), "{:?}", api.issued());
    // That it cannot be revoked is no failure of the job.
    server.clear_fault("o/app");
    let token = api.issue("o/app", &ALL);
    let made = token.clone();
    server.serve_api(move |request| match request.method.as_str() {
        "GET" => (200, json!({"id": 1, "permissions": {"contents": "read", "metadata": "read"}})),
        "POST" => (201, json!({"token": made, "expires_at": "2099-01-01T00:00:00Z"})),
        _ => (500, json!({"message": "Server Error"})),
    });
    scene.pull(&server.url("o/app")).await.commit();
    assert!(api.issued().iter().any(|it| it.token == token && !it.is_revoked));
}

#[tokio::test(flavor = "multi_thread")]
async fn each_submodule_gets_a_token_of_its_own() {
    let Some((server, api, scene)) = github("submodules with a GitHub App").await else { return };
    let directory = tempfile::tempdir().unwrap();
    let clone = directory.path().join("clone");
    let bare = server.path("o/app").display().to_string();
    git(directory.path(), &["clone", "-q", &bare, "clone"]);
    write(&clone, ".gitmodules", "[submodule \"lib\"]\n\tpath = lib\n\turl = ../other.git\n");
    let id = server.head("o/other", "main").unwrap();
    git(&clone, &["update-index", "--add", "--cacheinfo", &format!("160000,{id},lib")]);
    git(&clone, &["add", ".gitmodules"]);
    git(&clone, &["commit", "-q", "-m", "A submodule"]);
    git(&clone, &["push", "-q", "origin", "HEAD:main"]);
    api.install("o/app", &ALL);
    api.install("o/other", &ALL);
    let body = json!({"repoUrl": server.url("o/app"), "directory": "repo", "submodules": true});
    scene.pull_with(body).await.commit();
    let issued = api.issued();
    let repositories: Vec<_> = issued.iter().map(|it| it.repository.as_str()).collect();
    assert_eq!(repositories, ["o/app", "o/other"]);
    assert!(issued.iter().all(|it| it.is_revoked), "{issued:?}");
    api.assert_valid();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_delivery_gets_a_token_that_writes_what_it_is_to_write() {
    let Some((server, api, scene)) = github("deliveries with a GitHub App").await else { return };
    api.install("o/app", &ALL);
    let work = |checkout: &PathBuf| write(checkout, "b", "b\n");
    let workflow = scene.workflow(&server.url("o/app"), "", work).await;
    let branch = format!("agent/{}", short(workflow.id));
    let delivered = scene.deliver(&workflow, json!({})).await;
    assert_eq!(server.head("o/app", &branch).as_deref(), Some(delivered.commit()));
    let outcome = scene.deliver(&workflow, json!({"mode": "pull_request"})).await;
    assert_eq!(outcome.commit(), delivered.commit());
    assert_eq!(
        outcome.terminal["url"],
        format!("http://{}/o/app/pull/1", server.address()),
        "{:?}",
        outcome.terminal
    );
    let pulls = api.pulls();
    assert_eq!(
        (pulls.len(), pulls[0].head.as_str(), pulls[0].base.as_str()),
        (1, branch.as_str(), "main")
    );
    let flow = |checkout: &PathBuf| write(checkout, ".github/workflows/ci.yml", "on: push\n");
    let flow = scene.workflow(&server.url("o/app"), "", flow).await;
    scene.deliver(&flow, json!({})).await.failed(Code::ProtectedPaths);
    scene.deliver(&flow, json!({"allowProtected": true})).await.commit();
    let read = vec!["contents: read", "metadata: read"];
    let write = vec!["contents: write", "metadata: read"];
    let request = vec!["contents: write", "metadata: read", "pull_requests: write"];
    let flows = vec!["contents: write", "metadata: read", "workflows: write"];
    // The pull and two deliveries, then the pull and two more.
    assert_eq!(
        permissions(&api),
        [&read, &write, &request, &read, &write, &flows].map(Clone::clone)
    );
    assert!(api.issued().iter().all(|it| it.is_revoked && it.repository == "o/app"));
    api.assert_valid();
    for secret in api.issued().iter().map(|it| it.token.as_str()) {
        assert_eq!(files_with(scene.workspace.root(), secret), [] as [PathBuf; 0]);
    }

    // The App's key is a secret like any other.
    let line = api.key().lines().nth(3).unwrap().to_owned();
    let leak = |checkout: &PathBuf| crate::deliver::write(checkout, "b", &format!("x{line}y\n"));
    let leak = scene.workflow(&server.url("o/app"), "", leak).await;
    scene.deliver(&leak, json!({})).await.failed(Code::SecretInResult);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_app_may_not_do_is_said_before_anything_is_pushed() {
    let Some((server, api, mut scene)) = github("refusals of a GitHub App").await else { return };
    api.install("o/app", &ALL);
    let work = |checkout: &PathBuf| write(checkout, "b", "b\n");
    let workflow = scene.workflow(&server.url("o/app"), "", work).await;
    let mode = json!({"mode": "pull_request"});
    for (granted, missing) in [
        (vec![("metadata", "read"), ("contents", "read")], "'contents: write'"),
        (vec![("metadata", "read"), ("contents", "write")], "'pull_requests: write'"),
    ] {
        api.install("o/app", &granted);
        let outcome = scene.deliver(&workflow, mode.clone()).await;
        let sentence = outcome.failed(Code::AuthenticationFailed);
        assert!(
            sentence.contains(missing) && sentence.contains("settings of the App"),
            "{sentence}"
        );
    }
    api.suspend("o/app");
    let outcome = scene.deliver(&workflow, mode.clone()).await;
    assert!(outcome.failed(Code::AuthenticationFailed).contains("suspended"));
    api.uninstall("o/app");
    for mode in [json!({}), mode.clone()] {
        let outcome = scene.deliver(&workflow, mode).await;
        let sentence = outcome.failed(Code::AuthenticationFailed);
        assert!(sentence.contains("not installed on http"), "{sentence}");
    }
    // The key of another App.
    api.install("o/app", &ALL);
    scene.config.app = Some(GitHubApp::new("654321", &api.key()).unwrap());
    let outcome = scene.deliver(&workflow, mode.clone()).await;
    outcome.failed(Code::AuthenticationFailed);
    let key = api.key();
    assert!(api.register_app(APP), "another key");
    scene.config.app = Some(GitHubApp::new(APP, &key).unwrap());
    let outcome = scene.deliver(&workflow, mode.clone()).await;
    let sentence = outcome.failed(Code::AuthenticationFailed);
    assert!(sentence.contains("HTTP 401") && sentence.contains("GITHUB_APP_ID"), "{sentence}");
    assert_eq!(server.head("o/app", &format!("agent/{}", short(workflow.id))), None);
    // A GitHub that is down, and one that answers with something else.
    for (status, answer, expected) in [
        (503, json!({"message": "No server is currently available"}), "send the job again later"),
        (200, json!({"id": "x"}), "cannot be understood"),
        (403, json!({"message": "API rate limit exceeded for installation"}), "again later"),
    ] {
        server.serve_api(move |_| (status, answer.clone()));
        let outcome = scene.pull(&server.url("o/app")).await;
        let sentence = outcome.failed(Code::RepositoryUnreachable);
        assert!(sentence.contains(expected), "{sentence}");
    }
    // A token that is none: git would take its second line for a command.
    server.serve_api(move |request| match request.method.as_str() {
        "GET" => (200, json!({"id": 1, "permissions": {"contents": "write", "metadata": "read"}})),
        _ => (201, json!({"token": "x\nhost=evil.example", "expires_at": "2099-01-01T00:00:00Z"})),
    });
    let outcome = scene.pull(&server.url("o/app")).await;
    assert!(outcome.failed(Code::RepositoryUnreachable).contains("it is no token"));
    scene.assert_clean();
}
