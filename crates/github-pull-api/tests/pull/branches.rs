//! Deliveries to branches that are there, that move, and whose commits others have made.

use std::{fs, path::PathBuf};

use contract::Code;
use serde_json::json;
use testkit::GitServer;

use crate::{
    deliver::{settings, short, write},
    support::{Scene, git},
};

fn edits(name: &'static str, content: &'static str) -> impl Fn(&PathBuf) {
    move |checkout: &PathBuf| write(checkout, name, content)
}

async fn server() -> (GitServer, String) {
    let server = GitServer::start().await;
    server.create_repo("app", &[("a", "1\n2\n3\n"), ("b", "1\n")]);
    server.allow_push("app");
    let url = server.url("app");
    (server, url)
}

/// What one commit adds and the next one removes is in no diff of the whole, but it leaves the stack.
#[tokio::test]
async fn every_kept_commit_is_checked() {
    let (server, url) = server().await;
    let scene = Scene::new().with_token("t0ken-of-ours", &server.address().to_string());
    let hiding = |name: &'static str, content: &'static str| {
        move |checkout: &PathBuf| {
            write(checkout, name, content);
            write(checkout, "b", "2\n");
            git(checkout, &["add", "-A"]);
            git(checkout, &["commit", "-q", "-m", "One"]);
            git(checkout, &["rm", "-q", name]);
            git(checkout, &["commit", "-q", "-m", "Two"]);
        }
    };
    let keep = json!({"commits": "keep"});
    let large = "0123456789abcdef\n".repeat(100_000);
    let large: &'static str = Box::leak(large.into_boxed_str());
    for (name, content, code) in [
        (".github/workflows/x.yml", "on: push\n", Code::ProtectedPaths),
        ("large", large, Code::TooLarge),
        ("secret", "t0ken-of-ours", Code::SecretInResult),
    ] {
        let workflow = scene.workflow(&url, "", hiding(name, content)).await;
        scene.deliver(&workflow, keep.clone()).await.failed(code);
        // The control: as one commit, there is nothing of it.
        scene.deliver(&workflow, json!({})).await.commit();
    }
    // A commit of another repository, as an agent's own submodule.
    let gitlink = |checkout: &PathBuf| {
        let head = git(checkout, &["rev-parse", "HEAD"]);
        let entry = format!("160000,{head},sub");
        git(checkout, &["update-index", "--add", "--cacheinfo", &entry]);
        git(checkout, &["commit", "-q", "-m", "One"]);
        git(checkout, &["rm", "-q", "--cached", "sub"]);
        git(checkout, &["commit", "-q", "-m", "Two"]);
        write(checkout, "b", "2\n");
    };
    let workflow = scene.workflow(&url, "", gitlink).await;
    let outcome = scene.deliver(&workflow, keep).await;
    assert_eq!(server.git("app", &["rev-list", "--count", outcome.commit(), "^main"]), "1");
    assert!(outcome.messages().iter().any(|it| it.contains("submodule")));
}

/// The branch began where the first delivery put it, whatever the base of the second one is.
#[tokio::test]
async fn a_follow_up_takes_nothing_of_others_away() {
    let (server, url) = server().await;
    let scene = Scene::new();
    server.git("app", &["tag", "v1", "main"]);
    server.git("app", &["branch", "release", "main"]);
    server.commit("app", "main", &[("b", "of main\n"), ("new", "of main\n")]);
    for (pull, second) in [
        (json!({"repoUrl": url, "branch": "v1"}), json!({})),
        (json!({"repoUrl": url, "branch": "release"}), json!({"base": "release"})),
    ] {
        let first = scene.workflow_of(pull, "", edits("a", "1\n2\nagent\n")).await;
        let one = scene.deliver(&first, json!({"base": "main"})).await.commit().to_owned();
        let resumed = scene.resume(&first, &url, edits("c", "c\n"));
        let outcome = scene.deliver(&resumed, second).await;
        let two = outcome.commit();
        assert_eq!(server.git("app", &["rev-parse", &format!("{two}^")]), one);
        let changed = server.git("app", &["diff-tree", "-r", "--name-status", &one, two]);
        assert_eq!(changed, "A\tc", "and nothing else");
    }
    // The base was taken back to where the agent began.
    let before = server.git("app", &["rev-parse", "main"]);
    server.git("app", &["update-ref", "refs/heads/main", "v1"]);
    let first = scene.workflow(&url, "", edits("a", "1\n2\nagent\n")).await;
    server.git("app", &["update-ref", "refs/heads/main", &before]);
    let one = scene.deliver(&first, json!({})).await.commit().to_owned();
    server.git("app", &["update-ref", "refs/heads/main", "v1"]);
    let resumed = scene.resume(&first, &url, edits("c", "c\n"));
    let outcome = scene.deliver(&resumed, json!({})).await;
    let two = outcome.commit();
    assert_eq!(server.git("app", &["diff-tree", "-r", "--name-status", &one, two]), "A\tc");
}

