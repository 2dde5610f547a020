//! From a command line to an exit code.

use std::process::Stdio;

use testkit::{AgentScript, RunningCommand};
use tokio::io::AsyncWriteExt as _;

use crate::support::{Scene, id_of, journalled, ran, stackctl};

#[tokio::test]
async fn piped_it_prints_plain_lines_and_attach_prints_them_again() {
    let scene = Scene::new().await;
    let hostile = "Two lines \u{1b}[31mof\u{1b}[0m\nwords.";
    let script = AgentScript::new().say(hostile).write("new", "x");
    let said = RunningCommand::start(scene.run(&scene.url(), &script, &[])).finish().await;
    assert_eq!((said.code, said.stderr.as_str()), (0, ""), "{said:?}");
    assert!(!said.stdout.contains('\u{1b}') && !said.stdout.contains('\r'), "{said:?}");

    let id = id_of(&scene.workflow().await);
    let lines: Vec<_> = said.stdout.lines().collect();
    let [job, pulling, between @ .., running, one, two, done, end, file, sums, next, apply, resume] =
        &*lines
    else {
        panic!("{lines:#?}")
    };
    assert_eq!(*job, format!("Job {id}"));
    assert_eq!(*pulling, format!("Pulling {}", scene.repo()));
    let checkout = scene.stack.workspace().join("jobs").join(&id).join("app");
    assert_eq!(*between.last().unwrap(), format!("  in {}", checkout.display()));
    assert!(between.iter().all(|line| line.starts_with("  ")), "{between:#?}");
    assert_eq!(
        [*running, *one, *two, *done],
        ["Running Claude Code", "  Two lines of", "  words.", "  Done."]
    );
    assert!(end.starts_with("Done after ") && end.ends_with(" s (1 turn, $0.0076)"), "{end}");

    // The next steps work when they are copied.
    assert_eq!(*file, " new (new) |     1 +");
    assert_eq!(*sums, " 1 file changed, 1 insertion(+), 0 deletions(-)");
    let short = &id[id.len() - 8..];
    let url = scene.url();
    assert_eq!(*next, format!("Next: stackctl diff {short} --url {url}"));
    assert_eq!(*apply, format!("      stackctl apply {short} --url {url}"));
    assert_eq!(*resume, format!("      stackctl run --resume {short} --prompt '…' --url {url}"));

    let again = ran(&scene.url(), &["attach", &id]).await;
    assert_eq!((again.code, again.stdout), (0, said.stdout.clone()));
    // `show` and `jobs` count the time as `attach` does, and know the rest from the events.
    let took = end.strip_prefix("Done after ").unwrap().split(" (").next().unwrap();
    let shown = ran(&scene.url(), &["show", &id]).await.stdout;
    for (name, value) in [
        ("took", took),
        ("cost", "$0.0076 (1 turn)"),
        ("prompt", "Follow the script."),
        ("checkout", checkout.to_str().unwrap()),
        ("branch", "main"),
        ("commit", &scene.git.head("app", "main").unwrap()),
        ("model", "claude-opus-4-8"),
        ("result", "Done."),
    ] {
        let line = format!("{name:12}{value}");
        assert!(shown.lines().any(|it| it.starts_with(&line)), "{line}: {shown}");
    }
    assert!(shown.contains("\nsession     "), "{shown}");
    let listed = ran(&scene.url(), &["jobs"]).await.stdout;
    for part in [took, "$0.0076", "Follow the script."] {
        assert!(listed.contains(part), "{part}: {listed}");
    }

    scene.stack.wait_until_idle().await;
}

#[tokio::test]
async fn for_programs_it_passes_the_events_through() {
    let scene = Scene::new().await;
    let script = AgentScript::new().say("line\u{2028}separators\u{85}").flood(20, 1000);
    let said = RunningCommand::start(scene.run(&scene.url(), &script, &["--json"])).finish().await;
    assert_eq!((said.code, said.stderr.as_str()), (0, ""), "{said:?}");
    let events = journalled(said.ndjson());
    let id = id_of(&scene.workflow().await);
    assert_eq!(events, scene.journal(&id).await);
    let terminal = |event: &&serde_json::Value| {
        ["workflow_complete", "workflow_error"].contains(&event["type"].as_str().unwrap())
    };
    assert_eq!(events.iter().filter(terminal).count(), 1);
    assert_eq!(events.last().unwrap()["type"], "workflow_complete");

    let again = ran(&scene.url(), &["attach", &id, "--json"]).await;
    assert_eq!((again.code, again.ndjson()), (0, events));
    let pull = scene.jobs().await.into_iter().find(|job| job["service"] == "github-pull-api");
    let pull = ran(&scene.url(), &["attach", &id_of(&pull.unwrap())]).await;
    assert_eq!(pull.code, 0, "{pull:?}");
    assert!(pull.stdout.contains("\nDone after "), "{pull:?}");
}

