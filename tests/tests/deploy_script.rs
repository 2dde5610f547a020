//! `deploy-swarm.sh` before anything is deployed: what it refuses, with which exit code, and what it says.
//! A fake `docker` on the `PATH` plays engines that are not here; `tests/swarm` has a real one.

use std::{
    fs,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    process::Command,
};

use tempfile::TempDir;

const KEY: &str = "sk-ant-s3cret-0123456789";

/// A machine with a copy of the script, and what `docker` is to answer.
struct Machine {
    directory: TempDir,
}

/// How a run of the script ended.
struct End {
    code: Option<i32>,
    said: String,
    /// The `docker` commands it ran, one a line.
    docker: String,
}

impl Machine {
    /// Without a docker.
    fn bare() -> Self {
        let directory = TempDir::new().unwrap();
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
        let stack = directory.path().join("stack");
        fs::create_dir_all(stack.join("docker")).unwrap();
        fs::create_dir_all(directory.path().join("bin")).unwrap();
        for file in [
            "Cargo.toml",
            "deploy-swarm.sh",
            "swarm.yml",
            "docker/swarm.nfs.yml",
            "docker/swarm.git-token.yml",
        ] {
            fs::copy(root.join(file), stack.join(file)).unwrap();
        }
        Self { directory }
    }

    /// With a docker that does what `cases` say: the arms of a shell `case` over its arguments.
    fn with_docker(cases: &str) -> Self {
        let machine = Self::bare();
        let docker = machine.directory.path().join("bin/docker");
        let log = machine.directory.path().join("docker.log");
        let script = format!(
            "#!/bin/bash\nprintf '%s\\n' \"$*\" >> '{}'\nenv >> '{}.env'\ncase \"$*\" in\n{cases}\n*) echo \"unexpected: $*\" >&2; exit 99;;\nesac\n",
            log.display(),
            log.display()
        );
        fs::write(&docker, script).unwrap();
        fs::set_permissions(&docker, fs::Permissions::from_mode(0o755)).unwrap();
        machine
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// Puts `text` where the script looks for its settings first.
    fn settings(self, text: &str) -> Self {
        let file = self.path("stack/.env");
        fs::write(&file, text).unwrap();
        fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).unwrap();
        self
    }

    fn run(&self, arguments: &[&str]) -> End {
        let mut command = Command::new("bash");
        command.arg(self.path("stack/deploy-swarm.sh")).args(arguments).env_clear();
        // Of this machine's programs only the usual ones: a docker of its own would not be asked for.
        command.env("PATH", format!("{}:{}", self.path("bin").display(), self.tools().display()));
        let output = command.output().expect("bash is there");
        let said = [&output.stdout[..], &output.stderr].concat();
        let said = String::from_utf8(said).unwrap();
        assert!(!said.contains("s3cret"), "a secret is printed: {said}");
        let docker = fs::read_to_string(self.path("docker.log")).unwrap_or_default();
        assert!(!docker.contains("s3cret"), "a secret on a command line: {docker}");
        let environment = fs::read_to_string(self.path("docker.log.env")).unwrap_or_default();
        assert!(!environment.contains("s3cret"), "a secret in a program's environment");
        End { code: output.status.code(), said, docker }
    }

    /// The programs the script uses, and no docker.
    fn tools(&self) -> PathBuf {
        let tools = self.path("tools");
        if !tools.exists() {
            fs::create_dir(&tools).unwrap();
            for name in [
                "awk",
                "bash",
                "cat",
                "chmod",
                "cut",
                "dirname",
                "env",
                "find",
                "git",
                "grep",
                "head",
                "mkdir",
                "sed",
                "sha256sum",
                "sleep",
                "sort",
                "tr",
                "uname",
                "wc",
                "xargs",
            ] {
                let there = ["/usr/bin", "/bin"].map(|it| Path::new(it).join(name));
                let program = there.iter().find(|it| it.exists());
                let program = program.unwrap_or_else(|| panic!("there is no {name}"));
                std::os::unix::fs::symlink(program, tools.join(name)).unwrap();
            }
        }
        tools
    }
}

impl End {
    /// Checks the exit code, and that all of this was said.
    fn is(&self, code: i32, said: &[&str]) {
        assert_eq!(self.code, Some(code), "{}", self.said);
        for part in said {
            assert!(self.said.contains(part), "'{part}' is not in: {}", self.said);
        }
    }
}

/// An engine that manages a swarm of so many nodes.
fn manager(nodes: usize) -> String {
    let ids: String = (0..nodes).map(|n| format!("node{n}\\n")).collect();
    format!(
        "version*) echo 20.10;;\n\
         *LocalNodeState*) echo 'active true';;\n\
         *Cluster.ID*) echo cluster;;\n\
         'node ls'*) printf '{ids}';;\n\
         'node inspect'*) shift 4; for node; do echo 'ready active 16000000000 34359738368'; done;;"
    )
}

