//! What an agent left becomes a branch on a real git server.

use std::{fs, os::unix::fs::PermissionsExt as _, path::PathBuf, pin::pin, sync::Arc};

use contract::{
    Code, DeliverRequest, Ending, ExecuteRequest, JobId, JobRequest, PullRequest, Service,
    SessionId, WorkflowRequest,
};
use futures_util::StreamExt as _;
use github_pull_api::deliver;
use oneshot::{JobContext, Step, Stop};
use serde_json::{Value, json};
use testkit::GitServer;
use workspace::{Job, JobRecord, NewJob, RequestDigest};

use crate::support::{Outcome, Scene, git};

/// A workflow that has ended, and its checkout.
pub(crate) struct Workflow {
    pub(crate) id: JobId,
    pub(crate) session: SessionId,
    pub(crate) checkout: PathBuf,
}

/// The settings of a delivery.
pub(crate) fn settings(pairs: &[(&str, &str)]) -> github_pull_api::DeliverSettings {
    let env: std::collections::HashMap<String, String> =
        pairs.iter().map(|&(name, value)| (name.to_owned(), value.to_owned())).collect();
    let mut settings = boot::Settings::new(&env);
    let config = github_pull_api::Config::read(&mut settings);
    settings.finish().unwrap();
    config.deliver
}

impl Scene {
    fn create<R: JobRequest>(&self, body: &Value, parent: Option<JobId>) -> Job {
        let bytes = body.to_string();
        let request =
            R::parse(bytes.as_bytes(), self.workspace.root_text(), &self.config.policy).unwrap();
        let digest = RequestDigest::of(&request, bytes.as_bytes(), None);
        let id = JobId::new();
        let record = JobRecord::of(&self.workspace, &request, digest, id, parent).unwrap();
        let NewJob::Created(job) = Job::create(&self.workspace, &record).unwrap() else { panic!() };
        job
    }

    /// A workflow whose agent worked by `work`, and said `words`.
    pub(crate) async fn workflow(
        &self,
        url: &str,
        words: &str,
        work: impl FnOnce(&PathBuf),
    ) -> Workflow {
        self.workflow_of(json!({"repoUrl": url}), words, work).await
    }

    /// The same with this pull.
    pub(crate) async fn workflow_of(
        &self,
        body: Value,
        words: &str,
        work: impl FnOnce(&PathBuf),
    ) -> Workflow {
        let url = &body["repoUrl"];
        let workflow = self.create::<WorkflowRequest>(
            &json!({"prompt": "Fix the\tbuild\nplease", "repoUrl": url}),
            None,
        );
        let pull = self.create::<PullRequest>(&body, Some(workflow.id()));
        let context = JobContext { parent: Some(workflow.id()), ..self.context(&Stop::default()) };
        let pulled = self.pull_in(context, body).await;
        pulled.commit();
        end(&pull, &pulled.terminal);
        let checkout = PathBuf::from(pulled.terminal["targetPath"].as_str().unwrap());
        self.agent(&workflow, checkout, SessionId::new(), words, work)
    }

    /// A workflow that resumes the session of `earlier` in its checkout.
    pub(crate) fn resume(
        &self,
        earlier: &Workflow,
        url: &str,
        work: impl FnOnce(&PathBuf),
    ) -> Workflow {
        let body = json!({"prompt": "Go on", "repoUrl": url});
        let workflow = self.create::<WorkflowRequest>(&body, None);
        self.agent(&workflow, earlier.checkout.clone(), earlier.session, "more", work)
    }

    fn agent(
        &self,
        workflow: &Job,
        checkout: PathBuf,
        session: SessionId,
        words: &str,
        work: impl FnOnce(&PathBuf),
    ) -> Workflow {
        let body = json!({"prompt": "x", "workspace": checkout});
        let agent = self.create::<ExecuteRequest>(&body, Some(workflow.id()));
        work(&checkout);
        end(&agent, &json!({"type": "completed", "sessionId": session, "result": words}));
        end(workflow, &json!({"type": "workflow_complete"}));
        Workflow { id: workflow.id(), session, checkout }
    }

    pub(crate) async fn deliver(&self, workflow: &Workflow, extra: Value) -> Outcome {
        let mut body = json!({"jobId": workflow.id, "mode": "branch"});
        body.as_object_mut().unwrap().extend(extra.as_object().unwrap().clone());
        let body = body.to_string();
        let root = self.workspace.root_text();
        let request = DeliverRequest::parse(body.as_bytes(), root, &self.config.policy).unwrap();
        let context = self.context(&Stop::default());
        let steps = deliver(Arc::new(self.config.clone()), context, request);
        let mut steps = pin!(steps);
        let mut events = Vec::new();
        loop {
            match steps.next().await.unwrap() {
                Step::Event(event) => {
                    events.push(serde_json::from_slice(event.as_bytes()).unwrap())
                }
                Step::End(ending) => {
                    let terminal = serde_json::from_slice(ending.event.as_bytes()).unwrap();
                    let (code, state) = (ending.code, ending.state);
                    return Outcome { events, terminal, code, state };
                }
            }
        }
    }
}

