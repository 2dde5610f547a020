//! Properties of the deployment.

use std::{fs, sync::Arc};

use serde_json::{Value, json};

use crate::{
    bench::{Bench, KEY, STACK, TOKEN},
    command::say,
    images,
};

const PARTS: [&str; 4] = ["gateway", "workflow-api", "github-pull-api", "claude-code-api"];

/// The process limit of a claude container.
const PIDS: u32 = 4096;

pub(crate) async fn images_are_small_and_labelled(bench: Arc<Bench>) {
    for part in PARTS {
        let name = format!("workflow-stack/{part}");
        let above = images::size(&bench.engine, &name) - bench.base_size;
        say(&format!("{name}: {:.1} MB above its base", to_mb(above)));
        // git, Git LFS and ssh are most of the pull image.
        let most = match part {
            "claude-code-api" => u64::MAX,
            "github-pull-api" => 150_000_000,
            _ => 40_000_000,
        };
        assert!(above < most, "{name} is too big");
        let image = bench.inspect(&name);
        let config = &image["Config"];
        // The others become this user when they have started.
        let user = if part == "workflow-api" { "1001:1001" } else { "" };
        assert_eq!(config["User"], user, "{name}");
        // This image is built from the target for services that need only their own program.
        let program = if part == "workflow-api" { "service" } else { part };
        assert_eq!(config["Entrypoint"], json!([format!("/usr/local/bin/{program}")]));
        let label = |label: &str| &config["Labels"][format!("org.opencontainers.image.{label}")];
        assert_eq!(label("title"), &json!(name.replace('/', " ")));
        assert_eq!(label("licenses"), "MIT OR Apache-2.0");
        assert_eq!(label("version"), env!("CARGO_PKG_VERSION"));
        assert_eq!(label("revision").as_str().unwrap().len(), 40, "{}", label("revision"));
    }
    for tool in ["git", "rg", "bash"] {
        let image = "workflow-stack/claude-code-api";
        bench.engine.docker(&["run", "--rm", "--entrypoint", tool, image, "--version"]);
    }
    let cli =
        ["run", "--rm", "--entrypoint", "claude", "workflow-stack/claude-code-api", "--version"];
    let version = include_str!("../../../claude-code.version").trim();
    assert!(bench.engine.docker(&cli).starts_with(version), "the CLI is not {version}");
    let node =
        ["run", "--rm", "--entrypoint", "node", "workflow-stack/claude-code-api", "--version"];
    assert!(!bench.engine.try_docker(&node).status.success(), "the image contains Node");
}

fn to_mb(bytes: u64) -> f64 {
    f64::from(u32::try_from(bytes / 1000).unwrap()) / 1000.0
}

pub(crate) async fn deploying_again_changes_nothing(bench: Arc<Bench>) {
    let containers = || {
        let mut all: Vec<_> = PARTS.iter().flat_map(|part| bench.containers(part)).collect();
        all.sort();
        all
    };
    let before = containers();
    assert_eq!(before.len(), 12);
    let said = bench.deploy(&["--no-build"]);
    for url in [":15000/api/workflow", ":14000/api/pull", ":13000/api/execute"] {
        assert!(said.contains(url), "{said}");
    }
    assert!(!said.contains(KEY) && !said.contains(TOKEN), "{said}");
    assert_eq!(containers(), before, "containers were replaced");
    for id in before {
        let container = bench.inspect(&id);
        let host = &container["HostConfig"];
        assert_eq!(
            (&host["ReadonlyRootfs"], &host["CapDrop"]),
            (&json!(true), &json!(["ALL"])),
            "{}",
            container["Name"]
        );
        check_rights(&container);
        assert!(
            container["Config"]["Image"].as_str().unwrap().starts_with("sha256:"),
            "not pinned"
        );
    }
    for id in bench.containers("claude-code-api") {
        assert_eq!(bench.inspect(&id)["HostConfig"]["PidsLimit"], json!(PIDS));
        // The file of cgroup v2, and that of v1.
        let files = "cat /sys/fs/cgroup/pids.max /sys/fs/cgroup/pids/pids.max 2>/dev/null";
        let limit = bench.engine.try_docker(&["exec", &id, "bash", "-c", files]);
        assert_eq!(String::from_utf8_lossy(&limit.stdout).trim(), PIDS.to_string());
    }
}

