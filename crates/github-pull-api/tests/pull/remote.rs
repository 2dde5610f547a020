//! What git hosts do, and who gets the credentials.

use std::{
    io::{Read as _, Write as _},
    net::{SocketAddr, TcpListener},
    sync::{Arc, Mutex},
};

use contract::Code;
use testkit::{Fault, GitServer};

use crate::support::{Outcome, Scene, files_with};

/// Tells what a request's head is answered with.
type Answer = dyn Fn(&str) -> String + Send + Sync;

/// An HTTP server that answers each request as it is told, and keeps what it was asked.
struct RawServer {
    address: SocketAddr,
    heads: Arc<Mutex<Vec<String>>>,
}

impl RawServer {
    fn start(answer: Box<Answer>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let heads = Arc::<Mutex<Vec<String>>>::default();
        let seen = Arc::clone(&heads);
        // Ends with the test process; nothing waits for it.
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let Ok(mut stream) = stream else { return };
                let mut head = Vec::new();
                let mut byte = [0];
                while !head.ends_with(b"\r\n\r\n") && stream.read(&mut byte).is_ok_and(|n| n > 0) {
                    head.push(byte[0]);
                }
                let head = String::from_utf8_lossy(&head).into_owned();
                let answer = answer(&head);
                seen.lock().unwrap().push(head);
                let _ = stream.write_all(answer.as_bytes());
            }
        });
        Self { address, heads }
    }

    fn heads(&self) -> Vec<String> {
        self.heads.lock().unwrap().clone()
    }
}

fn response(status: &str, headers: &str) -> String {
    format!("HTTP/1.1 {status}\r\n{headers}Content-Length: 0\r\nConnection: close\r\n\r\n")
}

/// Nothing of `secret` is in what a caller reads or in any file of the volume.
#[track_caller]
fn assert_hidden(scene: &Scene, outcome: &Outcome, secret: &str) {
    assert!(!format!("{outcome:?}").contains(secret));
    assert_eq!(files_with(scene.workspace.root(), secret), [] as [std::path::PathBuf; 0]);
}

#[tokio::test]
async fn credentials_of_the_url() {
    let server = GitServer::start().await;
    let commit = server.create_repo("app", &[("a", "1\n")]);
    server.set_auth("app", "me", "pa55word");
    let scene = Scene::new();
    let good = server.url_with_credentials("app", "me", "pa55word");
    let outcome = scene.pull(&good).await;
    assert_eq!(outcome.commit(), commit);
    assert_hidden(&scene, &outcome, "pa55word");
    assert_eq!(outcome.events[0]["repoUrl"], server.url("app"));

    // An update too, and the mirror serves nobody who may not fetch.
    let newer = server.commit("app", "main", &[("a", "2\n")]);
    let outcome = scene.pull(&server.url("app")).await;
    let sentence = outcome.failed(Code::AuthenticationFailed);
    assert!(sentence.contains("wants credentials"), "{sentence}");
    let seen = server.seen_authorization("app").len();
    let outcome = scene.pull(&server.url_with_credentials("app", "me", "wr0ngword")).await;
    let sentence = outcome.failed(Code::AuthenticationFailed);
    assert!(sentence.contains("refuses the credentials"), "{sentence}");
    assert_hidden(&scene, &outcome, "wr0ngword");
    assert_eq!(server.seen_authorization("app").len() - seen, 1, "tried once");
    let fresh = serde_json::json!({"repoUrl": server.url("app"), "directory": "fresh"});
    scene.pull_with(fresh).await.failed(Code::AuthenticationFailed);
    assert!(!scene.path("fresh").exists());
    assert_eq!(scene.pull(&good).await.commit(), newer);
    scene.assert_clean();
}

#[tokio::test]
async fn the_token_is_for_its_hosts() {
    let server = GitServer::start().await;
    let commit = server.create_repo("app", &[("a", "1\n")]);
    server.set_auth("app", "x-access-token", "t0ken-of-ours");
    let host = server.address().to_string();
    let scene = Scene::new().with_token("t0ken-of-ours", &host);
    let outcome = scene.pull(&server.url("app")).await;
    assert_eq!(outcome.commit(), commit);
    assert_hidden(&scene, &outcome, "t0ken-of-ours");

    let seen = server.seen_authorization("app").len();
    let other = Scene::new().with_token("t0ken-of-ours", "github.com");
    other.pull(&server.url("app")).await.failed(Code::AuthenticationFailed);
    assert_eq!(server.seen_authorization("app").len(), seen);
}

#[tokio::test]
async fn credentials_do_not_follow_a_redirect_to_another_port() {
    let first = GitServer::start().await;
    let second = GitServer::start().await;
    second.create_repo("app", &[("a", "1\n")]);
    second.set_auth("app", "me", "pa55word");
    first.set_fault("app", Fault::RedirectTo(second.url("app")));
    let scene = Scene::new().with_token("t0ken-of-ours", &first.address().to_string());
    let outcome = scene.pull(&first.url_with_credentials("app", "me", "pa55word")).await;
    let sentence = outcome.failed(Code::AuthenticationFailed);
    assert!(sentence.contains("redirects to another host"), "{sentence}");
    assert_eq!(second.seen_authorization("app"), [] as [String; 0]);
    assert!(second.requests("app") > 0);
}