/// The first push is still being taken, as after the death of its replica, when the second one arrives.
#[tokio::test]
async fn two_pushes_at_the_same_time_are_one_result() {
    let (server, url) = server().await;
    let scene = Scene::new();
    let workflow = scene.workflow(&url, "", edits("b", "2\n")).await;
    let marks = tempfile::tempdir().unwrap();
    let hook = format!(
        "cd {}; : > $$; n=0; while [ $(ls | wc -l) -lt 2 ] && [ $n -lt 300 ]; do n=$((n+1)); sleep 0.1; done",
        marks.path().display()
    );
    server.set_hook("app", "pre-receive", &hook);
    let (one, two) =
        tokio::join!(scene.deliver(&workflow, json!({})), scene.deliver(&workflow, json!({})));
    assert_eq!(one.commit(), two.commit());
    assert_eq!(fs::read_dir(marks.path()).unwrap().count(), 2, "both were being taken at once");
}

#[tokio::test]
async fn a_result_that_is_at_the_host_needs_nothing_here() {
    let (server, url) = server().await;
    let scene = Scene::new();
    let workflow = scene.workflow(&url, "", edits("a", "agent\n")).await;
    let commit = scene.deliver(&workflow, json!({})).await.commit().to_owned();
    let branch = format!("agent/{}", short(workflow.id));
    let resumed = scene.resume(&workflow, &url, edits("c", "c\n"));
    let checkout = workflow.checkout.with_extension("away");
    fs::rename(&workflow.checkout, &checkout).unwrap();
    assert_eq!(scene.deliver(&workflow, json!({})).await.commit(), commit);
    let other = scene.deliver(&workflow, json!({"branch": "other"})).await;
    assert_eq!(other.code, Some(Code::WorkspaceGone), "the control: {:?}", other.terminal);
    fs::rename(&checkout, &workflow.checkout).unwrap();

    // Merged, and the branch is still there.
    server.git("app", &["update-ref", "refs/heads/main", &commit]);
    let outcome = scene.deliver(&workflow, json!({})).await;
    assert_eq!(outcome.commit(), commit);
    assert!(outcome.messages().iter().any(|it| it.contains("was merged")));
    let refused = scene.deliver(&resumed, json!({})).await;
    assert!(refused.failed(Code::BranchExists).contains("was merged since"));
    assert_eq!(server.head("app", &branch), Some(commit.clone()));
    let two = scene.deliver(&resumed, json!({"branch": "more"})).await.commit().to_owned();
    assert_eq!(server.git("app", &["rev-parse", &format!("{two}^")]), commit);
    assert_eq!(server.git("app", &["diff-tree", "-r", "--name-status", &commit, &two]), "A\tc");
    // The last commit of the default branch is this session's; it is nobody's to push to all the same.
    server.git("app", &["branch", "develop", "main~1"]);
    let third = scene.resume(&workflow, &url, edits("d", "d\n"));
    let to_main = json!({"branch": "main", "base": "develop"});
    let sentence = scene.deliver(&third, to_main).await;
    assert!(sentence.failed(Code::BranchExists).contains("default branch"));
}

/// Files that came since the pull are fetched for the comparison.
#[tokio::test]
async fn a_partial_clone_is_followed_up() {
    let (server, url) = server().await;
    server.configure("app", "uploadpack.allowFilter", "true");
    server.configure("app", "uploadpack.allowAnySHA1InWant", "true");
    let scene = Scene::new();
    let pull = json!({"repoUrl": url, "filter": "blob:none"});
    let first = scene.workflow_of(pull, "", edits("a", "1\n2\nagent\n")).await;
    let moved = server.commit("app", "main", &[("a", "main\n2\n3\n"), ("b", "2\n")]);
    let outcome = scene.deliver(&first, json!({})).await;
    let one = outcome.commit().to_owned();
    assert_eq!(server.git("app", &["rev-parse", &format!("{one}^")]), moved);
    assert_eq!(server.git("app", &["show", &format!("{one}:a")]), "main\n2\nagent");
    let resumed = scene.resume(&first, &url, edits("a", "1\n2\nagent\nmore\n"));
    let outcome = scene.deliver(&resumed, json!({})).await;
    let two = outcome.commit();
    assert_eq!(server.git("app", &["rev-parse", &format!("{two}^")]), one);
    assert_eq!(server.git("app", &["show", &format!("{two}:a")]), "main\n2\nagent\nmore");
}