fn with_key(more: &str) -> String {
    format!("ANTHROPIC_API_KEY={KEY}\n{more}")
}

#[test]
fn the_help_has_an_example_and_every_exit_code() {
    let end = Machine::bare().run(&["--help"]);
    end.is(
        0,
        &[
            "Usage:",
            "--no-build",
            "--registry",
            "--down",
            "Example:",
            "Exit codes: 0 done, 1",
            "2 wrong",
            "3 this machine",
            "4 not all",
        ],
    );
}

#[test]
fn wrong_options_are_refused() {
    for (arguments, said) in [
        (&["--nope"][..], "no such option: --nope"),
        (&["--stack"], "--stack needs a value"),
        (&["--stack", "a;b"], "--stack: use small letters"),
        (&["--timeout", "soon"], "--timeout: give a number"),
        (&["--registry", "a b"], "--registry: give HOST"),
        (&["--env-file", "/nonexistent"], "cannot read /nonexistent"),
        (&["--now"], "--now goes with --down"),
    ] {
        Machine::bare().settings(&with_key("")).run(arguments).is(2, &[said]);
    }
}

#[test]
fn settings_that_are_none_are_named_by_line() {
    for (text, said) in [
        ("# nothing\n", "ANTHROPIC_API_KEY=sk-ant-"),
        ("ANTHROPIC_API_KEY=a\njust words s3cret\n", "line 2: not a setting"),
        ("ANTHROPIC_API_KEY=\"s3cret\nmore\"\n", "line 1: ANTHROPIC_API_KEY begins with a quote"),
        ("ANTHROPIC_API_KEY=s3cret\"}\n", "ANTHROPIC_API_KEY: that is no key"),
        ("CLAUDE_CODE_CREDENTIALS_JSON={\"key\": \"s3cret\"}\n", "the credential must be"),
        ("CLAUDE_CODE_CREDENTIALS_SECRET=/nonexistent\n", "cannot read /nonexistent"),
    ] {
        let end = Machine::with_docker("").settings(text).run(&[]);
        end.is(2, &[said]);
        assert_eq!(end.docker, "", "nothing is done before the settings are right");
    }
}

#[test]
fn the_file_is_data_and_never_run() {
    let machine = Machine::bare();
    let mark = machine.path("mark");
    let text = with_key(&format!(
        "WORKFLOW_REPLICAS=$(touch {0})\nPATH=/nowhere\nexport LOG_LEVEL='`touch {0}`'\r\n",
        mark.display()
    ));
    let end = machine.settings(&text).run(&[]);
    end.is(
        3,
        &["line 2: PATH is no setting of the stack", "there is no docker here"]
            .map(|it| it.strip_prefix("line 2: ").unwrap_or(it)),
    );
    assert!(!mark.exists(), "something in the file was run");
}

#[test]
fn what_the_machine_lacks_is_told_with_how_to_get_it() {
    let run = |machine: Machine| machine.settings(&with_key("")).run(&[]);
    run(Machine::bare()).is(3, &["there is no docker here", "apt-get install docker.io"]);
    run(Machine::with_docker("version*) echo 'Cannot connect' >&2; exit 1;;"))
        .is(3, &["does not answer: Cannot connect", "systemctl start docker"]);
    run(Machine::with_docker(
        "version*) echo 1;;\n*LocalNodeState*) echo 'active false';;\n*Name*) echo here;;",
    ))
    .is(3, &["is a worker", "docker node promote here"]);
    run(Machine::with_docker("version*) echo 1;;\n*LocalNodeState*) echo 'locked false';;"))
        .is(3, &["not usable (locked)"]);
    run(Machine::with_docker(
        "version*) echo 1;;\n*LocalNodeState*) echo 'inactive false';;\n'swarm init'*) echo 'two addresses' >&2; exit 1;;",
    ))
    .is(3, &["two addresses", "--advertise-addr"]);
}

#[test]
fn several_nodes_need_a_shared_volume_and_a_registry() {
    let run = |more: &str, arguments: &[&str]| {
        Machine::with_docker(&manager(2)).settings(&with_key(more)).run(arguments)
    };
    run("", &[]).is(2, &["2 nodes, but the volume is local", "NFS_SERVER"]);
    run("NFS_SERVER=nas\nNFS_PATH=/srv\n", &[])
        .is(2, &["only this one has the images", "--registry"]);
    // Told otherwise, it goes on: as far as to the images, which the fake does not build.
    run("", &["--allow-local-volume"]).is(1, &["the image of gateway cannot be built"]);
}

