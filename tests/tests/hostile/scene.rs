//! A stack with a hostile agent, a job that it attacks, a job in the queue, and a process that has nothing to do with the
//! stack but the user.

use std::{
    collections::BTreeMap,
    fs,
    io::BufRead as _,
    os::{
        linux::net::SocketAddrExt as _,
        unix::{
            fs::{PermissionsExt as _, chown},
            net::{SocketAddr, UnixListener},
        },
    },
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
};

use nix::unistd::geteuid;
use serde_json::{Value, json};
use tempfile::TempDir;
use testkit::{
    AgentScript, GitServer, PATIENCE, SseClient, SseResponse, Stack, StackBuilder, copy_program,
    http_json, scratch, scripted_agent, target_binary, wait_for, write_program,
};

/// Who runs the stack.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum User {
    /// Who runs the test.
    Own,
    /// `nobody`. Only root can start a stack as another user.
    Nobody,
    /// Who runs the test, which is root, while agents run as a user of their own.
    Separate,
}

/// The kernel that a stack seems to run on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kernel {
    /// This one.
    This,
    /// One without Landlock.
    Old,
}

/// The ID of `nobody` on most systems.
const NOBODY: u32 = 65534;

/// Python of the system: one in a home directory is not reachable.
pub(crate) const PYTHON: &str = "/usr/bin/python3";

/// What became of each attack.
pub(crate) type Results = BTreeMap<String, String>;

/// The scene.
pub(crate) struct Scene {
    user: User,
    pub(crate) stack: Stack,
    _place: TempDir,
    marks: TempDir,
    outsider: Child,
    git: GitServer,
    _listener: UnixListener,
    streams: Vec<SseResponse>,
    /// Whether the agents said that they have a user of their own.
    pub(crate) has_own_user: bool,
    arguments: Value,
}

impl Drop for Scene {
    fn drop(&mut self) {
        let _ = self.outsider.kill();
        let _ = self.outsider.wait();
    }
}

impl Scene {
    pub(crate) async fn start(user: User, isolation: &str) -> Self {
        Self::start_on(Kernel::This, user, isolation).await
    }

    pub(crate) async fn start_on(kernel: Kernel, user: User, isolation: &str) -> Self {
        let place = TempDir::new().unwrap();
        let marks = scratch();
        let (workspace, home) = (place.path().join("workspace"), place.path().join("home"));
        for directory in [&workspace, &home] {
            fs::create_dir(directory).unwrap();
        }
        fs::write(home.join("private"), "the user's own").unwrap();
        let keys = place.path().join("keys");
        fs::create_dir(&keys).unwrap();
        let [certificate, key] = ["first.pem", "first.key.pem"].map(|name| {
            let fixtures = Path::new(env!("CARGO_MANIFEST_DIR")).join("../crates/web/tests/tls");
            let copy = keys.join(name);
            fs::copy(fixtures.join(name), &copy).unwrap();
            copy
        });
        // Without Landlock, this keeps another user from it.
        fs::set_permissions(&key, fs::Permissions::from_mode(0o600)).unwrap();
        let mut builder = Stack::builder()
            .replicas(1, 1, 2)
            .workspace(&workspace)
            .env("HOME", &home)
            .env("TLS_CERT", &certificate)
            .env("TLS_KEY", &key)
            // As `/etc` is, where certificates often are.
            .env("AGENT_READ_PATHS", &keys)
            .env("AGENT_ISOLATION", isolation);
        if kernel == Kernel::Old {
            builder = builder.binary(without_landlock(place.path()));
        }
        let agent = place.path().join("agent");
        if user != User::Own {
            fs::create_dir(&agent).unwrap();
            copy_program(&scripted_agent(), &agent.join("agent"));
            builder = builder.env("CLAUDE_BIN", agent.join("agent"));
        }
        if user == User::Separate {
            builder = separate(builder, place.path(), marks.path());
            fs::set_permissions(&home, fs::Permissions::from_mode(0o700)).unwrap();
        } else {
            builder = builder.env("AGENT_USER", "none");
        }
        if user == User::Nobody {
            let stackctl = place.path().join("stackctl");
            copy_program(&target_binary("stackctl"), &stackctl);
            let program = place.path().join("program");
            let line = format!(
                "#!/bin/sh\nexec {} {} \"$@\"\n",
                become_nobody().join(" "),
                stackctl.display()
            );
            write_program(&program, &line);
            let private = home.join("private");
            for path in [place.path(), &workspace, &home, &private, &key, marks.path()] {
                chown(path, Some(NOBODY), Some(NOBODY)).unwrap();
            }
            builder = builder.binary(program);
        }
        let stack = builder.start().await;
        let (outsider, memory) = outsider(user);
        let name = format!("outside-{}-{}", std::process::id(), outsider.id());
        let listener =
            UnixListener::bind_addr(&SocketAddr::from_abstract_name(&name).unwrap()).unwrap();
        let git = GitServer::start().await;
        git.create_repo("shared", &[("README.md", "# Shared\n")]);
        let arguments = json!({
            "workspace": stack.workspace(),
            "home": home,
            "key": key,
            "outsider": outsider.id(),
            "address": address_in(outsider.id()),
            "memory": memory,
            "abstract": name,
            "results": marks.path().join("results"),
        });
        let mut scene = Self {
            user,
            stack,
            _place: place,
            marks,
            outsider,
            git,
            _listener: listener,
            streams: Vec::new(),
            has_own_user: false,
            arguments,
        };
        scene.fill().await;
        scene
    }

