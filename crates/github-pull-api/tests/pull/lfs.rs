//! Files in Git LFS are delivered with what they contain, or not at all.

use std::{fs, path::PathBuf};

use contract::Code;
use github_pull_api::GitHubApp;
use serde_json::json;
use testkit::{GitHubApi, GitServer};

use crate::{
    deliver::{settings, short, write},
    support::{Outcome, Scene, git},
};

const ATTRIBUTES: &str = "*.bin filter=lfs diff=lfs merge=lfs -text\n";

/// A repository with `a.bin` in LFS, and its URL with a name for the host: git-lfs uses no proxy for `127.0.0.1`. `None`, with a
/// word about it, without git-lfs.
async fn server(test: &str) -> Option<(GitServer, String)> {
    let has_lfs = std::process::Command::new("git").args(["lfs", "version"]).output().unwrap();
    if !has_lfs.status.success() || !child_process::is_port_confinement_available() {
        testkit::skip(test, "there is no git-lfs, or this kernel has no Landlock for ports");
        return None;
    }
    let server = GitServer::start().await;
    let pointer = put(&server, b"one\n");
    server.create_repo("app", &[(".gitattributes", ATTRIBUTES), ("a.bin", &pointer), ("a", "1\n")]);
    server.allow_push("app");
    let url = server.url("app").replacen("127.0.0.1", "localhost.", 1);
    Some((server, url))
}

/// Has `content` in LFS. Returns its pointer.
fn put(server: &GitServer, content: &[u8]) -> String {
    let (id, pointer) = pointer_to(content);
    server.put_lfs("app", &id, content.to_vec());
    pointer
}

/// The SHA-256 of `content` and its pointer, as git-lfs makes it.
fn pointer_to(content: &[u8]) -> (String, String) {
    let directory = tempfile::tempdir().unwrap();
    fs::write(directory.path().join("content"), content).unwrap();
    let pointer = git(directory.path(), &["lfs", "pointer", "--file=content"]) + "\n";
    let id = pointer.lines().find_map(|line| line.strip_prefix("oid sha256:")).unwrap();
    (id.to_owned(), pointer.clone())
}

/// What the commit has at a path.
fn at(server: &GitServer, outcome: &Outcome, path: &str) -> String {
    server.git("app", &["show", &format!("{}:{path}", outcome.commit())]) + "\n"
}

#[tokio::test(flavor = "multi_thread")]
async fn what_files_in_lfs_contain_is_uploaded_before_the_push() {
    let Some((server, url)) = server("deliveries with Git LFS").await else { return };
    let scene = Scene::new();
    let large = vec![7; 3 << 20];
    for lfs in [true, false] {
        let (changed, added) =
            (format!("changed {lfs}\n"), [&large, lfs.to_string().as_bytes()].concat());
        let work = |checkout: &PathBuf| {
            let is_whole = fs::read(checkout.join("a.bin")).unwrap() == b"one\n";
            assert_eq!(is_whole, lfs);
            write(checkout, "a.bin", &changed);
            fs::write(checkout.join("new.bin"), &added).unwrap();
            write(checkout, "empty.bin", "");
            write(checkout, "b", "2\n");
        };
        let workflow = scene.workflow_of(json!({"repoUrl": url, "lfs": lfs}), "", work).await;
        let [one, two] = [changed.as_bytes(), &added].map(pointer_to);
        assert_eq!(server.lfs_content("app", &one.0), None);

        // A server that does not take them: nothing is pushed, and it can be done again.
        server.fill_lfs("app", true);
        let refused = scene.deliver(&workflow, json!({})).await;
        let sentence = refused.failed(Code::PushRejected);
        assert!(
            sentence.contains("quota") && sentence.contains("nothing was pushed"),
            "{sentence}"
        );
        let branch = format!("agent/{}", short(workflow.id));
        assert_eq!(server.head("app", &branch), None);
        server.fill_lfs("app", false);

        let outcome = scene.deliver(&workflow, json!({})).await;
        assert_eq!(at(&server, &outcome, "a.bin"), one.1);
        assert_eq!(at(&server, &outcome, "new.bin"), two.1);
        assert_eq!(at(&server, &outcome, "empty.bin"), "\n");
        assert_eq!(server.lfs_content("app", &one.0).as_deref(), Some(changed.as_bytes()));
        assert_eq!(server.lfs_content("app", &two.0).as_deref(), Some(added.as_slice()));
        assert!(
            outcome.messages().iter().any(|it| it.starts_with("Uploading to Git LFS: 2 files"))
        );
        assert_eq!(scene.deliver(&workflow, json!({})).await.commit(), outcome.commit());
    }

    // A rename, which needs nothing but the pointer that is there; also where the file itself never was.
    let rename = |checkout: &PathBuf| {
        fs::rename(checkout.join("a.bin"), checkout.join("moved.bin")).unwrap();
    };
    let workflow = scene.workflow(&url, "", rename).await;
    let outcome = scene.deliver(&workflow, json!({})).await;
    assert_eq!(at(&server, &outcome, "moved.bin"), pointer_to(b"one\n").1);
    assert!(!outcome.messages().iter().any(|it| it.starts_with("Uploading")));
    scene.assert_clean();
}

