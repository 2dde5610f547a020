//! A workspace, pulls into it, and looks at what they leave.

use std::{
    collections::BTreeMap,
    fs,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
    pin::pin,
    process::Command,
    sync::Arc,
    time::Duration,
};

use boot::Secret;
use contract::{Code, FileRepositories, JobId, JobRequest as _, JobState, Policy, PullRequest};
use futures_util::StreamExt as _;
use github_pull_api::{AddressPolicy, Config, ConnectorSettings, pull};
use oneshot::{Deadline, JobContext, Step, Stop};
use serde_json::{Value, json};
use tempfile::TempDir;
use workspace::Workspace;

/// A volume of its own, and the settings of the pulls into it.
pub(crate) struct Scene {
    /// Removed when the scene ends.
    _root: TempDir,
    pub(crate) workspace: Workspace,
    pub(crate) config: Config,
}

/// What a pull said and how it ended.
#[derive(Debug)]
pub(crate) struct Outcome {
    pub(crate) events: Vec<Value>,
    pub(crate) terminal: Value,
    pub(crate) code: Option<Code>,
    pub(crate) state: JobState,
}

impl Scene {
    pub(crate) fn new() -> Self {
        let root = tempfile::tempdir().unwrap();
        let workspace = Workspace::open(root.path()).unwrap();
        let config = Config {
            policy: Policy { file_repositories: FileRepositories::Allowed, ..Policy::default() },
            credential_hosts: vec![],
            connector: ConnectorSettings {
                policy: AddressPolicy::loopback(),
                relay: env!("CARGO_BIN_EXE_github-pull-api").into(),
                ..ConnectorSettings::default()
            },
            ..Config::default()
        };
        Self { _root: root, workspace, config }
    }

    /// A scene on a volume that is there.
    pub(crate) fn at(path: &Path) -> Self {
        let workspace = Workspace::open(path).unwrap();
        Self { workspace, ..Self::new() }
    }

    pub(crate) fn with_token(mut self, token: &str, host: &str) -> Self {
        self.config.token = Some(Secret::new(token.into()));
        self.config.credential_hosts = vec![host.into()];
        self
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.workspace.root().join(name)
    }

    pub(crate) fn request(&self, body: &Value) -> PullRequest {
        let root = self.workspace.root_text();
        PullRequest::parse(body.to_string().as_bytes(), root, &self.config.policy).unwrap()
    }

    pub(crate) fn context(&self, stop: &Stop) -> JobContext {
        JobContext {
            id: JobId::new(),
            parent: None,
            capability: None,
            workspace: self.workspace.clone(),
            stop: stop.clone(),
            stop_budget: std::time::Duration::from_secs(15),
            deadline: Deadline::new(Duration::from_secs(60)),
        }
    }

    /// Pulls `url` into `repo`.
    pub(crate) async fn pull(&self, url: &str) -> Outcome {
        self.pull_with(json!({"repoUrl": url, "directory": "repo"})).await
    }

    pub(crate) async fn pull_branch(&self, url: &str, branch: &str) -> Outcome {
        self.pull_with(json!({"repoUrl": url, "directory": "repo", "branch": branch})).await
    }

    pub(crate) async fn pull_with(&self, body: Value) -> Outcome {
        self.pull_in(self.context(&Stop::default()), body).await
    }

    pub(crate) async fn pull_in(&self, context: JobContext, body: Value) -> Outcome {
        let request = self.request(&body);
        run(Arc::new(self.config.clone()), context, request, |_| {}).await
    }

    /// Nothing is left of the pulls that have ended.
    pub(crate) fn assert_clean(&self) {
        let left: Vec<_> = fs::read_dir(self.workspace.temporary())
            .unwrap()
            .map(|entry| entry.unwrap().path())
            .collect();
        assert_eq!(left, [] as [PathBuf; 0]);
    }

    /// The one mirror there is.
    pub(crate) fn mirror(&self) -> PathBuf {
        let mut mirrors: Vec<_> = fs::read_dir(self.workspace.mirrors())
            .unwrap()
            .map(|entry| entry.unwrap().path())
            .filter(|path| path.is_dir())
            .collect();
        assert_eq!(mirrors.len(), 1, "{mirrors:?}");
        mirrors.remove(0)
    }
}

