//! Callers that disconnect at the worst moment: what they began is completed or undone.

use std::{
    net::SocketAddr,
    time::{Duration, Instant},
};

use contract::{JobState, JobView, Service};
use futures_util::StreamExt;
use http::Method;
use tokio::{io::AsyncWriteExt, net::TcpStream};
use workspace::{Job, Workspace};

use crate::support::Volume;

const BODY: &str = r#"{"repoUrl":"https://host.example/r.git"}"#;

/// Sends a request and disconnects after a moment, usually before the answer.
async fn send_and_disconnect(address: SocketAddr, path: &str, body: &str, moment: Duration) {
    let mut stream = TcpStream::connect(address).await.unwrap();
    let head =
        format!("POST {path} HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n");
    let request = format!("{head}content-length: {}\r\n\r\n{body}", body.len());
    stream.write_all(request.as_bytes()).await.unwrap();
    tokio::time::sleep(moment).await;
}

async fn post(address: SocketAddr) -> web::Answer {
    let headers = [("content-type", "application/json".to_owned())];
    let base = address.into();
    let within = Duration::from_secs(5);
    let answer = web::ask(&base, Method::POST, "/api/pull", &headers, BODY.into(), within);
    answer.await.unwrap()
}

fn views(workspace: &Workspace) -> Vec<JobView> {
    let jobs = Job::list(workspace).unwrap();
    jobs.into_iter().map(|id| Job::open(workspace, id).unwrap().unwrap().view().unwrap()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_caller_that_disconnects_while_its_job_is_created_leaves_none_behind() {
    let volume = Volume::new();
    let gateway = volume.gateway(|_| {}).await;
    let address = gateway.address(Service::Pull);
    for n in 0..100 {
        send_and_disconnect(address, "/api/pull", BODY, Duration::from_micros(n * 20)).await;
    }
    // The job of a caller that stays is created last, so by now, all others have been created or never will be.
    let stays = post(address).await;
    let mut events = Box::pin(stays.events());
    events.next().await.unwrap().unwrap();
    let until = Instant::now() + Duration::from_secs(20);
    loop {
        let waiting =
            views(&volume.workspace).iter().filter(|view| view.state == JobState::Queued).count();
        if waiting == 1 {
            break;
        }
        assert!(Instant::now() < until, "{waiting} jobs wait for callers that have left");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cancel_takes_effect_even_if_its_caller_disconnects() {
    let volume = Volume::new();
    let gateway = volume.gateway(|_| {}).await;
    let address = gateway.address(Service::Pull);
    for n in 0..20 {
        let answer = post(address).await;
        let id = answer.header("x-job-id").unwrap().to_owned();
        let mut events = Box::pin(answer.events());
        let queued = events.next().await.unwrap().unwrap();
        assert!(String::from_utf8_lossy(&queued.data).contains("\"queued\""));
        let job = Job::open(&volume.workspace, id.parse().unwrap()).unwrap().unwrap();
        let path = format!("/api/jobs/{id}/cancel");
        // A caller that disconnects before its request is read has not cancelled, and tries again.
        let mut moment = Duration::from_micros(n * 50);
        while !job.is_cancel_requested().unwrap() {
            send_and_disconnect(address, &path, "", moment).await;
            moment += Duration::from_micros(200);
        }
        let rest =
            async { events.by_ref().map(|frame| frame.unwrap().data).collect::<Vec<_>>().await };
        let rest = tokio::time::timeout(Duration::from_secs(10), rest).await.unwrap();
        assert!(String::from_utf8_lossy(rest.last().unwrap()).contains("\"cancelled\""));
    }
}