#[tokio::test]
async fn exit_codes_and_what_is_said_of_failures() {
    let scene = Scene::new().await;
    let url = scene.url();
    let failing = AgentScript::new().say("trying").exit(3);
    let said = RunningCommand::start(scene.run(&url, &failing, &[])).finish().await;
    assert_eq!(said.code, 1, "{said:?}");
    let last = said.stdout.lines().last().unwrap();
    assert!(last.starts_with("Failed after ") && last.contains("(agent_"), "{last}");

    let missing = scene.git.url("missing");
    let said = ran(&url, &["run", "--repo", &missing, "--prompt", "x"]).await;
    assert_eq!(said.code, 1, "{said:?}");
    let last = said.stdout.lines().last().unwrap();
    assert!(last.starts_with("The pull failed after "), "{last}");

    let repo = scene.repo();
    let refused: [(&[&str], &str); 3] = [
        (&["run", "--repo", "ftp://x/y", "--prompt", "x"], "ftp"),
        (&["run", "--repo", &repo, "--prompt", ""], "'prompt'"),
        (&["run", "--repo", &repo, "--prompt", "x", "--directory", ".."], "'directory'"),
    ];
    for (arguments, why) in refused {
        let said = ran(&url, arguments).await;
        assert_eq!((said.code, said.stdout.as_str()), (2, ""), "{said:?}");
        assert!(said.stderr.starts_with("error: ") && said.stderr.contains(why), "{said:?}");
    }
    let jobs = scene.jobs().await.len();
    for arguments in [["run", "--repo", &repo], ["run", "--prompt", "x"], ["rum", "--x", "y"]] {
        let said = ran(&url, &arguments).await;
        assert_eq!((said.code, said.stdout.as_str()), (2, ""), "{said:?}");
    }
    assert_eq!(scene.jobs().await.len(), jobs);

    let git = format!("http://{}", scene.git.address());
    for (url, why) in [("http://127.0.0.1:1", "stackctl up"), (git.as_str(), "--url")] {
        for arguments in [["run", "--repo=x", "--prompt=x"], ["jobs", "--all", "--limit=3"]] {
            let said = ran(url, &arguments).await;
            assert_eq!((said.code, said.stdout.as_str()), (3, ""), "{said:?}");
            assert!(said.stderr.contains(why) && said.stderr.contains(url), "{said:?}");
        }
    }
}

#[tokio::test]
async fn the_prompt_may_come_from_standard_input_and_fields_from_flags() {
    let scene = Scene::new().await;
    let dump = scene.mark("dump");
    let repo = scene.repo();
    let arguments = [
        "run",
        "--repo",
        &repo,
        "--prompt",
        "-",
        "--directory",
        "shared",
        "--model",
        "opus",
        "--max-turns",
        "7",
        "--allowed-tools",
        "Bash,Read",
        "--append-system-prompt",
        "- be brief",
    ];
    let mut command = stackctl(&scene.url(), &arguments);
    command.stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut child = command.spawn().unwrap();
    let prompt = AgentScript::new().env_dump(&dump).prompt();
    child.stdin.take().unwrap().write_all(prompt.as_bytes()).await.unwrap();
    let output = child.wait_with_output().await.unwrap();
    assert!(output.status.success(), "{output:?}");
    let dump: serde_json::Value = serde_json::from_slice(&std::fs::read(dump).unwrap()).unwrap();
    let argv: Vec<_> =
        dump["argv"].as_array().unwrap().iter().map(|it| it.as_str().unwrap()).collect();
    for (name, value) in [("--model", "opus"), ("--max-turns", "7"), ("--tools", "Bash,Read")] {
        assert!(argv.windows(2).any(|pair| pair == [name, value]), "{name}: {argv:?}");
    }
    assert!(argv.iter().any(|it| it.contains("- be brief")), "{argv:?}");
    assert!(scene.stack.workspace().join("shared/README.md").exists());
}

/// The session of a job, named by a part of the job's id, on the repository of that job.
#[tokio::test]
async fn a_job_is_resumed() {
    let scene = Scene::new().await;
    let url = scene.url();
    let first = scene.run(&url, &AgentScript::new().say("one"), &["--directory", "shared"]);
    assert_eq!(RunningCommand::start(first).finish().await.code, 0);
    let first = scene.workflow().await;
    let id = id_of(&first);
    let shown = ran(&url, &["show", &id]).await.stdout;
    let session =
        shown.lines().find_map(|line| line.strip_prefix("session     ")).unwrap().to_owned();

    let prompt = AgentScript::new().say("two").prompt();
    let short = &id[id.len() - 8..];
    let arguments =
        ["run", "--resume", short, "--prompt", &prompt, "--directory", "shared", "--json"];
    let said = ran(&url, &arguments).await;
    assert_eq!(said.code, 0, "{said:?}");
    let connected = said.ndjson().into_iter().find(|event| event["resuming"] == true);
    assert_eq!(connected.expect("a resumed session")["sessionId"], session.as_str());

    // A session's own id needs a repository.
    let said = ran(&url, &["run", "--resume", &session, "--prompt", "x"]).await;
    assert_eq!((said.code, said.stdout.as_str()), (2, ""), "{said:?}");
    assert!(said.stderr.contains("--repo"), "{said:?}");
    let said = ran(&url, &["run", "--prompt", "x"]).await;
    assert_eq!(said.code, 2, "{said:?}");
}

/// A directory of this machine, and what switches it on where it is off.
#[tokio::test]
async fn a_repository_on_disk_and_a_prompt_in_a_file() {
    let scene = Scene::new().await;
    let file = scene.mark("task.md");
    std::fs::write(&file, AgentScript::new().say("from a file").prompt()).unwrap();
    let run = |url: &str| {
        let mut command = stackctl(url, &["run", "--repo", ".", "--prompt"]);
        command.arg(format!("@{}", file.display())).current_dir(scene.git.path("app"));
        RunningCommand::start(command)
    };
    let said = run(&scene.url()).finish().await;
    assert_eq!((said.code, said.stdout.as_str()), (2, ""), "{said:?}");
    assert!(said.stderr.contains("ALLOW_FILE_REPOSITORIES=1"), "{said:?}");

    let stack = testkit::Stack::builder().env("ALLOW_FILE_REPOSITORIES", "1").start().await;
    let said = run(&stack.workflow_url()).finish().await;
    assert_eq!(said.code, 0, "{said:?}");
    let path = scene.git.path("app").canonicalize().unwrap();
    assert!(said.stdout.contains(&format!("Pulling {}\n", path.display())), "{said:?}");
    assert!(said.stdout.contains("  from a file\n"), "{said:?}");
}
