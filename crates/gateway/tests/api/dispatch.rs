//! Replicas that do not answer when they are asked to take a job.

use std::time::{Duration, Instant};

use contract::{Ending, JobState, ReplicaId, Service};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};
use workspace::{ClaimedJob, Job, Registration};

use crate::support::{PATIENCE, Volume, ended, get};

/// How long replicas may take to answer in these tests.
const LIMIT: Duration = Duration::from_millis(300);

/// An idle replica of the pull service, played by the test.
struct Replica {
    listener: TcpListener,
    _registration: Registration,
}

impl Replica {
    async fn announce(volume: &Volume) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (id, workspace) = (ReplicaId::new(), &volume.workspace);
        let registration =
            Registration::announce(workspace, Service::Pull, id, address, None).unwrap();
        Self { listener, _registration: registration }
    }

    /// Waits until it is asked to take a job, and reads the request.
    async fn is_asked(&self) -> TcpStream {
        let asked = async {
            let (mut stream, _) = self.listener.accept().await.unwrap();
            let mut request = Vec::new();
            while !request.ends_with(b"}") {
                assert!(stream.read_buf(&mut request).await.unwrap() > 0);
            }
            stream
        };
        tokio::time::timeout(PATIENCE, asked).await.unwrap()
    }
}

fn complete(claimed: ClaimedJob) {
    let event = serde_json::json!({"type": "completed"});
    claimed.finish(Ending::success(&event)).unwrap();
}

fn claim(job: &Job) -> ClaimedJob {
    job.claim("a replica of this test").unwrap().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replica_that_does_not_answer_loses_the_job_to_another() {
    let volume = Volume::new();
    let workflow = volume.running_workflow("app");
    let job = volume.pull(Some(workflow.job().id()), Duration::ZERO);
    let silent = Replica::announce(&volume).await;
    // Before it is asked: this test may be told later that it was.
    let asked = Instant::now();
    let _gateway = volume.gateway(|config| config.dispatch_time = LIMIT).await;
    let _connection = silent.is_asked().await;
    let other = Replica::announce(&volume).await;
    let mut connection = other.is_asked().await;
    assert!(asked.elapsed() >= LIMIT, "{:?}", asked.elapsed());
    let claimed = claim(&job);
    connection.write_all(b"HTTP/1.1 202 Accepted\r\ncontent-length: 2\r\n\r\n{}").await.unwrap();
    complete(claimed);
    assert_eq!(ended(&job).await.state, JobState::Succeeded);
}

/// The claim on the volume decides which replica has a job, not the answer.
#[tokio::test(flavor = "multi_thread")]
async fn a_replica_that_claims_a_job_and_does_not_answer_has_it() {
    let volume = Volume::new();
    let workflow = volume.running_workflow("app");
    let job = volume.pull(Some(workflow.job().id()), Duration::ZERO);
    let silent = Replica::announce(&volume).await;
    let gateway = volume.gateway(|config| config.dispatch_time = LIMIT).await;
    let _connection = silent.is_asked().await;
    let claimed = claim(&job);
    drop(silent);
    let other = Replica::announce(&volume).await;
    let second_dispatch = tokio::time::timeout(3 * LIMIT, other.listener.accept()).await;
    assert!(second_dispatch.is_err(), "the job was given to a second replica");
    let (_, status) = get(&gateway, Service::Pull, "/status").await;
    assert_eq!((&status["replicas"]["busy"], &status["queue"]["depth"]), (&1.into(), &0.into()));
    complete(claimed);
    assert_eq!(ended(&job).await.state, JobState::Succeeded);
    gateway.stop().await;
}

/// During an update, a replica may be of a version that does not know the path of a job.
#[tokio::test(flavor = "multi_thread")]
async fn a_replica_that_does_not_know_the_path_loses_the_job_to_another() {
    let volume = Volume::new();
    let workflow = volume.running_workflow("app");
    let job = volume.pull(Some(workflow.job().id()), Duration::ZERO);
    let old = Replica::announce(&volume).await;
    let _gateway = volume.gateway(|_| {}).await;
    let mut connection = old.is_asked().await;
    let body = r#"{"error":"no such path","code":"not_found"}"#;
    let answer = format!("HTTP/1.1 404 Not Found\r\ncontent-length: {}\r\n\r\n{body}", body.len());
    connection.write_all(answer.as_bytes()).await.unwrap();
    let new = Replica::announce(&volume).await;
    let mut connection = new.is_asked().await;
    let claimed = claim(&job);
    connection.write_all(b"HTTP/1.1 202 Accepted\r\ncontent-length: 2\r\n\r\n{}").await.unwrap();
    complete(claimed);
    assert_eq!(ended(&job).await.state, JobState::Succeeded);
}
