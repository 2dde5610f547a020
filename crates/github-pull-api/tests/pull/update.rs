//! Where a clone is.

use std::{fs, path::Path};

use contract::Code;
use serde_json::json;
use testkit::GitServer;

use crate::support::{Outcome, Scene, git, snapshot};

/// A repository `app` with files `a`, `b` and `d/c`, and a clone of it in `repo`.
async fn cloned() -> (GitServer, Scene) {
    let server = GitServer::start().await;
    server.create_repo("app", &[("a", "1\n"), ("b", "1\n"), ("d/c", "1\n")]);
    let scene = Scene::new();
    scene.pull(&server.url("app")).await.commit();
    (server, scene)
}

fn read(scene: &Scene, name: &str) -> String {
    fs::read_to_string(scene.path("repo").join(name)).unwrap()
}

fn write(scene: &Scene, name: &str, text: &str) {
    let path = scene.path("repo").join(name);
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, text).unwrap();
}

fn status(target: &Path) -> String {
    git(target, &["status", "--porcelain=v1", "--branch", "--untracked-files=all"])
}

/// Pulls, and makes sure that the pull fails and leaves everything as it was.
#[track_caller]
fn assert_unchanged(
    before: &std::collections::BTreeMap<std::path::PathBuf, Vec<u8>>,
    scene: &Scene,
    outcome: &Outcome,
    code: Code,
) -> String {
    let sentence = outcome.failed(code).to_owned();
    let after = snapshot(&scene.path("repo"));
    let changed: Vec<_> = before
        .keys()
        .chain(after.keys())
        .filter(|path| before.get(*path) != after.get(*path))
        .collect();
    assert_eq!(changed, [] as [&std::path::PathBuf; 0], "{sentence}");
    scene.assert_clean();
    sentence
}

#[tokio::test]
async fn fast_forward() {
    let (server, scene) = cloned().await;
    server.commit("app", "main", &[("a", "2\n"), ("new/deep/file", "x\n")]);
    server.commit_executable("app", "main", "b", "1\n");
    server.commit_symlink("app", "main", "d/c", "../a");
    let commit = server.commit("app", "other", &[("o", "1\n")]);
    let head = server.head("app", "main").unwrap();
    let outcome = scene.pull(&server.url("app")).await;
    assert_eq!(outcome.commit(), head);
    assert_eq!(
        outcome.messages(),
        ["Updating the mirror".to_owned(), format!("Checking out main at {}", &head[..10])]
    );
    let target = scene.path("repo");
    assert_eq!(status(&target), "## main...origin/main");
    assert_eq!(read(&scene, "a"), "2\n");
    assert_eq!(read(&scene, "new/deep/file"), "x\n");
    assert_eq!(read(&scene, "d/c"), "2\n");
    assert_eq!(git(&target, &["rev-parse", "origin/other"]), commit);
    git(&target, &["fsck", "--full"]);
    // The index knows the new files: git looks into none of them.
    assert_eq!(git(&target, &["diff-files", "--name-only"]), "");
    let again = scene.pull(&server.url("app")).await;
    assert_eq!(again.commit(), head);
    assert_eq!(again.messages(), ["Updating the mirror", "Already up to date"]);
    scene.assert_clean();
}

#[tokio::test]
async fn files_become_directories_and_go() {
    let (server, scene) = cloned().await;
    // `git fast-import` puts a directory in the place of a file and the other way round.
    server.commit("app", "main", &[("a/inside", "x\n")]);
    let commit = server.commit("app", "main", &[("d", "x\n")]);
    let outcome = scene.pull(&server.url("app")).await;
    assert_eq!(outcome.commit(), commit);
    assert_eq!(status(&scene.path("repo")), "## main...origin/main");
    assert_eq!((read(&scene, "a/inside"), read(&scene, "d")), ("x\n".into(), "x\n".into()));
}

