//! Children that run as another user, each beside one that does not.

#![expect(clippy::unwrap_used, reason = "a test fails loudly")]

use std::{
    fs,
    os::unix::process::ExitStatusExt as _,
    process::Stdio,
    time::{Duration, Instant},
};

use child_process::{
    Gid, Guest, JobBounds, LimitedBy, Pid, Signal, Uid, become_subreaper, end_job,
};
use tokio::{
    io::{AsyncBufReadExt as _, AsyncReadExt as _, BufReader},
    sync::{Mutex, MutexGuard},
};

/// `nobody` on most systems. No entry is needed.
const OTHER: u32 = 65534;

/// Whether a test can run here. They run one after the other, because the end of a job kills the children of all.
async fn alone() -> Option<MutexGuard<'static, ()>> {
    static ONE: Mutex<()> = Mutex::const_new(());
    if !nix::unistd::geteuid().is_root() {
        assert!(std::env::var_os("FORBID_SKIPS").is_none(), "only root may change users");
        eprintln!("SKIPPED: only root may change users");
        return None;
    }
    let guard = ONE.lock().await;
    become_subreaper().unwrap();
    Some(guard)
}

fn shell(script: &str) -> Guest {
    let path = "/usr/local/bin:/usr/bin:/bin";
    Guest::new("/bin/sh").args(["-c", script]).env("PATH", path).stdout(Stdio::piped())
}

fn other(guest: Guest) -> Guest {
    guest.user(Uid::from_raw(OTHER), Gid::from_raw(OTHER))
}

async fn output(guest: Guest) -> String {
    let mut child = guest.spawn().await.unwrap();
    let mut text = String::new();
    child.take_stdout().unwrap().read_to_string(&mut text).await.unwrap();
    child.wait().await.unwrap();
    text
}

#[tokio::test]
async fn it_has_no_right_of_this_process() {
    let Some(_alone) = alone().await else { return };
    let script = "grep -E '^(Uid|Gid|Groups|CapInh|CapPrm|CapEff|CapAmb|NoNewPrivs):' /proc/self/status | tr -d ' \\t'";
    let of = |text: &str, name: &str| {
        let line = text.lines().find_map(|line| line.strip_prefix(name)).unwrap();
        line.trim_start_matches(':').to_owned()
    };
    let (own, others) = (output(shell(script)).await, output(other(shell(script))).await);
    assert_eq!(of(&own, "Uid"), "0000");
    assert_ne!(of(&own, "CapEff"), "0000000000000000", "the control");
    let id = OTHER.to_string().repeat(4);
    assert_eq!(
        (of(&others, "Uid"), of(&others, "Gid"), of(&others, "Groups")),
        (id.clone(), id, String::new())
    );
    for set in ["CapInh", "CapPrm", "CapEff", "CapAmb"] {
        assert_eq!(of(&others, set), "0000000000000000", "{others}");
    }
    assert_eq!(of(&others, "NoNewPrivs"), "1");
    // The owner of /dev/null is as before, although it was the child's standard input.
    let owner = std::os::unix::fs::MetadataExt::uid(&fs::metadata("/dev/null").unwrap());
    assert_eq!(owner, 0);
}

#[tokio::test]
async fn it_can_open_its_pipes_by_name() {
    let Some(_alone) = alone().await else { return };
    let script = "cat /dev/fd/$KEY; echo out > /dev/stdout; echo error > /dev/stderr";
    for guest in [shell(script), other(shell(script))] {
        let guest = guest.secret("KEY", b"s3cret ").unwrap().stderr(Stdio::piped());
        let mut child = guest.spawn().await.unwrap();
        let (mut out, mut error) = (String::new(), String::new());
        child.take_stdout().unwrap().read_to_string(&mut out).await.unwrap();
        child.take_stderr().unwrap().read_to_string(&mut error).await.unwrap();
        assert!(child.wait().await.unwrap().success(), "{error}");
        assert_eq!((&*out, &*error), ("s3cret out\n", "error\n"));
    }
}

