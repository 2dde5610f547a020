//! Tests of `deploy-swarm.sh` up to the deployment: what it refuses, with which message and exit code.
//! A fake `docker` on the `PATH` plays the engine; `tests/swarm` uses a real one.

use std::{
    fs,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    process::Command,
};

use tempfile::TempDir;

const KEY: &str = "sk-ant-s3cret-0123456789";

/// A machine with a copy of the script and, if the test wants one, a fake `docker`.
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
    /// A machine without `docker`.
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
            "docker/swarm.admin-token.yml",
            "docker/swarm.git-token.yml",
            "docker/swarm.github-app.yml",
            "docker/swarm.tls.yml",
        ] {
            fs::copy(root.join(file), stack.join(file)).unwrap();
        }
        Self { directory }
    }

    /// A machine with a fake `docker`. `cases` are the arms of a shell `case` over its arguments.
    fn with_docker(cases: &str) -> Self {
        let machine = Self::bare();
        let docker = machine.directory.path().join("bin/docker");
        let log = machine.directory.path().join("docker.log");
        let script = format!(
            "#!/bin/bash\nprintf '%s\\n' \"$*\" >> '{}'\nenv >> '{}.env'\ncase \"$*\" in\n{cases}\n*) echo \"unexpected: $*\" >&2; exit 99;;\nesac\n",
            log.display(),
            log.display()
        );
        testkit::write_program(&docker, &script);
        machine
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// Writes `text` to the first file in which the script looks for settings.
    fn settings(self, text: &str) -> Self {
        let file = self.path("stack/.env");
        fs::write(&file, text).unwrap();
        fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).unwrap();
        self
    }

    fn run(&self, arguments: &[&str]) -> End {
        let mut command = Command::new("bash");
        command.arg(self.path("stack/deploy-swarm.sh")).args(arguments).env_clear();
        // Only a few of this machine's programs, so that a real docker is not found.
        command.env("PATH", format!("{}:{}", self.path("bin").display(), self.tools().display()));
        let output = command.output().expect("bash is there");
        let said = [&output.stdout[..], &output.stderr].concat();
        let said = String::from_utf8(said).unwrap();
        assert!(!said.contains("s3cret"), "a secret is printed: {said}");
        let docker = fs::read_to_string(self.path("docker.log")).unwrap_or_default();
        assert!(!docker.contains("s3cret"), "a secret on a command line: {docker}");
        let environment = fs::read_to_string(self.path("docker.log.env")).unwrap_or_default();
        assert_eq!(environment.is_empty(), docker.is_empty(), "the fake docker logs both");
        assert!(!environment.contains("s3cret"), "a secret in a program's environment");
        End { code: output.status.code(), said, docker }
    }

    /// A directory with the programs that the script uses, but without docker.
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
                "od",
                "sed",
                "sha256sum",
                "sleep",
                "sort",
                "timeout",
                "tr",
                "uname",
                "wc",
                "xargs",
            ] {
                let there = ["/usr/bin", "/bin"].map(|it| Path::new(it).join(name));
                let program = there.iter().find(|it| it.exists());
                let program = program.unwrap_or_else(|| panic!("{name} is not installed"));
                std::os::unix::fs::symlink(program, tools.join(name)).unwrap();
            }
        }
        tools
    }
}

impl End {
    /// Checks the exit code, and that the output contains all of `said`.
    fn is(&self, code: i32, said: &[&str]) {
        assert_eq!(self.code, Some(code), "{}", self.said);
        for part in said {
            assert!(self.said.contains(part), "'{part}' is not in: {}", self.said);
        }
    }
}

/// A fake engine that manages a swarm with this many nodes.
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
            "Exit codes:\n  0  done\n  1  ",
            "\n  2  ",
            "\n  3  ",
            "\n  4  ",
        ],
    );
}

#[test]
fn wrong_options_are_refused() {
    for (arguments, said) in [
        (&["--nope"][..], "unknown option --nope"),
        (&["--stack"], "--stack needs a value"),
        (&["--stack", "a;b"], "--stack: use lower-case letters"),
        (&["--timeout", "soon"], "--timeout: must be a number"),
        (&["--registry", "a b"], "--registry: must be HOST"),
        (&["--env-file", "/nonexistent"], "cannot read /nonexistent"),
        (&["--now"], "--now works only together with --down"),
    ] {
        Machine::bare().settings(&with_key("")).run(arguments).is(2, &[said]);
    }
}

