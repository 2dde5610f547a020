//! The commands on the page, each with its expected result.

use std::collections::BTreeSet;

use nix::sys::signal::Signal;
use testkit::{CommandOutput, RunningCommand, skip};

use crate::{
    page::{README, commands, parts, spans},
    scene::Scene,
};

/// The expected result of a command.
#[derive(Clone, Copy, Debug)]
enum Does {
    /// Exits with 0, and its standard output contains this text.
    Shows(&'static str),
    /// Runs a stack until Ctrl-C, and then exits with 0.
    Serves,
    /// Ends a job that would not end by itself.
    Cancels,
    /// Deletes a job that has ended.
    Deletes,
    /// Is not run here, for this reason.
    Nothing(&'static str),
}
use Does::{Cancels, Deletes, Nothing, Serves, Shows};

/// Why tokens are not created here.
const CLOSES: &str = "it would close the stack of the other commands; the end-to-end tests run it";

const COMMANDS: &[(&str, Does)] = &[
    ("cargo stack demo", Shows("The demo has removed everything it created.")),
    ("cargo stack up", Serves),
    ("cargo test --workspace", Nothing("it runs this test")),
    (
        "cargo stack run --repo https://github.com/user/repo.git --prompt 'Add a README file'",
        Shows("Done after "),
    ),
    ("cargo stack diff 7c3e91d2", Shows("diff --git ")),
    ("cd my-clone && stackctl apply 7c3e91d2", Shows(" changed, ")),
    ("cd my-clone && stackctl checkout 7c3e91d2", Shows("You are on the branch 'agent/")),
    ("cargo stack jobs", Shows("succeeded")),
    ("cargo stack show 7c3e91d2", Shows("succeeded")),
    ("cargo stack attach 7c3e91d2", Shows("Done after ")),
    ("cargo stack cancel 7c3e91d2", Cancels),
    ("cargo stack delete 7c3e91d2", Deletes),
    (
        "cargo stack run --repo https://github.com/user/repo.git --prompt 'Add a README file' --deliver",
        Shows("on the branch agent/"),
    ),
    (
        "cargo stack run --repo https://github.com/user/repo.git --prompt 'Add a README file' --pull-request",
        Nothing("it needs a forge; the tests of the pull service open pull requests"),
    ),
    ("cargo stack deliver 7c3e91d2", Shows("on the branch agent/")),
    (
        "stackctl run --resume 7c3e91d2 --prompt '…' --pull-request",
        Nothing("it needs a forge; the tests of the client go on after a review"),
    ),
    ("stackctl run", Nothing("it is the name of a command")),
    ("cargo stack gc --dry-run", Shows("are free")),
    ("cargo stack gc", Shows("nothing is too old")),
    ("cargo stack ps", Shows("RESTARTS/H")),
    ("cargo stack token create --admin > admin.token", Nothing(CLOSES)),
    ("cargo stack token create --name ci --running 2 > ci.token", Nothing(CLOSES)),
    ("cargo stack token list", Shows("there are no tokens")),
    ("cargo stack token revoke Ab3dE6gH", Nothing(CLOSES)),
    ("cargo stack scale workflow=10 pull=5", Shows("")),
    ("cargo stack logs --job 7c3e91d2", Shows("job succeeded")),
    (
        "cargo stack load -n 100 -c 20 --repo https://github.com/user/repo.git \
         --prompt 'Create test{i}.txt' --svg load.svg",
        Nothing("it takes a while and has its own tests"),
    ),
    ("cargo stack bench", Nothing("it takes minutes and has its own tests")),
    (
        "curl -N http://localhost:5000/api/workflow -H 'Content-Type: application/json' \
         -d '{\"prompt\": \"Add a README file\", \"repoUrl\": \"https://github.com/user/repo.git\"}'",
        Shows(r#""type":"workflow_complete""#),
    ),
    ("curl localhost:5000/health", Shows(r#""status":"ok""#)),
    ("curl localhost:5000/status", Shows(r#""queue":{"depth":0}"#)),
    ("curl localhost:5000/api/repos", Shows(r#""repos":["#)),
    ("curl 'localhost:5000/api/jobs?state=running'", Shows(r#""jobs":["#)),
    ("curl localhost:5000/api/jobs/$ID", Shows(r#""state":"succeeded""#)),
    ("curl -N localhost:5000/api/jobs/$ID/events", Shows(r#""type":"workflow_complete""#)),
    (
        "curl -N localhost:5000/api/jobs/$ID/events -H \"Last-Event-ID: $LAST\"",
        Shows(r#""type":"workflow_complete""#),
    ),
    ("curl localhost:5000/api/jobs/$ID/diff", Shows("diff --git ")),
    ("curl localhost:5000/api/jobs/$ID/diff -H 'Accept: application/json'", Shows(r#""files":[{"#)),
    ("curl localhost:5000/api/jobs/$ID/files/src/main.rs", Shows("fn main")),
    ("git diff --binary", Nothing("it is what a diff is compared with")),
    ("curl -X POST localhost:5000/api/jobs/$ID/cancel", Cancels),
    ("curl -X DELETE localhost:5000/api/jobs/$ID", Deletes),
    ("curl -X POST localhost:3000/api/sessions", Shows(r#""sessionId":"#)),
    (
        "curl -N localhost:3000/api/stream/$SESSION -H 'Content-Type: application/json' \
         -d '{\"prompt\": \"Look around\"}'",
        Shows(r#""type":"completed""#),
    ),
    (
        "curl -N localhost:3000/api/stream/$SESSION -H 'Content-Type: application/json' \
         -d '{\"prompt\": \"Now write it down\"}'",
        Shows(r#""resuming":true"#),
    ),
    ("curl localhost:3000/api/sessions", Shows(r#""sessions":[{"#)),
    ("curl -X DELETE localhost:3000/api/sessions/$SESSION", Shows("Session deleted")),
    ("cargo stack doctor", Shows("stackctl up` will work.")),
    ("cargo stack completions bash", Shows("complete -F _stackctl")),
    (
        "export TLS_CERT=$HOME/tls/fullchain.pem TLS_KEY=$HOME/tls/privkey.pem",
        Nothing("there is no such certificate"),
    ),
    ("cargo stack up --bind 0.0.0.0", Nothing("it needs a certificate; tests/client has one")),
    ("echo 'ANTHROPIC_API_KEY=sk-ant-…' > .env", Nothing("it would change this checkout")),
    ("./deploy-swarm.sh", Nothing("tests/swarm runs it on an engine of its own")),
    ("npm install -g @anthropic-ai/claude-code", Nothing("it installs a program")),
    ("ANTHROPIC_API_KEY=sk-ant-… cargo stack up", Serves),
    ("cargo stack up --help", Shows("--port-workflow")),
    ("stackctl up", Serves),
];

/// If you add a command to the page, add it to the list above; if you remove one, remove it here
/// too.
#[test]
fn the_list_matches_the_page() {
    let listed: BTreeSet<_> = COMMANDS.iter().map(|(command, _)| (*command).to_owned()).collect();
    assert_eq!(listed.len(), COMMANDS.len(), "a command is listed twice");
    assert_eq!(commands(README).into_iter().collect::<BTreeSet<_>>(), listed);
}

#[tokio::test]
async fn every_command_works_as_described() {
    if !has("curl") {
        return skip("every_command_works_as_described", "curl is not installed");
    }
    let scene = Scene::new().await;
    let done = scene.done().await;
    let session = scene.session().await;
    for (command, does) in COMMANDS {
        match does {
            Shows(text) => {
                let output = run(&scene, command, &done, &session).await;
                assert_eq!(output.code, 0, "{command}: {output:?}");
                assert!(output.stdout.contains(text), "{command}: {output:?}");
                if command.contains("$LAST") {
                    assert!(!output.stdout.contains("workflow_started"), "{command}: {output:?}");
                }
            }
            Serves => serve(&scene, command).await,
            Cancels => {
                let job = scene.endless().await;
                let output = run(&scene, command, &job, &session).await;
                assert_eq!(output.code, 0, "{command}: {output:?}");
                scene.job_leaves(&job, "running").await;
                assert_eq!(scene.job(&job).await["state"], "cancelled", "{command}");
            }
            Deletes => {
                let job = scene.done().await;
                let output = run(&scene, command, &job, &session).await;
                assert_eq!(output.code, 0, "{command}: {output:?}");
                assert_eq!(scene.job(&job).await["code"], "not_found", "{command}");
            }
            Nothing(why) => eprintln!("not run, because {why}: {command}"),
        }
    }
}

/// Runs a command until it exits. `job` and `session` replace the placeholders in it.
async fn run(scene: &Scene, command: &str, job: &str, session: &str) -> CommandOutput {
    let short = &job[job.len() - 8..];
    let mut shell = scene.program("bash", &["-c", &scene.localized(command, short)]);
    shell.env("ID", job).env("SESSION", session);
    if ["ps", "scale", "logs", "gc", "token"]
        .iter()
        .any(|it| command.starts_with(&format!("cargo stack {it}")))
    {
        // These find the stack by its workspace, which on the page is the one in the current
        // directory.
        shell.env("WORKSPACE_DIR", scene.workspace());
    }
    if command.starts_with("cargo stack token") {
        // On the page, no other stack is named.
        shell.env_remove("STACK_URL");
    }
    if command.contains("my-clone") {
        scene.make_clone("my-clone").await;
    }
    if command.contains("$LAST") {
        // The second to last event, so that there is at least one event before and one after it.
        let events = scene.events(job).await;
        shell.env("LAST", events[events.len() - 2].id.as_deref().unwrap());
    }
    RunningCommand::start(shell).finish().await
}

async fn serve(scene: &Scene, command: &str) {
    let shell = scene.program("bash", &["-c", &scene.localized(command, "")]);
    let running = RunningCommand::start(shell);
    running.prints("ready. Try:").await;
    running.signal_group(Signal::SIGINT);
    let output = running.finish().await;
    assert_eq!(output.code, 0, "{command}: {output:?}");
}

/// Whether this machine has a program.
pub(crate) fn has(program: &str) -> bool {
    std::env::var_os("PATH").is_some_and(|path| {
        std::env::split_paths(&path).any(|directory| directory.join(program).is_file())
    })
}

/// The page shows the current output of the demo. If this fails, run `tests/record-demo.sh`.
#[tokio::test]
async fn the_recording_matches_the_demo() {
    let scene = Scene::new().await;
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/demo.sed");
    let demo = format!("set -o pipefail; cargo stack demo | sed -E -f '{script}'");
    let mut shell = scene.program("bash", &["-c", &demo]);
    // In the checkout, where hints say `cargo stack`.
    shell.current_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/.."));
    let output = RunningCommand::start(shell).finish().await;
    assert_eq!((output.code, &*output.stderr), (0, ""), "{output:?}");
    let (blocks, _) = parts(README);
    let recording = blocks.iter().find(|block| block.language == "text").unwrap();
    assert_eq!(output.stdout.trim_start(), recording.text, "run tests/record-demo.sh");
}

/// Every flag that the page mentions exists.
#[tokio::test]
async fn every_flag_exists() {
    let scene = Scene::new().await;
    let mut help = String::new();
    for command in [
        "up", "run", "jobs", "show", "attach", "cancel", "delete", "diff", "apply", "checkout",
        "deliver", "ps", "scale", "logs", "gc", "load", "bench", "demo", "doctor",
    ] {
        let shell = scene.program("stackctl", &[command, "--help"]);
        help.push_str(&RunningCommand::start(shell).finish().await.stdout);
    }
    let known: BTreeSet<_> = help
        .split(|c: char| !(c.is_alphanumeric() || c == '-'))
        .filter(|word| word.starts_with("--"))
        .collect();
    let (_, prose) = parts(README);
    let named: Vec<_> = spans(&prose)
        .into_iter()
        .filter(|span| span.starts_with("--"))
        .map(|span| span.split(' ').next().unwrap())
        .collect();
    assert!(named.len() >= 5, "{named:?}");
    for flag in named {
        assert!(known.contains(flag), "{flag}: {known:?}");
    }
}
