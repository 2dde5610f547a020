//! Children that fork faster than they are killed. Each storm runs as another user in a pid namespace with a low
//! process limit, so it cannot harm the machine.

#![expect(clippy::unwrap_used, clippy::expect_used, reason = "a test fails loudly")]

use std::{
    fs,
    os::unix::fs::PermissionsExt as _,
    process::Stdio,
    time::{Duration, Instant},
};

use child_process::{Guest, JobBounds, Pid, Signal, become_subreaper, kill_descendants};
use tokio::sync::{Mutex, MutexGuard};

const PATH: &str = "/usr/local/bin:/usr/bin:/bin";

/// Each process forks as often as it can, in a session of its own.
const STORM: &str = "use POSIX; $SIG{CHLD} = 'IGNORE'; \
    while (1) { my $pid = fork(); if (defined $pid && !$pid) { POSIX::setsid() } }";

/// Each process forks the next one, which moves to a session of its own, and exits.
const CHAIN: &str =
    "use POSIX; while (1) { my $pid = fork(); exit if $pid; POSIX::setsid() if defined $pid }";

/// Processes in one group that restart each other when they die.
const WATCHERS: &str = "use POSIX; for (1..20) { fork() or last } \
    while (1) { my $pid = fork(); if ($pid) { waitpid($pid, 0) } else { select(undef, undef, undef, 0.5) } }";

/// A thousand orphans, one after the other, that exit; fails when no process can be started.
const ORPHANS: &str = "for (1..1000) { my $pid = fork(); last if !defined $pid; \
    if (!$pid) { my $next = fork(); exit 1 if !defined $next; exit 0 } \
    waitpid($pid, 0); last if $? }";

/// Runs a helper of this file where it can do no harm. Returns whether it succeeded, or `None` if this machine has no
/// such place.
async fn sandboxed(helper: &str, variables: &[(&str, &str)]) -> Option<bool> {
    let is_root = nix::unistd::geteuid().is_root();
    let unshare: &[&str] = if is_root { &["-pf"] } else { &["-Urpf"] };
    // Root is not subject to process limits.
    let user: &[&str] = if is_root {
        &["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"]
    } else {
        &[]
    };
    let limits = "ulimit -u 600; ulimit -v 4000000; exec \"$@\"";
    let sandbox = |program: &str| {
        Guest::new("unshare")
            .args(unshare)
            .args(["--mount-proc", "--kill-child"])
            .args(user)
            .args(["bash", "-c", limits, "-", program])
            .env("PATH", PATH)
            .env("RUST_BACKTRACE", "0")
    };
    let mut probe = sandbox("true").spawn().await.unwrap();
    if !probe.wait().await.unwrap().success() {
        let why = "no pid namespaces for this user";
        assert!(std::env::var_os("FORBID_SKIPS").is_none(), "{why}");
        eprintln!("SKIPPED: {helper}: {why}");
        return None;
    }
    // A directory in which another user can run it.
    let directory = tempfile::tempdir().unwrap();
    let program = directory.path().join("helper");
    fs::copy(std::env::current_exe().unwrap(), &program).unwrap();
    fs::set_permissions(directory.path(), fs::Permissions::from_mode(0o755)).unwrap();
    let mut guest = sandbox(program.to_str().unwrap())
        .args(["--exact", helper, "--ignored", "--nocapture", "--test-threads=1"])
        .stderr(Stdio::inherit());
    for (name, value) in variables {
        guest = guest.env(name, value);
    }
    let mut child = guest.spawn().await.unwrap();
    let ended = tokio::time::timeout(Duration::from_secs(180), child.wait()).await;
    Some(ended.expect("the helper ended").unwrap().success())
}

/// A storm affects the whole machine, so only one runs at a time.
fn descendants(pid: Pid) -> Vec<Pid> {
    child_process::descendants(pid).unwrap()
}

async fn alone() -> MutexGuard<'static, ()> {
    static ONE: Mutex<()> = Mutex::const_new(());
    ONE.lock().await
}

