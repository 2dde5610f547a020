//! Ports that are reserved for servers.

use std::{net::TcpListener, process::Command};

use testkit::{free_port, skip};

/// Asks the kernel for any port of a range of one, for a listener and for a connection to the second argument.
const ASK: &str = r#"
import socket, struct, sys
port, server = map(int, sys.argv[1:])
IP_LOCAL_PORT_RANGE, SKIP = 51, 77
def attempt(name, use):
    asking = socket.socket()
    try:
        asking.setsockopt(socket.IPPROTO_IP, IP_LOCAL_PORT_RANGE, struct.pack("I", port << 16 | port))
    except OSError:
        sys.exit(SKIP)
    try:
        use(asking)
    except OSError:
        return
    print(name, asking.getsockname()[1] == port)
attempt("listener", lambda it: it.bind(("127.0.0.1", 0)))
attempt("connection", lambda it: it.connect(("127.0.0.1", server)))
"#;

#[test]
fn a_reserved_port_goes_only_to_a_server_that_asks_for_it() {
    let server = TcpListener::bind("127.0.0.1:0").unwrap();
    let ask = |port: u16| {
        let server = server.local_addr().unwrap().port().to_string();
        let output = Command::new("python3").args(["-c", ASK, &port.to_string(), &server]).output();
        let output = output.ok()?;
        if output.status.code() == Some(77) {
            return None;
        }
        assert!(output.status.success(), "{output:?}");
        Some(String::from_utf8(output.stdout).unwrap())
    };
    let reserved = free_port();
    if ask(reserved).is_none() {
        let test = "a_reserved_port_goes_only_to_a_server_that_asks_for_it";
        return skip(test, "it needs python3 and Linux 6.3");
    }
    assert_eq!(ask(reserved).unwrap(), "");
    // Twice, because a service may restart.
    for _ in 0..2 {
        drop(TcpListener::bind(("127.0.0.1", reserved)).unwrap());
    }
    assert_eq!(ask(reserved).unwrap(), "");

    // A port that nobody holds is given to both.
    let reservation = web::ReservedPort::new().unwrap();
    let port = reservation.port();
    drop(reservation);
    assert_eq!(ask(port).unwrap(), "listener True\nconnection True\n");
}
