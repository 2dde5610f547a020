//! From what an agent has changed to one's own clone: `diff`, `apply`, `checkout` and `run --apply`.

use std::{
    fs,
    path::{Path, PathBuf},
};

use testkit::{AgentScript, CommandOutput, RunningCommand};
use tokio::process::Command;

use crate::support::{Scene, id_of, ran, stackctl};

/// The environment of a person: git finds its programs and a name for commits.
fn with_git(mut command: Command, directory: &Path) -> Command {
    let path = std::env::var_os("PATH").unwrap();
    command.current_dir(directory).env("PATH", path).env("GIT_CONFIG_SYSTEM", "/dev/null");
    for name in ["GIT_AUTHOR_NAME", "GIT_COMMITTER_NAME"] {
        command.env(name, "Somebody");
    }
    for name in ["GIT_AUTHOR_EMAIL", "GIT_COMMITTER_EMAIL"] {
        command.env(name, "somebody@example.org");
    }
    command
}

async fn git(directory: &Path, arguments: &[&str]) -> String {
    let mut command = with_git(Command::new("git"), directory);
    command.args(arguments).env("GIT_CONFIG_GLOBAL", "/dev/null");
    let output = command.output().await.unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "git {arguments:?}: {said}");
    String::from_utf8(output.stdout).unwrap().trim_end().to_owned()
}

/// A clone of the scene's repository.
async fn clone(scene: &Scene, name: &str) -> PathBuf {
    let path = scene.mark(name);
    git(Path::new("/"), &["clone", "--quiet", &scene.repo(), path.to_str().unwrap()]).await;
    path
}

/// `stackctl` in a clone.
async fn within(scene: &Scene, clone: &Path, arguments: &[&str]) -> CommandOutput {
    RunningCommand::start(with_git(stackctl(&scene.url(), arguments), clone)).finish().await
}

/// The tree of all files of a directory, added to an index of its own.
async fn tree(directory: &Path) -> String {
    git(directory, &["add", "--all"]).await;
    git(directory, &["write-tree"]).await
}