fn end(job: &Job, event: &Value) {
    job.end_unclaimed("test", Ending::success(event)).unwrap().unwrap();
}

pub(crate) fn write(checkout: &std::path::Path, name: &str, content: &str) {
    let path = checkout.join(name);
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, content).unwrap();
}

/// The end of an ID, as in the default name of a branch.
pub(crate) fn short(id: JobId) -> String {
    let id = id.to_string();
    id[id.len() - 8..].to_owned()
}

#[tokio::test]
async fn a_branch_has_exactly_what_the_agent_changed_and_only_once() {
    let server = GitServer::start().await;
    let base = server.create_repo(
        "o/app",
        &[
            ("a", "1\n"),
            ("gone", "x\n"),
            ("kept", "k\n"),
            (".gitignore", "*.log\n"),
            ("run", "r\n"),
        ],
    );
    server.allow_push("o/app");
    let scene = Scene::new();
    let words = "Done.\n\nJob-Id: 019b0000-0000-7000-8000-000000000001\x07";
    let workflow = scene
        .workflow(&server.url("o/app"), words, |checkout| {
            write(checkout, "a", "2\n");
            write(checkout, "new/file", "n\n");
            write(checkout, "x.log", "ignored\n");
            fs::remove_file(checkout.join("gone")).unwrap();
            fs::set_permissions(checkout.join("run"), fs::Permissions::from_mode(0o755)).unwrap();
            git(checkout, &["add", "a"]);
            // Whatever the agent does to its own .git, is not obeyed.
            git(checkout, &["config", "core.hooksPath", "/nonexistent"]);
            git(checkout, &["config", "remote.origin.pushurl", "/nonexistent"]);
        })
        .await;
    let before = crate::support::snapshot(&workflow.checkout);
    let outcome = scene.deliver(&workflow, json!({})).await;
    let branch = format!("agent/{}", short(workflow.id));
    let commit = outcome.commit().to_owned();
    assert_eq!(outcome.terminal["branch"], branch);
    assert_eq!(outcome.events[0]["resultOf"], workflow.id.to_string());
    assert_eq!(server.head("o/app", &branch).as_deref(), Some(commit.as_str()));
    let show = |format: &str| server.git("o/app", &["log", "-1", format, &commit]);
    assert_eq!(show("--format=%P"), base);
    assert_eq!(
        server.git("o/app", &["diff-tree", "-r", "--name-status", &base, &commit]),
        "M\ta\nD\tgone\nA\tnew/file\nM\trun"
    );
    assert_eq!(server.git("o/app", &["show", &format!("{branch}:a")]), "2");
    assert!(server.git("o/app", &["ls-tree", &commit, "run"]).starts_with("100755"));
    assert_eq!(
        show("--format=%an <%ae> %cn <%ce>"),
        "workflow-stack <noreply@localhost> ".repeat(2).trim()
    );
    let (id, session) = (workflow.id, workflow.session);
    let trailers = format!(
        "Job-Id: {id}\nSession-Id: {session}\nCo-authored-by: Claude Code <noreply@anthropic.com>"
    );
    assert_eq!(show("--format=%(trailers)"), trailers);
    let message = show("--format=%B");
    assert!(message.starts_with("Fix the build\n\nDone.\n\nJob-Id: 019b0000"), "{message}");
    assert_eq!(crate::support::snapshot(&workflow.checkout), before, "the checkout is only read");

    // Once, also if nothing of the first delivery is known here, as after the death of its replica.
    let again = scene.deliver(&workflow, json!({})).await;
    assert_eq!(again.commit(), commit);
    assert!(again.messages().iter().any(|it| it.contains("already")), "{:?}", again.messages());
    assert_eq!(
        server.git("o/app", &["branch", "--format=%(refname:short)"]),
        format!("{branch}\nmain")
    );
    // The commit depends on the job alone.
    server.delete_branch("o/app", &branch);
    assert_eq!(scene.deliver(&workflow, json!({})).await.commit(), commit);
    scene.assert_clean();
}

