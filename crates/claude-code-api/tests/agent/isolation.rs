//! What an agent can reach.

use std::{
    fs,
    os::unix::fs::{MetadataExt as _, PermissionsExt as _},
    path::Path,
    time::{Duration, Instant},
};

use boot::{AgentUser, SystemUser};
use claude_code_api::{Isolation, IsolationMode};
use serde_json::json;

use crate::bench::Bench;

/// A script that says whether each of these commands works.
fn script(commands: &[(&str, String)]) -> String {
    let lines = commands.iter().map(|(name, command)| {
        format!("if ({command}) > /dev/null 2>&1; then echo {name}; fi >> said\n")
    });
    format!(": > said\n{}prompt; init; result; idle; closed", lines.collect::<String>())
}

async fn what_works(bench: &Bench, commands: &[(&str, String)]) -> Vec<String> {
    fs::write(bench.app().join("script"), script(commands)).unwrap();
    let outcome = bench.run().await;
    assert_eq!(outcome.code(), None, "{}", outcome.error());
    bench.read("said").lines().map(str::to_owned).collect()
}

#[tokio::test]
async fn an_agent_reaches_its_checkout_and_what_the_operator_adds() {
    let mut bench = Bench::new("").await;
    let root = bench.root.path().canonicalize().unwrap();
    let outside = tempfile::tempdir().unwrap();
    let at = |name: &str| outside.path().canonicalize().unwrap().join(name);
    for directory in ["read", "write", "other"] {
        fs::create_dir(at(directory)).unwrap();
        fs::write(at(directory).join("file"), "x").unwrap();
    }
    fs::create_dir_all(root.join("app/deep")).unwrap();
    fs::create_dir_all(root.join("sibling")).unwrap();
    fs::write(root.join("sibling/file"), "x").unwrap();
    let show = |name: &str| at(name).display().to_string();
    let root = root.display();
    let commands = [
        ("own", "echo > ../app/new; git init ../app/deep/repository".to_owned()),
        (
            "session",
            "for it in \"$CLAUDE_CONFIG_DIR\"/projects/*; do echo > \"$it/new\"; done".to_owned(),
        ),
        (
            "private",
            "echo > ~/new; echo > \"$TMPDIR/new\"; echo > \"$CLAUDE_CONFIG_DIR/new\"".to_owned(),
        ),
        ("read", format!("cat {}/file", show("read"))),
        ("change-read", format!("echo > {}/file", show("read"))),
        ("write", format!("echo > {}/new", show("write"))),
        ("other", format!("cat {}/file", show("other"))),
        ("sibling", format!("cat {root}/sibling/file")),
        ("list", format!("ls {root}")),
        ("stack", format!("ls {root}/.stack")),
        ("lock", "echo > \"$TMPDIR/../lock\"".to_owned()),
        ("variable", "test \"$CARGO_HOME\" = /cargo".to_owned()),
        ("core", "test \"$(ulimit -c)\" = 0".to_owned()),
        ("umask", "test \"$(umask)\" = 0022".to_owned()),
    ];
    bench.config.isolation = Isolation {
        read: vec![at("read")],
        write: vec![at("write")],
        environment: vec![("CARGO_HOME".into(), "/cargo".into())],
        ..bench.config.isolation
    };
    let own = ["own", "session", "private"];
    let limits = ["variable", "core", "umask"];
    assert_eq!(
        what_works(&bench, &commands).await,
        [&own[..], &["read", "write"], &limits].concat()
    );
    bench.config.isolation.mode = IsolationMode::None;
    let all: Vec<_> = commands.iter().map(|(name, _)| *name).collect();
    assert_eq!(what_works(&bench, &commands).await, all);
}

#[tokio::test]
async fn in_a_part_of_a_checkout_an_agent_reaches_all_of_it() {
    let mut bench = Bench::new("").await;
    fs::create_dir_all(bench.app().join("deep/er")).unwrap();
    bench.workspace = Some("app/deep/er");
    let said = bench.app().join("deep/er/said");
    let script = "echo > ../../new && echo yes > said; prompt; init; result; idle; closed";
    fs::write(bench.app().join("deep/er/script"), script).unwrap();
    assert_eq!(bench.run().await.code(), None);
    assert_eq!(fs::read_to_string(said).unwrap(), "yes\n");
}

#[tokio::test]
async fn the_first_event_says_what_is_enforced() {
    let mut bench = Bench::new("prompt; init; result; idle; closed").await;
    let kernel = child_process::Enforcement::of_this_kernel();
    let whole = json!({
        "landlock": kernel.landlock,
        "scopes": kernel.scopes,
        "seccomp": kernel.seccomp,
        "uid": false,
    });
    assert_eq!(bench.run().await.connected["isolation"], whole);
    bench.config.isolation.mode = IsolationMode::None;
    let nothing = json!({"landlock": 0, "scopes": false, "seccomp": false, "uid": false});
    assert_eq!(bench.run().await.connected["isolation"], nothing);
}

/// Gives agents of a bench a user of their own, as a replica does.
pub(crate) fn give_user(bench: &mut Bench) {
    let user = SystemUser { name: "tester".into(), uid: 65534, gid: 65534 };
    bench.volume().open_ways(user.gid).unwrap();
    bench.config.isolation.user = AgentUser::Named(user);
}

/// The same, if this process may.
fn may_give_user(bench: &mut Bench, test: &str) -> bool {
    if !nix::unistd::geteuid().is_root() {
        testkit::skip(test, "only root may change users");
        return false;
    }
    give_user(bench);
    true
}

