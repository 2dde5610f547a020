//! What is shared by all pulls of a repository.

use std::{fs, path::Path};

use contract::Code;
use serde_json::json;
use testkit::GitServer;

use crate::support::{Scene, files, git};

async fn mirrored() -> (GitServer, Scene) {
    let server = GitServer::start().await;
    server.create_repo("app", &[("a", "1\n"), ("b", "1\n")]);
    let scene = Scene::new();
    scene.pull(&server.url("app")).await.commit();
    (server, scene)
}

fn packs(directory: &Path, extension: &str) -> Vec<std::path::PathBuf> {
    let mut packs = files(&directory.join("objects/pack"));
    packs.retain(|path| path.extension().is_some_and(|found| found == extension));
    packs
}

fn truncate(path: &Path) {
    let content = fs::read(path).unwrap();
    fs::remove_file(path).unwrap();
    fs::write(path, &content[..content.len() / 2]).unwrap();
}

#[tokio::test]
async fn a_corrupt_mirror_is_built_anew() {
    type Corrupt = fn(&Path);
    let kinds: [(&str, Corrupt); 4] = [
        ("half a pack", |mirror| packs(mirror, "pack").iter().for_each(|path| truncate(path))),
        ("half an index", |mirror| packs(mirror, "idx").iter().for_each(|path| truncate(path))),
        ("no pack", |mirror| {
            packs(mirror, "pack").iter().for_each(|path| fs::remove_file(path).unwrap())
        }),
        ("no objects", |mirror| fs::remove_dir_all(mirror.join("objects")).unwrap()),
    ];
    for (kind, corrupt) in kinds {
        for directory in ["repo", "fresh"] {
            let (server, scene) = mirrored().await;
            corrupt(&scene.mirror());
            let commit = server.commit("app", "main", &[("b", "2\n")]);
            let body = json!({"repoUrl": server.url("app"), "directory": directory});
            let outcome = scene.pull_with(body).await;
            assert_eq!(outcome.commit(), commit, "{kind}");
            let told = outcome.messages().contains(&"The mirror is damaged: building it anew");
            assert!(told, "{kind}: {:?}", outcome.messages());
            git(&scene.path(directory), &["fsck", "--full"]);
            git(&scene.mirror(), &["fsck", "--full"]);
            scene.assert_clean();
        }
    }
}

#[tokio::test]
async fn what_refers_to_the_objects_of_a_mirror_is_written_anew() {
    type Corrupt = fn(&Path);
    let kinds: [(&str, Corrupt); 4] = [
        ("no HEAD", |mirror| fs::remove_file(mirror.join("HEAD")).unwrap()),
        ("no references", |mirror| fs::remove_file(mirror.join("packed-refs")).unwrap()),
        ("half of the references", |mirror| truncate(&mirror.join("packed-refs"))),
        ("a bad reference", |mirror| {
            fs::create_dir_all(mirror.join("refs/heads")).unwrap();
            fs::write(mirror.join("refs/heads/main"), "nonsense").unwrap();
        }),
    ];
    for (kind, corrupt) in kinds {
        let (server, scene) = mirrored().await;
        corrupt(&scene.mirror());
        let commit = server.commit("app", "main", &[("b", "2\n")]);
        for directory in ["repo", "fresh"] {
            let body = json!({"repoUrl": server.url("app"), "directory": directory});
            assert_eq!(scene.pull_with(body).await.commit(), commit, "{kind}");
            git(&scene.path(directory), &["fsck", "--full"]);
        }
        assert_eq!(git(&scene.mirror(), &["rev-parse", "HEAD"]), commit, "{kind}");
        scene.assert_clean();
    }
}

/// The mirror of an earlier version, on which git worked itself.
#[tokio::test]
async fn the_mirror_of_an_earlier_version_is_taken_over() {
    let (server, scene) = mirrored().await;
    let mirror = scene.mirror();
    fs::remove_dir_all(&mirror).unwrap();
    let url = server.url("app");
    let clone = ["clone", "-q", "--bare", "--template=", &url, mirror.to_str().unwrap()];
    git(scene.workspace.root(), &clone);
    server.commit("app", "topic", &[("t", "1\n")]);
    git(&mirror, &["fetch", "-q", "origin", "+refs/heads/*:refs/heads/*"]);
    assert!(mirror.join("refs/heads/topic").is_file() && mirror.join("config").is_file());
    let pull = async |directory: &str| {
        let body = json!({"repoUrl": url, "directory": directory, "branch": "topic"});
        let outcome = scene.pull_with(body).await;
        assert!(!outcome.messages().iter().any(|message| message.contains("damaged")));
        outcome.commit().to_owned()
    };
    // What its loose references led to counts, and is not looked at again.
    let moved = server.force_commit("app", "topic", &[("t", "2\n")]);
    assert_eq!(pull("fresh").await, moved);
    let moved = server.commit("app", "topic", &[("t", "3\n")]);
    assert_eq!(pull("again").await, moved);
    assert!(!mirror.join("refs/heads").exists() && !mirror.join("config").exists());
    assert_eq!(git(&scene.path("again"), &["log", "--format=%s", "--all"]).lines().count(), 3);
    git(&scene.path("again"), &["fsck", "--full", "--unreachable", "--no-reflogs"]);
}