#[tokio::test]
async fn local_changes_elsewhere_are_kept() {
    let (server, scene) = cloned().await;
    write(&scene, "a", "mine\n");
    write(&scene, "untracked", "mine\n");
    write(&scene, "staged", "mine\n");
    let target = scene.path("repo");
    git(&target, &["add", "staged"]);
    fs::remove_file(target.join("d/c")).unwrap();
    let commit = server.commit("app", "main", &[("b", "2\n")]);
    assert_eq!(scene.pull(&server.url("app")).await.commit(), commit);
    assert_eq!(status(&target), "## main...origin/main\n M a\n D d/c\nA  staged\n?? untracked");
    assert_eq!((read(&scene, "a"), read(&scene, "b")), ("mine\n".into(), "2\n".into()));
}

#[tokio::test]
async fn each_kind_of_local_change_in_the_way() {
    type Change = fn(&Scene);
    let kinds: [(&str, Change); 7] = [
        ("a", |scene| write(scene, "a", "mine\n")),
        ("a", |scene| {
            write(scene, "a", "mine\n");
            git(&scene.path("repo"), &["add", "a"]);
        }),
        // Staged, and the file as it was.
        ("a", |scene| {
            write(scene, "a", "mine\n");
            git(&scene.path("repo"), &["add", "a"]);
            write(scene, "a", "1\n");
        }),
        ("a", |scene| {
            git(&scene.path("repo"), &["rm", "-q", "--cached", "a"]);
        }),
        ("new", |scene| write(scene, "new", "untracked\n")),
        ("dir", |scene| write(scene, "dir", "a file where a directory is to be\n")),
        ("new", |scene| write(scene, "new/inside", "a directory where a file is to be\n")),
    ];
    for (number, (name, change)) in kinds.into_iter().enumerate() {
        let (server, scene) = cloned().await;
        change(&scene);
        server.commit("app", "main", &[("a", "2\n"), ("dir/new", "theirs\n")]);
        server.commit("app", "main", &[("new", "theirs\n")]);
        let before = snapshot(&scene.path("repo"));
        let outcome = scene.pull(&server.url("app")).await;
        assert!(outcome.code.is_some(), "{number}: {outcome:?}");
        let sentence = assert_unchanged(&before, &scene, &outcome, Code::CheckoutConflict);
        assert!(sentence.contains(&format!("'{name}'")), "{number}: {sentence}");
    }
}

#[tokio::test]
async fn a_file_that_was_deleted_here_comes_back_when_it_changes() {
    let (server, scene) = cloned().await;
    fs::remove_file(scene.path("repo/a")).unwrap();
    fs::remove_file(scene.path("repo/b")).unwrap();
    let commit = server.commit("app", "main", &[("a", "2\n")]);
    assert_eq!(scene.pull(&server.url("app")).await.commit(), commit);
    assert_eq!(read(&scene, "a"), "2\n");
    assert_eq!(status(&scene.path("repo")), "## main...origin/main\n D b");
}

#[tokio::test]
async fn what_is_already_as_it_comes_is_not_in_the_way() {
    let (server, scene) = cloned().await;
    let commit = server.commit("app", "main", &[("a", "2\n"), ("new", "theirs\n")]);
    write(&scene, "a", "2\n");
    write(&scene, "new", "theirs\n");
    assert_eq!(scene.pull(&server.url("app")).await.commit(), commit);
    assert_eq!(status(&scene.path("repo")), "## main...origin/main");
}

#[tokio::test]
async fn commits_that_are_only_here_are_kept() {
    let (server, scene) = cloned().await;
    let target = scene.path("repo");
    git(&target, &["commit", "-q", "--allow-empty", "-m", "mine"]);
    let mine = git(&target, &["rev-parse", "HEAD"]);
    let outcome = scene.pull(&server.url("app")).await;
    assert_eq!(outcome.commit(), mine);
    assert!(outcome.messages().contains(&"Already up to date, with commits that are only here"));

    server.commit("app", "main", &[("a", "2\n")]);
    let before = snapshot(&target);
    let outcome = scene.pull(&server.url("app")).await;
    assert_unchanged(&before, &scene, &outcome, Code::Diverged);
}

