//! Records that the stack did not write cost only their own jobs, and open nothing.

use std::{fs, time::Duration};

use contract::{Code, JobId, JobState, ReplicaId, Scope, Service};
use gateway::Config;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
};
use workspace::{Challenge, Job, Registration, StackSecret, Statement, Workspace};

use crate::support::{PATIENCE, REPO, Volume, answer, ask, bearer, ended, get, parse, until};

/// A volume whose stack signs.
fn volume() -> Volume {
    let volume = Volume::new();
    volume.workspace.sign_with(&volume.workspace.stack_secret().unwrap()).unwrap();
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
    // The control: the same file is a token on a stack that does not sign.
    let foreign =
        Volume { workspace: Workspace::open(volume.workspace.root()).unwrap(), ..Volume::new() };
    let forged = foreign.token("boss", &[Scope::Admin]);
    let unsigned = volume.gateway(|_| {}).await;
    let status =
        async |gateway, token| ask(gateway, "GET", "/api/tokens", &bearer(token), "").await.1;
    until(async || status(&gateway, &ours).await == 200).await;
    assert_eq!(status(&unsigned, &forged).await, 200);
    assert_eq!(status(&gateway, &forged).await, 401);
    fs::remove_dir_all(volume.workspace.root().join(".stack/tokens")).unwrap();
    until(async || status(&gateway, &ours).await == 401).await;
    until(async || ask(&unsigned, "GET", "/api/jobs", "", "").await.1 == 200).await;
    assert_eq!(ask(&gateway, "GET", "/api/jobs", "", "").await.1, 401);
    gateway.stop().await;
    unsigned.stop().await;
}