#[tokio::test]
async fn a_base_that_has_moved_on() {
    let server = GitServer::start().await;
    server.create_repo("app", &[("a", "1\n"), ("b", "1\n")]);
    server.allow_push("app");
    let scene = Scene::new();
    let url = server.url("app");
    let work = |checkout: &PathBuf| write(checkout, "a", "agent\n");
    let (clean, conflicting) =
        (scene.workflow(&url, "", work).await, scene.workflow(&url, "", work).await);
    let moved = server.commit("app", "main", &[("b", "2\n")]);
    let outcome = scene.deliver(&clean, json!({})).await;
    let commit = outcome.commit();
    assert_eq!(server.git("app", &["rev-parse", &format!("{commit}^")]), moved);
    assert_eq!(server.git("app", &["diff-tree", "-r", "--name-only", &moved, commit]), "a");
    assert!(
        outcome.messages().iter().any(|it| it.contains("is based on")),
        "{:?}",
        outcome.messages()
    );

    let base = server.git("app", &["rev-parse", "main~1"]);
    server.commit("app", "main", &[("a", "human\n")]);
    let outcome = scene.deliver(&conflicting, json!({})).await;
    let commit = outcome.commit();
    assert_eq!(server.git("app", &["rev-parse", &format!("{commit}^")]), base);
    assert!(
        outcome.messages().iter().any(|it| it.contains("conflicts")),
        "{:?}",
        outcome.messages()
    );
}

#[tokio::test]
async fn a_resumed_session_adds_to_its_branch() {
    let server = GitServer::start().await;
    server.create_repo("app", &[("a", "1\n2\n3\n"), ("b", "1\n")]);
    server.allow_push("app");
    let scene = Scene::new();
    let url = server.url("app");
    let first = scene.workflow(&url, "", |checkout| write(checkout, "a", "1\n2\nfirst\n")).await;
    server.commit("app", "main", &[("b", "2\n")]);
    let one = scene.deliver(&first, json!({})).await.commit().to_owned();
    // Its own agent worked there in the meantime: the branch was moved, the checkout was not.
    let second = scene.resume(&first, &url, |checkout| {
        write(checkout, "a", "1\n2\nsecond\n");
        write(checkout, "c", "c\n");
    });
    let outcome = scene.deliver(&second, json!({})).await;
    let two = outcome.commit();
    assert_eq!(outcome.terminal["branch"], format!("agent/{}", short(first.id)));
    assert_eq!(server.git("app", &["rev-parse", &format!("{two}^")]), one);
    assert_eq!(server.git("app", &["diff-tree", "-r", "--name-status", &one, two]), "M\ta\nA\tc");
    assert_eq!(server.git("app", &["show", &format!("{two}:b")]), "2");
    // Nothing new is nothing to deliver.
    let third = scene.resume(&first, &url, |_| {});
    scene.deliver(&third, json!({})).await.failed(Code::NothingToDeliver);
    // What somebody else has added is not ours to build on.
    server.commit("app", &format!("agent/{}", short(first.id)), &[("d", "d\n")]);
    let fourth = scene.resume(&first, &url, |checkout| write(checkout, "e", "e\n"));
    let sentence = scene.deliver(&fourth, json!({})).await;
    assert!(sentence.failed(Code::BranchExists).contains("another branch"));
}

#[tokio::test]
async fn the_commits_of_the_agent_are_kept_on_request() {
    let server = GitServer::start().await;
    server.create_repo("app", &[("a", "1\n"), ("b", "1\n")]);
    server.allow_push("app");
    let scene = Scene::new();
    let url = server.url("app");
    let work = |checkout: &PathBuf| {
        write(checkout, "a", "2\n");
        git(checkout, &["commit", "-q", "-am", "Change a\n\nBecause.\n\nJob-Id: forged"]);
        write(checkout, "c", "c\n");
        git(checkout, &["add", "c"]);
        git(
            checkout,
            &["commit", "-q", "-m", "Add c", "--author=Somebody Else <else@example.com>"],
        );
        write(checkout, "d", "left\n");
    };
    let keep = json!({"commits": "keep"});
    let (workflow, merged) =
        (scene.workflow(&url, "", work).await, scene.workflow(&url, "", work).await);
    let moved = server.commit("app", "main", &[("b", "2\n")]);
    let outcome = scene.deliver(&workflow, keep.clone()).await;
    let commit = outcome.commit();
    let range = format!("{moved}..{commit}");
    let log = |format: &str| server.git("app", &["log", "--reverse", format, &range]);
    assert_eq!(log("--format=%s"), "Change a\nAdd c\nFix the build");
    assert_eq!(log("--format=%an %cn"), ["workflow-stack workflow-stack"; 3].join("\n"));
    let ids = log("--format=%(trailers:key=Job-Id,valueonly,separator=%x2C)");
    assert_eq!(ids, vec![workflow.id.to_string(); 3].join("\n"));
    assert_eq!(log("--format=%P").lines().next(), Some(moved.as_str()));
    let files = server.git("app", &["log", "--reverse", "--format=", "--name-status", &range]);
    assert_eq!(files.replace('\n', " "), "M\ta A\tc A\td");
    assert_eq!(scene.deliver(&workflow, keep.clone()).await.commit(), commit, "once");

    // What is not one line of commits becomes one commit.
    git(&merged.checkout, &["checkout", "-q", "-b", "side", "HEAD~1"]);
    write(&merged.checkout, "e", "e\n");
    git(&merged.checkout, &["add", "e"]);
    git(&merged.checkout, &["commit", "-q", "-m", "side"]);
    git(&merged.checkout, &["merge", "-q", "--no-edit", "main"]);
    let outcome = scene.deliver(&merged, keep).await;
    assert_eq!(server.git("app", &["rev-list", "--count", outcome.commit(), "^main"]), "1");
    assert!(outcome.messages().iter().any(|it| it.contains("no line")), "{:?}", outcome.messages());
}