#[tokio::test]
async fn a_rewritten_branch_has_diverged() {
    let (server, scene) = cloned().await;
    server.commit("app", "main", &[("a", "2\n")]);
    scene.pull(&server.url("app")).await.commit();
    server.force_commit("app", "main", &[("a", "3\n")]);
    let before = snapshot(&scene.path("repo"));
    let outcome = scene.pull(&server.url("app")).await;
    assert_unchanged(&before, &scene, &outcome, Code::Diverged);
    // A new clone gets the new history.
    let body = json!({"repoUrl": server.url("app"), "directory": "fresh"});
    assert_eq!(scene.pull_with(body).await.commit(), server.head("app", "main").unwrap());
}

#[tokio::test]
async fn another_branch_is_switched_to_and_back() {
    let (server, scene) = cloned().await;
    let dev = server.commit("app", "dev", &[("a", "dev\n")]);
    write(&scene, "b", "mine\n");
    let outcome = scene.pull_branch(&server.url("app"), "dev").await;
    assert_eq!(outcome.commit(), dev);
    assert_eq!(outcome.terminal["branch"], "dev");
    assert_eq!(status(&scene.path("repo")), "## dev...origin/dev\n M b");
    assert_eq!((read(&scene, "a"), read(&scene, "b")), ("dev\n".into(), "mine\n".into()));
    let main = server.commit("app", "main", &[("d/c", "2\n")]);
    let outcome = scene.pull_branch(&server.url("app"), "main").await;
    assert_eq!(outcome.commit(), main);
    assert_eq!(status(&scene.path("repo")), "## main...origin/main\n M b");
    assert_eq!(read(&scene, "a"), "1\n");

    write(&scene, "a", "mine\n");
    let before = snapshot(&scene.path("repo"));
    let outcome = scene.pull_branch(&server.url("app"), "dev").await;
    assert_unchanged(&before, &scene, &outcome, Code::CheckoutConflict);
    let outcome = scene.pull_branch(&server.url("app"), "nope").await;
    assert_unchanged(&before, &scene, &outcome, Code::BranchNotFound);
}

#[tokio::test]
async fn a_branch_made_here_is_kept() {
    let (server, scene) = cloned().await;
    let target = scene.path("repo");
    git(&target, &["checkout", "-q", "-b", "agent/work"]);
    git(&target, &["commit", "-q", "--allow-empty", "-m", "mine"]);
    let mine = git(&target, &["rev-parse", "HEAD"]);
    let newer = server.commit("app", "main", &[("a", "2\n")]);
    let outcome = scene.pull(&server.url("app")).await;
    assert_eq!(outcome.commit(), mine);
    assert_eq!(outcome.terminal["branch"], "agent/work");
    assert_eq!(git(&target, &["rev-parse", "origin/main"]), newer);
}

#[tokio::test]
async fn a_detached_head() {
    let (server, scene) = cloned().await;
    let target = scene.path("repo");
    git(&target, &["checkout", "-q", "--detach"]);
    let newer = server.commit("app", "main", &[("a", "2\n")]);
    let outcome = scene.pull(&server.url("app")).await;
    assert_eq!(outcome.commit(), newer);
    assert_eq!(status(&target), "## main...origin/main");

    git(&target, &["checkout", "-q", "--detach"]);
    git(&target, &["commit", "-q", "--allow-empty", "-m", "on no branch"]);
    let before = snapshot(&target);
    let outcome = scene.pull(&server.url("app")).await;
    assert_unchanged(&before, &scene, &outcome, Code::CheckoutConflict);
}

