//! A whole stack, started with `stackctl up` as an operator starts it.

use std::{
    collections::BTreeMap,
    ffi::OsString,
    fs::{self, File},
    os::unix::process::ExitStatusExt as _,
    path::{Path, PathBuf},
    process::{ExitStatus, Stdio},
    sync::Mutex,
    time::{Duration, Instant},
};

use contract::{PerService, Service};
use http::StatusCode;
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use serde_json::Value;
use tempfile::TempDir;
use tokio::process::{Child, Command};
use web::ReservedPort;

use crate::{
    binaries::{scripted_agent, target_binary},
    http_client::exchange,
    procfs::{ProcInfo, cmdline, descendants, is_alive, processes_of_directory, threads_of_tree},
    scratch::scratch_root,
    wait::wait_for,
};

/// How long a stack may take until every replica is idle.
const START_DEADLINE: Duration = Duration::from_secs(60);

/// How long a stack may take to stop.
const STOP_DEADLINE: Duration = Duration::from_secs(60);

/// How long killed processes may take to disappear.
const KILL_DEADLINE: Duration = Duration::from_secs(5);

/// The configuration of a stack.
#[derive(Debug)]
pub struct StackBuilder {
    replicas: PerService<usize>,
    environment: BTreeMap<OsString, OsString>,
    workspace: Option<PathBuf>,
    ports: Option<PerService<u16>>,
    arguments: Vec<OsString>,
    binary: Option<PathBuf>,
}

impl Default for StackBuilder {
    fn default() -> Self {
        Self {
            replicas: PerService::from_fn(|_| 1),
            environment: BTreeMap::new(),
            workspace: None,
            ports: None,
            arguments: Vec::new(),
            binary: None,
        }
    }
}

impl StackBuilder {
    /// Sets the number of replicas of the three services; one of each by default.
    #[must_use]
    pub fn replicas(mut self, workflow: usize, pull: usize, claude: usize) -> Self {
        self.replicas[Service::Workflow] = workflow;
        self.replicas[Service::Pull] = pull;
        self.replicas[Service::Claude] = claude;
        self
    }

    /// Sets the number of replicas of each service.
    #[must_use]
    pub const fn replicas_of_each(mut self, replicas: PerService<usize>) -> Self {
        self.replicas = replicas;
        self
    }

    /// Sets an environment variable; it overrides a default with the same name.
    #[must_use]
    pub fn env(mut self, name: impl Into<OsString>, value: impl Into<OsString>) -> Self {
        self.environment.insert(name.into(), value.into());
        self
    }

    /// Uses this workspace, which is kept when the stack is dropped. The default is a fresh one.
    #[must_use]
    pub fn workspace(mut self, workspace: impl Into<PathBuf>) -> Self {
        self.workspace = Some(workspace.into());
        self
    }

    /// Uses these ports, for example those of an earlier stack. The default is free ones.
    #[must_use]
    pub fn ports(mut self, ports: PerService<u16>) -> Self {
        self.ports = Some(ports);
        self
    }

    /// Adds an argument to `stackctl up`.
    #[must_use]
    pub fn arg(mut self, argument: impl Into<OsString>) -> Self {
        self.arguments.push(argument.into());
        self
    }

    /// Uses this `stackctl`. The default is the one built beside the test.
    #[must_use]
    pub fn binary(mut self, stackctl: impl Into<PathBuf>) -> Self {
        self.binary = Some(stackctl.into());
        self
    }

    /// Starts the stack and waits until every replica is idle.
    ///
    /// # Panics
    /// If a binary has not been built, or if not all replicas are idle within a minute.
    pub async fn start(self) -> Stack {
        let stack = Stack::spawn(self);
        stack.wait_until_idle().await;
        stack
    }
}

/// A running stack. When dropped, it is killed with everything it has started; if the test is
/// panicking, its log is printed.
#[derive(Debug)]
pub struct Stack {
    child: Child,
    pid: u32,
    replicas: PerService<usize>,
    ports: PerService<u16>,
    workspace: PathBuf,
    log: PathBuf,
    _directory: TempDir,
}

impl Stack {
    /// Configures a stack.
    #[must_use]
    pub fn builder() -> StackBuilder {
        StackBuilder::default()
    }