#[tokio::test(flavor = "multi_thread")]
async fn with_a_login_and_the_commits_of_the_agent() {
    let Some((server, _)) = server("deliveries with Git LFS and a login").await else { return };
    server.set_auth("app", "me", "pa55word");
    let url =
        server.url_with_credentials("app", "me", "pa55word").replacen("127.0.0.1", "localhost.", 1);
    let mut scene = Scene::new();
    scene.config.deliver = settings(&[]);
    let work = |checkout: &PathBuf| {
        write(checkout, "new.bin", "first\n");
        git(checkout, &["-c", "filter.lfs.clean=git-lfs clean -- %f", "add", "new.bin"]);
        git(checkout, &["commit", "-q", "-m", "One"]);
        write(checkout, "new.bin", "second\n");
    };
    let workflow = scene.workflow_of(json!({"repoUrl": url, "lfs": true}), "", work).await;
    // The first version is nowhere but in the agent's own .git, which nothing is taken from.
    let keep = json!({"repoUrl": url, "commits": "keep"});
    let refused = scene.deliver(&workflow, keep).await;
    let sentence = refused.failed(Code::GitFailed);
    assert!(sentence.contains("'new.bin'") && sentence.contains("commits"), "{sentence}");
    assert_eq!(server.head("app", &format!("agent/{}", short(workflow.id))), None);
    let outcome = scene.deliver(&workflow, json!({"repoUrl": url})).await;
    let (id, pointer) = pointer_to(b"second\n");
    assert_eq!(at(&server, &outcome, "new.bin"), pointer);
    assert_eq!(server.lfs_content("app", &id).as_deref(), Some(b"second\n".as_slice()));
    assert!(!format!("{outcome:?}").contains("pa55word"));
    let left = crate::support::files_with(scene.workspace.root(), "pa55word");
    assert_eq!(left, [] as [PathBuf; 0]);
}

#[tokio::test(flavor = "multi_thread")]
async fn with_a_token_of_a_github_app() {
    let Some((server, url)) = server("deliveries with Git LFS and a GitHub App").await else {
        return;
    };
    let api = GitHubApi::start(&server);
    if !api.register_app("123456") {
        return testkit::skip("deliveries with Git LFS and a GitHub App", "there is no openssl");
    }
    // The same repository with an owner, as GitHub has it.
    let pointer = pointer_to(b"one\n").1;
    server.create_repo("o/app", &[(".gitattributes", ATTRIBUTES), ("a.bin", &pointer)]);
    server.allow_push("o/app");
    server.put_lfs("o/app", &pointer_to(b"one\n").0, "one\n");
    api.protect(&server, "o/app");
    api.install("o/app", &[("metadata", "read"), ("contents", "write")]);
    let host = format!("localhost.:{}", server.address().port());
    let mut scene = Scene::new();
    scene.config.app = Some(GitHubApp::new("123456", &api.key()).unwrap());
    scene.config.credential_hosts = vec![host.clone()];
    scene.config.deliver = settings(&[("GIT_FORGES", &format!("{host}=github"))]);
    let work = |checkout: &PathBuf| write(checkout, "a.bin", "two\n");
    let url = url.replace("/app", "/o/app");
    let workflow = scene.workflow_of(json!({"repoUrl": url, "lfs": true}), "", work).await;
    let outcome = scene.deliver(&workflow, json!({})).await;
    let id = pointer_to(b"two\n").0;
    assert_eq!(
        server.git("o/app", &["ls-tree", "--name-only", outcome.commit(), "a.bin"]),
        "a.bin"
    );
    assert_eq!(server.lfs_content("o/app", &id).as_deref(), Some(b"two\n".as_slice()));
    let issued = api.issued();
    assert!(issued.len() == 2 && issued.iter().all(|it| it.is_revoked), "{issued:?}");
    api.assert_valid();
}