#[tokio::test]
async fn what_the_agent_changed_gets_into_a_clone() {
    let scene = Scene::new().await;
    let script = AgentScript::new().write("README.md", "hello\nagent\n").write("src/new", "1\n2\n");
    let said = RunningCommand::start(scene.run(&scene.url(), &script, &[])).finish().await;
    assert_eq!((said.code, said.stderr.as_str()), (0, ""), "{said:?}");
    let stat = " README.md     |     1 +\n src/new (new) |     2 ++\n 2 files changed, 3 insertions(+), 0 deletions(-)\n";
    assert!(said.stdout.contains(stat), "{said:?}");
    let id = id_of(&scene.workflow().await);
    let wanted = tree(&scene.stack.workspace().join("jobs").join(&id).join("app")).await;

    // The same change, by three ways.
    let patch = ran(&scene.url(), &["diff", &id]).await;
    assert!(patch.stdout.starts_with("diff --git a/README.md b/README.md\n"), "{patch:?}");
    assert_eq!(ran(&scene.url(), &["diff", &id, "--stat"]).await.stdout, stat);
    let plain = clone(&scene, "plain").await;
    fs::write(scene.mark("patch"), &patch.stdout).unwrap();
    git(&plain, &["apply", scene.mark("patch").to_str().unwrap()]).await;
    assert_eq!(tree(&plain).await, wanted);

    let applied = clone(&scene, "applied").await;
    fs::create_dir(applied.join("inner")).unwrap();
    let said = within(&scene, &applied.join("inner"), &["apply", &id]).await;
    assert_eq!((said.code, said.stdout.as_str()), (0, stat), "{said:?}");
    assert_eq!(git(&applied, &["write-tree"]).await, wanted, "the index has it");
    assert_eq!(tree(&applied).await, wanted);

    let short = &id[id.len() - 8..];
    let checked_out = clone(&scene, "checked-out").await;
    fs::write(checked_out.join("README.md"), "mine\n").unwrap();
    let said = within(&scene, &checked_out, &["checkout", &id]).await;
    assert!(said.code == 1 && said.stderr.contains("removed again"), "{said:?}");
    assert_eq!(git(&checked_out, &["branch", "--list", "agent/*"]).await, "");
    git(&checked_out, &["checkout", "--quiet", "README.md"]).await;
    let said = within(&scene, &checked_out, &["checkout", &id]).await;
    assert_eq!(said.code, 0, "{said:?}");
    let branch = format!("agent/{short}");
    assert_eq!(git(&checked_out, &["branch", "--show-current"]).await, branch);
    assert_eq!(git(&checked_out, &["rev-parse", "HEAD^{tree}"]).await, wanted);
    assert_eq!(git(&checked_out, &["rev-list", "--count", "origin/main..HEAD"]).await, "1");
    let message = git(&checked_out, &["log", "-1", "--format=%an: %B"]).await;
    assert!(message.starts_with("Somebody: Follow the script."), "{message}");
    assert!(message.ends_with(&format!("Job: {id}")), "{message}");
    let again = within(&scene, &checked_out, &["checkout", &id]).await;
    assert!(again.code == 2 && again.stderr.contains("name another one"), "{again:?}");

    // Nothing is half done.
    let conflicting = clone(&scene, "conflicting").await;
    fs::write(conflicting.join("README.md"), "something else\n").unwrap();
    git(&conflicting, &["commit", "--quiet", "--all", "--message", "mine"]).await;
    let said = within(&scene, &conflicting, &["apply", &id]).await;
    assert!(said.code == 1 && said.stderr.contains("nothing was touched"), "{said:?}");
    assert_eq!(git(&conflicting, &["status", "--porcelain"]).await, "");
    let elsewhere = within(&scene, &scene.mark(""), &["apply", &id]).await;
    assert!(elsewhere.code == 2 && elsewhere.stderr.contains("no git repository"), "{elsewhere:?}");
    let unrelated = scene.mark("unrelated");
    git(Path::new("/"), &["init", "--quiet", unrelated.to_str().unwrap()]).await;
    let said = within(&scene, &unrelated, &["checkout", &id]).await;
    assert!(said.code == 2 && said.stderr.contains("`git fetch`"), "{said:?}");

    // All in one, and a job that has changed nothing.
    let direct = clone(&scene, "direct").await;
    let run = with_git(scene.run(&scene.url(), &script, &["--apply"]), &direct);
    let said = RunningCommand::start(run).finish().await;
    assert_eq!(said.code, 0, "{said:?}");
    assert_eq!(tree(&direct).await, wanted);
    let run =
        with_git(scene.run(&scene.url(), &AgentScript::new().say("no"), &["--apply"]), &direct);
    let said = RunningCommand::start(run).finish().await;
    assert!(said.code == 0 && said.stdout.contains(" No file was changed.\n"), "{said:?}");
    assert!(said.stderr.contains("has changed nothing"), "{said:?}");
    // The jobs that looked are not among those that somebody has started.
    let listed = ran(&scene.url(), &["jobs", "--json"]).await.json();
    let services: Vec<_> =
        listed["jobs"].as_array().unwrap().iter().map(|job| &job["service"]).collect();
    assert_eq!(services, ["workflow-api"; 3]);
    scene.stack.wait_until_idle().await;
}

#[tokio::test]
async fn a_shared_checkout_shows_only_its_last_job() {
    let scene = Scene::new().await;
    let run = async |content: &str| {
        let script = AgentScript::new().write("README.md", content);
        // Nobody asks at the end of this run.
        let more = ["--directory", "shared", "--json"];
        let said = RunningCommand::start(scene.run(&scene.url(), &script, &more)).finish().await;
        assert_eq!(said.code, 0, "{said:?}");
        id_of(&scene.workflow().await)
    };
    let first = run("one\n").await;
    let second = run("two\n").await;
    let said = ran(&scene.url(), &["diff", &first]).await;
    assert!(said.code == 2 && said.stderr.contains("a later job has worked"), "{said:?}");
    let said = ran(&scene.url(), &["diff", &second]).await;
    assert!(said.stdout.contains("-hello\n+two\n"), "{said:?}");
    let third = run("three\n").await;
    // It was kept when somebody asked in time.
    assert_eq!(ran(&scene.url(), &["diff", &second]).await.stdout, said.stdout);
    fs::remove_dir_all(scene.stack.workspace().join("shared")).unwrap();
    let said = ran(&scene.url(), &["diff", &third]).await;
    assert!(said.code == 2 && said.stderr.contains("is gone"), "{said:?}");
    scene.stack.wait_until_idle().await;
}