#[tokio::test]
async fn credentials_that_were_given_do_not_follow_a_later_redirect() {
    let second = GitServer::start().await;
    second.create_repo("app", &[("a", "1\n")]);
    let target = second.url("app");
    let first = RawServer::start(Box::new(move |head| {
        if head.to_ascii_lowercase().contains("authorization:") {
            let path = head.split_whitespace().nth(1).unwrap();
            let rest = path.split_once("/app").unwrap().1;
            response("302 Found", &format!("Location: {target}{rest}\r\n"))
        } else {
            response("401 Unauthorized", "WWW-Authenticate: Basic realm=\"x\"\r\n")
        }
    }));
    let scene = Scene::new();
    let outcome = scene.pull(&format!("http://me:pa55word@{}/app", first.address)).await;
    // git follows the first redirect, and asks the first host for the rest.
    let sentence = outcome.failed(Code::RepositoryUnreachable);
    assert!(sentence.contains("use the URL that it leads to"), "{sentence}");
    assert!(first.heads().iter().any(|head| head.contains("Authorization: Basic")));
    assert_eq!(second.seen_authorization("app"), [] as [String; 0]);
}

#[tokio::test]
async fn redirects_to_another_host_are_not_followed() {
    let first = GitServer::start().await;
    let second = GitServer::start().await;
    second.create_repo("app", &[("a", "1\n")]);
    let elsewhere = format!("http://localhost:{}/app", second.address().port());
    first.set_fault("app", Fault::RedirectTo(elsewhere));
    let scene = Scene::new();
    let outcome = scene.pull(&first.url_with_credentials("app", "me", "pa55word")).await;
    let sentence = outcome.failed(Code::RepositoryUnreachable);
    assert!(sentence.contains("use the URL that it leads to"), "{sentence}");
    assert_eq!(second.requests("app"), 0);
}

#[tokio::test]
async fn a_repository_that_was_renamed() {
    let server = GitServer::start().await;
    let commit = server.create_repo("new", &[("a", "1\n")]);
    server.set_auth("new", "me", "pa55word");
    server.set_fault("old", Fault::RedirectTo(server.url("new")));
    let scene = Scene::new();
    let outcome = scene.pull(&server.url_with_credentials("old", "me", "pa55word")).await;
    assert_eq!(outcome.commit(), commit);
}

#[tokio::test]
async fn answers_that_are_no_repository() {
    let server = GitServer::start().await;
    server.create_repo("app", &[("a", "1\n")]);
    let scene = Scene::new();
    for (status, code, word) in [
        (401, Code::AuthenticationFailed, "credentials"),
        (403, Code::AuthenticationFailed, "403"),
        (404, Code::RepositoryUnreachable, "if it is private, give credentials"),
        (500, Code::RepositoryUnreachable, "HTTP 500"),
        (503, Code::RepositoryUnreachable, "HTTP 503"),
    ] {
        server.set_fault("app", Fault::Status(status));
        let outcome = scene.pull(&server.url("app")).await;
        let sentence = outcome.failed(code);
        assert!(sentence.contains(word), "{status}: {sentence}");
        assert!(!scene.path("repo").exists());
    }
    for bytes in [10, 400] {
        server.set_fault("app", Fault::CloseMidway(bytes));
        scene.pull(&server.url("app")).await.failed(Code::RepositoryUnreachable);
    }
    let web = RawServer::start(Box::new(|_| {
        "HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nContent-Length: 5\r\nConnection: close\r\n\r\nhello"
            .to_owned()
    }));
    let url = format!("http://{}/app", web.address);
    // To git this is a repository of the oldest protocol, without references.
    scene.pull(&url).await.failed(Code::EmptyRepository);
    // No TLS there.
    let url = format!("https://{}/app", server.address());
    let outcome = scene.pull(&url).await;
    outcome.failed(Code::RepositoryUnreachable);
    scene.assert_clean();
    server.clear_fault("app");
    scene.pull(&server.url("app")).await.commit();
}

#[tokio::test]
async fn nobody_there() {
    let scene = Scene::new();
    let port = testkit::free_port();
    for url in [
        format!("http://127.0.0.1:{port}/app"),
        format!("ssh://git@127.0.0.1:{port}/app"),
        format!("git://127.0.0.1:{port}/app"),
        "http://no-such-host.invalid/app".to_owned(),
    ] {
        let outcome = scene.pull(&url).await;
        let sentence = outcome.failed(Code::RepositoryUnreachable);
        assert!(sentence.contains("check the URL"), "{sentence}");
    }
    scene.assert_clean();
}

#[tokio::test]
async fn a_mirror_outlives_a_host_that_is_down() {
    let server = GitServer::start().await;
    server.create_repo("app", &[("a", "1\n")]);
    let scene = Scene::new();
    scene.pull(&server.url("app")).await.commit();
    let mirror = scene.mirror();
    for fault in [Fault::Status(500), Fault::CloseMidway(300), Fault::CloseMidway(600)] {
        server.commit("app", "main", &[("a", &format!("{fault:?}"))]);
        server.set_fault("app", fault);
        scene.pull(&server.url("app")).await.failed(Code::RepositoryUnreachable);
        assert!(mirror.join("HEAD").is_file());
    }
    server.clear_fault("app");
    let outcome = scene.pull(&server.url("app")).await;
    assert_eq!(outcome.commit(), server.head("app", "main").unwrap());
    assert!(outcome.messages().contains(&"Updating the mirror"));
    assert!(!outcome.messages().iter().any(|message| message.contains("damaged")));
}
