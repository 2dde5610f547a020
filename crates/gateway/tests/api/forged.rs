//! Records that the stack did not write cost only their own jobs, and open nothing.

use std::{fs, time::Duration};

use contract::{
    Code, Ending, JobId, JobState, PullRequest, ReplicaId, Scope, Service, SessionId, Timestamp,
    WorkspacePath,
};
use gateway::Config;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
};
use workspace::{Challenge, Job, Registration, Session, StackSecret, Statement, Workspace};

use crate::support::{PATIENCE, REPO, Volume, answer, ask, bearer, ended, get, parse, until};

fn sign(workspace: &Workspace) -> workspace::Result<()> {
    workspace.sign_with(Some(&workspace.stack_secret_file())).map(drop)
}

/// A volume whose stack signs.
fn volume() -> Volume {
    let volume = Volume::new();
    sign(&volume.workspace).unwrap();
    volume
}

fn signs(volume: &Volume) -> impl FnOnce(&mut Config) {
    let file = volume.workspace.stack_secret_file();
    |config| config.secret_file = Some(file)
}

/// Makes a job pull another repository.
fn tamper(job: &Job) {
    let path = job.directory().join("job.json");
    let text = fs::read_to_string(&path).unwrap();
    assert!(text.contains(REPO));
    fs::write(path, text.replace(REPO, "https://evil.example/r.git")).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn changed_jobs_that_a_gateway_finds_end_and_the_others_are_taken_up() {
    let volume = volume();
    let foreign = Workspace::open(volume.workspace.root()).unwrap();
    let [changed, whole, ends] = [(); 3].map(|()| volume.pull(None, Duration::ZERO));
    tamper(&changed);
    // Nobody runs it, whatever somebody says.
    let claim = r#"{"by":"x","at":"2026-01-31T12:00:00.000Z","run":true}"#;
    fs::write(ends.directory().join("claim"), claim).unwrap();
    let unsigned = Job::open(&foreign, volume.pull(None, Duration::ZERO).id()).unwrap().unwrap();
    let text = fs::read_to_string(unsigned.directory().join("job.json")).unwrap();
    let (_, fields) = text.split_once(r#"","#).unwrap();
    fs::write(unsigned.directory().join("job.json"), format!("{{{fields}")).unwrap();
    let gateway = volume.gateway(signs(&volume)).await;
    for job in [&changed, &ends, &Job::open(&volume.workspace, unsigned.id()).unwrap().unwrap()] {
        let outcome = ended(job).await;
        assert_eq!((outcome.state, outcome.code), (JobState::Failed, Some(Code::RecordForged)));
    }
    assert_eq!(whole.view().unwrap().state, JobState::Queued);
    let (status, listed) = get(&gateway, Service::Pull, "/api/jobs").await;
    let listed: Vec<_> =
        listed["jobs"].as_array().unwrap().iter().map(|job| &job["jobId"]).collect();
    assert_eq!(status, 200);
    assert!(listed.iter().any(|id| **id == whole.id().to_string()), "{listed:?}");
    let path = format!("/api/jobs/{}", changed.id());
    let (status, error) = get(&gateway, Service::Pull, &path).await;
    assert_eq!((status, &error["code"]), (500, &"record_forged".into()));
    gateway.stop().await;
}

/// Asks for a pull, and waits until it is queued.
async fn queue(gateway: &gateway::Gateway) -> (JobId, TcpStream) {
    let (id, body) = (JobId::new(), format!(r#"{{"repoUrl":"{REPO}"}}"#));
    let request = format!(
        "POST /api/pull HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\nx-job-id: {id}\r\n\
         content-type: application/json\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    );
    let mut stream = TcpStream::connect(gateway.address(Service::Pull)).await.unwrap();
    stream.write_all(request.as_bytes()).await.unwrap();
    let answered = answer(&mut stream).await;
    assert_eq!(parse(&answered).1["type"], "queued", "{answered}");
    (id, stream)
}

/// A replica of the pull service, or something else that listens at its address.
struct Replica {
    id: ReplicaId,
    listener: TcpListener,
    _registration: Registration,
}

impl Replica {
    async fn announce(volume: &Volume, secret: Option<&StackSecret>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (id, address) = (ReplicaId::new(), listener.local_addr().unwrap());
        let registration =
            Registration::announce(&volume.workspace, Service::Pull, id, address, secret).unwrap();
        Self { id, listener, _registration: registration }
    }

    /// What it receives from the gateway until the end of a body, or until the gateway gives up. With a secret, it meets the
    /// gateway's challenge; without, it claims to have met it.
    async fn receive(&self, secret: Option<&StackSecret>) -> String {
        let received = async {
            let (mut stream, _) = self.listener.accept().await.unwrap();
            let (mut received, mut is_challenged) = (Vec::new(), false);
            while !received.ends_with(b"}") && stream.read_buf(&mut received).await.unwrap_or(0) > 0
            {
                let text = String::from_utf8_lossy(&received).into_owned();
                let challenge = text.lines().find_map(|line| line.strip_prefix("x-challenge: "));
                if let Some(challenge) =
                    challenge.filter(|_| text.ends_with("\r\n\r\n") && !is_challenged)
                {
                    is_challenged = true;
                    let challenge = Challenge::parse(challenge).unwrap();
                    let statement = Statement::Challenged { replica: self.id, challenge };
                    let proof =
                        secret.map_or_else(|| "0".repeat(64), |secret| secret.prove(statement));
                    let answer = format!(
                        "HTTP/1.1 200 OK\r\nx-challenge-proof: {proof}\r\ncontent-length: 0\r\n\r\n"
                    );
                    stream.write_all(answer.as_bytes()).await.unwrap();
                }
            }
            String::from_utf8(received).unwrap()
        };
        tokio::time::timeout(PATIENCE, received).await.unwrap()
    }
}

/// A program that has found the port of a replica free, while its entry still counts.
#[tokio::test(flavor = "multi_thread")]
async fn what_does_not_know_the_secret_is_sent_no_job() {
    let volume = volume();
    let secret = volume.workspace.stack_secret().unwrap();
    let gateway = volume.gateway(signs(&volume)).await;
    let (_, stream) = queue(&gateway).await;
    let received = Replica::announce(&volume, Some(&secret)).await.receive(None).await;
    assert!(received.starts_with("GET /status ") && !received.contains("POST"), "{received}");
    let received = Replica::announce(&volume, Some(&secret)).await.receive(Some(&secret)).await;
    assert!(received.contains(REPO), "{received}");
    // A gateway that is stopped waits for its callers.
    drop(stream);
    gateway.stop().await;
    // The control: a stack whose replicas do not know the secret asks nobody who they are.
    let volume = Volume::new();
    let gateway = volume.gateway(|_| {}).await;
    let (_, stream) = queue(&gateway).await;
    assert!(Replica::announce(&volume, None).await.receive(None).await.contains(REPO));
    drop(stream);
    gateway.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_that_is_changed_in_the_queue_is_given_to_no_replica() {
    let volume = volume();
    let gateway = volume.gateway(signs(&volume)).await;
    let (changed, mut stream) = queue(&gateway).await;
    let (whole, other) = queue(&gateway).await;
    tamper(&Job::open(&volume.workspace, changed).unwrap().unwrap());
    let secret = volume.workspace.stack_secret().unwrap();
    let first = Replica::announce(&volume, Some(&secret)).await.receive(Some(&secret)).await;
    assert!(first.contains(&whole.to_string()) && first.contains(REPO), "{first}");
    let mut rest = String::new();
    tokio::time::timeout(PATIENCE, stream.read_to_string(&mut rest)).await.unwrap().unwrap();
    assert!(rest.contains(r#""type":"error""#) && rest.contains("record_forged"), "{rest}");
    drop(other);
    gateway.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_forged_token_opens_nothing_and_no_lost_directory_opens_the_stack() {
    let volume = volume();
    let gateway = volume.gateway(signs(&volume)).await;
    let ours = volume.token("boss", &[Scope::Admin]);
    let foreign =
        Volume { workspace: Workspace::open(volume.workspace.root()).unwrap(), ..Volume::new() };
    let forged = foreign.token("boss", &[Scope::Admin]);
    async fn status(gateway: &gateway::Gateway, token: &contract::BearerToken) -> u16 {
        ask(gateway, "GET", "/api/tokens", &bearer(token), "").await.1
    }
    until(async || status(&gateway, &ours).await == 200).await;
    assert_eq!(status(&gateway, &forged).await, 401);
    fs::remove_dir_all(volume.workspace.root().join(".stack/tokens")).unwrap();
    until(async || status(&gateway, &ours).await == 401).await;
    assert_eq!(ask(&gateway, "GET", "/api/jobs", "", "").await.1, 401);
    gateway.stop().await;
    // The control: a stack that does not sign.
    let volume = Volume::new();
    let gateway = volume.gateway(|_| {}).await;
    let theirs = volume.token("boss", &[Scope::Admin]);
    until(async || status(&gateway, &theirs).await == 200).await;
    fs::remove_dir_all(volume.workspace.root().join(".stack/tokens")).unwrap();
    until(async || ask(&gateway, "GET", "/api/jobs", "", "").await.1 == 200).await;
    gateway.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_gateway_that_cannot_sign_as_its_stack_does_not_start_and_changes_nothing() {
    let volume = volume();
    let [queued, done] = [(); 2].map(|()| volume.pull(None, Duration::ZERO));
    let ending = Ending::failure(Service::Pull, done.id(), Code::GitFailed, "x");
    done.end_unclaimed("test", ending).unwrap().unwrap();
    let other = volume.workspace.root().join("other");
    fs::write(&other, "8".repeat(64)).unwrap();
    for (file, why) in [(Some(other), "another secret"), (None, "STACK_SECRET_FILE")] {
        let mut config = Config::on_loopback(volume.workspace.root());
        config.secret_file = file;
        let error = gateway::Gateway::start(config).await.unwrap_err();
        let cause = error.source().unwrap().to_string();
        assert!(cause.contains(why), "{cause}");
        assert_eq!(queued.view().unwrap().state, JobState::Queued);
        assert_eq!(done.view().unwrap().code, Some(Code::GitFailed));
        assert!(!volume.workspace.damaged().exists());
    }
    // The control.
    let gateway = volume.gateway(signs(&volume)).await;
    assert_eq!(queued.view().unwrap().state, JobState::Queued);
    gateway.stop().await;
}

/// A job that has ended and a session, of a version that does not sign, on a volume whose stack signs now.
fn of_an_earlier_version() -> (Volume, Job, SessionId) {
    let earlier = Volume::new();
    let job = earlier.job_of::<PullRequest>(&format!(r#"{{"repoUrl":"{REPO}"}}"#), "ann");
    let ending = Ending::failure(Service::Pull, job.id(), Code::GitFailed, "x");
    job.end_unclaimed("test", ending).unwrap().unwrap();
    let session = SessionId::new();
    let place = WorkspacePath::parse(&format!("jobs/{}/r", job.id()), "/w").unwrap();
    drop(Session::create(&earlier.workspace, session, &place).unwrap());
    while Timestamp::now() <= job.id().created() {
        std::thread::yield_now();
    }
    let workspace = Workspace::open(earlier.workspace.root()).unwrap();
    sign(&workspace).unwrap();
    (Volume { workspace, ..earlier }, job, session)
}

#[tokio::test(flavor = "multi_thread")]
async fn what_nothing_proves_the_owner_of_is_nobody_s() {
    let (volume, job, session) = of_an_earlier_version();
    let changed = volume.job_of::<PullRequest>(&format!(r#"{{"repoUrl":"{REPO}"}}"#), "ann");
    let ending = Ending::failure(Service::Pull, changed.id(), Code::GitFailed, "x");
    changed.end_unclaimed("test", ending).unwrap().unwrap();
    tamper(&changed);
    let admin = bearer(&volume.token("boss", &[Scope::Admin]));
    let ann = bearer(&volume.token("ann", &[Scope::Submit, Scope::Read]));
    let signs = signs(&volume);
    let gateway = volume
        .gateway(|config| {
            signs(config);
            config.allow_anonymous = true;
        })
        .await;
    let status = async |who: &str, method, path: &str| ask(&gateway, method, path, who, "").await.1;
    let (job, changed) = (format!("/api/jobs/{}", job.id()), format!("/api/jobs/{}", changed.id()));
    let session = format!("/api/sessions/{session}");
    let log = format!("{job}/events");
    for who in ["", &ann] {
        let (_, _, list) = ask(&gateway, "GET", "/api/jobs", who, "").await;
        assert_eq!(list["count"], 0, "{list}");
        for (method, path) in [
            ("GET", &job),
            ("GET", &log),
            ("DELETE", &job),
            ("GET", &changed),
            ("DELETE", &changed),
            ("GET", &session),
            ("DELETE", &session),
        ] {
            assert_eq!(status(who, method, path).await, 404, "'{who}' {method} {path}");
        }
    }
    let (_, _, list) = ask(&gateway, "GET", "/api/jobs", &admin, "").await;
    assert_eq!(list["count"], 1, "{list}");
    assert_eq!(status(&admin, "GET", &log).await, 200);
    for path in [&job, &changed, &session] {
        assert_eq!(status(&admin, "DELETE", path).await, 200, "{path}");
    }
    gateway.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn on_a_stack_without_callers_nobody_s_things_are_everybody_s() {
    let (volume, job, session) = of_an_earlier_version();
    let gateway = volume.gateway(signs(&volume)).await;
    let status = async |method, path: &str| ask(&gateway, method, path, "", "").await.1;
    let job = format!("/api/jobs/{}", job.id());
    assert_eq!(status("GET", &job).await, 200);
    assert_eq!(status("DELETE", &job).await, 200);
    let (_, _, error) = ask(&gateway, "GET", &format!("/api/sessions/{session}"), "", "").await;
    assert_eq!(error["code"], "session_damaged", "{error}");
    assert!(error["error"].as_str().unwrap().contains("stackctl adopt"), "{error}");
    assert_eq!(status("DELETE", &format!("/api/sessions/{session}")).await, 200);
    gateway.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_running_job_whose_record_is_changed_can_be_stopped_and_its_end_is_noticed() {
    let volume = volume();
    let [early, late] = ["a", "b"].map(|name| volume.running_workflow_of(name, "ann"));
    let admin = bearer(&volume.token("boss", &[Scope::Admin]));
    let [ann, bob] = ["ann", "bob"].map(|name| bearer(&volume.token(name, &[Scope::Submit])));
    tamper(early.job());
    let gateway = volume.gateway(signs(&volume)).await;
    tamper(late.job());
    let cancel = async |who: &str, job: &Job| {
        let path = format!("/api/jobs/{}/cancel", job.id());
        let (_, status, answer) = ask(&gateway, "POST", &path, who, "").await;
        (status, answer["state"].clone())
    };
    // Nothing proves whose this one is.
    assert_eq!(cancel(&ann, early.job()).await.0, 404);
    assert_eq!(cancel(&bob, late.job()).await.0, 404);
    for (who, claimed) in [(&admin, &early), (&ann, &late)] {
        assert_eq!(cancel(who, claimed.job()).await, (202, "running".into()));
        assert!(claimed.job().is_cancel_requested().unwrap());
    }
    for claimed in [early, late] {
        let job = claimed.job().clone();
        drop(claimed);
        assert_eq!(ended(&job).await.code, Some(Code::RecordForged));
    }
    gateway.stop().await;
}