/// A clone may have its hooks among its files, as husky has them. The agent replaces them.
#[tokio::test]
async fn hooks_among_the_files_are_not_run() {
    let scene = Scene::new().await;
    const HOOKS: [&str; 4] =
        ["post-index-change", "post-checkout", "reference-transaction", "fsmonitor"];
    let (mut script, mark) = (AgentScript::new().write("README.md", "agent\n"), scene.mark("ran"));
    for hook in HOOKS {
        let path = format!("hooks/{hook}");
        scene.git.commit_executable("app", "main", &path, "#!/bin/sh\n");
        script = script.write(&path, &format!("#!/bin/sh\necho {hook} >> {}\n", mark.display()));
    }
    let clone = async |name: &str| {
        let path = clone(&scene, name).await;
        git(&path, &["config", "core.hooksPath", "hooks"]).await;
        git(&path, &["config", "core.fsmonitor", "hooks/fsmonitor"]).await;
        git(&path, &["config", "submodule.recurse", "true"]).await;
        path
    };
    let at_once = clone("at-once").await;
    let run = with_git(scene.run(&scene.url(), &script, &["--apply"]), &at_once);
    let said = RunningCommand::start(run).finish().await;
    assert_eq!(said.code, 0, "{said:?}");
    assert!(said.stderr.contains("Applied"), "{said:?}");
    let id = id_of(&scene.workflow().await);
    for command in ["apply", "checkout"] {
        let said = within(&scene, &clone(command).await, &[command, &id]).await;
        assert_eq!(said.code, 0, "{said:?}");
    }
    assert!(!mark.exists(), "{:?}", fs::read_to_string(&mark));
    // The control: git itself runs them.
    let patch = scene.mark("patch");
    fs::write(&patch, ran(&scene.url(), &["diff", &id]).await.stdout).unwrap();
    let control = clone("control").await;
    git(&control, &["apply", "--3way", patch.to_str().unwrap()]).await;
    assert!(fs::read_to_string(&mark).unwrap().contains("post-index-change"));
}

#[tokio::test]
async fn a_change_is_not_applied_to_another_repository() {
    let scene = Scene::new().await;
    scene.git.create_repo("other", &[("README.md", "hello\n")]);
    let other = scene.mark("other");
    git(Path::new("/"), &["clone", "--quiet", &scene.git.url("other"), other.to_str().unwrap()])
        .await;
    // It would fit, if only the files mattered.
    let script = AgentScript::new().write("new", "1\n");
    let run = with_git(scene.run(&scene.url(), &script, &["--apply"]), &other);
    let said = RunningCommand::start(run).finish().await;
    assert_eq!(said.code, 2, "{said:?}");
    assert!(said.stderr.contains(&format!("go to a clone of {}", scene.repo())), "{said:?}");
    assert!(said.stderr.contains("the job is complete"), "{said:?}");
    let id = id_of(&scene.workflow().await);
    let said = within(&scene, &other, &["apply", &id]).await;
    assert!(said.code == 2 && said.stderr.contains("git fetch"), "{said:?}");
    assert_eq!(git(&other, &["status", "--porcelain"]).await, "");
}

/// The server of the repository does not have what the agent has made.
#[tokio::test]
async fn new_files_in_lfs_get_into_a_clone_as_pointers() {
    let scene = Scene::new().await;
    scene.git.commit("app", "main", &[(".gitattributes", "*.bin filter=lfs diff=lfs -text\n")]);
    let script = AgentScript::new().write("new.bin", "content\n");
    let said = RunningCommand::start(scene.run(&scene.url(), &script, &["--lfs"])).finish().await;
    assert_eq!(said.code, 0, "{said:?}");
    if said.stdout.contains("stay pointers") {
        testkit::skip(
            "new files in LFS",
            "git-lfs is not installed, or the kernel is too old for it",
        );
        return;
    }
    assert!(said.stdout.contains(" new.bin (new) (in LFS) |     3 +++\n"), "{said:?}");
    let id = id_of(&scene.workflow().await);
    for command in ["apply", "checkout"] {
        let clone = clone(&scene, command).await;
        git(&clone, &["lfs", "install", "--local"]).await;
        let said = within(&scene, &clone, &[command, &id]).await;
        assert!(said.code == 0 && said.stderr.contains("`git lfs pull`"), "{said:?}");
        let pointer = fs::read_to_string(clone.join("new.bin")).unwrap();
        assert!(pointer.starts_with("version https://git-lfs"), "{pointer}");
        assert_eq!(git(&clone, &["diff", "--name-only"]).await, "");
    }
}
