use std::{collections::HashMap, fs};

use boot::{AgentUser, ChosenBy, Settings};

use super::*;
use crate::IsolationMode;

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
        fs::write(at("socket"), "").unwrap();
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
            ("DOCKER_HOST", format!("unix://{}", text("socket"))),
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
    let tried = async |root: &Path| config.try_user(&agent(), root).await.unwrap();
    assert_eq!(tried(&root).await.obstacle, None);
    for (name, closed, open, said) in [
        ("bin", 0o700, 0o755, "may not enter"),
        ("bin/claude", 0o744, 0o755, "may not execute"),
        ("tmp", 0o700, 0o1777, "TMPDIR"),
        ("", 0o700, 0o755, "may not enter"),
        ("workspace", 0o750, 0o700, "the workspace"),
    ] {
        bench.set(name, closed);
        let found = tried(&root).await.obstacle.expect(name);
        let path = bench.at(name).canonicalize().unwrap().display().to_string();
        let path = path.trim_end_matches('/');
        assert!(found.why.contains(said) && found.why.contains(&format!(" {path}")), "{found:?}");
        // Nothing that makes agents root, or opens a home.
        for bad in ["none", "IS_SANDBOX", "chmod"] {
            let is_volume = name == "workspace" && bad == "chmod";
            assert_eq!(found.fix.contains(bad), is_volume, "{}", found.fix);
        }
        bench.set(name, open);
    }
    let missing = bench.at("missing/workspace");
    assert_eq!(tried(&missing).await.obstacle, None, "`up` will make it");
    assert!(!missing.parent().unwrap().exists());
    assert_eq!(fs::read_dir(bench.workspace.temporary()).unwrap().count(), 0);
}

/// An agent can change the mode of a cache that is its user's, for all later replicas.
#[tokio::test]
async fn what_agents_can_change_does_not_decide_who_they_are() {
    let Some(bench) = Bench::new("what_agents_can_change_does_not_decide_who_they_are") else {
        return;
    };
    std::os::unix::fs::chown(bench.at("cache"), Some(agent().uid), None).unwrap();
    bench.set("cache", 0o000);
    bench.set("tools", 0o711);
    let mut config = bench.config();
    config.settle_user(&bench.workspace).await.unwrap();
    let user = config.isolation.user.user().map(|user| user.uid);
    assert_eq!((user, config.isolation.refusal_of_user()), (Some(agent().uid), None));
    let said = config.preflight();
    for (name, verb) in [("cache", "may not write to"), ("tools", "may not read")] {
        let is_about = |line: &String| line.contains(verb) && line.contains(&format!("/{name} "));
        assert!(said.iter().any(is_about), "{name}: {said:?}");
    }
}

/// Agents can use up the processes of their user, memory and the disk. That once gave the agents of later replicas the user of
/// the stack.
#[tokio::test]
async fn without_an_answer_a_replica_does_not_start() {
    const TEST: &str = "isolation::user::tests::without_an_answer_a_replica_does_not_start";
    const AGAIN: &str = "WITHOUT_PROCESSES";
    let Some(bench) = Bench::new(TEST) else { return };
    let mut config = bench.config();
    if std::env::var_os(AGAIN).is_some() {
        let why = config.settle_user(&bench.workspace).await.unwrap_err();
        assert!(why.contains("cannot be started"), "{why}");
        return;
    }
    config.settle_user(&bench.workspace).await.unwrap();
    // This test again, in a process whose children may be no others of their user, while there is one.
    let other = as_user(Guest::new("/bin/sleep").args(["60"]), &agent());
    let mut other = other.die_with_parent(Signal::SIGKILL).spawn().await.unwrap();
    let program = std::env::current_exe().unwrap();
    let line = format!("exec prlimit --nproc=0 {} --exact {TEST}", program.display());
    let mut child = Guest::new("/bin/sh")
        .args(["-c", &line])
        .env("PATH", "/usr/bin:/bin")
        .env("TMPDIR", std::env::temp_dir())
        .env(AGAIN, "1")
        .spawn()
        .await
        .unwrap();
    let ended = child.wait().await.unwrap();
    other.signal(Signal::SIGKILL).unwrap();
    other.wait().await.unwrap();
    assert!(ended.success());

    use nix::libc::{EAGAIN, EDQUOT, EINVAL, EIO, EMFILE, ENOMEM, ENOSPC, EOPNOTSUPP, EPERM};
    let is_for_good = |error| is_for_good(&io::Error::from_raw_os_error(error));
    assert_eq!([EAGAIN, ENOMEM, EMFILE, ENOSPC, EDQUOT, EIO].map(is_for_good), [false; 6]);
    assert_eq!([EPERM, EOPNOTSUPP, EINVAL].map(is_for_good), [true; 3]);
}