#[test]
fn reservations_fit_the_machine_or_are_refused() {
    let small = manager(1).replace("16000000000 34359738368", "2000000000 4294967296");
    let run = |more: &str| Machine::with_docker(&small).settings(&with_key(more)).run(&[]);
    let end = run("");
    end.is(
        1,
        &[
            "the swarm has 2.00 CPUs",
            "CLAUDE_CPU_RESERVATION=0.1",
            "CLAUDE_MEMORY_RESERVATION=",
            "cannot be built",
        ],
    );
    run("CLAUDE_CPU_RESERVATION=1\n")
        .is(2, &["less than all replicas together reserve", "*_CPU_RESERVATION"]);
    // Room for the replicas, and none for new ones beside them.
    let tight = "WORKFLOW_CPU_RESERVATION=0.1\nPULL_CPU_RESERVATION=0.1\nCLAUDE_CPU_RESERVATION=0.3\nGATEWAY_CPU_RESERVATION=0.1\nMORE=\n";
    run(tight).is(1, &["updates go stop-first"]);
    run("CLAUDE_REPLICAS=1   # a comment\n").is(1, &["cannot be built"]);
    run("CLAUDE_REPLICAS=many\n").is(2, &["CLAUDE_REPLICAS: give a number"]);
    run("JOB_TIMEOUT_SECONDS=1h\n").is(2, &["JOB_TIMEOUT_SECONDS: give a number"]);
    run("PUBLISH_MODE=both\n").is(2, &["PUBLISH_MODE: host or ingress, not both"]);
}

#[test]
fn secrets_go_by_standard_input_under_a_name_for_their_content() {
    let cases = format!(
        "{}\n'image inspect --format {{{{.Id}}}}'*) echo sha256:0;;\n'image inspect'*) echo 1000000;;\n\
         'secret inspect'*) exit 1;;\n'secret create'*) cat >> \"$(dirname \"$0\")/../secrets\"; echo >> \"$(dirname \"$0\")/../secrets\";;\n\
         'stack deploy'*) echo 'no such thing' >&2; exit 1;;",
        manager(1)
    );
    let run = |key: &str| {
        let machine = Machine::with_docker(&cases)
            .settings(&format!("ANTHROPIC_API_KEY='{key}'\nGITHUB_TOKEN=ghp_s3cret\n"));
        let end = machine.run(&["--no-build"]);
        end.is(1, &["docker stack deploy failed"]);
        let secrets = fs::read_to_string(machine.path("secrets")).unwrap();
        let names: Vec<_> = end
            .docker
            .lines()
            .filter(|line| line.starts_with("secret create"))
            .map(|line| line.split(' ').nth(4).unwrap().to_owned())
            .collect();
        (secrets, names)
    };
    let (secrets, names) = run(KEY);
    assert_eq!(secrets, format!("{{\"apiKey\": \"{KEY}\"}}\nghp_s3cret\n"));
    let (_, again) = run(KEY);
    let (_, other) = run("sk-ant-s3cret-another");
    assert_eq!(names, again, "the same content has the same name");
    assert!(names.first() != other.first() && names.last() == other.last(), "{names:?} {other:?}");
    assert!(names.first().unwrap().starts_with("workflow-stack_claude_credentials_"), "{names:?}");
}

#[test]
fn taking_away_what_is_not_there_is_no_error() {
    let none = "version*) echo 1;;\n*ControlAvailable*) echo true;;\n'stack services'*) ;;";
    Machine::with_docker(none).run(&["--down"]).is(0, &["there is no stack workflow-stack"]);
    let no_swarm = "version*) echo 1;;\n*ControlAvailable*) echo false;;";
    Machine::with_docker(no_swarm).run(&["--down"]).is(3, &["no manager of a swarm"]);
    Machine::bare().run(&["--down"]).is(3, &["there is no docker here"]);
}

/// The image, the tests and what the CLI's stand-in says are of one version.
#[test]
fn the_image_has_the_cli_that_is_tested() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let version = fs::read_to_string(root.join("claude-code.version")).unwrap();
    for file in ["package.json", "package-lock.json"] {
        let path = root.join("../docker/claude-cli").join(file);
        let json: serde_json::Value = serde_json::from_slice(&fs::read(path).unwrap()).unwrap();
        let wanted = match file {
            "package.json" => &json["dependencies"]["@anthropic-ai/claude-code"],
            _ => &json["packages"]["node_modules/@anthropic-ai/claude-code"]["version"],
        };
        assert_eq!(wanted, version.trim(), "docker/claude-cli/{file}");
    }
}
