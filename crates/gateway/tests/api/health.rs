//! `GET /health` over real sockets.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use contract::Service;

use crate::support::{Volume, parse, raw};

/// A gateway that listens everywhere once told its callers to use `http://0.0.0.0:4000`.
#[tokio::test(flavor = "multi_thread")]
async fn the_addresses_it_names_can_be_reached_from_where_the_caller_is() {
    for (bind, host) in [
        (IpAddr::from(Ipv4Addr::UNSPECIFIED), "127.0.0.1"),
        (IpAddr::from(Ipv4Addr::LOCALHOST), "127.0.0.1"),
        (IpAddr::from(Ipv6Addr::UNSPECIFIED), "[::1]"),
        // An IPv4 address and a socket for both families.
        (IpAddr::from(Ipv6Addr::UNSPECIFIED), "127.0.0.1"),
    ] {
        if bind.is_ipv6() && tokio::net::TcpListener::bind("[::1]:0").await.is_err() {
            // This machine has no IPv6, so there is nothing to reach.
            continue;
        }
        let volume = Volume::new();
        let gateway = volume.gateway(|config| config.bind = bind).await;
        let port = |service| gateway.address(service).port();
        let ask = async |port: u16| {
            let address = format!("{host}:{port}").parse().unwrap();
            let request =
                format!("GET /health HTTP/1.1\r\nhost: {host}:{port}\r\nconnection: close\r\n\r\n");
            parse(&raw(address, request.as_bytes()).await)
        };
        let (status, health) = ask(port(Service::Workflow)).await;
        assert_eq!((status, &health["status"]), (200, &"ok".into()), "{health}");
        for (service, name) in
            [(Service::Pull, "githubPullApi"), (Service::Claude, "claudeCodeApi")]
        {
            assert_eq!(health["services"][name], format!("http://{host}:{}", port(service)));
            assert_eq!(ask(port(service)).await.0, 200);
        }
        gateway.stop().await;
    }
}
