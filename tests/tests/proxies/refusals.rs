//! What the proxies and the stack refuse, and where requests go.

use std::{collections::BTreeSet, fs, process::Stdio};

use contract::Service;
use tempfile::TempDir;
use testkit::{Stack, free_port, skip};
use tokio::process::Command;

use crate::{
    caller::{answer, curl, post, stranger},
    proxy::{Proxy, missing_program},
    recipe::Kind,
    scene::Scene,
};

#[tokio::test]
async fn every_path_is_passed_on() {
    if let Some(program) = missing_program() {
        return skip("every_path_is_passed_on", &format!("{program} is not installed"));
    }
    let scene = Scene::new().await;
    let unknown = "01a213f5-408c-7144-bee2-b0f71260eb9d";
    for kind in Kind::ALL {
        let proxy = Proxy::start(kind, scene.port()).await;
        for path in Service::ALL.iter().flat_map(|service| service.spec().job_paths) {
            let refused = answer(post(&proxy, path, "{}", &[])).await;
            assert_eq!(refused.status, 400, "{kind:?} {path}: {refused:?}");
            assert_eq!(refused.json()["code"], "invalid_field", "{kind:?} {path}");
        }
        for path in ["/health", "/status", "/api/jobs?limit=1", "/api/repos", "/api/sessions"] {
            let answer = answer(curl(&proxy, path, &[])).await;
            assert_eq!(answer.status, 200, "{kind:?} {path}: {answer:?}");
        }
        let session = format!("/api/sessions/{unknown}");
        let stream = format!("/api/stream/{unknown}");
        for request in [curl(&proxy, &session, &[]), post(&proxy, &stream, "{}", &[])] {
            let refused = answer(request).await;
            assert_eq!(refused.json()["code"], "session_not_found", "{kind:?}: {refused:?}");
        }
        // A page on the proxy's own origin may start jobs, and no other page.
        for (origin, status) in [(proxy.url(""), 400), ("https://evil.example".to_owned(), 403)] {
            let origin = format!("Origin: {origin}");
            let refused = answer(post(&proxy, "/api/workflow", "{}", &["-H", &origin])).await;
            assert_eq!(refused.status, status, "{kind:?}: {origin}: {refused:?}");
        }
    }
}

#[tokio::test]
async fn a_body_over_the_limit_is_refused_by_the_stack() {
    if let Some(program) = missing_program() {
        let why = format!("{program} is not installed");
        return skip("a_body_over_the_limit_is_refused_by_the_stack", &why);
    }
    let scene = Scene::new().await;
    let files = TempDir::new().unwrap();
    let bodies = [2, 12].map(|mebibytes: usize| {
        let file = files.path().join(mebibytes.to_string());
        fs::write(&file, " ".repeat(mebibytes << 20)).unwrap();
        format!("@{}", file.display())
    });
    // As a client that sends everything before it reads. In other modes curl stops sending when it
    // has seen the status, and may reset the connection before it has read the body of the answer.
    let mode = ["--http1.1", "-H", "Expect:"];
    for kind in Kind::ALL {
        let proxy = Proxy::start(kind, scene.port()).await;
        for body in &bodies {
            let refused = answer(post(&proxy, "/api/workflow", body, &mode)).await;
            assert_eq!(refused.status, 413, "{kind:?} {body}: {refused:?}");
            assert_eq!(refused.json()["code"], "body_too_large", "{kind:?} {body}");
        }
    }
    // Without its line, nginx refuses the body itself, in HTML.
    let changes = [("client_max_body_size 16m;", "")];
    let proxy = Proxy::start_changed(Kind::Nginx, scene.port(), &changes).await;
    let refused = answer(post(&proxy, "/api/workflow", &bodies[0], &mode)).await;
    assert!(refused.status == 413 && refused.body.contains("<html>"), "{refused:?}");
}

