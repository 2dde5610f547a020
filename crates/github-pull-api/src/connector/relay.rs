//! The command that ssh (`ProxyCommand`) and git (`GIT_PROXY_COMMAND`, for `git://`) run to connect.
//!
//! It is this same program, which sees by its environment that it is meant: git takes a path there and
//! no arguments. It passes bytes on between its own input and output and the connector.

use std::{
    io,
    net::{Shutdown, SocketAddr, TcpStream},
    process::ExitCode,
};

use super::{CONNECTOR_VARIABLE, User, socks};

/// The whole of `main`, if this process is to connect for git. Call it before anything else.
///
/// It is, if `WORKFLOW_STACK_CONNECTOR` is set, which a pull sets for the git it starts.
#[must_use]
pub fn connect_for_git() -> Option<ExitCode> {
    let connector = std::env::var(CONNECTOR_VARIABLE).ok()?;
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    Some(match relay(&connector, &arguments) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("cannot connect: {error}");
            ExitCode::FAILURE
        }
    })
}

fn relay(connector: &str, arguments: &[String]) -> io::Result<()> {
    let usage = || io::Error::new(io::ErrorKind::InvalidInput, "usage: HOST PORT");
    let [host, port] = arguments else { return Err(usage()) };
    let port = port.parse().map_err(|_| usage())?;
    let (secret, address) = connector.split_once('@').ok_or_else(usage)?;
    let address: SocketAddr = address.parse().map_err(|_| usage())?;
    let mut stream = TcpStream::connect(address)?;
    socks::connect(&mut stream, (User::Other.name(), secret), host, port)?;

    let mut outward = stream.try_clone()?;
    // Ends with the process: what the host sends to its end is all that counts.
    std::thread::spawn(move || {
        let _ = io::copy(&mut io::stdin().lock(), &mut outward);
        let _ = outward.shutdown(Shutdown::Write);
    });
    // `Stdout` would hold back what has no line break.
    io::copy(&mut stream, &mut Unbuffered(io::stdout())).map(drop)
}

/// Hands on every write at once.
struct Unbuffered(io::Stdout);

impl io::Write for Unbuffered {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.0.write(bytes)?;
        self.0.flush()?;
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.0.flush()
    }
}