#[tokio::test]
async fn a_merge_that_is_not_finished() {
    let (server, scene) = cloned().await;
    let target = scene.path("repo");
    fs::write(target.join(".git/MERGE_HEAD"), git(&target, &["rev-parse", "HEAD"])).unwrap();
    assert_eq!(scene.pull(&server.url("app")).await.messages().last(), Some(&"Already up to date"));
    server.commit("app", "main", &[("a", "2\n")]);
    let before = snapshot(&target);
    let outcome = scene.pull(&server.url("app")).await;
    assert_unchanged(&before, &scene, &outcome, Code::CheckoutConflict);
}

#[tokio::test]
async fn git_at_work_in_the_directory() {
    let (server, scene) = cloned().await;
    server.commit("app", "main", &[("a", "2\n")]);
    write(&scene, ".git/index.lock", "");
    let before = snapshot(&scene.path("repo"));
    let outcome = scene.pull(&server.url("app")).await;
    let sentence = assert_unchanged(&before, &scene, &outcome, Code::CheckoutConflict);
    assert!(sentence.contains(".git/index.lock"), "{sentence}");
    fs::remove_file(scene.path("repo/.git/index.lock")).unwrap();
    for lock in ["HEAD.lock", "refs/heads/dev.lock"] {
        write(&scene, &format!(".git/{lock}"), "");
        server.commit("app", "dev", &[("a", "dev\n")]);
        let before = snapshot(&scene.path("repo"));
        let outcome = scene.pull_branch(&server.url("app"), "dev").await;
        assert_unchanged(&before, &scene, &outcome, Code::CheckoutConflict);
        fs::remove_file(scene.path("repo/.git").join(lock)).unwrap();
    }
}

#[tokio::test]
async fn a_clone_that_somebody_made_by_hand() {
    let server = GitServer::start().await;
    server.create_repo("app", &[("a", "1\n")]);
    for option in ["--no-tags", "--depth=1"] {
        let scene = Scene::new();
        let url = server.url("app");
        git(scene.workspace.root(), &["clone", "-q", option, &url, "repo"]);
        let newer = server.commit("app", "main", &[("a", option)]);
        assert_eq!(scene.pull(&format!("{url}.git")).await.commit(), newer);
        assert_eq!(read(&scene, "a"), option);
        assert_eq!(status(&scene.path("repo")), "## main...origin/main");
    }
}

#[tokio::test]
async fn branches_of_origin_follow_and_tags_stay() {
    let (server, scene) = cloned().await;
    let target = scene.path("repo");
    let bare = server.path("app");
    server.commit("app", "topic", &[("t", "1\n")]);
    git(&bare, &["tag", "v1", "main"]);
    git(&bare, &["tag", "-a", "v2", "-m", "two", "main"]);
    git(&target, &["tag", "mine"]);
    git(&target, &["tag", "v1", "HEAD"]);
    scene.pull(&server.url("app")).await.commit();
    assert_eq!(git(&target, &["tag", "--list"]), "mine\nv1\nv2");
    assert_eq!(git(&target, &["cat-file", "-t", "v2"]), "tag");
    // As git itself writes them: one file each.
    git(&target, &["update-ref", "refs/remotes/origin/topic", "HEAD"]);
    git(&target, &["update-ref", "refs/remotes/origin/main", "HEAD"]);
    assert!(target.join(".git/refs/remotes/origin/topic").is_file());
    server.commit("app", "main", &[("a", "2\n")]);
    // A directory where a branch was.
    server.delete_branch("app", "topic");
    server.commit("app", "topic/one", &[("t", "2\n")]);
    scene.pull(&server.url("app")).await.commit();
    assert_eq!(
        git(&target, &["branch", "-r", "--format=%(refname)"]),
        "refs/remotes/origin/HEAD\nrefs/remotes/origin/main\nrefs/remotes/origin/topic/one"
    );
    assert_eq!(git(&target, &["rev-parse", "origin/main"]), server.head("app", "main").unwrap());
    git(&target, &["fsck", "--full"]);
}

