//! Real children: what they inherit, how they end, and that nothing of them remains.

#![expect(clippy::unwrap_used, clippy::expect_used, reason = "a test fails loudly")]

use std::{
    fs,
    io::Read as _,
    os::unix::process::ExitStatusExt as _,
    path::Path,
    process::Stdio,
    time::{Duration, Instant},
};

use child_process::{
    Child, Confinement, Guest, Pid, Resource, Signal, become_subreaper, is_confinement_available,
    kill_descendants, kill_descendants_now,
};
use tokio::{
    io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader, Lines},
    process::ChildStdout,
    sync::{Mutex, MutexGuard},
};

const PATH: &str = "/usr/local/bin:/usr/bin:/bin";

fn descendants(pid: Pid) -> Vec<Pid> {
    child_process::descendants(pid).unwrap()
}

/// These tests share one process, and a sweep kills the children of all.
async fn alone() -> MutexGuard<'static, ()> {
    static ONE: Mutex<()> = Mutex::const_new(());
    let guard = ONE.lock().await;
    become_subreaper().unwrap();
    guard
}

fn shell(script: &str) -> Guest {
    Guest::new("bash").args(["-c", script]).env("PATH", PATH).stdout(Stdio::piped())
}

async fn output(guest: Guest) -> String {
    let mut child = guest.spawn().await.unwrap();
    let mut text = String::new();
    child.take_stdout().unwrap().read_to_string(&mut text).await.unwrap();
    child.wait().await.unwrap();
    text
}

/// A shell that prints `ready`, and its later output lines.
async fn ready(script: &str) -> (Child, Lines<BufReader<ChildStdout>>) {
    let mut child = shell(script).spawn().await.unwrap();
    let mut lines = BufReader::new(child.take_stdout().unwrap()).lines();
    assert_eq!(lines.next_line().await.unwrap().as_deref(), Some("ready"));
    (child, lines)
}

/// The state and the parent of a process, if it exists.
fn stat(pid: Pid) -> Option<(char, i32)> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let mut fields = stat.rsplit_once(')')?.1.split_whitespace();
    Some((fields.next()?.chars().next()?, fields.next()?.parse().ok()?))
}

fn is_alive(pid: Pid) -> bool {
    stat(pid).is_some_and(|(state, _)| state != 'Z')
}

fn zombies() -> Vec<Pid> {
    let all = descendants(Pid::this());
    all.into_iter().filter(|pid| stat(*pid).is_some_and(|(state, _)| state == 'Z')).collect()
}

async fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let start = Instant::now();
    while !holds() {
        assert!(start.elapsed() < Duration::from_secs(10), "timed out waiting for {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

fn soon() -> Instant {
    Instant::now() + Duration::from_secs(10)
}

/// Reads a pid that another process is writing.
async fn pid_in(path: &Path) -> Pid {
    let read = || fs::read_to_string(path).ok()?.strip_suffix('\n')?.parse::<i32>().ok();
    until("a pid in the file", || read().is_some()).await;
    Pid::from_raw(read().unwrap())
}

#[tokio::test]
async fn the_environment_contains_only_what_was_given() {
    let _alone = alone().await;
    // The shell adds its own variables. The test's environment is not inherited.
    assert!(std::env::var_os("CARGO_MANIFEST_DIR").is_some());
    let env = output(Guest::new("/usr/bin/env").env("A", "1").stdout(Stdio::piped())).await;
    assert_eq!(env, "A=1\n");
}

#[tokio::test]
async fn it_leads_its_own_group_and_has_the_given_working_directory() {
    let _alone = alone().await;
    let directory = tempfile::tempdir().unwrap();
    let script =
        "echo $$; cut -d' ' -f5,6 /proc/$$/stat | tr ' ' '\\n'; pwd -P; readlink /proc/$$/fd/0";
    let text = output(shell(script).cwd(directory.path())).await;
    let [pid, group, session, cwd, stdin] = text.lines().collect::<Vec<_>>()[..] else {
        panic!("{text}")
    };
    assert_eq!(pid, group);
    assert_eq!(pid, session, "it also leads a session, which has no terminal");
    assert_eq!(Path::new(cwd), directory.path().canonicalize().unwrap());
    assert_eq!(stdin, "/dev/null");
}

#[tokio::test]
async fn a_secret_is_passed_by_descriptor_and_is_in_no_environment() {
    let _alone = alone().await;
    let script = "cat /proc/self/fd/$KEY; echo; cat /proc/self/fd/$KEY; \
                  grep -c s3cret /proc/$$/environ /proc/$$/cmdline; cd /proc/$$/fd; echo *";
    // The script is in the command line, so it must not contain the secret.
    let script = script.replace("s3cret", "s3c[r]et");
    let guest = shell(&script).secret("KEY", b"s3cret").unwrap();
    // One of our descriptors that is not close-on-exec.
    let leak = fs::File::open("/dev/null").unwrap();
    nix::fcntl::fcntl(&leak, nix::fcntl::FcntlArg::F_SETFD(nix::fcntl::FdFlag::empty())).unwrap();
    let text = output(guest.pass_fd("OTHER", fs::File::open("/dev/null").unwrap().into())).await;
    let lines: Vec<_> = text.lines().collect();
    // It can be read once; a second reader finds nothing, and does not block.
    assert_eq!(lines[0], "s3cret");
    assert!(lines[1].ends_with("environ:0") && lines[2].ends_with("cmdline:0"), "{text}");
    // 0, 1, 2, the two passed ones, and the directory being listed; bash keeps its own above 250.
    let fds = lines[3].split(' ').filter(|fd| fd.parse::<u32>().unwrap() < 250);
    assert_eq!(fds.count(), 6, "{text}");
}

#[tokio::test]
async fn a_secret_too_long_for_a_pipe_is_an_error() {
    assert!(shell("").secret("KEY", &[b'x'; 60_000]).is_ok());
    assert!(shell("").secret("KEY", &[b'x'; 2_000_000]).is_err());
}

#[tokio::test]
async fn a_failed_spawn_says_why() {
    let _alone = alone().await;
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("file");
    fs::write(&file, "").unwrap();
    for (guest, kind) in [
        (Guest::new("/nonexistent"), std::io::ErrorKind::NotFound),
        (Guest::new("no-such-program").env("PATH", PATH), std::io::ErrorKind::NotFound),
        (Guest::new(&file), std::io::ErrorKind::PermissionDenied),
        (Guest::new("/bin/true").cwd("/nonexistent"), std::io::ErrorKind::NotFound),
        // The steps between fork and exec must not break the error report.
        (
            Guest::new("/nonexistent")
                .secret("KEY", b"x")
                .unwrap()
                .die_with_parent(Signal::SIGKILL),
            std::io::ErrorKind::NotFound,
        ),
    ] {
        assert_eq!(guest.spawn().await.unwrap_err().kind(), kind);
    }
    assert!(zombies().is_empty());
}

#[tokio::test]
async fn signals_reach_the_child_or_its_group_but_nothing_after_the_end() {
    let _alone = alone().await;
    let (mut child, mut lines) =
        ready("trap 'echo got' TERM; sleep 300 & echo ready; wait; wait").await;
    child.signal(Signal::SIGTERM).unwrap();
    assert_eq!(lines.next_line().await.unwrap().as_deref(), Some("got"));
    assert_eq!(descendants(child.id()).len(), 1);
    child.signal_group(Signal::SIGKILL).unwrap();
    assert_eq!(child.wait().await.unwrap().signal(), Some(9));
    assert_eq!(
        child.wait().await.unwrap().signal(),
        Some(9),
        "waiting again returns the same status"
    );
    for result in [child.signal(Signal::SIGKILL), child.signal_group(Signal::SIGKILL)] {
        assert_eq!(result.unwrap_err().raw_os_error(), Some(nix::libc::ESRCH));
    }
    assert!(kill_descendants(&[], soon()).await.is_empty());
}

#[tokio::test]
async fn dropping_a_child_kills_its_group() {
    let _alone = alone().await;
    let (child, _lines) = ready("sleep 300 & echo ready; wait").await;
    let pid = child.id();
    let below = descendants(pid);
    assert_eq!(below.len(), 1);
    drop(child);
    until("the end of both", || !is_alive(pid) && !is_alive(below[0])).await;
    assert!(kill_descendants(&[], soon()).await.is_empty());
    assert!(descendants(Pid::this()).is_empty(), "they were not reaped");
}

#[tokio::test]
async fn a_child_dropped_while_being_spawned_is_killed_too() {
    let _alone = alone().await;
    for _ in 0..50 {
        tokio::select! {
            biased;
            _ = shell("sleep 300").spawn() => {}
            () = std::future::ready(()) => {}
        }
    }
    // The spawning thread runs its tasks in order, so the earlier ones are done after this one.
    output(shell("true")).await;
    until("the end of all", || descendants(Pid::this()).iter().all(|pid| !is_alive(*pid))).await;
    assert!(kill_descendants(&[], soon()).await.is_empty());
}

#[tokio::test]
async fn no_descendant_escapes() {
    let _alone = alone().await;
    let directory = tempfile::tempdir().unwrap();
    let file = |name: &str| directory.path().join(name);
    let script = r"
        trap '' TERM INT HUP
        setsid nohup bash -c 'echo $$ > nohup; sleep 300 & wait' > /dev/null 2>&1 &
        ( setsid bash -c '( trap : TERM; echo $BASHPID > daemon; exec -a \) sleep 300 ) &' & ) &
        ( trap '' TERM; echo $BASHPID > deaf; while :; do sleep 300; done ) &
        echo ready
        wait";
    let mut child = shell(script).cwd(directory.path()).spawn().await.unwrap();
    let (nohup, daemon, deaf) =
        (pid_in(&file("nohup")).await, pid_in(&file("daemon")).await, pid_in(&file("deaf")).await);
    until("the daemon's adoption", || {
        stat(daemon).is_some_and(|(_, ppid)| Pid::from_raw(ppid) == Pid::this())
    })
    .await;
    // Killing the group does not reach the daemon.
    child.signal_group(Signal::SIGKILL).unwrap();
    child.wait().await.unwrap();
    assert!(is_alive(nohup) && is_alive(daemon));

    assert!(kill_descendants(&[], soon()).await.is_empty());
    for pid in [nohup, daemon, deaf] {
        assert!(!is_alive(pid), "{pid}");
    }
    assert_eq!(descendants(Pid::this()), [], "zombies remain");
}

#[tokio::test]
async fn exceptions_and_their_descendants_are_spared() {
    let _alone = alone().await;
    let (mut kept, _kept_lines) = ready("sleep 300 & echo ready; wait").await;
    let (mut lost, _lost_lines) = ready("sleep 300 & echo ready; wait").await;
    let below = descendants(kept.id());
    assert!(kill_descendants(&[kept.id()], soon()).await.is_empty());
    assert_eq!(lost.wait().await.unwrap().signal(), Some(9), "tokio returns the status");
    assert!(is_alive(kept.id()) && is_alive(below[0]));
    assert!(kill_descendants_now(&[], Duration::from_secs(10)).is_empty());
    assert_eq!(kept.wait().await.unwrap().signal(), Some(9));
    assert_eq!(descendants(Pid::this()), []);
}

#[tokio::test]
async fn adopted_processes_are_reaped_at_once_and_no_status_is_lost() {
    let _alone = alone().await;
    let (child, _lines) =
        ready("for i in {1..300}; do (sleep 0.1 &); done; echo ready; exec sleep 300").await;
    // A child that is not waited for must not delay anything.
    let mut short = shell("exit 7").spawn().await.unwrap();
    until("the end of all adopted processes", || descendants(Pid::this()) == [child.id()]).await;
    assert!(zombies().is_empty());
    assert_eq!(short.wait().await.unwrap().code(), Some(7));
    assert_eq!(short.wait().await.unwrap().code(), Some(7), "its status is kept");
    for result in [short.signal(Signal::SIGKILL), short.signal_group(Signal::SIGKILL)] {
        assert_eq!(result.unwrap_err().raw_os_error(), Some(nix::libc::ESRCH));
    }
    // Real-time signals have no name.
    let mut killed = shell("kill -40 $$").spawn().await.unwrap();
    assert_eq!(killed.wait().await.unwrap().signal(), Some(40));
    assert!(is_alive(child.id()));
    drop(child);
    until("the end of the last", || descendants(Pid::this()).is_empty()).await;
}

#[tokio::test]
async fn an_exited_child_is_not_signalled_by_its_pid() {
    let _alone = alone().await;
    let child = shell("exit 0").spawn().await.unwrap();
    until("its end", || stat(child.id()).is_none()).await;
    // Its pid may have been reused.
    for result in [child.signal(Signal::SIGKILL), child.signal_group(Signal::SIGKILL)] {
        assert_eq!(result.unwrap_err().raw_os_error(), Some(nix::libc::ESRCH));
    }
}

#[tokio::test]
async fn a_sweep_without_descendants_reads_nothing() {
    let _alone = alone().await;
    output(shell("true")).await;
    let begun = Instant::now();
    for _ in 0..1000 {
        assert!(kill_descendants_now(&[], Duration::from_secs(10)).is_empty());
    }
    // One pass over /proc takes a millisecond or more; this is a thousand system calls.
    assert!(begun.elapsed() < Duration::from_millis(200), "{:?}", begun.elapsed());
}

/// Runs a test of this file in its own process, whose limits it changes.
async fn in_a_process(name: &str) {
    let directory = tempfile::tempdir().unwrap();
    let mut child = helper(name, directory.path()).await;
    assert!(child.wait().await.unwrap().success(), "{name}");
}

#[tokio::test]
async fn what_cannot_be_listed_is_not_absent() {
    let _alone = alone().await;
    in_a_process("helper_without_descriptors").await;
}

#[tokio::test]
#[ignore = "a helper process of another test"]
async fn helper_without_descriptors() {
    become_subreaper().unwrap();
    // The orphan is in no group of a child.
    let script = "setsid sleep 1000 > /dev/null & echo $!";
    let text = output(shell(script).stderr(Stdio::null()).stdin(Stdio::null())).await;
    let orphan = Pid::from_raw(text.trim().parse().unwrap());
    assert!(is_alive(orphan));
    // Not even the reserve can be used.
    let limit = nix::sys::resource::getrlimit(Resource::RLIMIT_NOFILE).unwrap();
    let lower =
        |soft| nix::sys::resource::setrlimit(Resource::RLIMIT_NOFILE, soft, limit.1).unwrap();
    lower(0);
    assert!(child_process::descendants(Pid::this()).is_err());
    let left = kill_descendants_now(&[], Duration::from_millis(100));
    assert!(left.pids.is_empty() && left.unknown.is_some(), "{left:?}");
    lower(limit.0);
    assert!(is_alive(orphan));
    // All are in use, but the reserve is enough.
    become_subreaper().unwrap();
    lower(64);
    let mut files = Vec::new();
    while let Ok(file) = fs::File::open("/dev/null") {
        files.push(file);
    }
    assert!(child_process::descendants(Pid::this()).is_err());
    let left = kill_descendants_now(&[], Duration::from_secs(10));
    assert!(left.is_empty(), "{left}");
    drop(files);
    lower(limit.0);
    assert!(!is_alive(orphan) && descendants(Pid::this()).is_empty());
}

#[tokio::test]
async fn standard_input_reaches_the_child_and_ends() {
    let _alone = alone().await;
    let mut child = shell("cat; echo end").stdin(Stdio::piped()).spawn().await.unwrap();
    let mut stdin = child.take_stdin().unwrap();
    stdin.write_all(b"hello\n").await.unwrap();
    drop(stdin);
    let mut text = String::new();
    child.take_stdout().unwrap().read_to_string(&mut text).await.unwrap();
    assert_eq!(text, "hello\nend\n");
    assert!(child.wait().await.unwrap().success());
}

/// Runs a test of this file in its own process.
async fn helper(name: &str, directory: &Path) -> Child {
    let mut child = Guest::new(std::env::current_exe().unwrap())
        .args(["--exact", name, "--ignored", "--nocapture", "--test-threads=1"])
        .env("PATH", PATH)
        .env("HELPER_DIRECTORY", directory)
        .stdout(Stdio::piped())
        .spawn()
        .await
        .unwrap();
    // Read and discarded, so that the helper never blocks on a full pipe.
    let mut stdout = child.take_stdout().unwrap();
    tokio::spawn(async move { tokio::io::copy(&mut stdout, &mut tokio::io::sink()).await });
    child
}

fn helper_directory() -> std::path::PathBuf {
    std::env::var_os("HELPER_DIRECTORY").expect("only run by another test").into()
}

#[tokio::test]
async fn a_child_dies_with_its_parent() {
    let _alone = alone().await;
    let directory = tempfile::tempdir().unwrap();
    let mut helper = helper("helper_with_two_children", directory.path()).await;
    let armed = pid_in(&directory.path().join("armed")).await;
    let unarmed = pid_in(&directory.path().join("unarmed")).await;
    let forked = pid_in(&directory.path().join("forked")).await;
    // The thread that requested them and its runtime have ended. What that thread forked itself dies with it, but these
    // two continue.
    until("the end of the thread's own child", || !is_alive(forked)).await;
    assert!(is_alive(armed) && is_alive(unarmed));

    helper.signal(Signal::SIGKILL).unwrap();
    helper.wait().await.unwrap();
    until("the end of the armed child", || !is_alive(armed)).await;
    assert!(is_alive(unarmed), "otherwise this test could not fail");
    assert!(kill_descendants(&[], soon()).await.is_empty());
    assert_eq!(descendants(Pid::this()), []);
}

/// A child of this very thread, which the kernel kills when this thread ends.
#[expect(clippy::disallowed_methods, reason = "a guest is forked by a thread that never ends")]
fn fork_here(script: &str) -> std::process::Child {
    std::process::Command::new("setpriv")
        .args(["--pdeathsig", "KILL", "bash", "-c", script])
        .env("PATH", PATH)
        .current_dir(helper_directory())
        .spawn()
        .unwrap()
}

#[test]
#[ignore = "a helper process of another test"]
fn helper_with_two_children() {
    let started = std::thread::spawn(|| {
        let runtime = tokio::runtime::Runtime::new().unwrap();
        runtime.block_on(async {
            let script = "trap '' HUP; echo $$ > ${NAME}; exec sleep 300";
            let guest = |name| shell(script).env("NAME", name).cwd(helper_directory());
            let armed = guest("armed").die_with_parent(Signal::SIGKILL).spawn().await.unwrap();
            let unarmed = guest("unarmed").spawn().await.unwrap();
            let forked = fork_here(&script.replace("${NAME}", "forked"));
            let _pid = pid_in(&helper_directory().join("forked")).await;
            (armed, unarmed, forked)
        })
    });
    let (_armed, _unarmed, mut forked) = started.join().unwrap();
    forked.wait().unwrap();
    std::thread::sleep(Duration::from_secs(300));
}

#[tokio::test]
async fn a_hidden_environment_cannot_be_read() {
    let _alone = alone().await;
    let directory = tempfile::tempdir().unwrap();
    let mut helper = helper("helper_that_hides", directory.path()).await;
    let pid = pid_in(&directory.path().join("hidden")).await;
    // The files then belong to root, whatever the process's user. Root itself may read them.
    let owner = |name: &str| {
        use std::os::unix::fs::MetadataExt as _;
        fs::metadata(format!("/proc/{pid}/{name}")).unwrap().uid()
    };
    let mut text = Vec::new();
    let read = fs::File::open(format!("/proc/{pid}/environ"))
        .and_then(|mut file| file.read_to_end(&mut text));
    if nix::unistd::geteuid().is_root() {
        assert_eq!(owner("environ"), 0);
    } else {
        assert!(read.is_err() && owner("environ") == 0, "{read:?}");
    }
    // Its children do not inherit it: an agent may inspect itself.
    let child = pid_in(&directory.path().join("child")).await;
    assert_eq!(fs::read_to_string(directory.path().join("dumpable")).unwrap().trim(), "0");
    assert!(fs::read_dir(format!("/proc/{child}/fd")).is_ok());
    helper.signal(Signal::SIGKILL).unwrap();
    helper.wait().await.unwrap();
    assert!(kill_descendants(&[], soon()).await.is_empty());
}

#[tokio::test]
#[ignore = "a helper process of another test"]
async fn helper_that_hides() {
    let directory = helper_directory();
    child_process::hide_environment().unwrap();
    let dumpable = nix::sys::prctl::get_dumpable().unwrap();
    fs::write(directory.join("dumpable"), format!("{}\n", i32::from(dumpable))).unwrap();
    let _child = shell("echo $$ > child; exec sleep 300").cwd(&directory).spawn().await.unwrap();
    fs::write(directory.join("hidden"), format!("{}\n", std::process::id())).unwrap();
    tokio::time::sleep(Duration::from_secs(300)).await;
}

#[tokio::test]
async fn a_limit_applies_to_the_child_and_its_descendants() {
    let _alone = alone().await;
    let script = "ulimit -f; bash -c 'ulimit -f'; ulimit -n";
    let guest = shell(script).limit(Resource::RLIMIT_FSIZE, 4 * 1024 * 1024);
    let text = output(guest.limit(Resource::RLIMIT_NOFILE, 64)).await;
    assert_eq!(text, "4096\n4096\n64\n");
}

#[tokio::test]
async fn a_confined_child_reaches_only_the_given_files() {
    let _alone = alone().await;
    if !is_confinement_available() {
        eprintln!("SKIPPED: a_confined_child…: this kernel has no Landlock");
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    for name in ["secret", "given", "own"] {
        fs::create_dir(directory.path().join(name)).unwrap();
        fs::write(directory.path().join(name).join("file"), name).unwrap();
    }
    let script =
        "cat given/file; echo; cat secret/file || echo closed; echo new > own/new && cat own/new
        (echo x > given/new) || echo read only; bash -c 'cat secret/file' || echo closed for it too
        mv own/new secret/new || echo kept in";
    let confinement = Confinement::system()
        .read(directory.path().join("given"))
        .read(directory.path().join("missing"))
        .write(directory.path().join("own"));
    let guest = shell(script).cwd(directory.path()).confine(&confinement).unwrap();
    let text = output(guest).await;
    assert_eq!(text, "given\nclosed\nnew\nread only\nclosed for it too\nkept in\n");
}

#[tokio::test]
async fn a_confined_child_connects_only_to_the_given_ports() {
    let _alone = alone().await;
    let script = "for port in $PORTS; do (exec 3<>/dev/tcp/127.0.0.1/$port) && echo connected || echo no; done";
    let listeners = [(); 2].map(|()| std::net::TcpListener::bind("127.0.0.1:0").unwrap());
    let [given, other] = listeners.each_ref().map(|it| it.local_addr().unwrap().port());
    let confinement = Confinement::system().connect_only([given]);
    let guest =
        shell(script).env("PORTS", format!("{given} {other}")).confine(&confinement).unwrap();
    let text = output(guest).await;
    if text == "connected\nconnected\n" {
        eprintln!("SKIPPED: a_confined_child_connects…: this kernel cannot confine connections");
    } else {
        assert_eq!(text, "connected\nno\n");
    }
}
