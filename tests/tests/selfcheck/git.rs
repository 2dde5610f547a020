//! `git clone` from the git server.

use std::{
    fs,
    path::Path,
    process::Output,
    time::{Duration, Instant},
};

use testkit::{Fault, GitServer, http_json, wait_for};
use tokio::process::Command;

/// Runs git without configuration and without prompts. It does not check the exit status.
fn git(directory: &Path, arguments: &[&str]) -> Command {
    let mut command = Command::new("git");
    command.args(arguments).current_dir(directory).kill_on_drop(true);
    command.env("GIT_CONFIG_GLOBAL", "/dev/null").env("GIT_CONFIG_SYSTEM", "/dev/null");
    command.env("GIT_TERMINAL_PROMPT", "0").env("GIT_ASKPASS", "true").env("LC_ALL", "C");
    command
}

async fn run(directory: &Path, arguments: &[&str]) -> Output {
    git(directory, arguments).output().await.unwrap()
}

async fn succeed(directory: &Path, arguments: &[&str]) -> String {
    let output = run(directory, arguments).await;
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "git {arguments:?}: {stderr}");
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}

async fn fail(directory: &Path, arguments: &[&str]) -> String {
    let output = run(directory, arguments).await;
    assert!(!output.status.success(), "git {arguments:?} went well");
    String::from_utf8(output.stderr).unwrap()
}

#[tokio::test]
async fn git_can_clone_fetch_and_follow_rewritten_history() {
    let server = GitServer::start().await;
    let here = tempfile::tempdir().unwrap();
    let here = here.path();
    let first = server.create_repo("one.git", &[("README.md", "hello\n"), ("a b/\"c\"", "quoted")]);
    succeed(here, &["clone", "-q", &server.url("one.git"), "one"]).await;
    let clone = here.join("one");
    assert_eq!(succeed(&clone, &["rev-parse", "HEAD"]).await, first);
    assert_eq!(fs::read_to_string(clone.join("README.md")).unwrap(), "hello\n");
    assert_eq!(fs::read_to_string(clone.join("a b/\"c\"")).unwrap(), "quoted");
    assert!(server.requests("one.git") >= 2);
    assert_eq!(server.seen_authorization("one"), Vec::<String>::new());

    let second = server.commit("one", "main", &[("new", "new")]);
    let topic = server.commit("one", "topic/x", &[("topic", "topic")]);
    succeed(&clone, &["pull", "-q", "--ff-only"]).await;
    assert_eq!(succeed(&clone, &["rev-parse", "HEAD"]).await, second);
    assert_eq!(succeed(&clone, &["rev-parse", "origin/topic/x"]).await, topic);
    assert_eq!(succeed(&clone, &["rev-parse", "origin/topic/x^"]).await, second);
    assert_eq!(server.head("one", "main").as_ref(), Some(&second));

    let rewritten = server.force_commit("one", "main", &[("new", "other")]);
    assert_ne!(rewritten, second);
    fail(&clone, &["pull", "-q", "--ff-only"]).await;
    assert_eq!(succeed(&clone, &["rev-parse", "origin/main^"]).await, first);

    let link = server.commit_symlink("one", "links", "out", "/etc");
    server.commit_executable("one", "links", "run", "#!/bin/sh\n");
    succeed(here, &["clone", "-q", "-b", "links", &server.url("one"), "links"]).await;
    assert_eq!(fs::read_link(here.join("links/out")).unwrap(), Path::new("/etc"));
    assert_eq!(succeed(&here.join("links"), &["rev-parse", "HEAD^"]).await, link);

    server.delete_branch("one", "links");
    assert_eq!(server.head("one", "links"), None);
}

#[tokio::test]
async fn commits_are_the_same_in_every_run() {
    let (one, other) = (GitServer::start().await, GitServer::start().await);
    let files = [("a", "1"), ("b", "2")];
    assert_eq!(one.create_repo("r", &files), other.create_repo("r", &files));
    assert_eq!(one.create_big_repo("big", 3, 10), other.create_big_repo("big", 3, 10));
}

#[tokio::test]
async fn empty_and_missing_repositories_can_be_told_apart() {
    let server = GitServer::start().await;
    let here = tempfile::tempdir().unwrap();
    server.create_empty_repo("empty");
    succeed(here.path(), &["clone", "-q", &server.url("empty.git")]).await;
    let error = fail(here.path(), &["clone", "-q", &server.url("missing.git")]).await;
    assert!(error.contains("not found"), "{error}");
}

