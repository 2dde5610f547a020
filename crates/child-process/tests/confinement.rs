//! What a confined child cannot do, each beside a child that is not confined and can.

#![expect(clippy::unwrap_used, reason = "a test fails loudly")]

use std::{
    fs,
    os::{
        linux::net::SocketAddrExt as _,
        unix::net::{SocketAddr, UnixDatagram, UnixListener},
    },
    path::Path,
    process::Stdio,
};

use child_process::{Confinement, Enforcement, Guest, Mode, UnixSockets};

const PYTHON: &str = "/usr/bin/python3";

/// Whether a test can run here.
fn is_possible() -> bool {
    let kernel = Enforcement::of_this_kernel();
    let possible = Path::new(PYTHON).exists() && kernel.landlock > 0 && kernel.seccomp;
    if !possible {
        assert!(std::env::var_os("FORBID_SKIPS").is_none(), "no Landlock, seccomp or python3");
        eprintln!("SKIPPED: no Landlock, seccomp or python3");
    }
    possible
}

fn agent(directory: &Path, sockets: UnixSockets) -> Confinement {
    Confinement::system().terminals().write(directory).scoped().filter_system_calls(sockets)
}

/// Whether a script of Python succeeds, in `directory`.
async fn succeeds(script: &str, directory: &Path, confinement: Option<&Confinement>) -> bool {
    let mut guest = Guest::new(PYTHON)
        .args(["-c", &format!("import ctypes, os, resource, signal, socket\n{script}")])
        .env("PATH", "/usr/bin:/bin")
        .cwd(directory)
        .stderr(Stdio::null());
    if let Some(confinement) = confinement {
        guest = guest.confine(confinement).unwrap();
    }
    guest.spawn().await.unwrap().wait().await.unwrap().success()
}

#[tokio::test]
async fn what_is_refused_works_without_confinement() {
    if !is_possible() {
        return;
    }
    let inside = tempfile::tempdir().unwrap();
    let outside = tempfile::tempdir().unwrap();
    fs::write(outside.path().join("file"), "x").unwrap();
    let abstract_name = format!("confinement-{}", std::process::id());
    let address = SocketAddr::from_abstract_name(&abstract_name).unwrap();
    let _abstract = UnixListener::bind_addr(&address).unwrap();
    let _path = UnixListener::bind(outside.path().join("socket")).unwrap();
    let _datagrams = UnixDatagram::bind(outside.path().join("datagrams")).unwrap();
    let mut sleeper = Guest::new("/bin/sleep").args(["1000"]).spawn().await.unwrap();
    let (pid, outside) = (sleeper.id(), outside.path().display());
    let scopes = Enforcement::of_this_kernel().scopes;
    let tests = [
        ("read a file", format!("open('{outside}/file').read()"), true),
        ("write a file", format!("open('{outside}/new', 'w')"), true),
        ("list a directory", format!("os.listdir('{outside}')"), true),
        ("look at a process", format!("open('/proc/{pid}/environ').read()"), true),
        ("signal a process", format!("os.kill({pid}, signal.SIGCONT)"), scopes),
        ("limit a process", format!("resource.prlimit({pid}, resource.RLIMIT_CORE, (0, 0))"), true),
        (
            "use an abstract socket",
            format!("socket.socket(socket.AF_UNIX).connect('\\0{abstract_name}')"),
            scopes,
        ),
        (
            "connect to a socket",
            format!("socket.socket(socket.AF_UNIX).connect('{outside}/socket')"),
            true,
        ),
        (
            "send a datagram from one of a pair",
            format!(
                "it = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)[0]; it.sendto(b'x', '{outside}/datagrams')"
            ),
            true,
        ),
        (
            "send a datagram from one of a raw pair",
            format!(
                "it = socket.socketpair(socket.AF_UNIX, socket.SOCK_RAW)[0]; it.sendto(b'x', '{outside}/datagrams')"
            ),
            true,
        ),
        ("make a namespace", "assert ctypes.CDLL(None).unshare(0x10000000) == 0".to_owned(), true),
        ("gain rights", "assert ctypes.CDLL(None).prctl(39, 0, 0, 0, 0) == 0".to_owned(), true),
    ];
    for (what, script, is_refused) in tests {
        let (here, script) = (inside.path(), &script);
        // With its sockets, and without.
        let allowed = agent(here, UnixSockets::Allowed);
        let refused = agent(here, UnixSockets::Refused);
        assert!(succeeds(script, here, None).await || what == "make a namespace", "{what}");
        assert_eq!(succeeds(script, here, Some(&refused)).await, !is_refused, "{what}");
        let mediates = Enforcement::of_this_kernel().mediates_unix_sockets();
        let is_of_sockets = what == "connect to a socket" || what.starts_with("send a datagram");
        let is_open = is_of_sockets && !mediates;
        let is_refused = is_refused && !is_open;
        assert_eq!(succeeds(script, here, Some(&allowed)).await, !is_refused, "{what}");
    }
    sleeper.signal(child_process::Signal::SIGKILL).unwrap();
    sleeper.wait().await.unwrap();
}