#[test]
fn invalid_settings_are_reported_with_their_line() {
    for (text, said) in [
        ("# nothing\n", "ANTHROPIC_API_KEY=sk-ant-"),
        ("ANTHROPIC_API_KEY=a\njust words s3cret\n", "line 2: this is not a setting"),
        (
            "ANTHROPIC_API_KEY=\"s3cret\nmore\"\n",
            "line 1: the value of ANTHROPIC_API_KEY starts with a quote",
        ),
        ("ANTHROPIC_API_KEY=s3cret\"}\n", "ANTHROPIC_API_KEY: this is not a key"),
        ("CLAUDE_CODE_CREDENTIALS_JSON={\"key\": \"s3cret\"}\n", "the credential must be"),
        ("CLAUDE_CODE_CREDENTIALS_SECRET=/nonexistent\n", "cannot read /nonexistent"),
        ("ANTHROPIC_API_KEY=s3cret\nTLS_CERT=/nonexistent\n", "cannot read /nonexistent"),
        ("ANTHROPIC_API_KEY=s3cret\nTLS_KEY=/dev/null\n", "TLS_CERT is not set: set both"),
        (
            "ANTHROPIC_API_KEY=s3cret\nTLS_CERT=/etc/passwd\nTLS_KEY=/etc/passwd\n",
            "TLS_CERT: the file does not contain a CERTIFICATE",
        ),
    ] {
        let end = Machine::with_docker("").settings(text).run(&[]);
        end.is(2, &[said]);
        assert_eq!(end.docker, "", "docker ran although a setting is wrong");
    }
}

#[test]
fn a_key_with_a_passphrase_is_refused() {
    let machine = Machine::with_docker(&manager(1));
    let pem = |name: &str, kind: &str| {
        let path = machine.path(name);
        fs::write(&path, format!("-----BEGIN {kind}-----\nAA==\n-----END {kind}-----\n")).unwrap();
        path.display().to_string()
    };
    let certificate = pem("cert.pem", "CERTIFICATE");
    let run = |key: String| {
        let settings = format!("TLS_CERT={certificate}\nTLS_KEY={key}\n");
        let file = machine.path("stack/.env");
        fs::write(&file, with_key(&settings)).unwrap();
        machine.run(&["--no-build"])
    };
    run(pem("locked.pem", "ENCRYPTED PRIVATE KEY")).is(2, &["TLS_KEY: the key is encrypted"]);
    run(certificate.clone()).is(2, &["TLS_KEY: the file does not contain a PRIVATE KEY"]);
    run(pem("key.pem", "PRIVATE KEY")).is(1, &["the image"]);
}

#[test]
fn the_settings_file_is_never_executed() {
    let machine = Machine::bare();
    let mark = machine.path("mark");
    let text = with_key(&format!(
        "WORKFLOW_REPLICAS=$(touch {0})\nPATH=/nowhere\nexport LOG_LEVEL='`touch {0}`'\r\n",
        mark.display()
    ));
    let end = machine.settings(&text).run(&[]);
    end.is(3, &["line 3: ignoring PATH", "docker is not installed"]);
    assert!(!mark.exists(), "something in the file was executed");
}

