//! Pull requests, at servers that answer as the forges do.

use std::{
    collections::VecDeque,
    fs,
    path::PathBuf,
    sync::{Arc, Mutex},
};

use contract::Code;
use serde_json::{Value, json};
use testkit::{ApiRequest, GitServer};

use crate::{
    deliver::{settings, short, write},
    support::Scene,
};

type Seen = Arc<Mutex<Vec<ApiRequest>>>;

/// A server, what its API was asked, and a function that adds answers, which it gives in turn.
async fn forge() -> (GitServer, Seen, impl Fn(Vec<(u16, Value)>)) {
    let server = GitServer::start().await;
    server.create_repo("o/app", &[("a", "1\n")]);
    server.allow_push("o/app");
    server.set_auth("o/app", "x-access-token", "t0ken-of-ours");
    let (seen, answers) = (Seen::default(), Arc::new(Mutex::new(VecDeque::new())));
    let (asked, given) = (Arc::clone(&seen), Arc::clone(&answers));
    server.serve_api(move |request| {
        asked.lock().unwrap().push(request.clone());
        given.lock().unwrap().pop_front().unwrap_or((500, json!({"message": "no more answers"})))
    });
    (server, seen, move |more| answers.lock().unwrap().extend(more))
}

fn scene_of(server: &GitServer, kind: &str) -> Scene {
    let host = server.address().to_string();
    let mut scene = Scene::new().with_token("t0ken-of-ours", &host);
    let forges = format!("{host}={kind}");
    scene.config.deliver =
        settings(&[("GIT_FORGES", &forges), ("PUBLIC_URL", "https://stack.example.org")]);
    scene
}

/// What was asked, as `METHOD path`.
fn lines(seen: &Seen) -> Vec<String> {
    seen.lock().unwrap().iter().map(|it| format!("{} {}", it.method, it.path)).collect()
}

#[tokio::test]
async fn a_pull_request_at_github() {
    let exists = json!({"message": "Validation Failed", "errors": [
        {"resource": "PullRequest", "code": "custom", "message": "A pull request already exists for o:x."}]});
    let no_drafts = json!({"message": "Validation Failed", "errors": [
        {"resource": "PullRequest", "code": "invalid", "message": "Draft pull requests are not supported in this repository."}]});
    let (server, seen, answer) = forge().await;
    let url = format!("http://{}/o/app/pull/7", server.address());
    let pull = |head: &str, body: &Value| {
        json!({"number": 7, "html_url": url, "state": "open", "draft": true, "body": body,
            "head": {"ref": head}, "base": {"ref": "main"}})
    };
    let scene = scene_of(&server, "github");
    let work = |checkout: &PathBuf| write(checkout, "b", "b\n");
    let workflow = scene.workflow(&server.url("o/app"), "It works.", work).await;
    let mode = json!({"mode": "pull_request"});
    let branch = format!("agent/{}", short(workflow.id));
    // Somebody's pull request, which a server shows that does not filter.
    let others = json!([pull("main", &json!("Mine"))]);
    answer(vec![(200, others), (422, no_drafts), (201, pull(&branch, &json!("")))]);
    let outcome = scene.deliver(&workflow, mode.clone()).await;
    outcome.commit();
    assert_eq!(outcome.terminal["url"], url);
    let encoded = branch.replace('/', "%2F");
    let list = format!("GET /api/v3/repos/o/app/pulls?state=open&head=o%3A{encoded}&base=main");
    let post = "POST /api/v3/repos/o/app/pulls";
    assert_eq!(lines(&seen), [list.as_str(), post, post]);
    let asked = seen.lock().unwrap()[1].clone();
    let job = workflow.id;
    let text = format!("It works.\n\n---\nJob [{job}](https://stack.example.org/api/jobs/{job})");
    let body = asked.body["body"].clone();
    let (begin, mark) = body.as_str().unwrap().rsplit_once("\n\n").unwrap();
    assert_eq!(begin, text);
    assert!(mark.starts_with("<!-- workflow-stack ") && mark.ends_with(" -->"), "{mark}");
    let wanted = json!({"title": "Fix the build", "head": branch, "base": "main", "body": body, "draft": true});
    assert_eq!(asked.body, wanted);
    assert_eq!(seen.lock().unwrap()[2].body["draft"], false);
    for (name, value) in [
        ("authorization", "Bearer t0ken-of-ours"),
        ("accept", "application/vnd.github+json"),
        ("x-github-api-version", "2022-11-28"),
        ("content-type", "application/json"),
    ] {
        assert_eq!(asked.headers[name], value);
    }
    assert!(asked.headers["user-agent"].to_str().unwrap().starts_with("workflow-stack/"));

    // One branch, one commit, one pull request, whose text is ours as long as nobody has changed it.
    answer(vec![(200, json!([pull(&branch, &body)])), (200, pull(&branch, &body))]);
    let again = scene.deliver(&workflow, mode.clone()).await;
    assert_eq!(again.terminal["commit"], outcome.terminal["commit"]);
    assert_eq!(again.terminal["url"], outcome.terminal["url"]);
    assert_eq!(lines(&seen)[3..], [&*list, "PATCH /api/v3/repos/o/app/pulls/7"]);
    assert_eq!(seen.lock().unwrap()[4].body, json!({"body": body}));
    answer(vec![(200, json!([pull(&branch, &json!(format!("Reviewed. {text}")))]))]);
    let again = scene.deliver(&workflow, mode.clone()).await;
    assert_eq!(again.terminal["url"], outcome.terminal["url"]);
    assert_eq!(lines(&seen)[5..], [&*list]);

    // Somebody else was faster.
    let other = scene.workflow(&server.url("o/app"), "", work).await;
    let found = json!([pull(&format!("agent/{}", short(other.id)), &body)]);
    answer(vec![(200, json!([])), (422, exists), (200, found)]);
    let outcome = scene.deliver(&other, mode.clone()).await;
    assert_eq!(outcome.terminal["url"], url);
    let third = scene.workflow(&server.url("o/app"), "", work).await;
    let forbidden = json!({"message": "Resource not accessible by personal access token"});
    answer(vec![(200, json!([])), (403, forbidden)]);
    let refused = scene.deliver(&third, mode.clone()).await;
    let sentence = refused.failed(Code::PullRequestFailed);
    assert!(sentence.contains("is pushed") && sentence.contains("not accessible"), "{sentence}");
    assert!(!format!("{refused:?}").contains("t0ken-of-ours"));
    assert!(server.head("o/app", &format!("agent/{}", short(third.id))).is_some());
    answer(vec![(301, json!({"message": "Moved Permanently"}))]);
    let moved = scene.deliver(&third, mode.clone()).await;
    assert!(moved.failed(Code::PullRequestFailed).contains("new URL"), "{:?}", moved.terminal);

    // An address that is not the forge's is not passed on.
    let mut elsewhere = pull("x", &json!(""));
    elsewhere["html_url"] = json!("javascript:alert(document.cookie)");
    answer(vec![(200, json!([])), (201, elsewhere)]);
    let outcome = scene.deliver(&third, mode).await;
    outcome.commit();
    assert_eq!(outcome.terminal.get("url"), None);
    assert!(outcome.messages().iter().any(|it| it.contains("look for it there")));
}

