//! A Docker engine that belongs to the test.

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

/// How long an engine may take to start or to stop.
const PATIENCE: Duration = Duration::from_secs(60);

/// Why the test cannot run here, if it cannot.
pub(crate) fn why_not() -> Option<String> {
    if env::var_os("SWARM_TESTS").is_none() && env::var_os("FORBID_SKIPS").is_none() {
        return Some(
            "it starts a Docker engine as root and takes about ten minutes; set SWARM_TESTS=1 to run it"
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
    // If even this fails, a container will not start either.
    (!command::succeeds("unshare", &["--net", "true"]))
        .then(|| "this machine does not allow network namespaces".into())
}

/// A running engine, which is stopped when this is dropped. Its images stay on disk for the next
/// run.
#[derive(Debug)]
pub(crate) struct Engine {
    child: Child,
    host: String,
    log: PathBuf,
    _network: Network,
    _directory: TempDir,
}

impl Engine {
    /// Starts the engine.
    pub(crate) fn start() -> Self {
        let data = env::var_os("SWARM_TEST_DATA")
            .map_or_else(|| Path::new(env!("CARGO_TARGET_TMPDIR")).join("swarm"), PathBuf::from);
        fs::create_dir_all(&data).unwrap();
        end_predecessor(&data);
        let network = Network::make();
        // A short path, because the length of a socket's path is limited.
        let directory = tempfile::Builder::new().prefix("wst-").tempdir().unwrap();
        let path = |name: &str| directory.path().join(name);
        let (socket, log) = (path("docker.sock"), path("dockerd.log"));
        let host = format!("unix://{}", socket.display());
        let output = File::create(&log).unwrap();
        let mut command = Network::command("dockerd");
        command.arg("--host").arg(&host).arg("--data-root").arg(&data);
        command.arg("--exec-root").arg(path("exec")).arg("--pidfile").arg(data.join("pid"));
        command.stdin(Stdio::null()).stdout(output.try_clone().unwrap()).stderr(output);
        // UTC, so that its times can be compared with ours.
        command.env("TZ", "UTC");
        let child = command.spawn().expect("failed to run dockerd");
        let mut engine = Self { child, host, log, _network: network, _directory: directory };
        let started = Instant::now();
        while !engine.try_docker(&["version"]).status.success() {
            let ended = engine.child.try_wait().unwrap();
            assert!(
                ended.is_none() && started.elapsed() < PATIENCE,
                "dockerd did not start\n{}",
                engine.errors()
            );
            std::thread::sleep(Duration::from_millis(100));
        }
        engine.clear();
        engine.docker(&["swarm", "init", "--advertise-addr", ENGINE]);
        let about = engine.docker(&["info", "--format", "{{.ServerVersion}}, storage {{.Driver}}"]);
        say(&format!("started an engine: {about}"));
        engine
    }

    /// Removes what an earlier run may have left.
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

    /// The value for `DOCKER_HOST`.
    pub(crate) fn host(&self) -> &str {
        &self.host
    }

    /// The processes of the engine, and of its containerd.
    pub(crate) fn pids(&self) -> Vec<u32> {
        let own = self.child.id();
        let mut pids = vec![own];
        pids.extend(
            testkit::descendants(own)
                .into_iter()
                .filter(|process| process.cmdline().starts_with("containerd "))
                .map(|process| process.pid),
        );
        pids
    }

    /// The last errors and the last other lines in its log.
    pub(crate) fn errors(&self) -> String {
        let log = String::from_utf8_lossy(&fs::read(&self.log).unwrap_or_default()).into_owned();
        let (errors, rest): (Vec<_>, Vec<_>) =
            log.lines().partition(|line| line.contains("level=error"));
        let last = |lines: &[&str]| lines[lines.len().saturating_sub(8)..].join("\n");
        format!("{}\n{}", last(&errors), last(&rest))
    }

    /// Runs `docker` and returns what it prints.
    pub(crate) fn docker(&self, arguments: &[&str]) -> String {
        text(&format!("docker {}", arguments.join(" ")), &self.try_docker(arguments))
    }

    /// Runs `docker` with settings in its environment.
    pub(crate) fn docker_with(&self, settings: &[(&str, &str)], arguments: &[&str]) -> String {
        let mut command = std::process::Command::new("docker");
        command.args(["--host", self.host()]).args(arguments).envs(settings.iter().copied());
        let output = command.stdin(Stdio::null()).output().expect("docker is installed");
        text(&format!("docker {}", arguments.join(" ")), &output)
    }

    /// Runs `docker` with `input` on its standard input.
    pub(crate) fn docker_reads(&self, input: &str, arguments: &[&str]) -> String {
        let mut child = std::process::Command::new("docker")
            .args(["--host", self.host()])
            .args(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("docker is installed");
        child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
        let output = child.wait_with_output().unwrap();
        text(&format!("docker {}", arguments.join(" ")), &output)
    }

    /// Runs `docker`, whether it succeeds or fails.
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

/// Stops the engine of an earlier run that was killed.
fn end_predecessor(data: &Path) {
    let Ok(pid) = fs::read_to_string(data.join("pid")) else { return };
    let Ok(pid) = pid.trim().parse::<u32>() else { return };
    let command = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    // By now another process may have this PID.
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