    /// Pulls a named checkout, starts the job that is attacked, and the one that attacks, and queues a third.
    async fn fill(&mut self) {
        let pull = json!({"repoUrl": self.git.url("shared")});
        let pull = SseClient::post(&format!("{}/api/pull", self.stack.pull_url()), &pull);
        let events = pull.send().await.collect_all().await;
        assert_eq!(events.last().unwrap().json["type"], "completed", "{events:?}");
        let mirrors = fs::read_dir(self.stack.workspace().join(".stack/mirrors")).unwrap();
        let mirror =
            mirrors.map(|it| it.unwrap().path()).find(|it| it.join("packed-refs").is_file());
        self.arguments["mirror"] = json!(mirror.expect("a mirror"));

        let script = AgentScript::new()
            .write("secret", "of the victim, as long as a line")
            .spawn(&[
                "/bin/sh",
                "-c",
                &format!("echo x > ~/file && exec touch {}", self.mark("began").display()),
            ])
            .wait_file(self.mark("end"));
        let (victim, session) = self.begin(&script).await;
        self.wait("began").await;
        self.arguments["victim"] = json!(victim);
        // Not a process that it has started.
        let replicas = self.stack.processes_of("claude-code-api");
        let mut agents = self.stack.agents();
        agents.retain(|agent| replicas.contains(&agent.ppid));
        let [agent] = &*agents else { panic!("one agent: {agents:?}") };
        let environment = fs::read(format!("/proc/{}/environ", agent.pid)).unwrap();
        let mut variables = environment.split(|byte| *byte == 0);
        let home = variables.find_map(|variable| variable.strip_prefix(b"HOME="));
        self.arguments["agent"] = json!(agent.pid);
        self.arguments["private"] = json!(str::from_utf8(home.unwrap()).unwrap());
        self.arguments["session"] = json!(session);

        let attack = AgentScript::new()
            .wait_file(self.mark("go"))
            .write("attacks.py", include_str!("attacks.py"))
            .spawn(&[
                "/bin/sh",
                "-c",
                &format!(
                    "cp {} arguments.json && {PYTHON} attacks.py",
                    self.mark("arguments").display()
                ),
            ])
            .wait_file(self.mark("results"));
        self.begin(&attack).await;
        let queued = AgentScript::new().say("nothing");
        let queued = post(&self.stack, &queued).send().await;
        self.arguments["queued"] = json!(queued.job_id());
        self.streams.push(queued);
    }

    /// Starts a job and returns its ID and its session.
    async fn begin(&mut self, script: &AgentScript) -> (String, String) {
        let mut response = post(&self.stack, script).send().await;
        let connected = response.next_of_kind("connected").await.json;
        self.streams.push(response);
        self.has_own_user = connected["isolation"]["uid"] == true;
        let text = |name: &str| connected[name].as_str().unwrap().to_owned();
        (text("jobId"), text("sessionId"))
    }

