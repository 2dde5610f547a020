//! `stackctl doctor` on this machine.

use std::net::TcpListener;

use serde_json::Value;
use testkit::scripted_agent;

use crate::support::{Home, Said};

/// With all that agents need and any free ports, but for what `more` and the environment say.
async fn doctor(home: &Home, more: &[&str], environment: &[(&str, &str)]) -> Said {
    let mut arguments = vec!["doctor"];
    for flag in ["--port-workflow", "--port-pull", "--port-claude"] {
        if !more.contains(&flag) {
            arguments.extend([flag, "0"]);
        }
    }
    arguments.extend(more);
    let mut command = home.stackctl(&arguments);
    command.env("CLAUDE_BIN", scripted_agent()).env("IS_SANDBOX", "1");
    command.env("ANTHROPIC_API_KEY", "sk-ant-s3cret").envs(environment.iter().copied());
    let said = home.start(command).ended().await;
    assert!(!said.stdout.contains("s3cret") && !said.stderr.contains("s3cret"), "{said:?}");
    said
}

#[tokio::test]
async fn a_machine_that_has_everything() {
    let home = Home::new();
    let said = doctor(&home, &[], &[]).await;
    assert_eq!((said.code, &*said.stderr), (0, ""), "{said:?}");
    assert!(said.stdout.contains("2.1.197 (Claude Code)"), "{}", said.stdout);
    assert!(said.stdout.contains("an API key in ANTHROPIC_API_KEY"), "{}", said.stdout);
    assert!(
        said.stdout.ends_with("Everything is here: `stackctl up` will work.\n"),
        "{}",
        said.stdout
    );
    assert!(!home.temporary().parent().unwrap().join("workspace").exists());
    home.assert_nothing_left();
}

#[tokio::test]
async fn a_machine_that_lacks_something() {
    let home = Home::new();
    let said = home.ran(&["doctor"]).await;
    assert_eq!(said.code, 1, "{said:?}");
    assert!(said.stdout.contains("MISSING  Claude Code CLI"), "{}", said.stdout);
    assert!(said.stdout.contains("→ export ANTHROPIC_API_KEY="), "{}", said.stdout);
}

#[tokio::test]
async fn each_lack_is_named_to_programs_too() {
    let home = Home::new();
    let holder = TcpListener::bind(("127.0.0.1", 0)).unwrap();
    let port = holder.local_addr().unwrap().port().to_string();
    for (name, more, environment) in [
        ("ports", &["--port-pull", &*port][..], &[][..]),
        ("workspace", &["--workspace", "/proc/nowhere"], &[]),
        ("credential", &[], &[("CLAUDE_CODE_CREDENTIALS_JSON", "s3cret")]),
        ("settings", &[], &[("QUEUE_LIMIT", "many")]),
        ("Claude Code CLI", &[], &[("CLAUDE_BIN", "/nowhere/claude")]),
    ] {
        let said = doctor(&home, &[&["--json"], more].concat(), environment).await;
        assert_eq!(said.code, 1, "{name}: {said:?}");
        let report: Value = serde_json::from_str(&said.stdout).unwrap();
        assert_eq!(report["ok"], false);
        let missing: Vec<_> = report["findings"]
            .as_array()
            .unwrap()
            .iter()
            .filter(|finding| finding["state"] == "missing")
            .collect();
        assert!(missing.iter().any(|finding| finding["name"] == name), "{name}: {missing:#?}");
        assert!(missing.iter().all(|finding| finding["mend"].is_string()), "{missing:#?}");
    }
}