#[tokio::test]
async fn it_dies_with_its_parent() {
    let Some(_alone) = alone().await else { return };
    let directory = tempfile::tempdir().unwrap();
    let pid_in = |name: &str| {
        let file = directory.path().join(name);
        async move {
            loop {
                if let Ok(text) = fs::read_to_string(&file) {
                    return Pid::from_raw(text.parse().unwrap());
                }
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        }
    };
    let mut helper = Guest::new(std::env::current_exe().unwrap())
        .args(["--exact", "helper_with_two_children", "--ignored", "--nocapture"])
        .env("HELPER_DIRECTORY", directory.path())
        .spawn()
        .await
        .unwrap();
    let (armed, unarmed) = (pid_in("armed").await, pid_in("unarmed").await);
    helper.signal(Signal::SIGKILL).unwrap();
    helper.wait().await.unwrap();
    let is_alive = |pid: Pid| fs::metadata(format!("/proc/{pid}")).is_ok();
    let begun = Instant::now();
    while is_alive(armed) {
        assert!(begun.elapsed() < Duration::from_secs(10), "it has survived its parent");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    assert!(is_alive(unarmed), "otherwise this test could not fail");
    let left = child_process::kill_descendants(&[], Instant::now() + Duration::from_secs(10)).await;
    assert!(left.is_empty(), "{left}");
}

#[test]
#[ignore = "a helper process of another test"]
fn helper_with_two_children() {
    let directory = std::env::var_os("HELPER_DIRECTORY").map(std::path::PathBuf::from).unwrap();
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let _children = runtime.block_on(async {
        let sleeper = || other(Guest::new("/bin/sleep").args(["300"]));
        let armed = sleeper().die_with_parent(Signal::SIGKILL).spawn().await.unwrap();
        let unarmed = sleeper().spawn().await.unwrap();
        for (name, child) in [("armed", &armed), ("unarmed", &unarmed)] {
            fs::write(directory.join("new"), child.id().to_string()).unwrap();
            fs::rename(directory.join("new"), directory.join(name)).unwrap();
        }
        (armed, unarmed)
    });
    std::thread::sleep(Duration::from_secs(300));
}

/// Starts as many processes as it can, some in sessions of their own, and prints how many.
const COUNT: &str = "use POSIX; $| = 1; my $n = 0; for (1..200) { my $pid = fork(); if (!defined $pid) { last } \
    if (!$pid) { POSIX::setsid() if $n % 2; sleep 300; exit } $n++ } print \"$n\\n\"; sleep 300";

#[tokio::test]
async fn its_job_is_limited_and_ended() {
    let Some(_alone) = alone().await else { return };
    let bounds = std::sync::Arc::new(JobBounds::of_user(50, Uid::from_raw(OTHER)));
    let guest = other(Guest::new("perl").args(["-e", COUNT]).stdout(Stdio::piped()));
    let guest = guest.env("PATH", "/usr/local/bin:/usr/bin:/bin");
    let mut child = guest.bounded(&bounds).spawn().await.unwrap();
    let mut lines = BufReader::new(child.take_stdout().unwrap()).lines();
    let started: u32 = lines.next_line().await.unwrap().unwrap().parse().unwrap();
    match bounds.limited_by() {
        LimitedBy::Cgroup => assert_eq!(started, 49),
        // Other processes of this user may have started or exited meanwhile.
        LimitedBy::UserLimit => assert!(started < 100, "{started}"),
        LimitedBy::Container => {}
        LimitedBy::NothingForRoot => panic!("the child is not root"),
    }
    let left = end_job(&bounds, Instant::now() + Duration::from_secs(10)).await;
    assert!(left.is_empty(), "{left}");
    assert_eq!(child.wait().await.unwrap().signal(), Some(9));
    assert_eq!(child_process::descendants(Pid::this()).unwrap(), []);
}