#[test]
fn a_missing_prerequisite_is_reported_with_its_fix() {
    let run = |machine: Machine| machine.settings(&with_key("")).run(&[]);
    run(Machine::bare()).is(3, &["docker is not installed", "apt-get install docker.io"]);
    run(Machine::with_docker("version*) echo 'Cannot connect' >&2; exit 1;;"))
        .is(3, &["does not answer: Cannot connect", "systemctl start docker"]);
    run(Machine::with_docker(
        "version*) echo 1;;\n*LocalNodeState*) echo 'active false';;\n*Name*) echo here;;",
    ))
    .is(3, &["is a worker", "docker node promote here"]);
    run(Machine::with_docker("version*) echo 1;;\n*LocalNodeState*) echo 'locked false';;"))
        .is(3, &["not usable (state: locked)"]);
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
    // With the option it continues until it builds the images, which the fake cannot do.
    run("", &["--allow-local-volume"]).is(1, &["cannot build the image of gateway"]);
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
            "cannot build the image",
        ],
    );
    run("CLAUDE_CPU_RESERVATION=1\n")
        .is(2, &["the replicas together reserve more", "*_CPU_RESERVATION"]);
    // There is room for the replicas, but not for new ones beside them.
    let tight = "WORKFLOW_CPU_RESERVATION=0.1\nPULL_CPU_RESERVATION=0.1\nCLAUDE_CPU_RESERVATION=0.3\nGATEWAY_CPU_RESERVATION=0.1\nMORE=\n";
    run(tight).is(1, &["updating stop-first"]);
    run("CLAUDE_REPLICAS=1   # a comment\n").is(1, &["cannot build the image"]);
    run("CLAUDE_REPLICAS=many\n").is(2, &["CLAUDE_REPLICAS: must be a number"]);
    run("JOB_TIMEOUT_SECONDS=1h\n").is(2, &["JOB_TIMEOUT_SECONDS: must be a number"]);
    run("PUBLISH_MODE=both\n").is(2, &["PUBLISH_MODE: must be host or ingress, not both"]);
}