#[tokio::test]
async fn what_programs_do_every_day_still_works() {
    if !is_possible() {
        return;
    }
    let inside = tempfile::tempdir().unwrap();
    let confinement = agent(inside.path(), UnixSockets::Refused);
    for (what, script) in [
        ("fork", "assert os.waitpid(os.posix_spawn('/bin/true', ['true'], {}), 0)[1] == 0"),
        ("threads", "import threading; it = threading.Thread(); it.start(); it.join()"),
        ("socket pairs", "one, other = socket.socketpair(); one.send(b'x'); assert other.recv(1)"),
        (
            "pairs of packets",
            "one, other = socket.socketpair(type=socket.SOCK_SEQPACKET); one.send(b'x'); assert other.recv(1)",
        ),
        (
            "TCP",
            "it = socket.create_server(('127.0.0.1', 0)); socket.create_connection(it.getsockname())",
        ),
        ("own limits", "resource.setrlimit(resource.RLIMIT_CORE, (0, 0))"),
        ("terminals", "import pty; assert pty.spawn(['/bin/sh', '-c', 'stty size']) == 0"),
        ("own signals", "pid = os.fork() or signal.pause(); os.kill(pid, 9); os.wait()"),
    ] {
        assert!(succeeds(script, inside.path(), Some(&confinement)).await, "{what}");
    }
}

/// Root keeps what it needs for its own files and processes, and nothing that changes the machine.
#[tokio::test]
async fn root_loses_its_capabilities_for_good() {
    if !is_possible() || !nix::unistd::geteuid().is_root() {
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    let has = |number: u32| {
        format!(
            "line = [it for it in open('/proc/self/status') if it.startswith('CapEff')][0]\n\
             assert int(line.split()[1], 16) >> {number} & 1"
        )
    };
    let confinement = agent(directory.path(), UnixSockets::Allowed).read("/proc");
    // CHOWN, DAC_OVERRIDE and SETUID; SYS_ADMIN, SYS_PTRACE, NET_RAW and MKNOD.
    for (numbers, is_kept) in [(&[0, 1, 7][..], true), (&[21, 19, 13, 27], false)] {
        for number in numbers {
            let script = has(*number);
            let is_there = succeeds(&script, directory.path(), None).await;
            let remains = succeeds(&script, directory.path(), Some(&confinement)).await;
            assert_eq!(remains, is_there && is_kept, "{number}");
        }
    }
}

#[tokio::test]
async fn a_child_has_the_modes_it_is_given() {
    let directory = tempfile::tempdir().unwrap();
    let guest = Guest::new("/bin/sh").args(["-c", "echo > file"]).cwd(directory.path());
    let mut child = guest.umask(Mode::from_bits_truncate(0o027)).spawn().await.unwrap();
    assert!(child.wait().await.unwrap().success());
    use std::os::unix::fs::PermissionsExt as _;
    let mode = fs::metadata(directory.path().join("file")).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o640);
}

#[tokio::test]
#[ignore = "measures"]
async fn what_a_confinement_costs() {
    let directory = tempfile::tempdir().unwrap();
    let mut times = [Vec::new(), Vec::new()];
    for _ in 0..500 {
        for (is_confined, times) in [false, true].into_iter().zip(&mut times) {
            let start = std::time::Instant::now();
            let mut guest = Guest::new("/bin/true");
            if is_confined {
                guest = guest.confine(&agent(directory.path(), UnixSockets::Allowed)).unwrap();
            }
            assert!(guest.spawn().await.unwrap().wait().await.unwrap().success());
            times.push(start.elapsed());
        }
    }
    let [free, confined] = times.map(|mut times| {
        times.sort();
        times[times.len() / 2]
    });
    println!("a process takes {free:?}, a confined one {confined:?} (medians)");
    assert!(confined < free + std::time::Duration::from_millis(5), "{free:?} {confined:?}");
}