/// Runs one pull to its end, showing each event to `watch`.
pub(crate) async fn run(
    config: Arc<Config>,
    context: JobContext,
    request: PullRequest,
    mut watch: impl FnMut(&Value),
) -> Outcome {
    let mut steps = pin!(pull(config, context, request));
    let mut events = Vec::new();
    while let Some(step) = steps.next().await {
        match step {
            Step::Event(event) => {
                let event: Value = serde_json::from_slice(event.as_bytes()).unwrap();
                watch(&event);
                events.push(event);
            }
            Step::End(ending) => {
                assert!(steps.next().await.is_none(), "steps after the end");
                assert_eq!(events[0]["type"], "connected");
                return Outcome {
                    events,
                    terminal: serde_json::from_slice(ending.event.as_bytes()).unwrap(),
                    code: ending.code,
                    state: ending.state,
                };
            }
        }
    }
    panic!("the stream ended without its end: {events:?}");
}

impl Outcome {
    /// The commit that is checked out.
    #[track_caller]
    pub(crate) fn commit(&self) -> &str {
        assert_eq!(self.state, JobState::Succeeded, "{:?} {:?}", self.terminal, self.events);
        assert_eq!(self.terminal["type"], "completed");
        self.terminal["commit"].as_str().unwrap()
    }

    /// The sentence of a pull that failed with `code`.
    #[track_caller]
    pub(crate) fn failed(&self, code: Code) -> &str {
        assert_eq!(self.code, Some(code), "{:?} {:?}", self.terminal, self.events);
        assert_eq!(self.terminal["type"], "error");
        assert_eq!(self.terminal["code"], code.as_str());
        self.terminal["error"].as_str().unwrap()
    }

    pub(crate) fn messages(&self) -> Vec<&str> {
        self.events.iter().filter_map(|event| event["message"].as_str()).collect()
    }

    pub(crate) fn progress(&self, stage: &str) -> Vec<&Value> {
        self.events.iter().filter(|event| event["stage"] == stage).collect()
    }
}

/// Real git on a checkout, without the machine's and the user's configuration.
#[track_caller]
pub(crate) fn git(directory: &Path, arguments: &[&str]) -> String {
    let output = Command::new("git")
        .args(["-c", "user.name=Test", "-c", "user.email=test@example.com"])
        .args(["-c", "commit.gpgsign=false", "-c", "gc.auto=0"])
        .args(arguments)
        .current_dir(directory)
        .env("GIT_CONFIG_GLOBAL", "/dev/null")
        .env("GIT_CONFIG_SYSTEM", "/dev/null")
        .env("LC_ALL", "C")
        .output()
        .unwrap();
    assert!(
        output.status.success(),
        "git {arguments:?}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}

/// Everything beneath a directory that a failed pull must leave as it was: every file with its
/// content and mode, every link with its target, every directory. New objects and what is known of
/// `origin` may come along.
pub(crate) fn snapshot(root: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut found = BTreeMap::new();
    let mut directories = vec![root.to_owned()];
    while let Some(directory) = directories.pop() {
        for entry in fs::read_dir(directory).unwrap() {
            let path = entry.unwrap().path();
            let name = path.strip_prefix(root).unwrap().to_owned();
            let may_change = [".git/objects", ".git/refs/remotes", ".git/packed-refs"];
            if may_change.iter().any(|prefix| name.starts_with(prefix)) {
                continue;
            }
            let metadata = fs::symlink_metadata(&path).unwrap();
            let mut content = format!("{:o} ", metadata.mode()).into_bytes();
            if metadata.is_dir() {
                directories.push(path);
            } else if metadata.is_symlink() {
                content.extend(fs::read_link(&path).unwrap().to_str().unwrap().bytes());
            } else {
                content.extend(fs::read(&path).unwrap());
            }
            found.insert(name, content);
        }
    }
    found
}

/// Every file beneath a directory.
pub(crate) fn files(root: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut directories = vec![root.to_owned()];
    while let Some(directory) = directories.pop() {
        for entry in fs::read_dir(directory).unwrap() {
            let path = entry.unwrap().path();
            if fs::symlink_metadata(&path).unwrap().is_dir() {
                directories.push(path);
            } else {
                found.push(path);
            }
        }
    }
    found
}

/// The files beneath a directory that hold `text`.
pub(crate) fn files_with(root: &Path, text: &str) -> Vec<PathBuf> {
    let holds = |path: &PathBuf| {
        fs::read(path)
            .is_ok_and(|bytes| bytes.windows(text.len()).any(|part| part == text.as_bytes()))
    };
    files(root).into_iter().filter(holds).collect()
}
