//! The stack under test and everything around it.

use std::{
    collections::{BTreeMap, BTreeSet},
    env, fs,
    path::{Path, PathBuf},
    process::Command,
    sync::{Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use contract::{PerService, Service};
use serde_json::{Value, json};
use tempfile::TempDir;
use testkit::{GitServer, MockApi, Turn, http_json, wait_for};

use crate::{
    command::{self, say},
    engine::Engine,
    forward::Forward,
    images,
    network::{ENGINE, HERE},
};

/// The deadline for anything that has no deadline of its own. It matters only when a test fails.
pub(crate) const PATIENCE: Duration = Duration::from_secs(300);
pub(crate) const STACK: &str = "wstest";
/// The credential of the first deployment.
pub(crate) const KEY: &str = "sk-ant-test-0123456789abcdef";
/// The git token.
pub(crate) const TOKEN: &str = "ghp_test0123456789token";
/// The mock's answer to the real CLI.
pub(crate) const ANSWER: &str = "nothing to do here";
const REPOSITORY: &str = "hello-world.git";
/// Not the default ports, which may be in use.
const PORTS: [(Service, &str, u16); 3] = [
    (Service::Workflow, "WORKFLOW_PORT", 15_000),
    (Service::Pull, "PULL_PORT", 14_000),
    (Service::Claude, "CLAUDE_PORT", 13_000),
];

/// The published URL of a service.
pub(crate) fn url_of(service: Service) -> String {
    let (_, _, port) = PORTS.iter().find(|(it, ..)| *it == service).unwrap();
    format!("http://{ENGINE}:{port}")
}

/// Everything that the cases need.
#[derive(Debug)]
pub(crate) struct Bench {
    pub(crate) base_size: u64,
    pub(crate) api: MockApi,
    settings: Mutex<BTreeMap<&'static str, String>>,
    directory: TempDir,
    git_url: Forward,
    _git: GitServer,
    _api_url: Forward,
    // The last field, because it must be dropped last.
    pub(crate) engine: Engine,
}

impl Bench {
    /// Starts an engine, builds the images, and deploys the stack with the scripted agent.
    pub(crate) async fn set_up() -> Self {
        let engine = Engine::start();
        let base = images::base_images(&engine);
        let base_size = images::base_size(&engine, &base);
        let git = GitServer::start().await;
        git.create_repo(REPOSITORY, &[("README.md", "hello\n")]);
        let api = MockApi::always(Turn::text(ANSWER)).await;
        let git_url = Forward::to(git.address()).await;
        let api_address = api.url().trim_start_matches("http://").parse().unwrap();
        let api_url = Forward::to(api_address).await;
        let mut settings: BTreeMap<_, _> = base.into_iter().collect();
        settings.insert("ANTHROPIC_API_KEY", KEY.into());
        settings.insert("GITHUB_TOKEN", TOKEN.into());
        settings.insert("ANTHROPIC_BASE_URL", api_url.url());
        settings.insert("GIT_ALLOWED_NETWORKS", HERE.into());
        settings.extend(PORTS.map(|(_, name, port)| (name, port.to_string())));
        let bench = Self {
            base_size,
            api,
            settings: Mutex::new(settings),
            directory: TempDir::new().unwrap(),
            git_url,
            _git: git,
            _api_url: api_url,
            engine,
        };
        let started = Instant::now();
        bench.deploy(&[]);
        say(&format!("built and deployed in {:.0?}", started.elapsed()));
        bench.settings().insert("CLAUDE_CODE_API_IMAGE", images::agent_image(&bench.engine));
        bench.deploy(&["--no-build"]);
        bench.wait_until_idle().await;
        bench
    }

    pub(crate) fn settings(&self) -> MutexGuard<'_, BTreeMap<&'static str, String>> {
        self.settings.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Runs the real script and returns its output.
    ///
    /// # Panics
    /// If the script fails.
    pub(crate) fn deploy(&self, arguments: &[&str]) -> String {
        let file = self.directory.path().join("settings.env");
        let lines: String =
            self.settings().iter().map(|(name, value)| format!("{name}={value}\n")).collect();
        fs::write(&file, lines).unwrap();
        command::run("chmod", &["600", file.to_str().unwrap()]);
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy-swarm.sh");
        let mut command = Command::new(script);
        command.args(["--stack", STACK, "--env-file"]).arg(&file).args(arguments);
        // Without this process's environment, which may contain a real credential.
        command.env_clear().env("PATH", env::var_os("PATH").unwrap_or_default());
        command.env("HOME", self.directory.path()).env("DOCKER_HOST", self.engine.host());
        let output = command.output().expect("bash is installed");
        command::text("deploy-swarm.sh", &output)
    }

    /// The URL of the sample repository, as seen by the replicas.
    pub(crate) fn repository(&self) -> String {
        format!("{}/{REPOSITORY}", self.git_url.url())
    }

    /// Waits until the default number of replicas is idle.
    pub(crate) async fn wait_until_idle(&self) {
        self.wait_for_idle(PerService::from_fn(|service| service.spec().default_replicas)).await;
    }

    /// Waits until this many replicas of each service are idle and none is busy.
    pub(crate) async fn wait_for_idle(&self, counts: PerService<usize>) {
        for (service, count) in counts {
            let what = format!("{count} idle replicas of {service}");
            wait_for(&what, PATIENCE, || async {
                let status = self.status(service).await?;
                let replicas = &status["replicas"];
                (replicas == &json!({"idle": count, "busy": 0})).then_some(())
            })
            .await;
        }
    }

    /// Waits until no replica is busy, and at least the default number is idle.
    ///
    /// If a replica ends its job while an update replaces it, Swarm 20.10 may start a second replacement in the same
    /// slot. Both run until the service changes again.
    pub(crate) async fn wait_until_none_is_busy(&self) {
        for service in Service::ALL {
            let least = service.spec().default_replicas;
            let what = format!("{least} idle replicas of {service} and none busy");
            wait_for(&what, PATIENCE, || async {
                let status = self.status(service).await?;
                let count = |state: &str| status["replicas"][state].as_u64();
                (count("busy")? == 0 && count("idle")? >= u64::try_from(least).ok()?).then_some(())
            })
            .await;
        }
    }

    /// The answer to `GET /status`, or `None` while no gateway answers.
    pub(crate) async fn status(&self, service: Service) -> Option<Value> {
        // In a task, because the helper panics if there is no gateway.
        let url = format!("{}/status", url_of(service));
        let asked = tokio::spawn(async move { http_json("GET", &url, None, &[]).await }).await;
        asked.ok().map(|(_, _, status)| status)
    }

    /// The directory of the volume on this machine.
    pub(crate) fn volume(&self) -> PathBuf {
        let volume = format!("{STACK}_workspace");
        self.engine.docker(&["volume", "inspect", "--format", "{{.Mountpoint}}", &volume]).into()
    }

    /// The claim of each job that exists now.
    pub(crate) fn claims(&self) -> BTreeMap<String, Value> {
        let mut claims = BTreeMap::new();
        for job in fs::read_dir(self.volume().join(".stack/jobs")).unwrap().flatten() {
            if let Ok(claim) = fs::read(job.path().join("claim")) {
                let claim =
                    serde_json::from_slice(&claim).expect("claims are put in place atomically");
                claims.insert(job.file_name().into_string().unwrap(), claim);
            }
        }
        claims
    }

    /// Checks that no replica has taken two jobs.
    pub(crate) fn check_one_job_each(&self) {
        let mut seen = BTreeSet::new();
        for (job, claim) in self.claims() {
            let by = claim["by"].as_str().unwrap();
            if claim["run"] == json!(true) {
                assert!(seen.insert(by.to_owned()), "the replica {by} took {job} and another job");
            }
        }
    }

    /// The running containers of a service.
    pub(crate) fn containers(&self, part: &str) -> Vec<String> {
        let filter = format!("name={STACK}_{part}");
        let ids = self.engine.docker(&["ps", "--quiet", "--no-trunc", "--filter", &filter]);
        ids.lines().map(str::to_owned).collect()
    }

    /// What `docker inspect` prints about one object.
    pub(crate) fn inspect(&self, id: &str) -> Value {
        let all: Value = serde_json::from_str(&self.engine.docker(&["inspect", id])).unwrap();
        all[0].clone()
    }

    /// Prints what helps to explain why a case failed.
    pub(crate) fn show_state(&self) {
        let gateway = format!("{STACK}_gateway");
        for arguments in [
            &["stack", "ps", "--no-trunc", "--filter", "desired-state=running", STACK][..],
            &["service", "logs", "--tail", "15", &gateway],
        ] {
            let output = self.engine.try_docker(arguments);
            say(&String::from_utf8_lossy(&output.stdout));
        }
        say(&self.engine.errors());
    }
}
