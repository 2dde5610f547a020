//! Checkouts that somebody tampered with.

use std::{
    fs,
    os::unix::fs::symlink,
    path::Path,
    sync::atomic::{AtomicBool, Ordering},
};

use contract::Code;
use serde_json::json;
use testkit::GitServer;

use crate::support::{Scene, files, git, snapshot};

async fn cloned() -> (GitServer, Scene) {
    let server = GitServer::start().await;
    server.create_repo("app", &[("a", "1\n"), ("d/c", "1\n")]);
    let scene = Scene::new();
    scene.pull(&server.url("app")).await.commit();
    (server, scene)
}

#[tokio::test]
async fn the_configuration_of_a_checkout_is_not_obeyed() {
    let (server, scene) = cloned().await;
    server.create_repo("evil", &[("a", "evil\n")]);
    let outside = tempfile::tempdir().unwrap();
    let outside_path = outside.path().to_str().unwrap();
    let target = scene.path("repo");
    let script = outside.path().join("run");
    testkit::write_program(&script, &format!("#!/bin/sh\ntouch {outside_path}/executed\ncat\n"));
    let script = script.to_str().unwrap();
    fs::write(outside.path().join("included"), "[core]\n\tbare = true\n").unwrap();
    for (key, value) in [
        ("core.worktree", outside_path),
        ("core.fsmonitor", script),
        ("core.hooksPath", outside_path),
        ("core.sshCommand", script),
        ("core.attributesFile", script),
        ("core.autocrlf", "true"),
        ("credential.helper", script),
        ("filter.evil.smudge", script),
        ("filter.evil.clean", script),
        ("filter.evil.required", "true"),
        ("include.path", &format!("{outside_path}/included")),
        ("http.proxy", "http://127.0.0.1:1"),
        ("remote.origin.uploadpack", script),
        ("extensions.worktreeConfig", "true"),
    ] {
        git(&target, &["config", "--file", ".git/config", key, value]);
    }
    let instead = format!("url.{}.insteadOf", server.url("evil"));
    git(&target, &["config", "--file", ".git/config", &instead, &server.url("app")]);
    fs::write(
        target.join(".git/config.worktree"),
        format!("[core]\n\tworktree = {outside_path}\n"),
    )
    .unwrap();
    fs::create_dir_all(target.join(".git/hooks")).unwrap();
    for hook in ["post-checkout", "post-merge", "reference-transaction", "post-index-change"] {
        symlink(script, target.join(".git/hooks").join(hook)).unwrap();
    }
    let config = fs::read(target.join(".git/config")).unwrap();
    let seen = server.requests("evil");

    let commit =
        server.commit("app", "main", &[("a", "2\n"), (".gitattributes", "* filter=evil\n")]);
    assert_eq!(scene.pull(&server.url("app")).await.commit(), commit);
    let commit = server.commit("app", "main", &[("a", "3\n"), ("new", "x\n")]);
    assert_eq!(scene.pull(&server.url("app")).await.commit(), commit);
    assert_eq!(fs::read_to_string(target.join("a")).unwrap(), "3\n");
    assert_eq!(fs::read_to_string(target.join("new")).unwrap(), "x\n");
    assert_eq!(server.requests("evil"), seen, "insteadOf was obeyed");
    let mut left: Vec<_> = files(outside.path());
    left.sort();
    assert_eq!(left, [outside.path().join("included"), outside.path().join("run")]);
    assert_eq!(fs::read(target.join(".git/config")).unwrap(), config, "it is the owner's");
}

/// A copy of a file with holes would fill the volume.
#[tokio::test]
async fn files_that_are_too_large_are_not_copied() {
    for name in ["index", "info/exclude", "sharedindex.x"] {
        let (server, scene) = cloned().await;
        server.commit("app", "main", &[("a", "2\n")]);
        let path = scene.path("repo/.git").join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::File::options()
            .write(true)
            .create(true)
            .truncate(false)
            .open(&path)
            .and_then(|file| file.set_len(1 << 40))
            .unwrap();
        let outcome = scene.pull(&server.url("app")).await;
        let sentence = outcome.failed(Code::NotARepository);
        assert!(sentence.contains(&format!(".git/{name} is too large")), "{name}: {sentence}");
        assert_eq!(fs::read_to_string(scene.path("repo/a")).unwrap(), "1\n");
        scene.assert_clean();
    }
}

