//! What an agent can reach.

use std::{
    fs,
    time::{Duration, Instant},
};

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
        ..Isolation::default()
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