    fn spawn(builder: StackBuilder) -> Self {
        let directory = TempDir::new().expect("failed to create a temporary directory");
        let workspace = builder.workspace.unwrap_or_else(|| directory.path().join("workspace"));
        let home = directory.path().join("home");
        for needed in [&workspace, &home] {
            fs::create_dir_all(needed).expect("failed to create a directory");
        }
        let workspace = workspace.canonicalize().expect("the workspace exists");
        let log = directory.path().join("stack.log");
        let output = File::create(&log).expect("failed to create the log");
        let ports = builder.ports.unwrap_or_else(free_ports);
        let mut command = Command::new(builder.binary.unwrap_or_else(|| target_binary("stackctl")));
        command.arg("up").arg("--workspace").arg(&workspace);
        for (service, count) in builder.replicas {
            let name = service.spec().short_name;
            command.arg(format!("--{name}")).arg(count.to_string());
            command.arg(format!("--port-{name}")).arg(ports[service].to_string());
        }
        command.args(builder.arguments).env_clear();
        command.env("PATH", std::env::var_os("PATH").unwrap_or_default()).env("HOME", &home);
        let defaults = [
            ("CLAUDE_CODE_CREDENTIALS_JSON", r#"{"apiKey":"sk-ant-test-0123456789abcdef"}"#),
            ("IS_SANDBOX", "1"),
            // Whatever other user there is could not reach the directories of a test.
            ("AGENT_USER", "none"),
            ("LOG_LEVEL", "info"),
            // The git servers of tests run on this machine.
            ("GIT_ALLOWED_NETWORKS", "127.0.0.0/8,::1"),
        ];
        command.envs(defaults).env("AGENT_WRITE_PATHS", scratch_root());
        if !builder.environment.contains_key(&OsString::from("CLAUDE_BIN")) {
            command.env("CLAUDE_BIN", scripted_agent());
        }
        command.envs(builder.environment);
        command.stdin(Stdio::null()).stdout(output.try_clone().unwrap()).stderr(output);
        let child = command.kill_on_drop(true).spawn().expect("failed to run stackctl");
        let pid = child.id().expect("it has not been waited for");
        let replicas = builder.replicas;
        Self { child, pid, replicas, ports, workspace, log, _directory: directory }
    }

    /// Waits until every service answers and all its replicas are idle.
    ///
    /// # Panics
    /// If that takes more than a minute, or if the stack exits.
    pub async fn wait_until_idle(&self) {
        for (service, port) in self.ports {
            let count = self.replicas[service];
            let what = format!("{count} idle replicas at port {port}");
            wait_for(&what, START_DEADLINE, || async move {
                assert!(is_alive(self.pid), "stackctl has exited");
                let health = get(port, "/health").await?;
                let status = get(port, "/status").await?;
                (health["status"] == "ok" && idle_replicas(&status) == Some(count)).then_some(())
            })
            .await;
        }
    }

    /// The port of each service.
    #[must_use]
    pub const fn ports(&self) -> PerService<u16> {
        self.ports
    }

    /// The base URL of the workflow service, without a trailing slash.
    #[must_use]
    pub fn workflow_url(&self) -> String {
        base_url(self.ports[Service::Workflow])
    }

    /// The base URL of the pull service.
    #[must_use]
    pub fn pull_url(&self) -> String {
        base_url(self.ports[Service::Pull])
    }

    /// The base URL of the claude service.
    #[must_use]
    pub fn claude_url(&self) -> String {
        base_url(self.ports[Service::Claude])
    }

    /// The shared volume, as a canonical path.
    #[must_use]
    pub fn workspace(&self) -> &Path {
        &self.workspace
    }

    /// What the stack has logged so far.
    #[must_use]
    pub fn log(&self) -> String {
        String::from_utf8_lossy(&fs::read(&self.log).unwrap_or_default()).into_owned()
    }

    /// The PID of `stackctl up`.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.pid
    }

    /// Every process that the stack has started and that still runs.
    #[must_use]
    pub fn descendants(&self) -> Vec<ProcInfo> {
        descendants(self.pid)
    }

    /// The processes of one part, such as `claude-code-api` or `gateway`.
    #[must_use]
    pub fn processes_of(&self, part: &str) -> Vec<u32> {
        let command = format!(" serve {part}");
        let mut found = self.descendants();
        found.retain(|process| {
            let is_ours = process.state != 'Z' && process.ppid == self.pid;
            is_ours && process.cmdline().ends_with(&command)
        });
        found.into_iter().map(|process| process.pid).collect()
    }

    /// The agents, git processes and everything else that jobs have started, wherever it hides.
    #[must_use]
    pub fn agents(&self) -> Vec<ProcInfo> {
        // A replica that `up` is forking still has the command line of `up`. One that has just exited has none.
        let up = cmdline(self.pid);
        let mut found = self.descendants();
        found.retain(|process| {
            let own = cmdline(process.pid);
            process.state != 'Z'
                && process.name != "stackctl"
                && own != up
                && own.is_some_and(|own| !own.contains(" serve "))
        });
        found
    }

