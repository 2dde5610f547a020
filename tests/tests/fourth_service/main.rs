//! Adds a fourth service to a copy of this tree as CONTRIBUTING.md describes. The compiler names what is missing, few
//! files change, and the new service is served, scaled and counted like the others.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::Duration,
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use serde_json::{Value, json};
use testkit::{http_json, wait_for};

/// The maximum number of existing files to change. Cargo.lock changes by itself.
const MOST_FILES: usize = 6;

const PATIENCE: Duration = Duration::from_secs(60);

/// The row of the new service in the table of services.
const ROW: &str = r#"
            Self::Echo => &ServiceSpec {
                name: "echo-api",
                short_name: "echo",
                summary: "repeats a text",
                default_port: 2000,
                port_variable: "PORT_ECHO",
                url_variable: "ECHO_API",
                asks: &[],
                default_replicas: 1,
                job_paths: &["/api/echo"],
                internal_paths: &[],
                parse: |raw| raw.parse::<crate::EchoRequest>(),
                success_event: "echoed",
                failure_event: "echo_error",
                failure: |_, code, error| Ending::echo_failure(code, error),
                lost: "the replica died before the echo was complete: send the job again",
            },"#;

/// This tree.
fn original() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// A copy of the files under version control. It is kept between runs, so that little is compiled again.
struct Tree {
    root: PathBuf,
    changed: BTreeSet<&'static str>,
}

impl Tree {
    fn copy() -> Self {
        let original = original();
        let root = original.join("target/fourth-service/tree");
        let listed = Command::new("git")
            .args(["ls-files", "-z", "--cached", "--others", "--exclude-standard"])
            .current_dir(&original)
            .output()
            .expect("git is installed");
        assert!(listed.status.success(), "{}", String::from_utf8_lossy(&listed.stderr));
        let files: BTreeSet<_> = String::from_utf8(listed.stdout)
            .unwrap()
            .split_terminator('\0')
            .filter(|name| original.join(name).is_file())
            .map(PathBuf::from)
            .collect();
        for name in &files {
            let (from, to) = (original.join(name), root.join(name));
            let content = fs::read(&from).unwrap();
            // An unchanged file keeps its modification time, so cargo does not compile it again.
            if fs::read(&to).is_ok_and(|there| there == content) {
                continue;
            }
            fs::create_dir_all(to.parent().unwrap()).unwrap();
            fs::write(&to, content).unwrap();
        }
        remove_leftovers(&root, &root, &files);
        Self { root, changed: BTreeSet::new() }
    }

    /// Inserts `addition` after the only occurrence of `anchor` in an existing file.
    fn add(&mut self, file: &'static str, anchor: &str, addition: &str) {
        let path = self.root.join(file);
        let text = fs::read_to_string(&path).unwrap();
        assert_eq!(text.matches(anchor).count(), 1, "{file} must contain {anchor:?} exactly once");
        fs::write(&path, text.replace(anchor, &format!("{anchor}{addition}"))).unwrap();
        self.changed.insert(file);
    }

    /// Replaces the only occurrence of `from` in an existing file.
    fn replace(&mut self, file: &'static str, from: &str, to: &str) {
        let path = self.root.join(file);
        let text = fs::read_to_string(&path).unwrap();
        assert_eq!(text.matches(from).count(), 1, "{file} must contain {from:?} exactly once");
        fs::write(&path, text.replace(from, to)).unwrap();
        self.changed.insert(file);
    }

