//! A stack whose gateway must not get a token unencrypted. The engine is a server that says what a Docker Engine would say.

use std::net::{IpAddr, SocketAddr};

use serde_json::{Value, json};
use testkit::{CommandOutput, skip};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, UdpSocket},
};

use crate::support::{finished, stackctl};

const TOKEN: &str = "wfs_00000000_s3cret";

/// An address of this machine that is not on loopback.
async fn own_address() -> Option<IpAddr> {
    let socket = UdpSocket::bind("0.0.0.0:0").await.ok()?;
    socket.connect("192.0.2.1:9").await.ok()?;
    Some(socket.local_addr().ok()?.ip())
}

/// A server that answers each request with what `answer` says about its path, and closes the connection.
async fn serve(ip: IpAddr, answer: impl Fn(&str) -> Value + Send + 'static) -> SocketAddr {
    let listener = TcpListener::bind((ip, 0)).await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut head = Vec::new();
            while !head.ends_with(b"\r\n\r\n") {
                if stream.read_buf(&mut head).await.unwrap_or(0) == 0 {
                    break;
                }
            }
            let body = answer(&String::from_utf8_lossy(&head)).to_string();
            let length = body.len();
            let head = "HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-type: application/json";
            let text = format!("{head}\r\ncontent-length: {length}\r\n\r\n{body}");
            // The command may have gone away.
            let _ = stream.write_all(text.as_bytes()).await;
        }
    });
    address
}

/// A manager's engine with a stack whose gateway is published at this port and has this environment.
async fn engine(ip: IpAddr, port: u16, environment: &'static [&str]) -> SocketAddr {
    serve(ip, move |head| {
        let path = head.split([' ', '?']).nth(1).unwrap_or_default();
        match path.rsplit('/').next().unwrap_or_default() {
            "version" => json!({"ApiVersion": "1.44", "Version": "25.0"}),
            "info" => json!({"Swarm": {"NodeID": "n", "LocalNodeState": "active", "ControlAvailable": true}}),
            "services" => json!([{
                "ID": "s",
                "Spec": {
                    "Name": "workflow-stack_gateway",
                    "TaskTemplate": {"ContainerSpec": {"Env": environment}},
                },
                "Endpoint": {"Ports": [{"TargetPort": 5000, "PublishedPort": port}]},
            }]),
            "tasks" | "nodes" => json!([]),
            _ => json!({}),
        }
    })
    .await
}

async fn ps(engine: SocketAddr, arguments: &[&str], token: Option<&str>) -> CommandOutput {
    let mut command = stackctl(&format!("tcp://{engine}"), &["ps", "--swarm", "--json"]);
    command.args(arguments).envs(token.map(|token| ("STACK_TOKEN", token)));
    finished(command).await
}

#[tokio::test]
async fn a_token_is_not_sent_unencrypted_to_an_address_that_nobody_has_given() {
    let test = "a_token_is_not_sent_unencrypted_to_an_address_that_nobody_has_given";
    let Some(own) = own_address().await else {
        return skip(test, "this machine has no address but loopback");
    };
    let (sender, mut heads) = tokio::sync::mpsc::unbounded_channel();
    let gateway = serve(own, move |head| {
        sender.send(head.to_owned()).unwrap();
        json!({})
    })
    .await;
    let mut tokens = || {
        let mut seen = Vec::new();
        while let Ok(head) = heads.try_recv() {
            seen.push(head.contains(TOKEN));
        }
        seen
    };
    let remote = engine(own, gateway.port(), &[]).await;
    let said = ps(remote, &[], Some(TOKEN)).await;
    assert_eq!(said.code, 2, "{said:?}");
    assert!(said.stderr.contains("unencrypted") && said.stderr.contains("--url"), "{said:?}");
    assert!(tokens().is_empty(), "nothing was sent");
    // Who gives the address has decided it, and without a token there is nothing to lose.
    assert_eq!(ps(remote, &["--url", &format!("http://{gateway}")], Some(TOKEN)).await.code, 0);
    assert!(tokens().contains(&true));
    assert_eq!(ps(remote, &[], None).await.code, 0);
    assert!(!tokens().is_empty());

    // The gateway answers by https only, and its name is not known.
    let local = "127.0.0.1".parse().unwrap();
    let secure = engine(local, gateway.port(), &["X=1", "TLS_CERT=/run/secrets/tls_cert"]).await;
    let said = ps(secure, &[], Some(TOKEN)).await;
    assert_eq!(said.code, 2, "{said:?}");
    assert!(said.stderr.contains(&format!("--url https://NAME:{}", gateway.port())), "{said:?}");
    let plain = engine(local, gateway.port(), &["TLS_CERT="]).await;
    assert_eq!(ps(plain, &[], Some(TOKEN)).await.code, 0, "an engine on this machine");
}
