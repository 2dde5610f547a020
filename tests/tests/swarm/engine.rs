//! An engine of the test's own.

use std::{
    env, fs,
    fs::File,
    io::Write as _,
    path::{Path, PathBuf},
    process::{Child, Stdio},
    time::{Duration, Instant},
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use tempfile::TempDir;

use crate::{
    command::{self, say, text},
    network::{ENGINE, Network},
};

/// How long an engine may take to start, or to stop.
const PATIENCE: Duration = Duration::from_secs(60);

/// Why the test cannot run here, if so.
pub(crate) fn why_not() -> Option<String> {
    if env::var_os("SWARM_TESTS").is_none() && env::var_os("FORBID_SKIPS").is_none() {
        return Some(
            "it starts a Docker engine as root and takes about ten minutes: set SWARM_TESTS=1"
                .into(),
        );
    }
    if !nix::unistd::geteuid().is_root() {
        return Some("only root can start a Docker engine".into());
    }
    let needed = ["dockerd", "docker", "ip", "iptables", "nsenter", "setpriv"];
    let missing: Vec<_> = needed
        .into_iter()
        .filter(|program| !command::succeeds("bash", &["-c", "command -v \"$0\"", program]))
        .collect();
    if !missing.is_empty() {
        return Some(format!(
            "missing: {} (Debian: docker.io iproute2 iptables util-linux)",
            missing.join(", ")
        ));
    }
    // Where not even that works, no container will either.
    (!command::succeeds("unshare", &["--net", "true"]))
        .then(|| "this machine lets nobody make network namespaces".into())
}

/// A running engine; dropped, it is stopped. Its images stay where they are, for the next run.
#[derive(Debug)]
pub(crate) struct Engine {
    child: Child,
    host: String,
    log: PathBuf,
    _network: Network,
    _directory: TempDir,
}

impl Engine {
    /// Starts it.
    pub(crate) fn start() -> Self {
        let data = env::var_os("SWARM_TEST_DATA")
            .map_or_else(|| Path::new(env!("CARGO_TARGET_TMPDIR")).join("swarm"), PathBuf::from);
        fs::create_dir_all(&data).unwrap();
        end_predecessor(&data);
        let network = Network::make();
        // Short, because a socket's path must be.
        let directory = tempfile::Builder::new().prefix("wst-").tempdir().unwrap();
        let path = |name: &str| directory.path().join(name);
        let (socket, log) = (path("docker.sock"), path("dockerd.log"));
        let host = format!("unix://{}", socket.display());
        let output = File::create(&log).unwrap();
        let mut command = Network::command("dockerd");
        command.arg("--host").arg(&host).arg("--data-root").arg(&data);
        command.arg("--exec-root").arg(path("exec")).arg("--pidfile").arg(data.join("pid"));
        command.stdin(Stdio::null()).stdout(output.try_clone().unwrap()).stderr(output);
        // So that the times it tells compare with ours.
        command.env("TZ", "UTC");
        let child = command.spawn().expect("failed to run dockerd");
        let mut engine = Self { child, host, log, _network: network, _directory: directory };
        let started = Instant::now();
        while !engine.try_docker(&["version"]).status.success() {
            let ended = engine.child.try_wait().unwrap();
            assert!(
                ended.is_none() && started.elapsed() < PATIENCE,
                "dockerd does not start\n{}",
                engine.errors()
            );
            std::thread::sleep(Duration::from_millis(100));
        }
        engine.clear();
        engine.docker(&["swarm", "init", "--advertise-addr", ENGINE]);
        let about = engine.docker(&["info", "--format", "{{.ServerVersion}}, storage {{.Driver}}"]);
        say(&format!("an engine of our own: {about}"));
        engine
    }

    /// What an earlier run may have left.
    fn clear(&self) {
        self.try_docker(&["swarm", "leave", "--force"]);
        for (list, remove) in
            [(&["ps", "-aq"][..], &["rm", "-fv"][..]), (&["volume", "ls", "-q"], &["volume", "rm"])]
        {
            let ids = self.docker(list);
            if !ids.is_empty() {
                self.docker(&[remove, &ids.lines().collect::<Vec<_>>()].concat());
            }
        }
    }

    /// `DOCKER_HOST`.
    pub(crate) fn host(&self) -> &str {
        &self.host
    }

    /// The engine's processes: its own, and containerd's.
    pub(crate) fn pids(&self) -> Vec<u32> {
        let own = self.child.id();
        let mut pids = vec![own];
        pids.extend(
            testkit::descendants(own)
                .into_iter()
                .filter(|process| process.cmdline.starts_with("containerd "))
                .map(|process| process.pid),
        );
        pids
    }

    /// The last errors in its log, and its last words.
    pub(crate) fn errors(&self) -> String {
        let log = String::from_utf8_lossy(&fs::read(&self.log).unwrap_or_default()).into_owned();
        let (errors, rest): (Vec<_>, Vec<_>) =
            log.lines().partition(|line| line.contains("level=error"));
        let last = |lines: &[&str]| lines[lines.len().saturating_sub(8)..].join("\n");
        format!("{}\n{}", last(&errors), last(&rest))
    }

    /// Runs `docker`, and returns what it prints.
    pub(crate) fn docker(&self, arguments: &[&str]) -> String {
        text(&format!("docker {}", arguments.join(" ")), &self.try_docker(arguments))
    }

    /// Runs `docker` with settings in its environment.
    pub(crate) fn docker_with(&self, settings: &[(&str, &str)], arguments: &[&str]) -> String {
        let mut command = std::process::Command::new("docker");
        command.args(["--host", self.host()]).args(arguments).envs(settings.iter().copied());
        let output = command.stdin(Stdio::null()).output().expect("docker is there");
        text(&format!("docker {}", arguments.join(" ")), &output)
    }

    /// Runs `docker`, which reads `input`.
    pub(crate) fn docker_reads(&self, input: &str, arguments: &[&str]) -> String {
        let mut child = std::process::Command::new("docker")
            .args(["--host", self.host()])
            .args(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("docker is there");
        child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
        let output = child.wait_with_output().unwrap();
        text(&format!("docker {}", arguments.join(" ")), &output)
    }

    /// Runs `docker`, however it ends.
    pub(crate) fn try_docker(&self, arguments: &[&str]) -> std::process::Output {
        let mut all = vec!["--host", self.host()];
        all.extend_from_slice(arguments);
        command::output("docker", &all)
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        self.try_docker(&["swarm", "leave", "--force"]);
        stop(self.child.id());
        let _reaped = self.child.wait();
    }
}

/// Ends the engine of a run that was killed.
fn end_predecessor(data: &Path) {
    let Ok(pid) = fs::read_to_string(data.join("pid")) else { return };
    let Ok(pid) = pid.trim().parse::<u32>() else { return };
    let command = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    // The number may be another process's by now.
    if String::from_utf8_lossy(&command).contains(&*data.to_string_lossy()) {
        stop(pid);
    }
    let _gone = fs::remove_file(data.join("pid"));
}

fn stop(pid: u32) {
    let pid = Pid::from_raw(pid.cast_signed());
    for (signal, patience) in
        [(Signal::SIGTERM, PATIENCE), (Signal::SIGKILL, Duration::from_secs(5))]
    {
        if kill(pid, signal).is_err() {
            return;
        }
        let started = Instant::now();
        while started.elapsed() < patience {
            if !testkit::is_alive(pid.as_raw().cast_unsigned()) {
                return;
            }
            std::thread::sleep(Duration::from_millis(50));
        }
    }
}
