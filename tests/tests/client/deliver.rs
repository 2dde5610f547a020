//! From `run --pull-request` to the link, and back with `--resume`.

use std::sync::{Arc, Mutex};

use serde_json::{Value, json};
use testkit::{AgentScript, ApiRequest, GitServer, RunningCommand, Stack};

use crate::support::{id_of, stackctl};

/// What GitHub knows about one pull request.
#[derive(Default)]
struct Forge {
    pull: Option<Value>,
    asked: Vec<String>,
}

impl Forge {
    fn answer(&mut self, origin: &str, request: &ApiRequest) -> (u16, Value) {
        self.asked.push(request.method.clone());
        match request.method.as_str() {
            "GET" => (200, self.pull.iter().cloned().collect()),
            "POST" => {
                let asked = &request.body;
                let pull = json!({
                    "number": 7, "html_url": format!("{origin}/o/app/pull/7"), "state": "open",
                    "title": asked["title"], "body": asked["body"],
                    "head": {"ref": asked["head"]}, "base": {"ref": asked["base"]},
                });
                self.pull = Some(pull.clone());
                (201, pull)
            }
            "PATCH" => {
                let pull = self.pull.as_mut().unwrap();
                pull["body"] = request.body["body"].clone();
                (200, pull.clone())
            }
            other => panic!("{other}"),
        }
    }
}

#[tokio::test]
async fn a_session_that_goes_on_adds_to_its_pull_request() {
    let git = GitServer::start().await;
    git.create_repo("o/app", &[("README.md", "hello\n")]);
    git.allow_push("o/app");
    git.set_auth("o/app", "x-access-token", "t0ken-of-ours");
    let forge = Arc::new(Mutex::new(Forge::default()));
    let host = git.address().to_string();
    let (answers, origin) = (Arc::clone(&forge), format!("http://{host}"));
    git.serve_api(move |request| answers.lock().unwrap().answer(&origin, request));
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
    let link = format!("  http://{host}/o/app/pull/7");
    assert!(said.lines().any(|line| line == link), "{said}");
    let first = id_of(&newest().await);
    let short = &first[first.len() - 8..];
    let branch = format!("agent/{short}");
    let one = git.head("o/app", &branch).unwrap();
    let before = forge.lock().unwrap().pull.clone().unwrap();

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
    let forge = forge.lock().unwrap();
    assert_eq!(forge.asked, ["GET", "POST", "GET", "PATCH"], "one pull request");
    let after = forge.pull.as_ref().unwrap();
    assert!(before["body"].as_str().unwrap().contains(&first), "{before}");
    assert!(after["body"].as_str().unwrap().contains(&second), "{after}");
    let verified = "Verified: the checks pass.\n\n```text\ntwo:2\n```\n\n---\nJob";
    assert!(after["body"].as_str().unwrap().contains(verified), "{after}");
    assert_eq!(after["title"], before["title"]);
}