#[tokio::test]
async fn what_leads_git_elsewhere_makes_it_no_clone_of_ours() {
    type Tamper = fn(&Path, &Path);
    fn move_out(git: &Path, outside: &Path, name: &str) {
        let moved = outside.join("moved");
        fs::rename(git.join(name), &moved).unwrap();
        symlink(moved, git.join(name)).unwrap();
    }
    let kinds: [(&str, Tamper); 13] = [
        ("objects/info/alternates", |git, outside| {
            fs::create_dir_all(git.join("objects/info")).unwrap();
            fs::write(git.join("objects/info/alternates"), outside.to_str().unwrap()).unwrap();
        }),
        ("commondir", |git, outside| {
            fs::write(git.join("commondir"), outside.to_str().unwrap()).unwrap();
        }),
        ("reftable", |git, _| fs::create_dir(git.join("reftable")).unwrap()),
        ("HEAD", |git, outside| move_out(git, outside, "HEAD")),
        ("config", |git, outside| move_out(git, outside, "config")),
        ("index", |git, outside| move_out(git, outside, "index")),
        ("packed-refs", |git, outside| move_out(git, outside, "packed-refs")),
        ("objects", |git, outside| move_out(git, outside, "objects")),
        ("objects/pack", |git, outside| move_out(git, outside, "objects/pack")),
        ("refs", |git, outside| move_out(git, outside, "refs")),
        ("refs/heads", |git, outside| move_out(git, outside, "refs/heads")),
        ("refs/heads/main", |git, outside| move_out(git, outside, "refs/heads/main")),
        ("HEAD", |git, _| fs::remove_file(git.join("HEAD")).unwrap()),
    ];
    for (name, tamper) in kinds {
        let (server, scene) = cloned().await;
        let outside = tempfile::tempdir().unwrap();
        server.commit("app", "main", &[("a", "2\n")]);
        tamper(&scene.path("repo/.git"), outside.path());
        let before = (snapshot(&scene.path("repo")), snapshot(outside.path()));
        let outcome = scene.pull(&server.url("app")).await;
        let sentence = outcome.failed(Code::NotARepository);
        assert!(sentence.contains(&format!(".git/{name}")), "{name}: {sentence}");
        assert!((snapshot(&scene.path("repo")), snapshot(outside.path())) == before, "{name}");
        scene.assert_clean();
    }
}

#[tokio::test]
async fn links_in_the_place_of_the_target_or_its_git() {
    let (server, scene) = cloned().await;
    let url = server.url("app");
    let elsewhere = scene.path("elsewhere");
    fs::rename(scene.path("repo"), &elsewhere).unwrap();
    let before = snapshot(&elsewhere);
    server.commit("app", "main", &[("a", "2\n")]);

    symlink(&elsewhere, scene.path("repo")).unwrap();
    scene.pull(&url).await.failed(Code::NotARepository);
    fs::remove_file(scene.path("repo")).unwrap();
    symlink("/nonexistent", scene.path("repo")).unwrap();
    scene.pull(&url).await.failed(Code::NotARepository);
    fs::remove_file(scene.path("repo")).unwrap();
    fs::write(scene.path("repo"), "").unwrap();
    scene.pull(&url).await.failed(Code::NotARepository);
    fs::remove_file(scene.path("repo")).unwrap();

    fs::create_dir(scene.path("repo")).unwrap();
    symlink(elsewhere.join(".git"), scene.path("repo/.git")).unwrap();
    scene.pull(&url).await.failed(Code::NotARepository);
    fs::remove_file(scene.path("repo/.git")).unwrap();
    let link = format!("gitdir: {}\n", elsewhere.join(".git").display());
    fs::write(scene.path("repo/.git"), link).unwrap();
    scene.pull(&url).await.failed(Code::NotARepository);
    assert!(snapshot(&elsewhere) == before);
    scene.assert_clean();
}

#[tokio::test]
async fn nothing_is_written_through_a_link_in_the_checkout() {
    let (server, scene) = cloned().await;
    let outside = tempfile::tempdir().unwrap();
    let target = scene.path("repo");
    fs::remove_dir_all(target.join("d")).unwrap();
    symlink(outside.path(), target.join("d")).unwrap();
    symlink(outside.path(), target.join("e")).unwrap();
    for incoming in ["d/c", "d/new", "e/new"] {
        server.commit("app", "main", &[(incoming, "2\n")]);
        let before = snapshot(&target);
        let outcome = scene.pull(&server.url("app")).await;
        // git, too, puts a directory in the place of a link where it knows one.
        if outcome.code.is_some() {
            outcome.failed(Code::CheckoutConflict);
            assert!(snapshot(&target) == before);
        } else {
            assert_eq!(fs::read_to_string(target.join(incoming)).unwrap(), "2\n");
        }
        assert_eq!(files(outside.path()).len(), 0, "{incoming}");
    }
}