#[tokio::test]
async fn the_last_step_fails() {
    let (server, scene) = cloned().await;
    server.commit("app", "dev", &[("a", "dev\n"), ("new", "1\n")]);
    // Where the branch is to be is a directory that cannot go, and no branch either.
    write(&scene, ".git/refs/heads/dev/left.lock", "");
    let before = snapshot(&scene.path("repo"));
    let outcome = scene.pull_branch(&server.url("app"), "dev").await;
    assert_unchanged(&before, &scene, &outcome, Code::Internal);
    fs::remove_file(scene.path("repo/.git/refs/heads/dev/left.lock")).unwrap();
    scene.pull_branch(&server.url("app"), "dev").await.commit();
    assert_eq!(status(&scene.path("repo")), "## dev...origin/dev");
}

#[tokio::test]
async fn no_room_for_the_name_of_a_branch() {
    let (server, scene) = cloned().await;
    server.commit("app", "dev", &[("a", "dev\n")]);
    let target = scene.path("repo");
    git(&target, &["branch", "dev/mine"]);
    for pack in [false, true] {
        if pack {
            git(&target, &["pack-refs", "--all"]);
        }
        let before = snapshot(&target);
        let outcome = scene.pull_branch(&server.url("app"), "dev").await;
        let sentence = assert_unchanged(&before, &scene, &outcome, Code::CheckoutConflict);
        assert!(sentence.contains("'dev/mine'"), "{sentence}");
    }
}

#[tokio::test]
async fn pulls_into_one_directory_take_turns() {
    let (server, scene) = cloned().await;
    let lock = scene.workspace.checkouts().join("repo.pull");
    let lock = fs::File::options().write(true).open(lock).unwrap();
    lock.lock().unwrap();
    let request = scene.request(&json!({"repoUrl": server.url("app"), "directory": "repo"}));
    let context = scene.context(&oneshot::Stop::default());
    let config = std::sync::Arc::new(scene.config.clone());
    let mut lock = Some(lock);
    let outcome = crate::support::run(config, context, request, |event| {
        if event["message"] == "Waiting for another pull into this directory" {
            lock = None;
        }
    })
    .await;
    outcome.commit();
    assert!(lock.is_none(), "it did not wait");
}

#[tokio::test]
async fn not_a_clone() {
    let server = GitServer::start().await;
    server.create_repo("app", &[("a", "1\n")]);
    let scene = Scene::new();
    fs::create_dir(scene.path("repo")).unwrap();
    fs::write(scene.path("repo/notes"), "mine\n").unwrap();
    let before = snapshot(&scene.path("repo"));
    let outcome = scene.pull(&server.url("app")).await;
    assert_unchanged(&before, &scene, &outcome, Code::NotARepository);
    assert_eq!(server.requests("app"), 0, "told before anything is fetched");
}

#[tokio::test]
async fn a_clone_of_another_repository() {
    let (server, scene) = cloned().await;
    server.create_repo("other", &[("a", "1\n")]);
    let before = snapshot(&scene.path("repo"));
    let outcome = scene.pull(&server.url("other")).await;
    let sentence = assert_unchanged(&before, &scene, &outcome, Code::DifferentRepository);
    assert!(sentence.contains(&server.url("app")) && sentence.contains(&server.url("other")));
    git(&scene.path("repo"), &["remote", "remove", "origin"]);
    let before = snapshot(&scene.path("repo"));
    let outcome = scene.pull(&server.url("app")).await;
    assert_unchanged(&before, &scene, &outcome, Code::DifferentRepository);
}

#[tokio::test]
async fn line_endings_by_attributes() {
    let server = GitServer::start().await;
    server.create_repo("app", &[(".gitattributes", "*.bat text eol=crlf\n"), ("x.bat", "1\n")]);
    let scene = Scene::new();
    scene.pull(&server.url("app")).await.commit();
    assert_eq!(read(&scene, "x.bat"), "1\r\n");
    server.commit("app", "main", &[("x.bat", "2\n")]);
    scene.pull(&server.url("app")).await.commit();
    assert_eq!(read(&scene, "x.bat"), "2\r\n");
    assert_eq!(status(&scene.path("repo")), "## main...origin/main");
}
