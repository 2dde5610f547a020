//! Runs one job at a time in this process, with real child processes.

use std::{
    fs,
    path::{Path, PathBuf},
    pin::Pin,
    sync::Arc,
    time::{Duration, Instant},
};

use boot::Secret;
use claude_code_api::{AgentKey, Config, Credential, Isolation, TimeLimits, execute};
use contract::{ExecuteOptions, ExecuteRequest, JobId, Policy, Prompt, SessionId, WorkspacePath};
use futures_util::{Stream, StreamExt as _};
use oneshot::{Deadline, JobContext, Step, Stop};
use serde_json::Value;
use tempfile::TempDir;
use tokio::sync::{Mutex, MutexGuard};
use workspace::Workspace;

/// The credential's secret, which must not appear anywhere.
pub(crate) const SECRET: &str = "sk-ant-test-s3cret-0123456789";

/// A volume with one checkout, `app`, and the parameters of a job. Only one bench exists at a time, because the end
/// of a job kills every descendant of this process.
pub(crate) struct Bench {
    pub(crate) root: TempDir,
    pub(crate) config: Config,
    pub(crate) options: ExecuteOptions,
    pub(crate) prompt: String,
    pub(crate) workspace: Option<&'static str>,
    pub(crate) stop: Stop,
    _alone: MutexGuard<'static, ()>,
}

/// The result of a job.
pub(crate) struct Outcome {
    /// `connected` and the messages' contents.
    pub(crate) connected: Value,
    pub(crate) messages: Vec<Value>,
    pub(crate) ending: Value,
    pub(crate) took: Duration,
}

impl Bench {
    /// A bench whose agent runs the shell script `script`.
    pub(crate) async fn new(script: &str) -> Self {
        static ONE: Mutex<()> = Mutex::const_new(());
        let alone = ONE.lock().await;
        let root = tempfile::tempdir().unwrap();
        fs::create_dir_all(root.path().join("app/.git")).unwrap();
        fs::create_dir(root.path().join(".private")).unwrap();
        let bench = Self {
            config: config(&root.path().join(".private")),
            options: ExecuteOptions::default(),
            prompt: "do it".into(),
            workspace: Some("app"),
            stop: Stop::default(),
            root,
            _alone: alone,
        };
        fs::write(bench.app().join("script"), script).unwrap();
        bench
    }

    pub(crate) fn app(&self) -> PathBuf {
        self.root.path().canonicalize().unwrap().join("app")
    }

    pub(crate) fn volume(&self) -> Workspace {
        Workspace::open(self.root.path()).unwrap()
    }

    /// The content of a file of the checkout, without trailing white space.
    pub(crate) fn read(&self, name: &str) -> String {
        let file = self.app().join(name);
        let text = fs::read_to_string(&file).unwrap_or_else(|e| panic!("{}: {e}", file.display()));
        text.trim_end().to_owned()
    }

    pub(crate) fn start(&self) -> Pin<Box<impl Stream<Item = Step> + Send + use<>>> {
        let volume = self.volume();
        let workspace =
            self.workspace.map(|p| WorkspacePath::parse(p, volume.root_text()).unwrap());
        let request = ExecuteRequest {
            retain: contract::Retain::Default,
            prompt: Prompt::parse(&self.prompt).unwrap(),
            workspace,
            options: self.options.clone(),
            common: contract::CommonOptions::default(),
        };
        let context = JobContext {
            id: JobId::new(),
            parent: None,
            capability: None,
            workspace: volume,
            stop: self.stop.clone(),
            stop_budget: std::time::Duration::from_secs(15),
            deadline: Deadline::new(Duration::from_secs(3600)),
        };
        Box::pin(execute(Arc::new(self.config.clone()), context, request))
    }

    /// Runs a job to its end, and checks what must hold for every job.
    pub(crate) async fn run(&self) -> Outcome {
        self.run_with(|_| {}).await
    }

    /// Like [`run`](Self::run), and calls `see` for each message as it arrives.
    pub(crate) async fn run_with(&self, mut see: impl FnMut(&Value)) -> Outcome {
        let start = Instant::now();
        let mut steps = self.start();
        let mut connected = None;
        let (mut messages, mut ending) = (Vec::new(), None);
        while let Some(step) = steps.next().await {
            assert!(ending.is_none(), "a step after the end");
            match step {
                Step::Event(line) => {
                    let event: Value = line.peek().unwrap();
                    if connected.is_none() {
                        assert_eq!(event["type"], "connected");
                        connected = Some(event);
                    } else {
                        assert_eq!(event["type"], "message");
                        see(&event["content"]);
                        messages.push(event["content"].clone());
                    }
                }
                Step::End(end) => {
                    let event: Value = end.event.peek().unwrap();
                    let kind = if end.code.is_none() { "completed" } else { "error" };
                    assert_eq!(event["type"], kind);
                    ending = Some(event);
                    // Every process is dead before the end is reported.
                    let left = testkit::descendants(std::process::id());
                    assert!(left.is_empty(), "{left:?}");
                }
            }
        }
        let (connected, ending) = (connected.expect("connected"), ending.expect("an end"));
        assert_eq!(connected["sessionId"], ending["sessionId"]);
        assert!(!format!("{messages:?}{ending:?}").contains(SECRET));
        let left = fs::read_dir(&self.config.temporary).unwrap().flatten();
        let left: Vec<_> = left.map(|entry| entry.path()).collect();
        assert!(left.is_empty(), "the agent's directory was not removed: {left:?}");
        Outcome { connected, messages, ending, took: start.elapsed() }
    }
}

impl Outcome {
    pub(crate) fn code(&self) -> Option<&str> {
        self.ending["code"].as_str()
    }

    pub(crate) fn error(&self) -> &str {
        self.ending["error"].as_str().unwrap_or_default()
    }

    pub(crate) fn session(&self) -> SessionId {
        self.connected["sessionId"].as_str().unwrap().parse().unwrap()
    }

    /// The subtypes, or else the types, of the messages.
    pub(crate) fn kinds(&self) -> Vec<&str> {
        fn kind(message: &Value) -> &str {
            message["subtype"].as_str().or(message["type"].as_str()).unwrap_or("?")
        }
        self.messages.iter().map(kind).collect()
    }
}

fn config(temporary: &Path) -> Config {
    Config {
        claude_bin: Some(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fakes/agent")),
        credential: Some(Credential::ApiKey(Secret::new(SECRET.into()))),
        base_url: None,
        agent_key: AgentKey::Endpoint,
        trust_repository_settings: false,
        policy: Policy::default(),
        processes: 1024,
        isolation: Isolation { is_sandbox: true, ..Isolation::default() },
        time_limits: TimeLimits::default(),
        path: std::env::var("PATH").unwrap(),
        temporary: temporary.to_owned(),
    }
}