#[tokio::test]
async fn a_broken_checkout_is_told_from_a_broken_mirror() {
    let (server, scene) = cloned().await;
    let target = scene.path("repo");
    for (name, content) in [
        ("HEAD", "nonsense"),
        ("HEAD", "ref: ../../../etc/passwd"),
        ("index", "DIRC nonsense"),
        ("refs/heads/main", "1111111111111111111111111111111111111111\n"),
    ] {
        server.commit("app", "main", &[("a", name)]);
        let path = target.join(".git").join(name);
        let good = fs::read(&path).unwrap();
        fs::write(&path, content).unwrap();
        let before = snapshot(&target);
        scene.pull(&server.url("app")).await.failed(Code::NotARepository);
        assert!(snapshot(&target) == before, "{name}");
        fs::write(&path, good).unwrap();
    }
    scene.pull(&server.url("app")).await.commit();
}

#[tokio::test]
async fn nothing_that_somebody_put_into_a_mirror_is_obeyed() {
    let (server, scene) = cloned().await;
    server.create_repo("evil", &[("a", "evil\n")]);
    let mirror = scene.mirror();
    let outside = tempfile::tempdir().unwrap();
    let outside_path = outside.path().to_str().unwrap();
    let script = outside.path().join("run");
    testkit::write_program(&script, &format!("#!/bin/sh\ntouch {outside_path}/executed\n"));
    let script = script.to_str().unwrap();
    for (key, value) in [
        (&*format!("url.{}.insteadOf", server.url("evil")), &*server.url("app")),
        ("remote.origin.url", &server.url("evil")),
        ("remote.origin.uploadpack", script),
        ("core.fsmonitor", script),
        ("core.hooksPath", "hooks"),
        ("core.sshCommand", script),
        ("core.alternateRefsCommand", script),
        ("credential.helper", script),
        ("uploadpack.packObjectsHook", script),
        ("fetch.fsckObjects", "true"),
        ("transfer.hideRefs", "refs/heads"),
        ("extensions.worktreeConfig", "true"),
    ] {
        git(&mirror, &["config", "--file", "config", key, value]);
    }
    // A control: git itself obeys it.
    let listed = git(&mirror, &["ls-remote", &server.url("app"), "refs/heads/main"]);
    let real = git(&server.path("app"), &["rev-parse", "main"]);
    assert!(!listed.is_empty() && !listed.starts_with(&real), "{listed}");
    let seen = server.requests("evil");
    git(&mirror, &["config", "--file", "config", "http.proxy", "http://127.0.0.1:1"]);

    let put = |name: &str, content: &str| {
        let path = mirror.join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, content).unwrap();
    };
    let evil = git(&server.path("evil"), &["rev-parse", "main"]);
    put("config.worktree", &format!("[core]\n\tworktree = {outside_path}\n"));
    put("info/attributes", "* -text filter=evil\n");
    put("info/grafts", &format!("{real}\n"));
    put("objects/info/alternates", &format!("{}/objects\n", server.path("evil").display()));
    put("objects/info/commit-graph", "CGPH nonsense");
    put("objects/pack/multi-pack-index", "MIDX nonsense");
    put("commondir", outside_path);
    put("remotes/origin", &format!("URL: {}\n", server.url("evil")));
    put("refs/evil/main", &format!("{evil}\n"));
    put("refs/replace/x", &format!("{evil}\n"));
    fs::create_dir_all(mirror.join("hooks")).unwrap();
    for hook in ["reference-transaction", "post-index-change"] {
        symlink(script, mirror.join("hooks").join(hook)).unwrap();
    }
    symlink("/etc", mirror.join("objects/ab")).unwrap();
    make_pipe(&mirror.join("objects/pack/pack-1.idx"));

    let commit = server.commit("app", "main", &[("a", "2\n")]);
    let body = json!({"repoUrl": server.url("app"), "directory": "fresh"});
    let outcome = scene.pull_with(body).await;
    assert_eq!(outcome.commit(), commit);
    let is_kept = !outcome.messages().iter().any(|message| message.contains("building it anew"));
    assert!(is_kept, "what does not belong there is removed: {:?}", outcome.messages());
    assert_eq!(scene.pull(&server.url("app")).await.commit(), commit);
    for directory in ["repo", "fresh"] {
        assert_eq!(fs::read_to_string(scene.path(directory).join("a")).unwrap(), "2\n");
        assert_eq!(git(&scene.path(directory), &["rev-list", "--count", "HEAD"]), "2");
        git(&scene.path(directory), &["fsck", "--full"]);
    }
    assert_eq!(server.requests("evil"), seen, "insteadOf was obeyed");
    assert_eq!(files(outside.path()), [outside.path().join("run")], "something was executed");
    let mut left: Vec<_> =
        fs::read_dir(&mirror).unwrap().map(|it| it.unwrap().file_name()).collect();
    left.sort();
    assert_eq!(left, ["HEAD", "objects", "packed-refs", "refs"]);

    // References that the remote does not have, where they cannot be told by their files.
    let packed = fs::read_to_string(mirror.join("packed-refs")).unwrap();
    fs::write(mirror.join("packed-refs"), format!("{packed}{commit} refs/evil/main\n")).unwrap();
    let outcome = scene.pull(&server.url("app")).await;
    assert!(outcome.messages().contains(&"The mirror is damaged: building it anew"));
    // More than can be looked through.
    dig(&mirror.join("refs/heads"), &"d".repeat(200), 30);
    assert_eq!(scene.pull(&server.url("app")).await.commit(), commit);
    // A mirror that is somewhere else.
    fs::rename(&mirror, outside.path().join("moved")).unwrap();
    symlink(outside.path().join("moved"), &mirror).unwrap();
    assert_eq!(scene.pull(&server.url("app")).await.commit(), commit);
    assert!(fs::symlink_metadata(&mirror).unwrap().is_dir());
    scene.assert_clean();
}

