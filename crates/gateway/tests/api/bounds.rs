//! Bounds on what callers can hold.

use std::{sync::Arc, time::Duration};

use contract::{JobId, Service};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};
use web::ConnectionLimits;

use crate::support::{PATIENCE, REPO, Volume, answer, get, parse};

/// Waits until an answer has this status.
async fn until(status: u16, gateway: &gateway::Gateway, target: &str) {
    let answered = async {
        while get(gateway, Service::Pull, target).await.0 != status {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(PATIENCE, answered).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_has_so_many_readers() {
    let volume = Volume::new();
    let gateway = volume.gateway(|config| config.readers_per_job = 2).await;
    let (job, other) = (volume.pull(None, Duration::ZERO), volume.pull(None, Duration::ZERO));
    let read = async |id| {
        let mut stream = TcpStream::connect(gateway.address(Service::Pull)).await.unwrap();
        let head = format!("GET /api/jobs/{id}/events HTTP/1.1\r\nhost: localhost\r\n\r\n");
        stream.write_all(head.as_bytes()).await.unwrap();
        // Now it is counted, or refused.
        stream.peek(&mut [0]).await.unwrap();
        stream
    };
    let mut readers = vec![read(job.id()).await, read(job.id()).await];
    let events = format!("/api/jobs/{}/events", job.id());
    until(503, &gateway, &events).await;
    let (_, error) = get(&gateway, Service::Pull, &events).await;
    assert_eq!(error["code"], "busy");
    assert!(error["error"].as_str().unwrap().contains("READERS_PER_JOB"), "{error}");
    // Nothing else of it, and no other job.
    assert_eq!(get(&gateway, Service::Pull, &format!("/api/jobs/{}", job.id())).await.0, 200);
    let mut of_other = read(other.id()).await;
    drop(readers.pop());
    let again = async {
        loop {
            let mut stream = read(job.id()).await;
            let mut first = [0; 12];
            stream.read_exact(&mut first).await.unwrap();
            if &first == b"HTTP/1.1 200" {
                return;
            }
        }
    };
    tokio::time::timeout(PATIENCE, again).await.unwrap();
    of_other.shutdown().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_repeated_request_for_a_job_is_a_reader_too() {
    let volume = Volume::new();
    let gateway = volume.gateway(|config| config.readers_per_job = 1).await;
    let body = format!(r#"{{"repoUrl":"{REPO}"}}"#);
    let id = JobId::new();
    let post = async || {
        let mut stream = TcpStream::connect(gateway.address(Service::Pull)).await.unwrap();
        let request = format!(
            "POST /api/pull HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\nconnection: close\r\n\
             x-job-id: {id}\r\nx-on-disconnect: cancel\r\ncontent-length: {}\r\n\r\n{body}",
            body.len()
        );
        stream.write_all(request.as_bytes()).await.unwrap();
        let answer = answer(&mut stream).await;
        (stream, parse(&answer))
    };
    let (_first, (status, queued)) = post().await;
    assert_eq!((status, &queued["type"]), (200, &"queued".into()));
    let (second, (status, _)) = post().await;
    assert_eq!(status, 200);
    let (_third, (status, error)) = post().await;
    assert_eq!((status, &error["code"]), (503, &"busy".into()), "{error}");
    // The same limit as for those who ask for its events.
    let events = format!("/api/jobs/{id}/events");
    assert_eq!(get(&gateway, Service::Pull, &events).await.0, 503);
    let (_, view) = get(&gateway, Service::Pull, &format!("/api/jobs/{id}")).await;
    assert_eq!(view["state"], "queued", "a reader that is refused does not cancel the job: {view}");
    drop(second);
    crate::support::until(async || post().await.1.0 == 200).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn all_ports_together_have_so_many_connections() {
    let volume = Volume::new();
    let limits = Arc::new(ConnectionLimits::new(3, 1));
    let gateway = volume.gateway(|config| config.connections = limits).await;
    let ports = Service::ALL.map(|service| gateway.address(service));
    let mut open = Vec::new();
    for port in ports {
        let mut stream = TcpStream::connect(port).await.unwrap();
        stream.write_all(b"GET /status HTTP/1.1\r\nhost: localhost\r\n\r\n").await.unwrap();
        // Now it has been accepted, and stays open.
        stream.read_u8().await.unwrap();
        open.push(stream);
    }
    until(503, &gateway, "/health").await;
    let mut more = TcpStream::connect(ports[0]).await.unwrap();
    assert!(answer(&mut more).await.contains("CONNECTION_LIMIT"), "even without a request");
    drop(open);
    until(200, &gateway, "/health").await;
}