#[tokio::test]
async fn only_the_right_password_is_accepted() {
    let server = GitServer::start().await;
    let here = tempfile::tempdir().unwrap();
    server.create_repo("private.git", &[("secret", "s")]);
    server.set_auth("private.git", "user", "pa55");
    let error = fail(here.path(), &["clone", "-q", &server.url("private.git")]).await;
    assert!(error.contains("Authentication failed") || error.contains("terminal"), "{error}");
    let wrong = server.url_with_credentials("private.git", "user", "wrong");
    fail(here.path(), &["clone", "-q", &wrong]).await;
    let right = server.url_with_credentials("private.git", "user", "pa55");
    succeed(here.path(), &["clone", "-q", &right]).await;
    assert!(here.path().join("private/secret").exists());
    let seen = server.seen_authorization("private");
    assert!(seen.contains(&"Basic dXNlcjpwYTU1".to_owned()), "{seen:?}");
}

#[tokio::test]
async fn it_records_which_host_saw_credentials_after_a_redirect() {
    let (server, other) = (GitServer::start().await, GitServer::start().await);
    let here = tempfile::tempdir().unwrap();
    other.create_repo("new", &[("moved", "m")]);
    server.set_fault("old.git", Fault::RedirectTo(other.url("new.git")));
    succeed(here.path(), &["clone", "-q", &server.url("old.git"), "clone"]).await;
    assert!(here.path().join("clone/moved").exists());
    assert_eq!(server.requests("old"), 1);
    assert!(other.requests("new") >= 2);

    server.set_auth("old.git", "user", "pa55");
    let basic = "Basic dXNlcjpwYTU1";
    let query = "info/refs?service=git-upload-pack";
    let old = format!("{}/{query}", server.url("old.git"));
    let (status, headers, _) = http_json("GET", &old, None, &[]).await;
    assert_eq!(status.as_u16(), 401);
    assert_eq!(headers["www-authenticate"], "Basic realm=\"testkit\"");
    let (status, headers, _) = http_json("GET", &old, None, &[("authorization", basic)]).await;
    let new = format!("{}/{query}", other.url("new.git"));
    assert_eq!((status.as_u16(), headers["location"].to_str().unwrap()), (302, &*new));
    assert_eq!(server.seen_authorization("old"), [basic]);
    assert_eq!(other.seen_authorization("new"), Vec::<String>::new());

    // A client that sent credentials to the new host would show up here.
    http_json("GET", &new, None, &[("authorization", basic)]).await;
    assert_eq!(other.seen_authorization("new"), [basic]);
}

#[tokio::test]
async fn faults_last_until_they_are_cleared() {
    let server = GitServer::start().await;
    let here = tempfile::tempdir().unwrap();
    let here = here.path();
    server.create_big_repo("big", 4, 100_000);
    let url = server.url("big");

    server.set_fault("big", Fault::Status(503));
    let error = fail(here, &["clone", "-q", &url]).await;
    assert!(error.contains("503"), "{error}");

    for bytes in [0, 20, 150_000] {
        server.set_fault("big", Fault::CloseMidway(bytes));
        fail(here, &["clone", "-q", &url]).await;
    }

    for (fault, requests) in [(Fault::Stall, 1), (Fault::StallAfter(150_000), 3)] {
        let before = server.requests("big");
        server.set_fault("big", fault);
        let mut clone = git(here, &["clone", "-q", &url]).spawn().unwrap();
        wait_for("the clone's requests", Duration::from_secs(20), || async {
            (server.requests("big") == before + requests).then_some(())
        })
        .await;
        assert_eq!(clone.try_wait().unwrap(), None);
        clone.kill().await.unwrap();
        let _ = fs::remove_dir_all(here.join("big"));
    }

    server.clear_fault("big");
    succeed(here, &["clone", "-q", &url]).await;
}

/// Many branches make the request of a fetch long enough for git to compress it.
#[tokio::test]
async fn compressed_requests() {
    let server = GitServer::start().await;
    let here = tempfile::tempdir().unwrap();
    let here = here.path();
    server.create_repo("many", &[("a", "a")]);
    for number in 0..40 {
        server.commit("many", &format!("branch-{number}"), &[("a", &number.to_string())]);
    }
    let mut traced = git(here, &["clone", "-q", &server.url("many"), "many"]);
    let output = traced.env("GIT_TRACE_CURL", "1").output().await.unwrap();
    let trace = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{trace}");
    assert!(trace.contains("Content-Encoding: gzip"), "nothing was compressed");
    assert_eq!(succeed(&here.join("many"), &["branch", "-r"]).await.lines().count(), 42);
}

#[tokio::test]
async fn a_large_repository_is_created_quickly_and_streamed() {
    let server = GitServer::start().await;
    let here = tempfile::tempdir().unwrap();
    let started = Instant::now();
    server.create_big_repo("big", 300, 200_000);
    let made = started.elapsed();
    succeed(here.path(), &["clone", "-q", &server.url("big"), "big"]).await;
    let file = here.path().join("big/noise/001/299.bin");
    assert_eq!(fs::metadata(file).unwrap().len(), 200_000);
    assert!(made < Duration::from_secs(30), "60 MB took {made:?}");
    eprintln!("60 MB made in {made:?}, cloned in {:?}", started.elapsed() - made);
}
