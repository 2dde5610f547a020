//! Where nothing is.

use std::{
    collections::HashSet,
    fs,
    os::unix::fs::{MetadataExt as _, symlink},
};

use contract::{Code, JobId};
use oneshot::Stop;
use serde_json::json;
use testkit::GitServer;

use crate::support::{Scene, files, git};

#[tokio::test]
async fn a_clone_is_one_that_git_can_work_with() {
    let server = GitServer::start().await;
    server.create_repo("app", &[("README.md", "hello\n"), ("src/main.rs", "fn main() {}\n")]);
    server.commit_executable("app", "main", "run.sh", "#!/bin/sh\n");
    let commit = server.commit_symlink("app", "main", "link", "README.md");
    server.commit("app", "feature/x", &[("feature", "1\n")]);
    let scene = Scene::new();
    let outcome = scene.pull_with(json!({"repoUrl": server.url("app.git")})).await;
    assert_eq!(outcome.commit(), commit);
    assert_eq!(outcome.terminal["branch"], "main");
    let target = scene.path("app");
    let target_path = target.to_str().unwrap();
    assert_eq!(outcome.terminal["targetPath"], target_path);
    assert_eq!(outcome.events[0]["targetPath"], target_path);
    assert_eq!(outcome.events[0]["repoUrl"], server.url("app.git"));
    assert_eq!(
        outcome.messages(),
        [
            format!("Cloning {}", server.url("app.git")),
            format!("Checking out main at {}", &commit[..10])
        ]
    );
    for stage in ["receiving", "checkout"] {
        let last = *outcome.progress(stage).last().unwrap();
        assert_eq!(last["received"], last["total"], "{last}");
    }

    assert_eq!(
        git(&target, &["status", "--porcelain=v2", "--branch"]),
        [
            format!("# branch.oid {commit}"),
            "# branch.head main".to_owned(),
            "# branch.upstream origin/main".to_owned(),
            "# branch.ab +0 -0".to_owned(),
        ]
        .join("\n")
    );
    assert_eq!(git(&target, &["config", "remote.origin.url"]), server.url("app.git"));
    assert_eq!(
        git(&target, &["for-each-ref", "--format=%(refname)"]),
        "refs/heads/main\nrefs/remotes/origin/HEAD\nrefs/remotes/origin/feature/x\nrefs/remotes/origin/main"
    );
    git(&target, &["fsck", "--strict", "--full"]);
    assert_eq!(fs::read_link(target.join("link")).unwrap().to_str(), Some("README.md"));
    assert_eq!(fs::metadata(target.join("run.sh")).unwrap().mode() & 0o111, 0o111);
    // Real git can go on from here by itself.
    server.commit("app", "main", &[("README.md", "more\n")]);
    git(&target, &["pull", "--quiet"]);
    assert_eq!(fs::read_to_string(target.join("README.md")).unwrap(), "more\n");
    scene.assert_clean();
}

#[tokio::test]
async fn a_branch_that_is_asked_for() {
    let server = GitServer::start().await;
    server.create_repo("app", &[("a", "1\n")]);
    let commit = server.commit("app", "feature/x", &[("a", "2\n")]);
    let scene = Scene::new();
    let outcome = scene.pull_branch(&server.url("app"), "feature/x").await;
    assert_eq!(outcome.commit(), commit);
    assert_eq!(outcome.terminal["branch"], "feature/x");
    let status = git(&scene.path("repo"), &["status", "--short", "--branch"]);
    assert_eq!(status, "## feature/x...origin/feature/x");
}

#[tokio::test]
async fn branches_that_are_there_are_named() {
    let server = GitServer::start().await;
    server.create_repo("app", &[("a", "1\n")]);
    server.commit("app", "develop", &[("a", "2\n")]);
    let scene = Scene::new();
    let outcome = scene.pull_branch(&server.url("app"), "nope").await;
    let sentence = outcome.failed(Code::BranchNotFound);
    assert!(sentence.ends_with("has no branch 'nope': there is 'develop', 'main'"), "{sentence}");
    assert!(!scene.path("repo").exists());
    scene.assert_clean();
}

#[tokio::test]
async fn an_empty_repository() {
    let server = GitServer::start().await;
    server.create_empty_repo("app");
    let scene = Scene::new();
    let outcome = scene.pull(&server.url("app")).await;
    assert!(outcome.failed(Code::EmptyRepository).contains("push one"));
    assert!(!scene.path("repo").exists());
    scene.assert_clean();
}

#[tokio::test]
async fn a_workflow_gets_a_checkout_of_its_own() {
    let server = GitServer::start().await;
    server.create_repo("app", &[("a", "1\n")]);
    let scene = Scene::new();
    let parent = JobId::new();
    let mut context = scene.context(&Stop::default());
    context.parent = Some(parent);
    let outcome = scene.pull_in(context.clone(), json!({"repoUrl": server.url("app.git")})).await;
    outcome.commit();
    let target = scene.path(&format!("jobs/{parent}/app"));
    assert_eq!(outcome.terminal["targetPath"], target.to_str().unwrap());
    assert!(target.join("a").is_file());
    // A named directory is shared, whoever asks.
    let named = json!({"repoUrl": server.url("app.git"), "directory": "named"});
    context.id = JobId::new();
    let outcome = scene.pull_in(context, named).await;
    assert_eq!(outcome.terminal["targetPath"], scene.path("named").to_str().unwrap());
}

