//! What git may take, and how it is ended.

use std::{
    fs,
    net::SocketAddr,
    os::unix::fs::PermissionsExt as _,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Instant,
};

use contract::Code;
use serde_json::json;

use crate::{
    hosts,
    kind::{End, Expect, Kind},
    replica,
};

/// Has replicas run a git that runs `script` where it should run `command`.
fn sabotage(kind: &mut Kind, command: &str, script: &str, environment: &[(&'static str, &str)]) {
    let programs = kind.root.path().join("programs");
    fs::create_dir_all(&programs).unwrap();
    let path = std::env::var("PATH").unwrap();
    let git = std::env::split_paths(&path).map(|it| it.join("git")).find(|it| it.exists());
    let git = git.unwrap().display().to_string();
    let text =
        format!("#!/bin/bash\nif [[ $1 == {command} ]]; then\n{script}\nfi\nexec {git} \"$@\"\n");
    testkit::write_program(&programs.join("git"), &text);
    let own = [
        ("PATH", format!("{}:{path}", programs.display())),
        ("GIT_ALLOWED_HOSTS", "127.0.0.1".to_owned()),
    ];
    let given = environment.iter().map(|&(name, value)| (name, value.to_owned()));
    kind.replica = Some(own.into_iter().chain(given).collect());
}

#[tokio::test(flavor = "multi_thread")]
async fn limits_and_environment() {
    let mut kind = Kind::simple("what git is given");
    // Memory and file sizes in KiB and blocks of 1 KiB, seconds, processes, core dumps.
    let script = "echo fatal: $(ulimit -v) $(ulimit -f) $(ulimit -t) $(ulimit -u) $(ulimit -c) \
        $(env | grep -c -e HOME -e TOKEN -e pa55) $(env | grep GIT_CONFIG_NOSYSTEM) >&2; exit 1";
    let environment = [
        ("GIT_MEMORY_MIB", "1000"),
        ("GIT_CHECKOUT_LIMIT_MIB", "100"),
        ("JOB_TIMEOUT_SECONDS", "55"),
        ("GITHUB_TOKEN", "pa55word"),
    ];
    sabotage(&mut kind, "checkout", script, &environment);
    let ours = kind.our_pull("repo").await;
    kind.note(format!("ours {ours:#}"));
    // git's own words, and its code.
    let End::Failed(Some(Code::GitFailed), said) = ours else { panic!("{ours:#}") };
    let limits = format!("{} {} 55 4096 0 0 GIT_CONFIG_NOSYSTEM=1", 1000 << 10, 100 << 10);
    assert!(said.contains(&limits), "{said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn no_progress_on_this_machine() {
    let mut kind = Kind::simple("git that gets nowhere");
    let marker = "86399.123";
    let script = format!("sleep {marker} & sleep {marker}");
    sabotage(&mut kind, "checkout", &script, &[("GIT_LOCAL_SECONDS", "1")]);
    let start = Instant::now();
    let ours = kind.our_pull("repo").await;
    kind.note(format!("ours {ours} in {:.1?}", start.elapsed()));
    let End::Failed(Some(Code::GitFailed), said) = ours else { panic!("{ours:#}") };
    assert!(said.contains("got nowhere for 1 s"), "{said}");
    assert!(start.elapsed().as_secs() < 10, "{:?}", start.elapsed());
    assert!(!kind.ours().exists());
    let has_marker =
        |command: Vec<u8>| command.windows(marker.len()).any(|it| it == marker.as_bytes());
    let left = fs::read_dir("/proc")
        .unwrap()
        .flatten()
        .filter(|entry| fs::read(entry.path().join("cmdline")).is_ok_and(has_marker));
    assert_eq!(left.count(), 0, "its children are still there");
}

/// Whatever git was doing, its death says nothing about the checkout or the mirror.
#[tokio::test(flavor = "multi_thread")]
async fn a_git_that_is_killed() {
    let mut kind = Kind::simple("git that is killed");
    assert!(matches!(kind.our_pull("repo").await, End::Checkout(_)));
    for command in ["config", "ls-remote"] {
        sabotage(&mut kind, command, "kill -KILL $$", &[]);
        let ours = kind.our_pull("repo").await;
        kind.note(format!("ours, {command}: {ours}"));
        let End::Failed(Some(Code::GitFailed), said) = ours else { panic!("{ours:#}") };
        assert!(said.contains("git was killed"), "{said}");
    }
}

/// In front of `target`, until `is_endless`; then a list of references without an end.
fn endless_references(target: SocketAddr, is_endless: Arc<AtomicBool>) -> SocketAddr {
    let id = "1".repeat(40);
    let line = |text: String| format!("{:04x}{text}", text.len() + 4);
    let mut answer = "HTTP/1.1 200 OK\r\nConnection: close\r\n\
        Content-Type: application/x-git-upload-pack-advertisement\r\n\r\n"
        .to_owned();
    answer += &line("# service=git-upload-pack\n".into());
    answer += "0000";
    answer += &line(format!("{id} HEAD\0side-band-64k ofs-delta\n"));
    hosts::answer(move |request| {
        if !is_endless.load(Ordering::SeqCst) {
            return hosts::Answer::Forward(target);
        }
        assert!(request.contains("/info/refs"), "{request}");
        let id = id.clone();
        let chunk = move |number: u64| {
            let lines = (0..1000)
                .map(|at| line(format!("{id} refs/heads/{}-{number}-{at}\n", "x".repeat(200))));
            lines.collect::<String>().into_bytes()
        };
        hosts::Answer::Endless(answer.clone().into_bytes(), Box::new(chunk))
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn an_endless_list_of_references() {
    let mut kind = Kind::simple("endless list of references");
    let is_endless = Arc::new(AtomicBool::new(true));
    let address = endless_references(kind.server.address(), Arc::clone(&is_endless));
    kind.url = format!("http://{address}/app");
    let environment =
        vec![("GIT_ALLOWED_HOSTS", "127.0.0.1".to_owned()), ("GIT_MEMORY_MIB", "256".to_owned())];
    let root = kind.scene.workspace.root().to_owned();
    let pull = async |directory: &str| {
        let body = json!({"repoUrl": kind.url, "directory": directory});
        replica::run(&root, &environment, &body).await
    };
    // The first clone; then an update, which lists them by itself.
    for (step, directory) in [("clone", "first"), ("update", "repo")] {
        if step == "update" {
            is_endless.store(false, Ordering::SeqCst);
            let run = pull(directory).await;
            assert_eq!(run.terminal()["type"], "completed", "{}", run.terminal());
            is_endless.store(true, Ordering::SeqCst);
        }
        let run = pull(directory).await;
        let end = run.terminal();
        kind.note(format!("{step}: ours {}, replica at most {} KiB", end["code"], run.peak_kib));
        assert_eq!(end["type"], "error", "{end}");
        let known = ["git_failed", "repository_invalid"];
        assert!(known.contains(&end["code"].as_str().unwrap()), "{end}");
        assert!(run.peak_kib < 64 << 10, "{step}: the replica took {} KiB", run.peak_kib);
    }
}

/// Bytes that do not compress.
fn noise(seed: u64, length: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut bytes = Vec::with_capacity(length + 8);
    while bytes.len() < length {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.extend(state.to_le_bytes());
    }
    bytes.truncate(length);
    bytes
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hundred_megabytes() {
    large("100 MB", 100).await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "takes minutes and 5 GB: cargo test --release --test kinds a_gigabyte -- --ignored --nocapture"]
async fn a_gigabyte() {
    large("1 GB", 1000).await;
}

/// A repository of so many megabytes: the replica's memory does not grow with it.
async fn large(row: &'static str, megabytes: u64) {
    let kind = Kind::new(row);
    for number in 0..megabytes / 10 {
        kind.up.write(format!("f{number}"), noise(number, 10_000_000));
    }
    // What does not compress need not be tried for long.
    kind.up.git(&["config", "core.compression", "0"]);
    kind.up.git(&["config", "pack.window", "0"]);
    kind.up.commit();
    let environment = [("GIT_ALLOWED_HOSTS", "127.0.0.1".to_owned())];
    let root = kind.scene.workspace.root().to_owned();
    let pull = async |step: &str, directory: &str| {
        let body = json!({"repoUrl": kind.url, "directory": directory});
        let run = replica::run(&root, &environment, &body).await;
        let (took, all, peak) = (run.took, run.tree_kib, run.peak_kib);
        assert_eq!(run.terminal()["type"], "completed", "{}", run.terminal());
        assert!(peak < 64 << 10, "{row}, {step}: the replica took {peak} KiB");
        kind.note(format!("{step}: {took:.1?}, replica at most {peak} KiB, with git {all} KiB"));
    };
    pull("clone", "repo").await;
    pull("again", "second").await;
    kind.up.write("f0", noise(megabytes, 10_000_000));
    kind.up.commit();
    pull("update", "repo").await;
    assert_same(&kind.up.tree, &kind.ours());
}

fn assert_same(one: &Path, other: &Path) {
    for file in crate::support::files(one) {
        let name = file.strip_prefix(one).unwrap();
        assert!(fs::read(&file).unwrap() == fs::read(other.join(name)).unwrap(), "{name:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_mask_of_the_operators() {
    let mut kind = Kind::simple("umask 027");
    kind.up.write("run", "#!/bin/sh\n");
    fs::set_permissions(kind.up.tree.join("run"), fs::Permissions::from_mode(0o755)).unwrap();
    kind.up.commit();
    kind.umask = Some(0o027);
    kind.replica = Some(vec![("GIT_ALLOWED_HOSTS", "127.0.0.1".into())]);
    kind.clones(Expect::Same).await;
    let mode = |name: &str| fs::metadata(kind.ours().join(name)).unwrap().permissions().mode();
    let modes = ["a", "run", "d", ".git/HEAD"].map(mode).map(|mode| mode & 0o777);
    assert_eq!(modes, [0o640, 0o750, 0o750, 0o640]);
    kind.up.commit_files(&[("a", "2\n"), ("e/f", "1\n")]);
    kind.update(Expect::Same).await;
    let modes = ["a", "e", "e/f", ".git/packed-refs"].map(mode).map(|mode| mode & 0o777);
    assert_eq!(modes, [0o640, 0o750, 0o640, 0o640]);
}