#[tokio::test]
async fn a_pull_request_at_gitea_and_forgejo() {
    for kind in ["gitea", "forgejo"] {
        let (server, seen, answer) = forge().await;
        let url = format!("http://{}/o/app/pulls/3", server.address());
        let pull = |head: &str, state: &str, body: &Value| {
            json!({"number": 3, "html_url": url, "state": state, "body": body,
                "head": {"ref": head}, "base": {"ref": "main"}})
        };
        let scene = scene_of(&server, kind);
        let work = |checkout: &PathBuf| write(checkout, "b", "b\n");
        let workflow = scene.workflow(&server.url("o/app"), "", work).await;
        let branch = format!("agent/{}", short(workflow.id));
        let mode = json!({"mode": "pull_request", "title": "Fix", "body": "Why"});
        answer(vec![
            (200, pull(&branch, "closed", &json!(""))),
            (201, pull(&branch, "open", &json!(""))),
        ]);
        let outcome = scene.deliver(&workflow, mode.clone()).await;
        assert_eq!(outcome.terminal["url"], url);
        let asked = seen.lock().unwrap()[1].clone();
        let body = asked.body["body"].clone();
        answer(vec![
            (200, pull(&branch, "open", &body)),
            (201, pull(&branch, "open", &body)),
            (200, pull(&branch, "open", &json!("Edited"))),
        ]);
        scene.deliver(&workflow, mode.clone()).await.commit();
        scene.deliver(&workflow, mode).await.commit();
        let get = format!("GET /api/v1/repos/o/app/pulls/main/{}", branch.replace('/', "%2F"));
        let (post, patch) = ("POST /api/v1/repos/o/app/pulls", "PATCH /api/v1/repos/o/app/pulls/3");
        assert_eq!(lines(&seen), [&get, post, &get, patch, &get]);
        assert_eq!(asked.headers["authorization"], "token t0ken-of-ours");
        let job = workflow.id;
        let text =
            format!("Why\n\n---\nJob [{job}](https://stack.example.org/api/jobs/{job})\n\n<!--");
        assert!(body.as_str().unwrap().starts_with(&text), "{body}");
        let wanted = json!({"title": "WIP: Fix", "head": branch, "base": "main", "body": body});
        assert_eq!(asked.body, wanted);
    }
}

/// As GitLab does: options in, URL out.
fn gitlab_hook(server: &GitServer, options: &std::path::Path) {
    server.set_hook(
        "o/app",
        "post-receive",
        &format!(
            "n=0; while [ $n -lt $GIT_PUSH_OPTION_COUNT ]; do eval \"echo \\\"\\$GIT_PUSH_OPTION_$n\\\"\" >> {}; n=$((n+1)); done\n\
             echo; echo 'View merge request for x:'; echo '  http://{}/o/app/-/merge_requests/1'",
            options.display(),
            server.address().ip()
        ),
    );
}