/// The process of a container runs as 1001:1001, and has no capabilities but those that its service needs,
/// linux/capability.h.
fn check_rights(container: &Value) {
    const CHOWN: u64 = 1;
    const DAC_OVERRIDE: u64 = 1 << 1;
    const FOWNER: u64 = 1 << 3;
    const KILL: u64 = 1 << 5;
    const SETGID: u64 = 1 << 6;
    const SETUID: u64 = 1 << 7;
    let name = container["Name"].as_str().unwrap();
    let expected = match PARTS.into_iter().find(|part| name.contains(part)).unwrap() {
        "gateway" => DAC_OVERRIDE | FOWNER,
        "github-pull-api" => CHOWN | DAC_OVERRIDE,
        "claude-code-api" => CHOWN | DAC_OVERRIDE | FOWNER | KILL | SETGID | SETUID,
        _ => 0,
    };
    let status = fs::read_to_string(format!("/proc/{}/status", container["State"]["Pid"])).unwrap();
    let field = |field: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(field)).unwrap();
        line.split_whitespace().map(str::to_owned).collect::<Vec<_>>()
    };
    for (ids, id) in [("Uid:", "1001"), ("Gid:", "1001")] {
        assert_eq!(field(ids), [id; 4], "{name}");
    }
    for (set, expected) in
        [("CapPrm:", expected), ("CapEff:", expected), ("CapInh:", 0), ("CapAmb:", 0)]
    {
        let found = u64::from_str_radix(&field(set)[0], 16).unwrap();
        assert_eq!(found, expected, "{name}: {set}");
    }
}

pub(crate) async fn secrets_are_where_they_belong(bench: Arc<Bench>) {
    for (part, expected) in [
        ("gateway", &[][..]),
        ("workflow-api", &[]),
        ("github-pull-api", &["git_token"]),
        ("claude-code-api", &["claude_credentials"]),
    ] {
        let ids = bench.containers(part);
        assert!(!ids.is_empty(), "{part}");
        let service = bench.inspect(&format!("{STACK}_{part}"));
        let secrets = &service["Spec"]["TaskTemplate"]["ContainerSpec"]["Secrets"];
        let names: Vec<_> = secrets
            .as_array()
            .into_iter()
            .flatten()
            .map(|secret| secret["File"]["Name"].as_str().unwrap())
            .collect();
        assert_eq!(names, expected, "{part}");
        for id in ids {
            let ls = bench.engine.try_docker(&["exec", &id, "ls", "/run/secrets"]);
            let there = String::from_utf8_lossy(&ls.stdout).into_owned();
            assert_eq!(there.split_whitespace().collect::<Vec<_>>(), expected, "in {part}");
            let environment = bench.engine.docker(&["exec", &id, "env"]);
            let inspected = bench.inspect(&id).to_string();
            for secret in [KEY, TOKEN] {
                assert!(
                    !environment.contains(secret) && !inspected.contains(secret),
                    "{part} shows a secret"
                );
            }
        }
        assert!(!service.to_string().contains(KEY) && !service.to_string().contains(TOKEN));
    }
    // Neither the volume nor the logs may contain the secrets.
    let volume = bench.volume();
    for secret in [KEY, TOKEN] {
        let found = crate::command::output("grep", &["-rlF", secret, volume.to_str().unwrap()]);
        assert_eq!(found.status.code(), Some(1), "{}", String::from_utf8_lossy(&found.stdout));
        for part in PARTS {
            let logs = bench.engine.try_docker(&["service", "logs", &format!("{STACK}_{part}")]);
            assert!(!String::from_utf8_lossy(&logs.stdout).contains(secret), "{part}'s log");
        }
    }
}