#[tokio::test]
async fn an_object_that_is_missing_is_found_out_at_the_checkout() {
    let (server, scene) = mirrored().await;
    let mirror = scene.mirror();
    // As loose objects, so that one of them can go.
    for pack in packs(&mirror, "pack") {
        let moved = mirror.join("moved");
        fs::rename(&pack, &moved).unwrap();
        fs::remove_file(pack.with_extension("idx")).unwrap();
        let script = format!("git unpack-objects -q < {}", moved.display());
        git(&mirror, &["-c", &format!("alias.unpack=!{script}"), "unpack"]);
        fs::remove_file(moved).unwrap();
    }
    let blob = git(&mirror, &["rev-parse", "main:a"]);
    fs::remove_file(mirror.join("objects").join(&blob[..2]).join(&blob[2..])).unwrap();
    let body = json!({"repoUrl": server.url("app"), "directory": "fresh"});
    let outcome = scene.pull_with(body).await;
    outcome.commit();
    assert!(outcome.messages().contains(&"The mirror is damaged: building it anew"));
    git(&scene.path("fresh"), &["fsck", "--full"]);
}

#[tokio::test]
async fn what_a_killed_pull_left_is_no_harm() {
    let (server, scene) = mirrored().await;
    let mirror = scene.mirror();
    let left = [
        "objects/pack/tmp_idx_1234",
        "objects/pack/tmp_pack_x",
        "HEAD.lock",
        "refs/heads/main.lock",
    ];
    fs::create_dir_all(mirror.join("refs/heads")).unwrap();
    for name in left {
        fs::write(mirror.join(name), "half").unwrap();
    }
    // And a directory of a pull that is dead.
    let dead = scene.workspace.temporary().join("dead");
    fs::create_dir_all(dead.join("mirror/objects")).unwrap();
    let commit = server.commit("app", "main", &[("a", "2\n")]);
    let outcome = scene.pull(&server.url("app")).await;
    assert_eq!(outcome.commit(), commit);
    assert!(!outcome.messages().iter().any(|message| message.contains("damaged")));
    for name in left {
        assert!(!mirror.join(name).exists(), "{name}");
    }
}

#[tokio::test]
async fn branches_and_the_default_follow_the_remote() {
    let (server, scene) = mirrored().await;
    server.commit("app", "topic", &[("t", "1\n")]);
    scene.pull(&server.url("app")).await.commit();
    server.delete_branch("app", "topic");
    let nested = server.commit("app", "topic/one", &[("t", "2\n")]);
    git(&server.path("app"), &["symbolic-ref", "HEAD", "refs/heads/topic/one"]);
    let outcome =
        scene.pull_with(json!({"repoUrl": server.url("app"), "directory": "fresh"})).await;
    assert_eq!(outcome.commit(), nested);
    assert_eq!(outcome.terminal["branch"], "topic/one");
    assert!(!outcome.messages().iter().any(|message| message.contains("damaged")));
    let refs = git(&scene.mirror(), &["for-each-ref", "--format=%(refname)"]);
    assert_eq!(refs, "refs/heads/main\nrefs/heads/topic/one");
    assert_eq!(git(&scene.mirror(), &["symbolic-ref", "HEAD"]), "refs/heads/topic/one");
    server.delete_branch("app", "main");
    scene.pull_with(json!({"repoUrl": server.url("app"), "directory": "fresh"})).await.commit();
    assert_eq!(
        git(&scene.mirror(), &["for-each-ref", "--format=%(refname)"]),
        "refs/heads/topic/one"
    );
}

#[tokio::test]
async fn no_default_branch() {
    let (server, scene) = mirrored().await;
    git(&server.path("app"), &["symbolic-ref", "HEAD", "refs/heads/nowhere"]);
    let body = json!({"repoUrl": server.url("app"), "directory": "fresh"});
    let outcome = scene.pull_with(body).await;
    let sentence = outcome.failed(Code::BranchNotFound);
    assert!(sentence.contains("'main'"), "{sentence}");
    let body = json!({"repoUrl": server.url("app"), "directory": "fresh", "branch": "main"});
    scene.pull_with(body).await.commit();
}