/// Starts the storm and waits until it is in full swing.
async fn begun() -> child_process::Child {
    become_subreaper().unwrap();
    let storm = std::env::var("STORM").expect("only run by another test");
    let mut child =
        Guest::new("perl").args(["-e", &storm]).env("PATH", PATH).spawn().await.unwrap();
    let begun = Instant::now();
    // A chain never has more than two processes at a time, but its first one exits.
    while descendants(Pid::this()).len() < 20 && descendants(Pid::this()).contains(&child.id()) {
        assert!(begun.elapsed() < Duration::from_secs(20), "no storm");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let _ = child.signal(Signal::SIGKILL);
    child.wait().await.unwrap();
    child
}

#[tokio::test]
#[ignore = "a helper process of other tests"]
async fn helper_that_ends_a_storm() {
    let _child = begun().await;
    let begun = Instant::now();
    // Each process of the storm takes as much processor time as this one, so a slow machine needs long.
    let left = kill_descendants(&[], begun + Duration::from_secs(120)).await;
    eprintln!("the storm ended after {:?}", begun.elapsed());
    assert!(left.is_empty(), "{left}");
    assert!(descendants(Pid::this()).is_empty(), "zombies remain");
}

/// Adopts the orphans of the storm for a while, and then starts more processes.
#[tokio::test]
#[ignore = "a helper process of other tests"]
async fn helper_that_adopts() {
    if std::env::var_os("REAPS").is_some() {
        become_subreaper().unwrap();
    } else {
        // A subreaper that does not reap by itself.
        nix::sys::prctl::set_child_subreaper(true).unwrap();
    }
    let storm = std::env::var("STORM").expect("run by another test only");
    let guest = || Guest::new("perl").env("PATH", PATH);
    let mut child = guest().args(["-e", &storm]).spawn().await.unwrap();
    child.wait().await.unwrap();
    let more =
        "for (1..30) { my $pid = fork(); exit 1 if !defined $pid; if (!$pid) { sleep 1; exit } }";
    let mut more = guest().args(["-e", more]).spawn().await.unwrap();
    assert!(more.wait().await.unwrap().success(), "no process could be started");
}

#[tokio::test]
async fn a_storm_in_many_sessions_is_ended() {
    let _alone = alone().await;
    assert_ne!(sandboxed("helper_that_ends_a_storm", &[("STORM", STORM)]).await, Some(false));
}

#[tokio::test]
async fn a_chain_of_short_lived_processes_is_ended() {
    let _alone = alone().await;
    assert_ne!(sandboxed("helper_that_ends_a_storm", &[("STORM", CHAIN)]).await, Some(false));
}

#[tokio::test]
async fn watchers_that_restart_each_other_are_ended() {
    let _alone = alone().await;
    assert_ne!(sandboxed("helper_that_ends_a_storm", &[("STORM", WATCHERS)]).await, Some(false));
}

#[tokio::test]
async fn adopted_processes_do_not_use_up_the_pids() {
    let _alone = alone().await;
    for (reaps, succeeds) in [("REAPS", true), ("DOES_NOT", false)] {
        if let Some(done) =
            sandboxed("helper_that_adopts", &[("STORM", ORPHANS), (reaps, "1")]).await
        {
            assert_eq!(done, succeeds, "{reaps}: without the reaper this must fail");
        }
    }
}

/// Starts as many processes as it can, and prints how many.
const COUNT: &str = "$| = 1; my $n = 0; for (1..200) { my $pid = fork(); if (!defined $pid) { last } \
    if (!$pid) { sleep 300; exit } $n++ } print \"$n\\n\"; sleep 300";

#[tokio::test]
async fn a_job_is_limited_and_ended_in_one_step() {
    use tokio::io::{AsyncBufReadExt as _, BufReader};
    let _alone = alone().await;
    become_subreaper().unwrap();
    let bounds = JobBounds::new(50);
    let guest = Guest::new("perl").args(["-e", COUNT]).env("PATH", PATH).stdout(Stdio::piped());
    let mut child = guest.bounded(&bounds).spawn().await.unwrap();
    let mut lines = BufReader::new(child.take_stdout().unwrap()).lines();
    let started: u32 = lines.next_line().await.unwrap().unwrap().parse().unwrap();
    match bounds.limited_by() {
        child_process::LimitedBy::Cgroup => assert_eq!(started, 49),
        // Other processes of this user may have started or exited meanwhile.
        child_process::LimitedBy::UserLimit => assert!(started < 100, "{started}"),
        other => eprintln!("SKIPPED: the number of processes: {other:?}"),
    }
    bounds.kill();
    if bounds.has_cgroup() {
        // Nothing else has ended it.
        let ended = tokio::time::timeout(Duration::from_secs(10), child.wait()).await;
        eprintln!("{:?}, by {:?}", ended, bounds.limited_by());
    }
    assert!(kill_descendants(&[], Instant::now() + Duration::from_secs(10)).await.is_empty());
    bounds.remove().unwrap();
}

/// Forty busy processes, each in a session of its own, until they are killed.
const BUSY: &str = "use POSIX; $| = 1; for (1..40) { my $pid = fork(); if (defined $pid && !$pid) { \
    POSIX::setsid(); alarm(60); 1 while 1 } } print \"begun\\n\"; sleep 60";

/// Is busy for a second, and prints how much processor time it got, in seconds.
const SHARE: &str = "use Time::HiRes; my $end = Time::HiRes::time() + 1; \
    1 while Time::HiRes::time() < $end; my @times = times; print $times[0] + $times[1], \"\\n\"";

/// The processor time that another process gets in a second beside a job of many busy ones.
async fn share_beside_a_job(bounds: Option<&JobBounds>) -> f64 {
    use tokio::io::{AsyncBufReadExt as _, BufReader};
    let perl = |script| Guest::new("perl").args(["-e", script]).env("PATH", PATH);
    let busy = perl(BUSY).stdout(Stdio::piped());
    let busy = if let Some(bounds) = bounds { busy.bounded(bounds) } else { busy };
    let mut busy = busy.spawn().await.unwrap();
    let mut begun = BufReader::new(busy.take_stdout().unwrap()).lines();
    assert_eq!(begun.next_line().await.unwrap().as_deref(), Some("begun"));
    let mut other = perl(SHARE).stdout(Stdio::piped()).spawn().await.unwrap();
    let mut time = BufReader::new(other.take_stdout().unwrap()).lines();
    let time = time.next_line().await.unwrap().unwrap().parse().unwrap();
    other.wait().await.unwrap();
    if let Some(bounds) = bounds {
        bounds.kill();
    }
    let left = kill_descendants(&[], Instant::now() + Duration::from_secs(20)).await;
    assert!(left.is_empty(), "{left:?}");
    time
}

/// Whether this machine lets us create groups for the controller `cpu` of cgroup version 1.
fn delegates_processor_time() -> bool {
    let groups = fs::read_to_string("/proc/self/cgroup").unwrap();
    let own = groups.lines().find_map(|line| line.split_once(":cpu:").map(|(_, path)| path));
    own.is_some_and(|path| {
        let procs = format!("/sys/fs/cgroup/cpu{path}/cgroup.procs");
        fs::OpenOptions::new().write(true).open(procs).is_ok()
    })
}

#[tokio::test]
async fn a_job_of_many_processes_leaves_others_their_share_of_the_processors() {
    let _alone = alone().await;
    become_subreaper().unwrap();
    let bounds = JobBounds::new(100);
    // Asked independently, so that this test fails if the bounds do not use what is there.
    if !bounds.shares_processor_time() && !delegates_processor_time() {
        return eprintln!("SKIPPED: no cgroup shares processor time on this machine");
    }
    let without = share_beside_a_job(None).await;
    let with = share_beside_a_job(Some(&bounds)).await;
    bounds.remove().unwrap();
    eprintln!("{without} s of a second without bounds, {with} s with them");
    assert!(with > 2.0 * without, "{without} s without bounds, {with} s with them");
}
