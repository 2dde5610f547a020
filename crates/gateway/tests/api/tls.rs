//! A gateway with a certificate: who may still speak plain HTTP.

use std::{net::SocketAddr, time::Duration};

use contract::{Scope, Service};
use serde_json::{Value, json};
use tokio::net::{TcpSocket, TcpStream};
use web::Tls;

use crate::support::{REPO, Volume, answer, bearer, parse};

/// An address of this machine that is not on loopback: no packet is sent to the other.
async fn own_address() -> Option<SocketAddr> {
    let socket = tokio::net::UdpSocket::bind("0.0.0.0:0").await.unwrap();
    socket.connect("192.0.2.1:9").await.ok()?;
    let mut address = socket.local_addr().ok()?;
    address.set_port(0);
    Some(address)
}

/// Sends a request from an address, and returns the status and the JSON of the answer, or of its first event.
async fn ask(from: SocketAddr, to: SocketAddr, head: &str, body: &str) -> (u16, Value) {
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind(from).unwrap();
    let mut stream: TcpStream = socket.connect(to).await.unwrap();
    let length = body.len();
    let request = format!(
        "{head}host: stack.example.org\r\nconnection: close\r\ncontent-type: application/json\r\ncontent-length: {length}\r\n\r\n{body}"
    );
    tokio::io::AsyncWriteExt::write_all(&mut stream, request.as_bytes()).await.unwrap();
    parse(&answer(&mut stream).await)
}

#[tokio::test(flavor = "multi_thread")]
async fn plain_http_from_elsewhere_is_only_for_health_checks_and_workflows() {
    let Some(elsewhere) = own_address().await else {
        println!("SKIPPED: this machine has no address but loopback");
        assert!(std::env::var_os("FORBID_SKIPS").is_none(), "a network is needed");
        return;
    };
    let volume = Volume::new();
    let token = volume.token("ci", &[Scope::Submit, Scope::Read]);
    let (id, token) = (token.id().clone(), bearer(&token));
    let workflow = volume.running_workflow_of("app", "ci");
    let as_workflow = volume.as_workflow(workflow.job().id());
    let fixture = |name: &str| {
        std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../web/tests/tls").join(name)
    };
    let tls = || Some(Tls::load(fixture("first.pem"), fixture("first.key.pem")).unwrap());
    let jobs = format!("GET /api/jobs HTTP/1.1\r\n{token}");
    let pull = json!({"repoUrl": REPO, "directory": "app"}).to_string();
    let of_workflow = |capability: &str| format!("POST /api/pull HTTP/1.1\r\n{capability}");
    let forged = as_workflow.replace("x-job-capability: ", "x-job-capability: 0");
    let loopback: SocketAddr = "127.0.0.1:0".parse().unwrap();

    let gateway = volume.gateway(|config| config.bind = "0.0.0.0".parse().unwrap()).await;
    let at = SocketAddr::from(([127, 0, 0, 1], gateway.address(Service::Pull).port()));
    assert_eq!(ask(elsewhere, at, &jobs, "").await.0, 200, "without a certificate");
    gateway.stop().await;

    let gateway = volume
        .gateway(|config| (config.bind, config.tls) = ("0.0.0.0".parse().unwrap(), tls()))
        .await;
    let at = SocketAddr::from(([127, 0, 0, 1], gateway.address(Service::Pull).port()));
    let workflows = SocketAddr::new(at.ip(), gateway.address(Service::Workflow).port());
    for head in [&*jobs, "GET /status HTTP/1.1\r\n", &of_workflow(&forged), &of_workflow("")] {
        let (status, error) = ask(elsewhere, at, head, &pull).await;
        assert_eq!((status, &error["code"]), (400, &json!("https_required")), "{head}: {error}");
        let sentence = error["error"].as_str().unwrap();
        assert!(sentence.contains("https://"), "{sentence}");
        assert_eq!(sentence.contains("token"), head.contains("authorization"), "{sentence}");
    }
    let (status, health) = ask(elsewhere, at, "GET /health HTTP/1.1\r\n", "").await;
    assert_eq!(status, 200, "{health}");
    let (_, health) = ask(elsewhere, workflows, "GET /health HTTP/1.1\r\n", "").await;
    let pulls = format!("https://stack.example.org:{}", at.port());
    assert_eq!(health["services"]["githubPullApi"], pulls, "the certificate is for the name");
    let (status, event) = ask(elsewhere, at, &of_workflow(&as_workflow), &pull).await;
    assert_eq!((status, &event["type"]), (200, &json!("queued")), "{event}");
    // On this machine nobody listens: neither on loopback, nor on an address of its own.
    assert_eq!(ask(loopback, at, &jobs, "").await.0, 200);
    let mut own = elsewhere;
    own.set_port(at.port());
    assert_eq!(ask(elsewhere, own, &jobs, "").await.0, 200);
    tokio::time::timeout(Duration::from_secs(5), gateway.stop()).await.unwrap();

    let mut refusals = Vec::new();
    for file in std::fs::read_dir(volume.workspace.audit()).unwrap() {
        let lines = std::fs::read_to_string(file.unwrap().path()).unwrap();
        let entries = lines.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
        refusals.extend(entries.filter(|entry| entry["result"] == "https_required"));
    }
    let [refusal] = &refusals[..] else { panic!("one request had a token: {refusals:?}") };
    let known = json!({"caller": "ci", "token": id, "address": elsewhere.ip()});
    for (field, value) in known.as_object().unwrap() {
        assert_eq!(&refusal[field], value, "{refusal}");
    }
}