#[tokio::test]
async fn a_workflows_directory_that_is_a_link_is_not_followed() {
    let server = GitServer::start().await;
    server.create_repo("app", &[("a", "1\n")]);
    let scene = Scene::new();
    let outside = tempfile::tempdir().unwrap();
    let mut context = scene.context(&Stop::default());
    let parent = JobId::new();
    context.parent = Some(parent);
    symlink(outside.path(), scene.path(&format!("jobs/{parent}"))).unwrap();
    let outcome = scene.pull_in(context, json!({"repoUrl": server.url("app.git")})).await;
    outcome.failed(Code::NotARepository);
    assert_eq!(files(outside.path()).len(), 0);
}

#[tokio::test]
async fn an_empty_directory_is_a_place_to_clone_to() {
    let server = GitServer::start().await;
    server.create_repo("app", &[("a", "1\n")]);
    let scene = Scene::new();
    fs::create_dir(scene.path("repo")).unwrap();
    scene.pull(&server.url("app")).await.commit();
    assert!(scene.path("repo/a").is_file());
}

#[tokio::test]
async fn a_clone_shares_no_inode_with_the_mirror() {
    let server = GitServer::start().await;
    server.create_repo("app", &[("a", "1\n")]);
    let scene = Scene::new();
    scene.pull(&server.url("app")).await.commit();
    server.commit("app", "main", &[("a", "2\n")]);
    scene.pull(&server.url("app")).await.commit();
    let inodes = |path: std::path::PathBuf| -> HashSet<u64> {
        files(&path).iter().map(|path| fs::metadata(path).unwrap().ino()).collect()
    };
    let mirror = inodes(scene.mirror());
    assert!(mirror.len() > 4);
    assert!(mirror.is_disjoint(&inodes(scene.path("repo"))));
    assert!(!scene.path("repo/.git/objects/info/alternates").exists());
}

#[tokio::test]
async fn the_second_clone_costs_what_changed() {
    let server = GitServer::start().await;
    server.create_big_repo("app", 200, 5_000);
    let scene = Scene::new();
    let received = |outcome: &crate::support::Outcome| {
        outcome.progress("receiving").last().map_or(0, |last| last["bytes"].as_u64().unwrap())
    };
    let body = |name: &str| json!({"repoUrl": server.url("app"), "directory": name});
    let first = scene.pull_with(body("first")).await;
    first.commit();
    assert!(received(&first) > 900_000, "{}", received(&first));
    let commit = server.commit("app", "main", &[("small", "1\n")]);
    let second = scene.pull_with(body("second")).await;
    assert_eq!(second.commit(), commit);
    assert!((1..10_000).contains(&received(&second)), "{}", received(&second));
    let third = scene.pull_with(body("third")).await;
    assert_eq!(third.commit(), commit);
    assert_eq!(received(&third), 0);
    git(&scene.path("third"), &["fsck", "--full"]);
}

#[tokio::test]
async fn many_at_once_are_all_correct() {
    let server = GitServer::start().await;
    let commit = server.create_big_repo("app", 50, 2_000);
    let scene = Scene::new();
    let pulls = (0..6).map(|number| {
        // Two and two into the same directory.
        let directory = format!("repo{}", number / 2);
        scene.pull_with(json!({"repoUrl": server.url("app"), "directory": directory}))
    });
    let outcomes = futures_util::future::join_all(pulls).await;
    for outcome in &outcomes {
        assert_eq!(outcome.commit(), commit);
    }
    let waited = outcomes.iter().flat_map(|outcome| outcome.messages());
    assert!(waited.into_iter().any(|message| message.starts_with("Waiting for another pull")));
    for number in 0..3 {
        let target = scene.path(&format!("repo{number}"));
        assert_eq!(git(&target, &["status", "--porcelain"]), "");
        git(&target, &["fsck", "--full"]);
    }
    scene.assert_clean();
}

#[tokio::test]
async fn files_of_the_server_only_if_allowed() {
    let server = GitServer::start().await;
    let commit = server.create_repo("app", &[("a", "1\n")]);
    let scene = Scene::new();
    let outcome = scene.pull(server.path("app").to_str().unwrap()).await;
    assert_eq!(outcome.commit(), commit);
    let newer = server.commit("app", "main", &[("a", "2\n")]);
    let outcome = scene.pull(&format!("file://{}", server.path("app").display())).await;
    assert_eq!(outcome.commit(), newer);
    let outcome = scene.pull("/nonexistent/repository").await;
    outcome.failed(Code::DifferentRepository);
    let outcome = scene.pull_with(json!({"repoUrl": "/nonexistent/repository"})).await;
    outcome.failed(Code::RepositoryUnreachable);

    let mut refusing = Scene::new();
    let body = json!({"repoUrl": server.path("app").to_str().unwrap(), "directory": "repo"});
    let request = refusing.request(&body);
    refusing.config.policy = contract::Policy::default();
    let context = refusing.context(&Stop::default());
    let config = std::sync::Arc::new(refusing.config.clone());
    let outcome = crate::support::run(config, context, request, |_| {}).await;
    outcome.failed(Code::SchemeNotAllowed);
}
