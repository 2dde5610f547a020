//! What only Docker Swarm or only hardened machines need.

use std::{
    io::{self, Read as _, Write as _},
    os::unix::net::UnixStream,
    path::PathBuf,
    time::Duration,
};

use super::{files::Files, finding::Finding};

/// How long the engine may take for its version.
const ANSWER_TIME: Duration = Duration::from_secs(5);
/// The longest answer that is read.
const ANSWER: u64 = 64 << 10;

/// Docker, as it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Docker {
    /// `DOCKER_HOST` names something that is no socket of this machine.
    Elsewhere(String),
    /// There is no socket.
    Absent(PathBuf),
    /// The socket is not for this user.
    Denied(PathBuf),
    /// The socket is there, but nobody answers as an engine would.
    Silent(PathBuf, String),
    /// The engine's version.
    Answers(String),
}

impl Docker {
    /// Asks the engine at `DOCKER_HOST`, or where it usually is.
    pub(super) fn look(host: Option<&str>) -> Self {
        let path = match host.map(|host| (host, host.strip_prefix("unix://"))) {
            None => PathBuf::from("/var/run/docker.sock"),
            Some((_, Some(path))) => PathBuf::from(path),
            Some((host, None)) => return Self::Elsewhere(host.to_owned()),
        };
        match ask(&path) {
            Ok(version) => Self::Answers(version),
            Err(error) => match error.kind() {
                io::ErrorKind::NotFound => Self::Absent(path),
                io::ErrorKind::PermissionDenied => Self::Denied(path),
                // What a socket's timeout is called.
                io::ErrorKind::WouldBlock => {
                    Self::Silent(path, format!("no answer in {} s", ANSWER_TIME.as_secs()))
                }
                _ => Self::Silent(path, error.to_string()),
            },
        }
    }
}

fn ask(path: &std::path::Path) -> io::Result<String> {
    let mut socket = UnixStream::connect(path)?;
    socket.set_read_timeout(Some(ANSWER_TIME))?;
    socket.set_write_timeout(Some(ANSWER_TIME))?;
    socket.write_all(b"GET /version HTTP/1.0\r\nHost: docker\r\n\r\n")?;
    let mut answer = Vec::new();
    socket.take(ANSWER).read_to_end(&mut answer)?;
    let answer = String::from_utf8_lossy(&answer);
    // The body is the only object in the answer; chunks would break it up, but HTTP/1.0 has none.
    let body = answer.find('{').and_then(|at| answer.get(at..)).unwrap_or_default();
    let version: Option<String> = serde_json::Deserializer::from_str(body)
        .into_iter::<serde_json::Value>()
        .next()
        .and_then(Result::ok)
        .and_then(|body| Some(body.get("Version")?.as_str()?.to_owned()));
    version.ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "it does not say its version"))
}

pub(super) fn docker(docker: &Docker) -> Finding {
    const NAME: &str = "Docker";
    const ONLY: &str = "only Swarm needs it";
    match docker {
        Docker::Answers(version) => Finding::ok(NAME, format!("{version} answers ({ONLY})")),
        Docker::Elsewhere(host) => Finding::unknown(
            NAME,
            format!("DOCKER_HOST is {host}, which is not a local socket ({ONLY})"),
        ),
        Docker::Absent(path) => Finding::advice(
            NAME,
            format!("there is no {} ({ONLY})", path.display()),
            "sudo systemctl start docker; or install it: https://docs.docker.com/engine/install",
        ),
        Docker::Denied(path) => Finding::advice(
            NAME,
            format!("{} cannot be used by this user ({ONLY})", path.display()),
            "sudo usermod -aG docker $USER, and log in again",
        ),
        Docker::Silent(path, why) => Finding::advice(
            NAME,
            format!("no engine answers at {}: {why} ({ONLY})", path.display()),
            "sudo systemctl start docker",
        ),
    }
}

/// Swarm balances its services with it.
pub(super) fn ipvs(files: &dyn Files) -> Finding {
    const NAME: &str = "IPVS";
    const ONLY: &str = "only Swarm needs it";
    let has = |path: &str, what: &str| files.read(path).is_some_and(|text| text.contains(what));
    if files.read("/proc/net/ip_vs").is_some()
        || has("/proc/modules", "ip_vs ")
        || loadable(files, "ip_vs.ko")
    {
        Finding::ok(NAME, format!("the kernel supports it ({ONLY})"))
    } else {
        Finding::advice(
            NAME,
            format!("the kernel does not support it ({ONLY})"),
            "sudo modprobe ip_vs; where there is no such module, deploy-swarm.sh publishes the ports on one node",
        )
    }
}

