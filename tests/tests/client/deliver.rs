//! From `run --pull-request` to the link, and back with `--resume`.

use testkit::{AgentScript, GitHubApi, GitServer, RunningCommand, Stack};

use crate::support::{id_of, stackctl};

#[tokio::test]
async fn a_session_that_goes_on_adds_to_its_pull_request() {
    let git = GitServer::start().await;
    git.create_repo("o/app", &[("README.md", "hello\n")]);
    git.allow_push("o/app");
    git.set_auth("o/app", "x-access-token", "t0ken-of-ours");
    let github = GitHubApi::start(&git);
    github.add_token("t0ken-of-ours");
    let host = git.address().to_string();
    let stack = Stack::builder()
        .env("GITHUB_TOKEN", "t0ken-of-ours")
        .env("GIT_CREDENTIAL_HOSTS", &host)
        .env("GIT_FORGES", format!("{host}=github"))
        .start()
        .await;
    let url = stack.workflow_url();
    let run = async |arguments: &[&str]| {
        let arguments = [&["run", "--pull-request"], arguments].concat();
        let said = RunningCommand::start(stackctl(&url, &arguments)).finish().await;
        assert_eq!((said.code, said.stderr.as_str()), (0, ""), "{said:?}");
        said.stdout
    };
    let newest = async || {
        let jobs = testkit::http_json("GET", &format!("{url}/api/jobs"), None, &[]).await.2;
        let jobs = jobs["jobs"].as_array().unwrap().clone();
        jobs.into_iter().find(|job| job["service"] == "workflow-api").unwrap()
    };
    let prompt = AgentScript::new().write("one", "1\n").say("First.").prompt();
    let said = run(&["--repo", &git.url("o/app"), "--prompt", &prompt]).await;
    let link = format!("  http://{host}/o/app/pull/1");
    assert!(said.lines().any(|line| line == link), "{said}");
    let first = id_of(&newest().await);
    let short = &first[first.len() - 8..];
    let branch = format!("agent/{short}");
    let one = git.head("o/app", &branch).unwrap();
    let [before] = github.pulls().try_into().unwrap();

    // As the first run's last lines say.
    assert!(said.contains(&format!("run --resume {short} --prompt")), "{said}");
    let prompt = AgentScript::new().write("two", "2\n").say("Second.").prompt();
    let check = ["--verify", "grep -H 2 two", "--verify-attempts", "0"];
    let arguments = [&["--resume", short, "--prompt", &prompt], &check[..]].concat();
    let said = run(&arguments).await;
    assert!(said.lines().any(|line| line == link), "{said}");
    assert!(said.contains("Checking: grep -H 2 two\n  passed\n"), "{said}");
    let second = id_of(&newest().await);
    assert_ne!(first, second);
    let two = git.head("o/app", &branch).unwrap();
    assert_eq!(git.git("o/app", &["rev-parse", &format!("{two}^")]), one);
    assert_eq!(git.git("o/app", &["diff-tree", "-r", "--name-status", &one, &two]), "A\ttwo");
    let branches = git.git("o/app", &["branch", "--format=%(refname:short)"]);
    assert_eq!(branches, format!("{branch}\nmain"));
    let methods: Vec<_> =
        github.requests().iter().map(|it| it.split(' ').next().unwrap().to_owned()).collect();
    assert_eq!(methods, ["GET", "POST", "GET", "PATCH"]);
    let [after] = github.pulls().try_into().unwrap();
    assert!(before.body.contains(&first), "{before:?}");
    assert!(after.body.contains(&second), "{after:?}");
    let verified = "Verified: the checks pass.\n\n```text\ntwo:2\n```\n\n---\nJob";
    assert!(after.body.contains(verified), "{after:?}");
    assert_eq!((after.title, after.draft), (before.title, true));
    github.assert_valid();
}
