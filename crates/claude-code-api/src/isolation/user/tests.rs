use std::{collections::HashMap, fs};

use boot::Settings;

use super::*;

/// Any user will do.
fn agent() -> SystemUser {
    SystemUser { name: "tester".into(), uid: 4_294_960_000, gid: 4_294_960_000 }
}

struct Bench {
    directory: tempfile::TempDir,
    workspace: Workspace,
}

impl Bench {
    /// `None` where users cannot be changed.
    fn new(test: &str) -> Option<Self> {
        if !nix::unistd::geteuid().is_root() {
            assert!(
                std::env::var_os("FORBID_SKIPS").is_none(),
                "{test}: only root may change users"
            );
            eprintln!("SKIPPED: {test}: only root may change users");
            return None;
        }
        let directory = tempfile::tempdir().unwrap();
        let at = |name: &str| directory.path().join(name);
        for name in ["bin", "tmp", "tools", "cache"] {
            fs::create_dir(at(name)).unwrap();
        }
        fs::write(at("bin/claude"), "").unwrap();
        let workspace = Workspace::open(&at("workspace")).unwrap();
        let bench = Self { directory, workspace };
        for (name, mode) in [
            ("", 0o755),
            ("bin", 0o755),
            ("bin/claude", 0o755),
            ("tmp", 0o1777),
            ("tools", 0o755),
            ("cache", 0o777),
        ] {
            bench.set(name, mode);
        }
        Some(bench)
    }

    fn at(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn set(&self, name: &str, mode: u32) {
        fs::set_permissions(self.at(name), fs::Permissions::from_mode(mode)).unwrap();
    }

    fn config(&self) -> Config {
        let text = |name: &str| self.at(name).to_str().unwrap().to_owned();
        let env: HashMap<String, String> = [
            ("CLAUDE_BIN", text("bin/claude")),
            ("TMPDIR", text("tmp")),
            ("AGENT_READ_PATHS", text("tools")),
            ("AGENT_WRITE_PATHS", text("cache") + ":/nonexistent"),
            ("AGENT_USER", "4294960000".into()),
        ]
        .map(|(name, value)| (name.to_owned(), value))
        .into();
        let mut settings = Settings::new(&env);
        let config = Config::read(&mut settings);
        settings.finish().unwrap();
        config
    }
}

#[tokio::test]
async fn what_keeps_a_user_from_working_is_found_and_named() {
    let Some(bench) = Bench::new("what_keeps_a_user_from_working_is_found_and_named") else {
        return;
    };
    let config = bench.config();
    let root = bench.workspace.root().to_owned();
    assert_eq!(config.obstacle_to_user(&agent(), &root).await, None);
    for (name, closed, open, said) in [
        ("bin", 0o700, 0o755, "may not enter"),
        ("bin/claude", 0o744, 0o755, "may not execute"),
        ("tmp", 0o700, 0o1777, "TMPDIR"),
        ("tools", 0o711, 0o755, "may not read"),
        ("cache", 0o755, 0o777, "may not write to"),
        ("", 0o700, 0o755, "may not enter"),
        ("workspace", 0o750, 0o700, "the workspace"),
    ] {
        bench.set(name, closed);
        let found = config.obstacle_to_user(&agent(), &root).await.expect(name);
        let why = format!("{}; {}", found.why, found.fix);
        let path = bench.at(name).canonicalize().unwrap().display().to_string();
        let path = path.trim_end_matches('/');
        assert!(why.contains(said) && why.contains(&format!(" {path}")), "{name}: {why}");
        assert!(why.contains("chmod o+") && why.contains("AGENT_USER=none"), "{why}");
        bench.set(name, open);
    }
    let missing = bench.at("missing/workspace");
    assert_eq!(config.obstacle_to_user(&agent(), &missing).await, None, "`up` will make it");
}

#[tokio::test]
async fn a_replica_opens_the_ways_or_says_why_agents_have_no_user() {
    let Some(bench) = Bench::new("a_replica_opens_the_ways_or_says_why_agents_have_no_user") else {
        return;
    };
    let mode = || fs::metadata(bench.workspace.root()).unwrap().permissions().mode() & 0o777;
    bench.set("bin", 0o700);
    let mut config = bench.config();
    assert!(!config.runs_agents_as_root() && config.isolation.enforced().uid);
    config.settle_user(&bench.workspace).await;
    assert!(
        matches!(config.isolation.user, AgentUser::Unavailable { .. }),
        "{:?}",
        config.isolation
    );
    assert!(config.runs_agents_as_root() && !config.isolation.enforced().uid);
    let said = config.preflight();
    let about = said.iter().filter(|line| line.contains("not as one of their own")).count();
    assert_eq!((about, mode()), (1, 0o700), "{said:?}");

    bench.set("bin", 0o755);
    let mut config = bench.config();
    config.settle_user(&bench.workspace).await;
    assert!(config.isolation.enforced().uid && !config.runs_agents_as_root());
    assert_eq!(mode(), 0o710);
}

#[test]
fn without_confinement_agents_have_no_user_of_their_own() {
    let env = HashMap::from([("AGENT_ISOLATION".to_owned(), "none".to_owned())]);
    assert_eq!(Config::read(&mut Settings::new(&env)).isolation.user, AgentUser::Own);
}