#[tokio::test]
async fn what_is_not_delivered() {
    let server = GitServer::start().await;
    server.create_repo("app", &[("a", "1\n")]);
    server.allow_push("app");
    let host = server.address().to_string();
    let mut scene = Scene::new().with_token("t0ken-of-ours", &host);
    let url = server.url("app");
    let idle = scene.workflow(&url, "", |_| {}).await;
    scene.deliver(&idle, json!({})).await.failed(Code::NothingToDeliver);

    let protected = scene
        .workflow(&url, "", |checkout| {
            write(checkout, ".GitHub/workflows/ci.yml", "on: push\n");
            write(checkout, "b", "b\n");
        })
        .await;
    let refused = scene.deliver(&protected, json!({})).await;
    let sentence = refused.failed(Code::ProtectedPaths);
    assert!(
        sentence.contains(".GitHub/workflows/ci.yml") && !sentence.contains(" b"),
        "{sentence}"
    );
    // The control: the same is delivered if it is asked for.
    scene.deliver(&protected, json!({"allowProtected": true})).await.commit();

    let leak =
        scene.workflow(&url, "", |checkout| write(checkout, "b", "key = t0ken-of-ours!\n")).await;
    scene.deliver(&leak, json!({})).await.failed(Code::SecretInResult);
    let said =
        scene.workflow(&url, "it is t0ken-of-ours", |checkout| write(checkout, "b", "b\n")).await;
    scene.deliver(&said, json!({})).await.failed(Code::SecretInResult);
    assert_eq!(server.head("app", &format!("agent/{}", short(leak.id))), None);
    // The control: to a stack with another token, it is a text like others.
    let token = scene.config.token.replace(boot::Secret::new("an0ther-token".into()));
    scene.deliver(&leak, json!({})).await.commit();
    scene.config.token = token;

    scene.config.deliver = settings(&[("DELIVER_LIMIT_FILES", "2"), ("DELIVER_LIMIT_KIB", "2")]);
    let many = scene
        .workflow(&url, "", |checkout| {
            (0..3).for_each(|n| write(checkout, &format!("f{n}"), "x\n"));
        })
        .await;
    let refused = scene.deliver(&many, json!({})).await;
    assert!(refused.failed(Code::TooLarge).contains("3 files"), "{:?}", refused.terminal);
    let large =
        scene.workflow(&url, "", |checkout| write(checkout, "f", &"line\n".repeat(1000))).await;
    let refused = scene.deliver(&large, json!({})).await;
    assert!(refused.failed(Code::TooLarge).contains("DELIVER_LIMIT_KIB"), "{:?}", refused.terminal);

    scene.config.deliver = settings(&[("DELIVER_PROTECT", "*.tf")]);
    let infra = scene.workflow(&url, "", |checkout| write(checkout, "x/main.tf", "x\n")).await;
    scene.deliver(&infra, json!({})).await.failed(Code::ProtectedPaths);
    // Whoever names the branch of somebody else does not get it.
    let own = server.commit("app", "feature", &[("f", "f\n")]);
    for branch in ["feature", "main"] {
        let options = json!({"branch": branch, "allowProtected": true});
        scene.deliver(&infra, options).await.failed(Code::BranchExists);
    }
    assert_eq!(server.head("app", "feature"), Some(own));
    let named =
        json!({"branch": "fix/infra", "allowProtected": true, "title": "Own words", "body": "Why"});
    let outcome = scene.deliver(&infra, named).await;
    let message = server.git("app", &["log", "-1", "--format=%B", outcome.commit()]);
    assert!(message.starts_with("Own words\n\nWhy\n\nJob-Id: "), "{message}");
    assert_eq!(server.head("app", "fix/infra").as_deref(), Some(outcome.commit()));
}