/// Whether the running kernel has this module, built in or on disk.
fn loadable(files: &dyn Files, module: &str) -> bool {
    let Some(release) = files.read("/proc/sys/kernel/osrelease") else { return false };
    let directory = format!("/lib/modules/{}", release.trim());
    ["modules.builtin", "modules.dep"].iter().any(|list| {
        files.read(&format!("{directory}/{list}")).is_some_and(|text| text.contains(module))
    })
}

/// A process can bound what it, and whatever it starts, may touch.
pub(super) fn landlock(files: &dyn Files) -> Finding {
    const NAME: &str = "Landlock";
    match files.read("/sys/kernel/security/lsm") {
        Some(modules) if modules.trim().split(',').any(|module| module == "landlock") => {
            Finding::ok(NAME, "the kernel supports it")
        }
        Some(_) => Finding::advice(
            NAME,
            "the kernel does not support it, so agents are less confined",
            "add landlock to lsm= on the kernel's command line, and restart the machine",
        ),
        None => Finding {
            fix: Some("sudo mount -t securityfs securityfs /sys/kernel/security".to_owned()),
            ..Finding::unknown(NAME, "cannot read the kernel's security modules")
        },
    }
}

#[cfg(test)]
mod tests {
    use std::{os::unix::net::UnixListener, thread};

    use super::{
        super::finding::State::{Advice, Ok as Fine, Unknown},
        *,
    };

    #[test]
    fn docker_answers_or_not() {
        let path = || PathBuf::from("/s");
        for (it, state) in [
            (Docker::Answers("28.0".into()), Fine),
            (Docker::Elsewhere("tcp://h:1".into()), Unknown),
            (Docker::Absent(path()), Advice),
            (Docker::Denied(path()), Advice),
            (Docker::Silent(path(), "x".into()), Advice),
        ] {
            let finding = docker(&it);
            assert_eq!((finding.state, finding.fix.is_some()), (state, state == Advice), "{it:?}");
        }
    }

    #[test]
    fn the_engine_is_asked_at_its_socket() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("docker.sock");
        let host = format!("unix://{}", path.display());
        assert_eq!(Docker::look(Some(&host)), Docker::Absent(path.clone()));
        assert_eq!(Docker::look(Some("tcp://h:1")), Docker::Elsewhere("tcp://h:1".into()));
        let listener = UnixListener::bind(&path).unwrap();
        let answers = [
            "HTTP/1.0 200 OK\r\nContent-Type: application/json\r\n\r\n{\"Version\":\"28.1\"}\n",
            "HTTP/1.0 500 Oh\r\n\r\nno",
        ];
        let server = thread::spawn(move || {
            for answer in answers {
                let (mut socket, _) = listener.accept().unwrap();
                let mut request = [0; 1000];
                let read = socket.read(&mut request).unwrap();
                assert!(request[..read].starts_with(b"GET /version "));
                socket.write_all(answer.as_bytes()).unwrap();
            }
        });
        assert_eq!(Docker::look(Some(&host)), Docker::Answers("28.1".into()));
        assert!(matches!(Docker::look(Some(&host)), Docker::Silent(..)));
        server.join().unwrap();
        // The socket is still there, and nobody listens.
        assert!(matches!(Docker::look(Some(&host)), Docker::Silent(..)));
    }

    #[test]
    fn ipvs_in_whatever_form() {
        assert_eq!(ipvs(&[("/proc/net/ip_vs", "")]).state, Fine);
        assert_eq!(ipvs(&[("/proc/modules", "x 1\nip_vs 155 0 -\n")]).state, Fine);
        let release = ("/proc/sys/kernel/osrelease", "6.1\n");
        let list = "kernel/net/netfilter/ipvs/ip_vs.ko.xz: ";
        assert_eq!(ipvs(&[release, ("/lib/modules/6.1/modules.dep", list)]).state, Fine);
        assert_eq!(ipvs(&[release, ("/lib/modules/6.1/modules.builtin", list)]).state, Fine);
        assert_eq!(ipvs(&[release, ("/lib/modules/6.2/modules.dep", list)]).state, Advice);
        assert!(ipvs(&[]).fix.unwrap().starts_with("sudo modprobe ip_vs"));
    }

    #[test]
    fn landlock_among_the_security_modules() {
        let of = |list: &str| landlock(&[("/sys/kernel/security/lsm", list)]).state;
        assert_eq!(of("capability,landlock,yama"), Fine);
        assert_eq!(of("capability,yama\n"), Advice);
        assert_eq!(landlock(&[]).state, Unknown);
    }
}
