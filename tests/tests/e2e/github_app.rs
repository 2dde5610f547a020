//! A GitHub App in a whole stack: its key and its tokens stay where they belong.

use std::fs;

use base64::{Engine as _, prelude::BASE64_STANDARD};
use serde_json::json;
use testkit::{AgentScript, GitHubApi, GitServer, Stack, descendants, skip};

use crate::support::{every_file, post_workflow, terminal, workflow};

#[tokio::test(flavor = "multi_thread")]
async fn a_github_app_leaves_neither_its_key_nor_its_tokens() {
    let git = GitServer::start().await;
    let github = GitHubApi::start(&git);
    if !github.register_app("123456") {
        let test = "a_github_app_leaves_neither_its_key_nor_its_tokens";
        return skip(test, "there is no openssl, which makes the key");
    }
    git.create_repo("o/app", &[("README.md", "hello\n")]);
    git.allow_push("o/app");
    github.protect(&git, "o/app");
    let all = [("metadata", "read"), ("contents", "write"), ("pull_requests", "write")];
    github.install("o/app", &all);
    let host = git.address().to_string();
    let stack = Stack::builder()
        .env("GITHUB_APP_ID", "123456")
        .env("GITHUB_APP_PRIVATE_KEY_SECRET", github.key_file())
        .env("GIT_CREDENTIAL_HOSTS", &host)
        .env("GIT_FORGES", format!("{host}=github"))
        .env("LOG_LEVEL", "debug")
        .start()
        .await;
    let script = AgentScript::new().write("new", "new\n");
    let mut body = workflow(&git.url("o/app"), &script);
    body["deliver"] = json!({"mode": "pull_request"});
    let events = post_workflow(&stack, &body).send().await.collect_all().await;
    let end = terminal(&events);
    assert_eq!(end["delivery"]["status"], "delivered", "{end}");
    assert_eq!(github.pulls().len(), 1);
    github.assert_valid();
    stack.wait_until_idle().await;

    // A token for the pull and one for the delivery. Both were needed, and are worth nothing any more.
    let tokens: Vec<_> = github.issued().into_iter().map(|it| (it.token, it.is_revoked)).collect();
    assert!(tokens.len() == 2 && tokens.iter().all(|(_, is_revoked)| *is_revoked), "{tokens:?}");
    let logins =
        tokens.iter().map(|(token, _)| BASE64_STANDARD.encode(format!("x-access-token:{token}")));
    let logins: Vec<_> = logins.collect();
    let seen = git.seen_authorization("o/app").concat();
    assert!(logins.iter().all(|login| seen.contains(login)), "{seen}");
    let key = github.key();
    let lines = key.lines().filter(|line| !line.contains("-----")).map(str::to_owned);
    let secrets: Vec<_> = lines.chain(logins).chain(tokens.into_iter().map(|it| it.0)).collect();
    let holds = |bytes: &[u8]| {
        secrets.iter().any(|it| memchr::memmem::find(bytes, it.as_bytes()).is_some())
    };
    assert!(holds(&fs::read(github.key_file()).unwrap()), "the control");
    for event in &events {
        assert!(!holds(event.json.to_string().as_bytes()), "{}", event.json);
    }
    for (path, content) in every_file(stack.workspace()) {
        assert!(!holds(&content), "{path}");
    }
    assert!(!holds(stack.log().as_bytes()));
    for process in descendants(stack.pid()) {
        let read = |name| fs::read(format!("/proc/{}/{name}", process.pid)).unwrap_or_default();
        assert!(!holds(&[read("cmdline"), read("environ")].concat()), "{}", process.cmdline());
    }
}