#[tokio::test(flavor = "multi_thread")]
async fn what_somebody_puts_into_a_mirror_while_it_is_used_is_not_obeyed_either() {
    let (server, scene) = cloned().await;
    server.create_repo("evil", &[("a", "evil\n")]);
    let (mirror, seen) = (scene.mirror(), server.requests("evil"));
    let config = format!(
        "[core]\n\tbare = true\n[url \"{}\"]\n\tinsteadOf = {}\n",
        server.url("evil"),
        server.url("app")
    );
    let is_done = AtomicBool::new(false);
    let (commits, puts) = std::thread::scope(|scope| {
        // All the time: before the remote is asked, in between, and before anything is fetched.
        let attacker = scope.spawn(|| {
            let mut puts = 0_u64;
            while !is_done.load(Ordering::Relaxed) {
                let new = scene.workspace.temporary().join("new");
                let put =
                    fs::write(&new, &config).and_then(|()| fs::rename(&new, mirror.join("config")));
                puts += u64::from(put.is_ok());
            }
            puts
        });
        let stop = Stop(&is_done);
        let pulls = tokio::task::block_in_place(|| {
            tokio::runtime::Handle::current().block_on(async {
                let mut commits = Vec::new();
                for content in ["2\n", "3\n", "4\n"] {
                    let commit = server.commit("app", "main", &[("a", content)]);
                    commits
                        .push((commit, scene.pull(&server.url("app")).await.commit().to_owned()));
                }
                commits
            })
        });
        drop(stop);
        (pulls, attacker.join().unwrap())
    });
    for (wanted, pulled) in commits {
        assert_eq!(wanted, pulled);
    }
    assert!(puts > 100, "{puts}");
    assert_eq!(server.requests("evil"), seen, "insteadOf was obeyed");
    // A control: git itself obeys it.
    fs::write(mirror.join("config"), &config).unwrap();
    git(&mirror, &["ls-remote", &server.url("app")]);
    assert!(server.requests("evil") > seen);
}

/// Sets it on drop, also if the test has failed.
struct Stop<'a>(&'a AtomicBool);

impl Drop for Stop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// So many directories of this name, each in the one before.
fn dig(top: &Path, name: &str, depth: usize) {
    fs::create_dir_all(top).unwrap();
    let mut at = cap_std::fs::Dir::open_ambient_dir(top, cap_std::ambient_authority()).unwrap();
    for _ in 0..depth {
        at.create_dir(name).unwrap();
        at = at.open_dir(name).unwrap();
    }
}

fn make_pipe(path: &Path) {
    let made = std::process::Command::new("mkfifo").arg(path).status().unwrap();
    assert!(made.success());
}