    /// Creates a new file.
    fn create(&self, file: &str, text: &str) {
        let path = self.root.join(file);
        assert!(!path.exists(), "{file} already exists");
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    fn target(&self) -> PathBuf {
        self.root.parent().unwrap().join("build")
    }

    /// Builds a package. Returns the files in which the compiler finds errors.
    fn build(&self, package: &str) -> BTreeSet<String> {
        let output = Command::new(env!("CARGO"))
            .args(["build", "--quiet", "--message-format", "short", "--package", package])
            .current_dir(&self.root)
            .env("CARGO_TARGET_DIR", self.target())
            // Most other crates are compiled already, for these tests.
            .env("CARGO_BUILD_BUILD_DIR", original().join("target"))
            .env("CARGO_TERM_COLOR", "never")
            .stdin(Stdio::null())
            .output()
            .expect("cargo is installed");
        let said = String::from_utf8_lossy(&output.stderr);
        let errors = said.lines().filter(|line| line.contains(": error"));
        let files: BTreeSet<_> =
            errors.filter_map(|line| line.split(':').next()).map(str::to_owned).collect();
        assert_eq!(output.status.success(), files.is_empty(), "{said}");
        files
    }
}

/// Removes files of an earlier run that this tree does not have.
fn remove_leftovers(root: &Path, directory: &Path, files: &BTreeSet<PathBuf>) {
    for entry in fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        let name = path.strip_prefix(root).unwrap();
        if path.is_dir() {
            if files.iter().any(|file| file.starts_with(name)) {
                remove_leftovers(root, &path, files);
            } else {
                fs::remove_dir_all(&path).unwrap();
            }
        } else if name != Path::new("Cargo.lock") && !files.contains(name) {
            fs::remove_file(&path).unwrap();
        }
    }
}

fn set(files: &[&str]) -> BTreeSet<String> {
    files.iter().map(|file| (*file).to_owned()).collect()
}

#[tokio::test]
async fn a_fourth_service_is_a_crate_a_row_and_what_the_compiler_asks_for() {
    let mut tree = Tree::copy();

    // Add only the variant; its row in the table is missing.
    let service = "crates/contract/src/service.rs";
    tree.add(
        service,
        "    /// Run Claude Code.\n    Claude,\n",
        "    /// Repeat a text.\n    Echo,\n",
    );
    assert_eq!(tree.build("contract"), set(&[service]));

    // The contract: the row, the request and the events.
    tree.replace(
        service,
        "ALL: [Self; 3] = [Self::Workflow, Self::Pull, Self::Claude];",
        "ALL: [Self; 4] = [Self::Workflow, Self::Pull, Self::Claude, Self::Echo];",
    );
    tree.add(
        service,
        "pub const fn spec(self) -> &'static ServiceSpec {\n        match self {",
        ROW,
    );
    tree.create("crates/contract/src/echo.rs", include_str!("files/echo.rs"));
    let library = "crates/contract/src/lib.rs";
    tree.add(library, "mod code;\n", "mod echo;\n");
    tree.add(library, "pub use code::Code;\n", "pub use echo::{EchoEvent, EchoRequest};\n");
    assert_eq!(tree.build("contract"), set(&[]));

    // The operator's command: the only other place that knows the crate of each service.
    let serve = "crates/stackctl/src/serve.rs";
    assert_eq!(tree.build("stackctl"), set(&[serve]));

    // The service, and how to serve it.
    tree.create("crates/echo-api/Cargo.toml", include_str!("files/Cargo.toml.txt"));
    tree.create("crates/echo-api/src/lib.rs", include_str!("files/lib.rs"));
    tree.create("crates/echo-api/src/main.rs", include_str!("files/main.rs"));
    tree.add(
        "Cargo.toml",
        "claude-code-api = { path = \"crates/claude-code-api\" }\n",
        "echo-api = { path = \"crates/echo-api\" }\n",
    );
    tree.add(
        "crates/stackctl/Cargo.toml",
        "contract.workspace = true\n",
        "echo-api.workspace = true\n",
    );
    tree.add(
        serve,
        "Part::Replica(Service::Claude) => claude_code_api::main(),",
        "\n        Part::Replica(Service::Echo) => echo_api::main(),",
    );
    tree.add(
        serve,
        "Part::Replica(Service::Claude) => drop(claude_code_api::Config::read(settings)),",
        "\n        Part::Replica(Service::Echo) => drop(echo_api::Config::read(settings)),",
    );
    assert_eq!(tree.build("stackctl"), set(&[]));
    assert_eq!(tree.build("echo-api"), set(&[]));
    // One more is README.md, which the compiler does not check.
    assert!(tree.changed.len() < MOST_FILES, "{:?}", tree.changed);

    serves(&tree.target().join("debug/stackctl")).await;
}