/// The words are sent to the forge, also if no commit contains them.
#[tokio::test]
async fn words_are_searched_wherever_they_go() {
    let (server, url) = server().await;
    let scene = Scene::new().with_token("t0ken-of-ours", &server.address().to_string());
    let workflow = scene.workflow(&url, "the token is t0ken-of-ours", edits("b", "2\n")).await;
    scene.deliver(&workflow, json!({"body": "Clean"})).await.commit();
    // Its commit is there already, and its own words are not in it.
    scene.deliver(&workflow, json!({})).await.failed(Code::SecretInResult);
    let committed = |checkout: &PathBuf| {
        write(checkout, "b", "2\n");
        git(checkout, &["commit", "-q", "-am", "All of it"]);
    };
    let workflow = scene.workflow(&url, "the token is t0ken-of-ours", committed).await;
    let keep = json!({"commits": "keep"});
    scene.deliver(&workflow, keep).await.failed(Code::SecretInResult);
}

#[tokio::test]
async fn the_ssh_key_stays_here() {
    let (_server, url) = server().await;
    let mut scene = Scene::new();
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("key");
    let (begin, own) = ("b".repeat(70), "c".repeat(70));
    fs::write(&file, format!("-----BEGIN KEY-----\n{begin}\n{own}\n{own}\n-----END KEY-----\n"))
        .unwrap();
    let leaking = |text: String| move |checkout: &PathBuf| write(checkout, "k", &text);
    let leak = scene.workflow(&url, "", leaking(format!("x {own} y\n"))).await;
    let another = scene.workflow(&url, "", leaking(format!("{begin}\nddd\n"))).await;
    scene.config.ssh_key_file = Some(file);
    scene.deliver(&leak, json!({})).await.failed(Code::SecretInResult);
    // The control: keys of one kind begin alike.
    scene.deliver(&another, json!({})).await.commit();
}

#[tokio::test]
async fn what_a_protected_link_leads_to_is_protected() {
    let (server, url) = server().await;
    server.commit_symlink("app", "main", "CLAUDE.md", "docs/guide.md");
    server.commit("app", "main", &[("docs/guide.md", "Be good\n"), ("docs/other.md", "x\n")]);
    let scene = Scene::new();
    let workflow = scene.workflow(&url, "", edits("docs/guide.md", "Obey me\n")).await;
    let refused = scene.deliver(&workflow, json!({})).await;
    assert!(refused.failed(Code::ProtectedPaths).contains("docs/guide.md"));
    let other = scene.workflow(&url, "", edits("docs/other.md", "y\n")).await;
    scene.deliver(&other, json!({})).await.commit();
}

/// How large a change is, and whether it can be merged, does not depend on what the agent says about its files.
#[tokio::test]
async fn attributes_of_the_agent_decide_nothing() {
    let (server, url) = server().await;
    let mut scene = Scene::new();
    scene.config.deliver = settings(&[("DELIVER_LIMIT_KIB", "2")]);
    let small = |checkout: &PathBuf| {
        write(checkout, ".gitattributes", "* binary\n");
        write(checkout, "f", &"line\n".repeat(2000));
    };
    let workflow = scene.workflow(&url, "", small).await;
    scene.deliver(&workflow, json!({})).await.failed(Code::TooLarge);
    let union = |checkout: &PathBuf| {
        write(checkout, ".gitattributes", "* merge=union\n");
        write(checkout, "b", "agent\n");
    };
    let workflow = scene.workflow(&url, "", union).await;
    server.commit("app", "main", &[("b", "human\n")]);
    let outcome = scene.deliver(&workflow, json!({})).await;
    assert!(outcome.messages().iter().any(|it| it.contains("conflicts")), "{:?}", outcome.events);
    // The control: those that it was given do.
    server.commit("app", "main", &[(".gitattributes", "b merge=union\n")]);
    let workflow = scene.workflow(&url, "", edits("b", "human\nagent\n")).await;
    let moved = server.commit("app", "main", &[("b", "human\nhuman too\n")]);
    let outcome = scene.deliver(&workflow, json!({})).await;
    let commit = outcome.commit();
    assert_eq!(server.git("app", &["rev-parse", &format!("{commit}^")]), moved);
    assert!(server.git("app", &["show", &format!("{commit}:b")]).contains("agent"));
}
