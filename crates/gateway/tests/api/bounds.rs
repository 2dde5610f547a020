//! Bounds on what callers can hold.

use std::{sync::Arc, time::Duration};

use contract::Service;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};
use web::ConnectionLimits;

use crate::support::{PATIENCE, Volume, answer, get};

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