    /// Lets the agent attack, and returns what became of it.
    pub(crate) async fn attack(&mut self) -> Results {
        let part = |part: &str| self.stack.processes_of(part);
        let [gateway] = *part("gateway") else { panic!("one gateway") };
        let (replicas, idle) = (part("claude-code-api"), part("workflow-api"));
        self.arguments["gateway"] = json!(gateway);
        self.arguments["replica"] = json!(replicas.first().unwrap());
        self.arguments["idle"] = json!(idle.first().unwrap());
        fs::write(self.mark("arguments"), self.arguments.to_string()).unwrap();
        fs::set_permissions(self.mark("arguments"), fs::Permissions::from_mode(0o644)).unwrap();
        fs::write(self.mark("go"), "").unwrap();
        let text = wait_for("the attacks", PATIENCE, || async {
            fs::read_to_string(self.mark("results")).ok()
        })
        .await;
        serde_json::from_str(&text).unwrap()
    }

    /// Lets the attacked job end, and returns its record at the gateway.
    pub(crate) async fn end_of_victim(&self) -> Value {
        fs::write(self.mark("end"), "").unwrap();
        let id = self.arguments["victim"].as_str().unwrap();
        let url = format!("{}/api/jobs/{id}", self.stack.workflow_url());
        wait_for("the end of the attacked job", PATIENCE, || async {
            let (_, _, job) = http_json("GET", &url, None, &[]).await;
            (job["state"] != "running").then_some(job)
        })
        .await
    }

    pub(crate) fn text(&self, name: &str) -> &str {
        self.arguments[name].as_str().unwrap()
    }

    pub(crate) fn is_root(&self) -> bool {
        self.user != User::Nobody && geteuid().is_root()
    }

    fn mark(&self, name: &str) -> PathBuf {
        self.marks.path().join(name)
    }

    async fn wait(&self, name: &str) {
        wait_for(name, PATIENCE, || async { self.mark(name).exists().then_some(()) }).await;
    }
}

/// `POST /api/execute`, without a workspace.
pub(crate) fn post(stack: &Stack, script: &AgentScript) -> testkit::SseRequest {
    SseClient::post(
        &format!("{}/api/execute", stack.claude_url()),
        &json!({"prompt": script.prompt()}),
    )
}

/// A stack of root whose agents run as `nobody`, in places that this user can reach.
pub(crate) fn separate(builder: StackBuilder, place: &Path, marks: &Path) -> StackBuilder {
    for (directory, mode) in [(place, 0o755), (marks, 0o777)] {
        fs::set_permissions(directory, fs::Permissions::from_mode(mode)).unwrap();
    }
    builder.env("AGENT_USER", NOBODY.to_string()).env("AGENT_WRITE_PATHS", marks)
}

/// `stackctl` as on a kernel without Landlock.
pub(crate) fn without_landlock(directory: &Path) -> PathBuf {
    let (script, program) = (directory.join("old_kernel.py"), directory.join("program"));
    fs::write(&script, include_str!("old_kernel.py")).unwrap();
    let (script, stackctl) = (script.display(), target_binary("stackctl"));
    let line = format!("#!/bin/sh\nexec {PYTHON} {script} {} \"$@\"\n", stackctl.display());
    write_program(&program, &line);
    program
}

fn become_nobody() -> Vec<String> {
    let id = |option: &str| format!("--{option}={NOBODY}");
    vec!["setpriv".to_owned(), id("reuid"), id("regid"), "--clear-groups".to_owned()]
}

/// A process of the stack's user that hides nothing, in an environment with a secret. It has System V memory, whose ID it
/// prints once it runs. The kernel removes that at its end.
fn outsider(user: User) -> (Child, u32) {
    const SCRIPT: &str = "import ctypes, time; libc = ctypes.CDLL(None); id = libc.shmget(0, 4096, 0o1600); \
        libc.shmat(id, None, 0); libc.shmctl(id, 0, None); print(id, flush=True); time.sleep(1000)";
    let script = [PYTHON, "-c", SCRIPT].map(str::to_owned);
    let line: Vec<String> = match user {
        User::Own | User::Separate => script.into(),
        User::Nobody => become_nobody().into_iter().chain(script).collect(),
    };
    let mut child = Command::new(&line[0])
        .args(&line[1..])
        .env("OUTSIDER_SECRET", "s3cret")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut begun = String::new();
    std::io::BufReader::new(child.stdout.take().unwrap()).read_line(&mut begun).unwrap();
    (child, begun.trim().parse().unwrap())
}

/// A mapped address of a process, in hexadecimal.
fn address_in(pid: u32) -> String {
    let maps = fs::read_to_string(format!("/proc/{pid}/maps")).unwrap();
    let mut lines = maps.lines().filter(|line| line.contains("r--p") || line.contains("r-xp"));
    lines.next().unwrap().split('-').next().unwrap().to_owned()
}