#[tokio::test]
async fn a_host_that_refuses_the_push_says_why() {
    let server = GitServer::start().await;
    server.create_repo("app", &[("a", "1\n")]);
    let scene = Scene::new();
    let url = server.url("app");
    let workflow = scene.workflow(&url, "", |checkout| write(checkout, "b", "b\n")).await;
    // It may be read, and not written to.
    let outcome = scene.deliver(&workflow, json!({})).await;
    let sentence = outcome.failed(Code::PushRejected);
    assert!(sentence.contains("may read it, but not write"), "{sentence}");

    server.allow_push("app");
    server.set_hook("app", "pre-receive", "echo 'Every commit needs a ticket' >&2; exit 1");
    let outcome = scene.deliver(&workflow, json!({})).await;
    let sentence = outcome.failed(Code::PushRejected);
    assert!(sentence.contains("pre-receive hook declined"), "{sentence}");
    assert!(sentence.contains("Every commit needs a ticket"), "{sentence}");

    // As protected branches are refused: by name.
    server.set_hook(
        "app",
        "pre-receive",
        "while read old new ref; do case $ref in refs/heads/agent/*) ;; *) echo \"protected: $ref\" >&2; exit 1;; esac; done",
    );
    let outcome = scene.deliver(&workflow, json!({"branch": "release"})).await;
    assert!(outcome.failed(Code::PushRejected).contains("protected: refs/heads/release"));
    // Nothing is lost: the same delivery again, now that the host takes it.
    scene.deliver(&workflow, json!({})).await.commit();

    // Credentials that are no longer valid.
    server.set_auth("app", "me", "pa55word");
    scene.deliver(&workflow, json!({})).await.failed(Code::AuthenticationFailed);
    let good = server.url_with_credentials("app", "me", "pa55word");
    scene.deliver(&workflow, json!({"repoUrl": good})).await.commit();
    let elsewhere = json!({"repoUrl": server.url("other")});
    scene.deliver(&workflow, elsewhere).await.failed(Code::DifferentRepository);
}

#[tokio::test]
async fn what_is_no_result() {
    let server = GitServer::start().await;
    server.create_repo("app", &[("a", "1\n")]);
    let scene = Scene::new();
    let url = server.url("app");
    let nobody = Workflow { id: JobId::new(), session: SessionId::new(), checkout: "/".into() };
    assert_eq!(scene.deliver(&nobody, json!({})).await.code, Some(Code::NotFound));
    let running = scene.create::<WorkflowRequest>(&json!({"prompt": "x", "repoUrl": url}), None);
    let running = Workflow { id: running.id(), session: SessionId::new(), checkout: "/".into() };
    let outcome = scene.deliver(&running, json!({})).await;
    assert_eq!((outcome.code, outcome.events.len()), (Some(Code::Running), 0));
    let gone = scene.workflow(&url, "", |checkout| write(checkout, "b", "b\n")).await;
    fs::remove_dir_all(&gone.checkout).unwrap();
    assert_eq!(scene.deliver(&gone, json!({})).await.code, Some(Code::WorkspaceGone));
    let pull = scene.create::<PullRequest>(&json!({"repoUrl": url}), None);
    let pull = Workflow { id: pull.id(), session: SessionId::new(), checkout: "/".into() };
    assert_eq!(scene.deliver(&pull, json!({})).await.code, Some(Code::InvalidField));
    assert_eq!(Service::Pull.spec().job_paths, ["/api/pull", "/api/deliver"]);
}

#[tokio::test]
async fn a_repository_on_this_machine() {
    let server = GitServer::start().await;
    server.create_repo("app", &[("a", "1\n")]);
    let mut scene = Scene::new();
    let url = server.path("app").to_str().unwrap().to_owned();
    let workflow = scene.workflow(&url, "", |checkout| write(checkout, "b", "b\n")).await;
    let commit = scene.deliver(&workflow, json!({})).await.commit().to_owned();
    let branch = format!("agent/{}", short(workflow.id));
    assert_eq!(server.head("app", &branch), Some(commit));
    scene.config.policy.file_repositories = contract::FileRepositories::Refused;
    assert_eq!(scene.deliver(&workflow, json!({})).await.code, Some(Code::SchemeNotAllowed));
}
