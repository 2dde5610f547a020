//! Ports that are reserved for servers.

use std::{net::TcpListener, process::Command};

use testkit::free_port;

/// Asks the kernel for any port of a range of one, for a listener and for a connection to the second argument.
const ASK: &str = r#"
import socket, struct, sys
port, server = map(int, sys.argv[1:])
IP_LOCAL_PORT_RANGE = 51
def attempt(name, use):
    asking = socket.socket()
    asking.setsockopt(socket.IPPROTO_IP, IP_LOCAL_PORT_RANGE, struct.pack("I", port << 16 | port))
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
        String::from_utf8(output.unwrap().stdout).unwrap()
    };
    let reserved = free_port();
    assert_eq!(ask(reserved), "");
    // Twice, because a service may restart.
    for _ in 0..2 {
        drop(TcpListener::bind(("127.0.0.1", reserved)).unwrap());
    }
    assert_eq!(ask(reserved), "");

    // A port that nobody holds is given to both.
    let reservation = web::ReservedPort::new().unwrap();
    let port = reservation.port();
    drop(reservation);
    assert_eq!(ask(port), "listener True\nconnection True\n");
}