#[test]
fn secrets_are_passed_on_standard_input_and_named_after_their_content() {
    let cases = format!(
        "{}\n'image inspect --format {{{{.Id}}}}'*) echo sha256:0;;\n'image inspect'*) echo 1000000;;\n\
         'secret inspect'*) exit 1;;\n'secret ls'*) ;;\n'secret create'*) cat >> \"$(dirname \"$0\")/../secrets\"; echo >> \"$(dirname \"$0\")/../secrets\";;\n\
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
fn the_key_of_a_github_app_becomes_a_secret_of_the_pulls() {
    let cases = format!(
        "{}\n'image inspect --format {{{{.Id}}}}'*) echo sha256:0;;\n'image inspect'*) echo 1000000;;\n\
         'secret inspect'*) exit 1;;\n'secret ls'*) ;;\n'secret create'*) cat >> \"$(dirname \"$0\")/../secrets\";;\n\
         'stack deploy'*) exit 1;;",
        manager(1)
    );
    let run = |lines: &str, key: &str| {
        let machine = Machine::with_docker(&cases);
        let path = machine.path("app.pem");
        fs::write(&path, key).unwrap();
        let lines = lines.replace("PATH", path.to_str().unwrap());
        let machine = machine.settings(&format!("ANTHROPIC_API_KEY='{KEY}'\n{lines}"));
        let end = machine.run(&["--no-build"]);
        (end, fs::read_to_string(machine.path("secrets")).unwrap_or_default())
    };
    let (both, pem) = (
        "GITHUB_APP_ID=123\nGITHUB_APP_PRIVATE_KEY_SECRET=PATH\n",
        "-----BEGIN RSA PRIVATE KEY-----\ns3cret\n-----END RSA PRIVATE KEY-----",
    );
    let (end, secrets) = run(both, pem);
    end.is(1, &["workflow-stack_github_app_key_", "(github-pull-api)"]);
    assert!(secrets.ends_with(pem), "{secrets}");
    let is_deployed =
        |line: &str| line.starts_with("stack deploy") && line.contains("swarm.github-app.yml");
    assert!(end.docker.lines().any(is_deployed), "{}", end.docker);
    assert!(!end.docker.contains("s3cret"), "{}", end.docker);
    for (lines, key, expected) in [
        ("GITHUB_APP_ID=123\n", pem, "GITHUB_APP_PRIVATE_KEY_SECRET is not set"),
        ("GITHUB_APP_PRIVATE_KEY_SECRET=PATH\n", pem, "GITHUB_APP_ID: must be"),
        (both, "s3cret", "does not contain a PRIVATE KEY"),
    ] {
        let (end, secrets) = run(lines, key);
        end.is(2, &[expected]);
        assert_eq!(secrets, "");
    }
}

/// The first run makes a token and prints it once; the next ones keep it, although they cannot print it.
#[test]
fn a_token_for_an_administrator_is_made_once() {
    let secrets = |names: &str| {
        format!(
            "{}\n'image inspect --format {{{{.Id}}}}'*) echo sha256:0;;\n'image inspect'*) echo 1000000;;\n\
             'secret inspect'*) exit 1;;\n'secret ls'*made_admin_token_*) printf '{names}';;\n\
             'secret create'*) cat >> \"$(dirname \"$0\")/../secrets\"; echo >> \"$(dirname \"$0\")/../secrets\";;\n\
             'stack deploy --help'*) ;;\n'stack deploy'*) exit 1;;",
            manager(1)
        )
    };
    let run = |made: &str, arguments: &[&str]| {
        let machine = Machine::with_docker(&secrets(made)).settings(&with_key(""));
        let end = machine.run(arguments);
        end.is(1, &["docker stack deploy failed"]);
        (end, fs::read_to_string(machine.path("secrets")).unwrap())
    };
    let token_in = |text: &str| {
        text.lines().map(str::trim).find(|line| line.starts_with("wfs_")).map(str::to_owned)
    };
    let deployed_with = |end: &End| {
        let deploy =
            end.docker.lines().find(|line| line.contains("stack deploy --compose")).unwrap();
        deploy.contains("swarm.admin-token.yml")
    };
    let (end, secrets) = run("", &["--no-build", "--with-tokens"]);
    let token = token_in(&end.said).expect("the token is printed");
    assert!(token.len() == "wfs_".len() + 8 + 1 + 64, "{token}");
    assert_eq!(end.said.matches(&token).count(), 1, "{}", end.said);
    assert!(secrets.contains(&token) && !end.docker.contains(&token), "{}", end.docker);
    assert!(deployed_with(&end), "{}", end.docker);
    let (other, _) = run("", &["--no-build", "--with-tokens"]);
    assert_ne!(token_in(&other.said), Some(token));
    for arguments in [&["--no-build", "--with-tokens"][..], &["--no-build"]] {
        let (again, _) = run("workflow-stack_made_admin_token_0123456789ab\\n", arguments);
        assert!(deployed_with(&again), "{}", again.docker);
        assert_eq!(token_in(&again.said), None, "{}", again.said);
        again.is(1, &["an earlier run has printed", "made_admin_token_0123456789ab (gateway)"]);
    }
    let (without, _) = run("", &["--no-build"]);
    assert!(!deployed_with(&without) && token_in(&without.said).is_none(), "{}", without.said);
}

/// What the script prints at its end about a stack whose gateway answers like this.
fn printed_at_the_end(health: Option<&'static str>, environment: &[(&str, &str)]) -> String {
    printed_by(&[], health, environment)
}

/// The same for a run with these arguments.
fn printed_by(
    arguments: &[&str],
    health: Option<&'static str>,
    environment: &[(&str, &str)],
) -> String {
    let machine = Machine::bare();
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let gateway = health.map(|health| {
        std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let mut head = std::io::BufReader::new(&stream);
            // Up to the blank line, or the connection would be reset.
            while std::io::BufRead::read_line(&mut head, &mut String::new()).unwrap() > 2 {}
            std::io::Write::write_all(&mut stream, health.as_bytes()).unwrap();
        })
    });
    let script = machine.path("stack/deploy-swarm.sh");
    let mut command = Command::new("bash");
    let deployed = "source \"$1\"; deploy() { print_next; }; shift; main \"$@\"";
    command.args(["-c", deployed, "bash"]).arg(script).args(arguments).env_clear();
    command.env("PATH", machine.tools()).env("WORKFLOW_PORT", port.to_string());
    let output = command.envs(environment.iter().copied()).output().unwrap();
    assert!(output.status.success() && output.stderr.is_empty(), "{output:?}");
    if let Some(gateway) = gateway {
        // It has been asked, and this is refused; if not, it must not wait forever.
        let _ = std::net::TcpStream::connect(("127.0.0.1", port));
        gateway.join().unwrap();
    }
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn an_open_stack_is_announced_loudly() {
    const OPEN: &str =
        "HTTP/1.1 200 OK\r\n\r\n{\"status\":\"ok\",\"timestamp\":\"x\",\"open\":true}";
    const CLOSED: &str = "HTTP/1.1 200 OK\r\n\r\n{\"status\":\"ok\",\"timestamp\":\"x\"}";
    let token = ("ADMIN_TOKEN_NAME", "s");
    let warns = |health, environment: &[_]| {
        let said = printed_at_the_end(health, environment);
        assert_eq!(
            said.contains("Authorization: Bearer"),
            !said.contains("STACK IS OPEN"),
            "{said}"
        );
        said.contains("STACK IS OPEN") && said.contains("can run jobs")
    };
    assert!(warns(Some(OPEN), &[]));
    assert!(warns(Some(OPEN), &[token, ("ALLOW_ANONYMOUS", "1")]));
    // Tokens were created in another way.
    assert!(!warns(Some(CLOSED), &[]));
    assert!(!warns(Some(CLOSED), &[token]));
    // A gateway elsewhere cannot be asked.
    let elsewhere = ("DOCKER_HOST", "tcp://manager:2375");
    assert!(warns(None, &[elsewhere]));
    assert!(!warns(None, &[elsewhere, token]));
    assert!(warns(None, &[elsewhere, token, ("ALLOW_ANONYMOUS", "1")]));
    let said = printed_at_the_end(None, &[elsewhere, token, ("TLS_CERT_NAME", "c")]);
    assert!(said.contains("workflows:  https://"), "{said}");
    assert!(said.contains("stackctl ps --watch --url https://YOUR-HOST:"), "{said}");
}

#[test]
fn hints_repeat_what_was_given() {
    const OPEN: &str = "HTTP/1.1 200 OK\r\n\r\n{\"timestamp\":\"x\",\"open\":true}";
    const CLOSED: &str = "HTTP/1.1 200 OK\r\n\r\n{\"timestamp\":\"x\"}";
    let elsewhere = ("DOCKER_HOST", "tcp://manager:2375");
    let registry = ["--registry", "host/a", "--no-build", "--env-file", "a b", "--stack", "app"];
    let again = "run: ./deploy-swarm.sh --registry host/a --env-file a\\ b --stack app --no-build --with-tokens\n";
    let said = printed_by(&registry, None, &[elsewhere]);
    assert!(said.contains(again), "{said}");
    for shown in ["ps --watch --stack app ", "workflow=10 --stack app\n", "--down --stack app\n"] {
        assert!(said.contains(shown), "{shown}: {said}");
    }
    let said = printed_by(&[], Some(OPEN), &[("STACK_NAME", "app")]);
    assert!(
        said.contains("run: ./deploy-swarm.sh --stack app --no-build --with-tokens\n"),
        "{said}"
    );
    // A closed stack without a token of the script: perhaps nobody has one.
    let lost =
        "(if nobody has the token of an administrator: ./deploy-swarm.sh --no-build --with-tokens)";
    assert!(printed_by(&["--with-tokens"], Some(CLOSED), &[]).contains(lost));
    assert!(!printed_by(&[], Some(CLOSED), &[("ADMIN_TOKEN_NAME", "s")]).contains(lost));
}

/// The volume remembers that the stack is closed, and nothing can print the token again.
#[test]
fn the_token_that_was_made_outlives_the_stack() {
    let cases = "version*) echo 1;;\n*ControlAvailable*) echo true;;\n'stack services'*) echo x_gateway 1/1;;\n\
                 'stack rm'*) ;;\n'network ls'*) ;;\n'secret rm'*) ;;\n\
                 'secret ls'*made_admin_token_*) echo workflow-stack_made_admin_token_0123;;\n\
                 'secret ls'*) printf 'workflow-stack_made_admin_token_0123\\nworkflow-stack_git_token_4567\\n';;";
    let end = Machine::with_docker(cases).run(&["--down", "--now"]);
    end.is(0, &["docker secret rm workflow-stack_made_admin_token_0123", "removed the old secret"]);
    let removed: Vec<_> = end.docker.lines().filter(|line| line.starts_with("secret rm")).collect();
    assert_eq!(removed, ["secret rm workflow-stack_git_token_4567"]);
}

#[test]
fn removing_a_stack_that_does_not_exist_is_no_error() {
    let none = "version*) echo 1;;\n*ControlAvailable*) echo true;;\n'stack services'*) ;;";
    Machine::with_docker(none).run(&["--down"]).is(0, &["the stack workflow-stack does not exist"]);
    let no_swarm = "version*) echo 1;;\n*ControlAvailable*) echo false;;";
    Machine::with_docker(no_swarm).run(&["--down"]).is(3, &["not a manager of a swarm"]);
    Machine::bare().run(&["--down"]).is(3, &["docker is not installed"]);
}

/// The image, the tests and the stand-in use the same version of the CLI.
#[test]
fn the_image_contains_the_tested_cli_version() {
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