#[tokio::test]
async fn a_merge_request_at_gitlab() {
    let (server, seen, answer) = forge().await;
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("options");
    gitlab_hook(&server, &file);
    let scene = scene_of(&server, "gitlab");
    let work = |checkout: &PathBuf| write(checkout, "b", "b\n");
    let workflow = scene.workflow(&server.url("o/app"), "", work).await;
    let mode = json!({"mode": "pull_request", "title": "Fix", "body": "Why\nso"});
    let outcome = scene.deliver(&workflow, mode.clone()).await;
    let commit = outcome.commit();
    let url = format!("http://{}/o/app/-/merge_requests/1", server.address().ip());
    assert_eq!(outcome.terminal["url"], url);
    let job = workflow.id;
    let body =
        format!("Why<br>so<br><br>---<br>Job [{job}](https://stack.example.org/api/jobs/{job})");
    assert_eq!(
        fs::read_to_string(&file).unwrap().lines().collect::<Vec<_>>(),
        [
            "merge_request.create",
            "merge_request.target=main",
            "merge_request.title=Fix",
            &format!("merge_request.description={body}"),
            "merge_request.draft",
        ]
    );
    assert!(seen.lock().unwrap().is_empty(), "its API is not asked");

    // Nothing is pushed the second time, so the API is asked: for a merge request that is there, ...
    let branch = format!("agent/{}", short(job));
    let merge = |branch: &str| {
        json!({"iid": 1, "web_url": url, "source_branch": branch, "target_branch": "main",
            "description": "of the options"})
    };
    answer(vec![(200, json!([merge("other"), merge(&branch)]))]);
    let again = scene.deliver(&workflow, mode.clone()).await;
    assert_eq!((again.commit(), &again.terminal["url"]), (commit, &json!(url)));
    // ... and for one that is not, as after a delivery as a branch.
    answer(vec![(200, json!([])), (201, merge(&branch))]);
    let again = scene.deliver(&workflow, mode.clone()).await;
    assert_eq!((again.commit(), &again.terminal["url"]), (commit, &json!(url)));
    let encoded = branch.replace('/', "%2F");
    let merges = "/api/v4/projects/o%2Fapp/merge_requests";
    let list = format!("GET {merges}?state=opened&source_branch={encoded}&target_branch=main");
    assert_eq!(lines(&seen), [list.clone(), list, format!("POST {merges}")]);
    let asked = seen.lock().unwrap()[2].clone();
    assert_eq!(asked.headers["authorization"], "Bearer t0ken-of-ours");
    assert_eq!(asked.body["title"], "Draft: Fix");
    assert_eq!(asked.body["source_branch"], branch);
    assert!(asked.body["description"].as_str().unwrap().starts_with("Why\nso\n\n---\nJob"));
}

/// Without a token, only a push can ask for a merge request.
#[tokio::test]
async fn a_merge_request_at_gitlab_without_a_token() {
    let (server, _seen, _answer) = forge().await;
    server.create_repo("o/open", &[("a", "1\n")]);
    server.allow_push("o/open");
    let mut scene = scene_of(&server, "gitlab");
    scene.config.token = None;
    let work = |checkout: &PathBuf| write(checkout, "b", "b\n");
    let workflow = scene.workflow(&server.url("o/open"), "", work).await;
    scene.deliver(&workflow, json!({})).await.commit();
    let outcome = scene.deliver(&workflow, json!({"mode": "pull_request"})).await;
    let sentence = outcome.failed(Code::PullRequestFailed);
    assert!(sentence.contains("GITHUB_TOKEN"), "{sentence}");
    // The other forges are known to be closed before anything is pushed.
    scene.config.deliver = scene_of(&server, "github").config.deliver;
    let other = scene.workflow(&server.url("o/open"), "", work).await;
    let outcome = scene.deliver(&other, json!({"mode": "pull_request"})).await;
    outcome.failed(Code::AuthenticationFailed);
    assert_eq!(server.head("o/open", &format!("agent/{}", short(other.id))), None);
}

#[tokio::test]
async fn a_host_of_unknown_software_is_named_before_anything_is_pushed() {
    let server = GitServer::start().await;
    server.create_repo("o/app", &[("a", "1\n")]);
    server.allow_push("o/app");
    let scene = Scene::new();
    let workflow = scene.workflow(&server.url("o/app"), "", |it| write(it, "b", "b\n")).await;
    let outcome = scene.deliver(&workflow, json!({"mode": "pull_request"})).await;
    assert!(outcome.failed(Code::InvalidField).contains("GIT_FORGES="));
    assert_eq!(server.head("o/app", &format!("agent/{}", short(workflow.id))), None);
}