#[tokio::test]
async fn an_agent_with_a_user_of_its_own_has_its_places_for_the_time_of_its_job() {
    let mut bench = Bench::new("").await;
    if !may_give_user(
        &mut bench,
        "an_agent_with_a_user_of_its_own_has_its_places_for_the_time_of_its_job",
    ) {
        return;
    }
    let root = bench.root.path().canonicalize().unwrap();
    fs::write(root.join("app/.git/config"), "[core]\n").unwrap();
    fs::set_permissions(root.join("app"), fs::Permissions::from_mode(0o700)).unwrap();
    let stack = root.join(".stack").display().to_string();
    let commands = [
        ("user", "test \"$(id -u) $(id -G)\" = '65534 65534'".to_owned()),
        ("own", "echo > new; chmod 700 .git/config; git init deep".to_owned()),
        (
            "session",
            "for it in \"$CLAUDE_CONFIG_DIR\"/projects/*; do echo > \"$it/new\"; done".to_owned(),
        ),
        (
            "private",
            "echo > ~/new; echo > \"$TMPDIR/new\"; echo > \"$CLAUDE_CONFIG_DIR/new\"".to_owned(),
        ),
        // Landlock does not decide about modes and times.
        ("mode", format!("chmod 711 {stack}/mirrors")),
        ("times", format!("touch -c -d 2000-01-01 {stack}/mirrors")),
    ];
    let own = ["user", "own", "session", "private"];
    assert_eq!(what_works(&bench, &commands).await, own);
    // A second job, in what the first one has made. Another version, or a replica with another user, has closed the ways.
    for way in ["jobs", ".stack", ".stack/sessions"] {
        std::os::unix::fs::chown(root.join(way), None, Some(7)).unwrap();
        fs::set_permissions(root.join(way), fs::Permissions::from_mode(0o700)).unwrap();
    }
    bench.options.resume_session_id = None;
    assert_eq!(what_works(&bench, &commands).await, own);
    fn owners(directory: &Path, found: &mut Vec<u32>) {
        for entry in fs::read_dir(directory).unwrap().map(Result::unwrap) {
            found.push(entry.metadata().unwrap().uid());
            if entry.file_type().unwrap().is_dir() {
                owners(&entry.path(), found);
            }
        }
    }
    let mut found = Vec::new();
    owners(&root, &mut found);
    assert!(found.len() > 30 && found.iter().all(|uid| *uid == 0), "{found:?}");

    // Neither the stack's nor the agents': an agent that cannot write there would not know why.
    std::os::unix::fs::chown(root.join("app"), Some(1234), None).unwrap();
    let outcome = bench.run().await;
    assert_eq!(outcome.code(), Some("isolation_unavailable"));
    assert!(outcome.error().contains("'app'") && outcome.error().contains("chown -R 0:0"));
    std::os::unix::fs::chown(root.join("app"), Some(0), None).unwrap();

    bench.config.isolation.user = AgentUser::Own;
    assert_eq!(what_works(&bench, &commands).await, ["own", "session", "private", "mode", "times"]);
}

#[tokio::test]
async fn a_user_of_its_own_is_in_the_first_event_and_lets_an_agent_of_root_run() {
    let mut bench = Bench::new("prompt; init; result; idle; closed").await;
    if !may_give_user(
        &mut bench,
        "a_user_of_its_own_is_in_the_first_event_and_lets_an_agent_of_root_run",
    ) {
        return;
    }
    bench.config.isolation.is_sandbox = false;
    let outcome = bench.run().await;
    assert_eq!((outcome.code(), &outcome.connected["isolation"]["uid"]), (None, &json!(true)));
    bench.config.isolation.user = AgentUser::Own;
    assert_eq!(bench.run().await.code(), Some("agent_refuses_root"));
}

#[tokio::test]
#[ignore = "measures"]
async fn what_a_user_of_its_own_costs() {
    let mut bench = Bench::new("prompt; init; result; idle; closed").await;
    if !may_give_user(&mut bench, "what_a_user_of_its_own_costs") {
        return;
    }
    let users = [AgentUser::Own, bench.config.isolation.user.clone()];
    let mut times: [Vec<Duration>; 2] = Default::default();
    for _ in 0..200 {
        for (user, times) in users.iter().zip(&mut times) {
            bench.config.isolation.user = user.clone();
            let start = Instant::now();
            bench.run().await;
            times.push(start.elapsed());
        }
    }
    let median = times.map(|mut times| {
        times.sort();
        times[times.len() / 2]
    });
    println!(
        "a job of the stack's user takes {:?}, one of another {:?} (medians)",
        median[0], median[1]
    );
    assert!(median[1] < median[0] + Duration::from_millis(5), "{median:?}");
}

#[tokio::test]
#[ignore = "measures"]
async fn what_the_confinement_costs() {
    let mut bench = Bench::new("prompt; init; result; idle; closed").await;
    let mut times: [Vec<Duration>; 2] = Default::default();
    // Alternating, so that other load meets both.
    for _ in 0..200 {
        for (mode, times) in
            [IsolationMode::None, IsolationMode::BestEffort].into_iter().zip(&mut times)
        {
            bench.config.isolation.mode = mode;
            let start = Instant::now();
            bench.run().await;
            times.push(start.elapsed());
        }
    }
    let median = times.map(|mut times| {
        times.sort();
        times[times.len() / 2]
    });
    println!(
        "a job without confinement takes {:?}, with confinement {:?} (medians)",
        median[0], median[1]
    );
    assert!(median[1] < median[0] + Duration::from_millis(5), "{median:?}");
}