/// Runs the new service in a stack.
async fn serves(stackctl: &Path) {
    let directory = tempfile::tempdir().unwrap();
    let workspace = directory.path().join("workspace");
    let ports = [(); 4].map(|()| testkit::free_port());
    let mut up = tokio::process::Command::new(stackctl);
    up.arg("up").arg("--workspace").arg(&workspace);
    for (name, port) in ["workflow", "pull", "claude", "echo"].into_iter().zip(ports) {
        up.args([format!("--{name}"), "1".into(), format!("--port-{name}"), port.to_string()]);
    }
    up.env_clear().env("PATH", std::env::var_os("PATH").unwrap()).env("HOME", directory.path());
    up.env("ANTHROPIC_API_KEY", "sk-ant-test").env("CLAUDE_BIN", testkit::scripted_agent());
    up.env("IS_SANDBOX", "1").env("AGENT_USER", "none").stdin(Stdio::null()).kill_on_drop(true);
    let mut up = up.spawn().unwrap();
    let url = format!("http://127.0.0.1:{}", ports[3]);
    wait_for("an idle replica", PATIENCE, || async {
        tokio::net::TcpStream::connect(("127.0.0.1", ports[3])).await.ok()?;
        let (_, _, status) = http_json("GET", &format!("{url}/status"), None, &[]).await;
        (status["replicas"]["idle"] == 1).then_some(())
    })
    .await;

    let body = json!({"text": "hello"});
    let run = |command: &[&str]| {
        let output = Command::new(stackctl).args(command).output().unwrap();
        assert!(
            output.status.success(),
            "{command:?}: {}",
            String::from_utf8_lossy(&output.stderr)
        );
        String::from_utf8(output.stdout).unwrap()
    };
    let text = tokio::process::Command::new("curl")
        .args(["--silent", "--show-error", "--no-buffer", "--max-time", "60"])
        .args(["--header", "Content-Type: application/json", "--data", &body.to_string()])
        .arg(format!("{url}/api/echo"))
        .output()
        .await
        .unwrap();
    let text = String::from_utf8(text.stdout).unwrap();
    let events: Vec<Value> = text
        .lines()
        .filter_map(|line| line.strip_prefix("data: "))
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    let kinds: Vec<_> = events.iter().map(|event| event["type"].as_str().unwrap()).collect();
    assert_eq!(kinds, ["message", "echoed"], "{text}");
    assert_eq!(events[0]["message"], "hello");

    let json_type = [("content-type", "application/json")];
    let body = Some(json!({"txet": "hello"}).to_string().into());
    let (status, _, refused) =
        http_json("POST", &format!("{url}/api/echo"), body, &json_type).await;
    assert_eq!((status.as_u16(), &refused["field"]), (400, &json!("text")), "{refused}");
    let workspace = workspace.to_str().unwrap();
    let shown: Value =
        serde_json::from_str(&run(&["ps", "--json", "--workspace", workspace])).unwrap();
    assert!(shown.to_string().contains("echo-api"), "{shown}");
    run(&["scale", "--workspace", workspace, "echo=2"]);
    wait_for("two idle replicas", PATIENCE, || async {
        let (_, _, status) = http_json("GET", &format!("{url}/status"), None, &[]).await;
        (status["replicas"]["idle"] == 2).then_some(())
    })
    .await;
    kill(Pid::from_raw(up.id().unwrap().cast_signed()), Signal::SIGINT).unwrap();
    let ended = tokio::time::timeout(PATIENCE, up.wait()).await.expect("stackctl stops").unwrap();
    assert!(ended.success(), "{ended}");
}