#[tokio::test]
async fn callers_without_the_token_are_refused_by_the_proxy() {
    if let Some(program) = missing_program() {
        let why = format!("{program} is not installed");
        return skip("callers_without_the_token_are_refused_by_the_proxy", &why);
    }
    let scene = Scene::new().await;
    for kind in Kind::ALL {
        let proxy = Proxy::start(kind, scene.port()).await;
        let none: &[&str] = &[];
        for more in [
            none,
            &["-H", "Authorization: Bearer another"],
            &["-H", "Authorization: Bearer CHANGE-ME2"],
            &["-H", "Authorization: CHANGE-ME"],
            &["-H", "Authorization;"],
        ] {
            for path in ["/health", "/api/workflow", "/api/pull", "/api/execute", "/api/nope"] {
                let refused = answer(stranger(&proxy, path, more)).await;
                assert_eq!(refused.status, 401, "{kind:?} {path} {more:?}: {refused:?}");
            }
        }
        assert_eq!(answer(curl(&proxy, "/health", none)).await.status, 200, "{kind:?}");
    }
}

/// The header is for the stack's own requests. The proxies remove it, and the stack believes it only with a capability.
#[tokio::test]
async fn callers_cannot_act_for_a_workflow() {
    if let Some(program) = missing_program() {
        return skip("callers_cannot_act_for_a_workflow", &format!("{program} is not installed"));
    }
    let scene = Scene::new().await;
    let parent = ["-H", "X-Parent-Job-Id: 01a213f5-408c-7144-bee2-b0f71260eb9d"];
    let body = r#"{"prompt": "x", "unknown": 1}"#;
    for kind in Kind::ALL {
        let proxy = Proxy::start(kind, scene.port()).await;
        let refused = answer(post(&proxy, "/api/execute", body, &parent)).await;
        assert_eq!(refused.json()["code"], "unknown_field", "{kind:?}: {refused:?}");
    }
    let changes = [("http-request del-header X-Parent-Job-Id", "")];
    let proxy = Proxy::start_changed(Kind::HaProxy, scene.port(), &changes).await;
    let refused = answer(post(&proxy, "/api/execute", body, &parent)).await;
    assert_eq!(refused.json()["code"], "forbidden", "{refused:?}");
}

#[tokio::test]
async fn a_stack_without_allowed_hosts_names_the_setting() {
    if let Some(program) = missing_program() {
        let why = format!("{program} is not installed");
        return skip("a_stack_without_allowed_hosts_names_the_setting", &why);
    }
    let stack = Stack::builder().start().await;
    for kind in Kind::ALL {
        let proxy = Proxy::start(kind, stack.ports()[Service::Workflow]).await;
        for request in [curl(&proxy, "/health", &[]), post(&proxy, "/api/workflow", "{}", &[])] {
            let refused = answer(request).await;
            assert_eq!(refused.status, 400, "{kind:?}: {refused:?}");
            let error = refused.json()["error"].clone();
            let hint = "ALLOWED_HOSTS=agents.example.org";
            assert!(error.as_str().is_some_and(|error| error.contains(hint)), "{kind:?}: {error}");
        }
    }
}

#[tokio::test]
async fn nothing_listens_without_tls() {
    if let Some(program) = missing_program() {
        return skip("nothing_listens_without_tls", &format!("{program} is not installed"));
    }
    let scene = Scene::new().await;
    for kind in Kind::ALL {
        let proxy = Proxy::start(kind, scene.port()).await;
        assert_eq!(proxy.listening_ports(), BTreeSet::from([proxy.port]), "{kind:?}");
        let mut plain = Command::new("curl");
        plain.args(["--disable", "--noproxy", "*", "-sS", "-H", "Authorization: Bearer CHANGE-ME"]);
        plain.arg(format!("http://127.0.0.1:{}/health", proxy.port)).stdin(Stdio::null());
        let refused = answer(plain).await;
        assert!([0, 400].contains(&refused.status), "{kind:?}: {refused:?}");
        assert!(!refused.body.contains("\"ok\""), "{kind:?}: {refused:?}");
    }
    // By default, Caddy redirects from a plain port, which is 80 unless it is set.
    let plain = free_port();
    let change = ("auto_https disable_redirects", &*format!("http_port {plain}"));
    let proxy = Proxy::start_changed(Kind::Caddy, scene.port(), &[change]).await;
    assert_eq!(proxy.listening_ports(), BTreeSet::from([plain, proxy.port]));
}