#[tokio::test]
async fn sockets_are_judged_for_the_agents_user() {
    let Some(bench) = Bench::new("sockets_are_judged_for_the_agents_user") else {
        return;
    };
    let usable = async || {
        let mut config = bench.config();
        config.settle_user(&bench.workspace).await.unwrap();
        config.isolation.control_sockets().contains(&bench.at("socket"))
    };
    bench.set("socket", 0o660);
    assert!(bench.config().isolation.control_sockets().contains(&bench.at("socket")), "root may");
    assert!(!usable().await);
    bench.set("socket", 0o666);
    assert!(usable().await);
}

#[tokio::test]
async fn a_replica_opens_the_ways_or_refuses_jobs() {
    let Some(bench) = Bench::new("a_replica_opens_the_ways_or_refuses_jobs") else {
        return;
    };
    let mode = || fs::metadata(bench.workspace.root()).unwrap().permissions().mode() & 0o777;
    bench.set("bin", 0o700);
    let mut config = bench.config();
    assert!(!config.runs_agents_as_root() && config.isolation.enforced().uid);
    config.settle_user(&bench.workspace).await.unwrap();
    let is_unavailable =
        matches!(config.isolation.user, AgentUser::Unavailable { by: ChosenBy::Operator, .. });
    assert!(is_unavailable, "{:?}", config.isolation);
    assert!(!config.runs_agents_as_root() && !config.isolation.enforced().uid);
    let refusal = config.isolation.check().unwrap_err();
    assert_eq!(refusal.code, contract::Code::IsolationUnavailable);
    assert!(refusal.sentence.contains("/usr/local"), "{refusal}");
    let said = config.preflight();
    let about = said.iter().filter(|line| line.starts_with("every job will be refused")).count();
    assert_eq!((about, mode()), (1, 0o700), "{said:?}");

    bench.set("bin", 0o755);
    let mut config = bench.config();
    config.settle_user(&bench.workspace).await.unwrap();
    assert!(config.isolation.enforced().uid && config.isolation.check().is_ok());
    assert_eq!(mode(), 0o710);
}

/// By default, where nothing is required, and as root only in a sandbox.
#[test]
fn the_user_of_the_stack_stands_in_only_for_the_default_user_of_an_ordinary_stack() {
    let is_root = nix::unistd::geteuid().is_root();
    for (by, mode, is_sandbox, is_refused) in [
        (ChosenBy::Operator, IsolationMode::BestEffort, true, true),
        (ChosenBy::Stack, IsolationMode::Require, true, true),
        (ChosenBy::Stack, IsolationMode::BestEffort, false, is_root),
        (ChosenBy::Stack, IsolationMode::BestEffort, true, false),
    ] {
        let user = AgentUser::Unavailable { by, why: "it may not".into(), fix: "let it".into() };
        let isolation = Isolation { user, mode, is_sandbox, ..Isolation::default() };
        assert_eq!(isolation.refusal_of_user().is_some(), is_refused, "{by:?} {mode:?}");
        let said = isolation.preflight();
        assert!(said.iter().any(|line| line.contains("it may not; let it")), "{said:?}");
    }
}

#[test]
fn without_confinement_agents_have_no_user_of_their_own() {
    let read = |pairs: &[(&str, &str)]| {
        let pairs = pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
        let env: HashMap<String, String> = pairs.collect();
        let mut settings = Settings::new(&env);
        (Config::read(&mut settings).isolation.user, settings.finish().is_ok())
    };
    assert_eq!(read(&[("AGENT_ISOLATION", "none")]), (AgentUser::Own, true));
    let both = [("AGENT_ISOLATION", "none"), ("AGENT_USER", "4294960000")];
    assert_eq!(read(&both), (AgentUser::Own, false), "one contradicts the other");
    assert_eq!(read(&[both[0], ("AGENT_USER", "none")]), (AgentUser::Own, true));
}