    /// Sends a signal to `stackctl up` only.
    ///
    /// # Panics
    /// If it has exited.
    pub fn signal(&self, signal: Signal) {
        kill(pid_of(self.pid), signal).expect("stackctl runs until it is stopped");
    }

    /// Sends SIGTERM, waits until the stack exits, and returns its exit code.
    ///
    /// # Panics
    /// Like [`Self::ended`].
    pub async fn stop(mut self) -> i32 {
        self.signal(Signal::SIGTERM);
        self.ended().await
    }

    /// Waits until the stack exits and returns its exit code. If a signal killed it, the code is
    /// 128 plus the number of the signal, as in a shell.
    ///
    /// # Panics
    /// If it takes more than a minute, or if it leaves a process behind.
    pub async fn ended(&mut self) -> i32 {
        let status = tokio::time::timeout(STOP_DEADLINE, self.child.wait())
            .await
            // The log is printed when this is dropped.
            .unwrap_or_else(|_| {
                let tree = threads_of_tree(self.pid);
                panic!("stackctl did not stop in {STOP_DEADLINE:?}; what runs:\n{tree}")
            })
            .expect("failed to wait for stackctl");
        let left = processes_of_directory(&self.workspace);
        assert!(left.is_empty(), "stackctl left processes behind: {left:#?}");
        exit_code(status)
    }

    /// The running processes of the stack, parents first, so that none can start another child.
    fn remaining(&self) -> Vec<u32> {
        let mut found = Vec::new();
        // After `stackctl` has been waited for, its PID may belong to another process.
        if self.child.id().is_some() {
            found.push(self.pid);
            found.extend(descendants(self.pid).into_iter().map(|process| process.pid));
        }
        // A process that has lost its parent still has the workspace's path in its arguments or
        // environment.
        found.extend(processes_of_directory(&self.workspace).into_iter().map(|it| it.pid));
        found.retain(|&pid| is_alive(pid));
        found
    }
}

impl Drop for Stack {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("--- log of the stack ---\n{}--- end of the log ---", self.log());
        }
        let deadline = Instant::now() + KILL_DEADLINE;
        loop {
            let doomed = self.remaining();
            if doomed.is_empty() || Instant::now() > deadline {
                return;
            }
            for pid in doomed {
                // The process may have exited meanwhile, which is fine.
                let _ended = kill(pid_of(pid), Signal::SIGKILL);
            }
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

fn pid_of(pid: u32) -> Pid {
    Pid::from_raw(pid.cast_signed())
}

fn exit_code(status: ExitStatus) -> i32 {
    let by_signal = || status.signal().map(|signal| 128 + signal);
    status.code().or_else(by_signal).expect("it has ended")
}

fn base_url(port: u16) -> String {
    format!("http://127.0.0.1:{port}")
}

/// Free ports of 127.0.0.1, which stay reserved as long as this process lives: nobody else is given them, not even while
/// a stack that uses them restarts.
#[must_use]
pub fn free_ports() -> PerService<u16> {
    PerService::from_fn(|_| free_port())
}

/// The same, one port. It refuses connections until a server uses it.
#[must_use]
pub fn free_port() -> u16 {
    static RESERVED: Mutex<Vec<ReservedPort>> = Mutex::new(Vec::new());
    let port = ReservedPort::new().expect("a free port on loopback");
    let number = port.port();
    RESERVED.lock().unwrap().push(port);
    number
}

/// The JSON of a 200, or `None` as long as there is none.
async fn get(port: u16, path: &str) -> Option<Value> {
    use http_body_util::BodyExt as _;

    let url = format!("{}{path}", base_url(port));
    let answer = exchange(http::Method::GET, &url, http::HeaderMap::new(), None).await.ok()?;
    if answer.response.status() != StatusCode::OK {
        return None;
    }
    let body = answer.response.into_body().collect().await.ok()?.to_bytes();
    serde_json::from_slice(&body).ok()
}

fn idle_replicas(status: &Value) -> Option<usize> {
    status["replicas"]["idle"].as_u64()?.try_into().ok()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn only_a_number_of_idle_replicas_counts() {
        let status = json!({"status": "idle", "replicas": {"idle": 3, "busy": 0}});
        assert_eq!(idle_replicas(&status), Some(3));
        assert_eq!(idle_replicas(&json!({"status": "idle"})), None);
    }

    #[test]
    fn a_signal_counts_as_in_a_shell() {
        assert_eq!(exit_code(ExitStatus::from_raw(3 << 8)), 3);
        assert_eq!(exit_code(ExitStatus::from_raw(9)), 137);
    }
}