#[tokio::test(flavor = "multi_thread")]
async fn what_must_not_get_into_lfs_or_past_it() {
    let Some((server, url)) = server("refusals with Git LFS").await else { return };
    let scene = Scene::new().with_token("t0ken-of-ours", "git.invalid");
    let branches = || server.git("app", &["branch", "--format=%(refname:short)"]);
    let deliver = async |work: &dyn Fn(&PathBuf), options: serde_json::Value| {
        let workflow = scene.workflow_of(json!({"repoUrl": url, "lfs": true}), "", work).await;
        scene.deliver(&workflow, options).await
    };
    // A secret, which the patch does not show.
    let secret = |checkout: &PathBuf| write(checkout, "new.bin", "x t0ken-of-ours y\n");
    deliver(&secret, json!({})).await.failed(Code::SecretInResult);
    let id = pointer_to(b"x t0ken-of-ours y\n").0;
    assert_eq!(server.lfs_content("app", &id), None);
    // A pointer to nothing.
    let (_, pointer) = pointer_to(b"nowhere\n");
    let nothing = |checkout: &PathBuf| write(checkout, "new.bin", &pointer);
    let refused = deliver(&nothing, json!({})).await;
    let sentence = refused.failed(Code::GitFailed);
    assert!(sentence.contains("not in the checkout"), "{sentence}");
    // A commit in which the agent has gone past git-lfs.
    let past = |checkout: &PathBuf| {
        write(checkout, "new.bin", "as it is\n");
        let id = git(checkout, &["hash-object", "-w", "--no-filters", "new.bin"]);
        let entry = format!("100644,{id},new.bin");
        git(checkout, &["update-index", "--add", "--cacheinfo", &entry]);
        git(checkout, &["commit", "-q", "-m", "Past LFS"]);
    };
    let refused = deliver(&past, json!({"commits": "keep"})).await;
    let sentence = refused.failed(Code::GitFailed);
    assert!(sentence.contains("'new.bin' belongs in Git LFS"), "{sentence}");
    assert_eq!(branches(), "main");
    // The control: as one commit, it goes into LFS.
    let outcome = deliver(&past, json!({})).await;
    assert_eq!(at(&server, &outcome, "new.bin"), pointer_to(b"as it is\n").1);
    // What got past LFS before, as in many repositories, and is not the agent's business.
    let id = {
        let directory = tempfile::tempdir().unwrap();
        let clone = directory.path().join("clone");
        git(directory.path(), &["clone", "-q", &server.path("app").display().to_string(), "clone"]);
        fs::write(clone.join("old.bin"), "raw\n").unwrap();
        let id = git(&clone, &["hash-object", "-w", "--no-filters", "old.bin"]);
        git(&clone, &["update-index", "--add", "--cacheinfo", &format!("100644,{id},old.bin")]);
        git(&clone, &["commit", "-q", "-m", "Past LFS"]);
        git(&clone, &["push", "-q", "origin", "HEAD:main"]);
        id
    };
    for lfs in [true, false] {
        let work = |checkout: &PathBuf| write(checkout, "b", "b\n");
        let workflow = scene.workflow_of(json!({"repoUrl": url, "lfs": lfs}), "", work).await;
        let outcome = scene.deliver(&workflow, json!({})).await;
        let changed = ["diff-tree", "-r", "--name-only", "main", outcome.commit()];
        assert_eq!(server.git("app", &changed), "b");
        assert_eq!(server.git("app", &["rev-parse", &format!("{}:old.bin", outcome.commit())]), id);
    }
    // What only looks like a pointer elsewhere is a text.
    let text = |checkout: &PathBuf| write(checkout, "text", &pointer);
    assert_eq!(at(&server, &deliver(&text, json!({})).await, "text"), pointer);
}
