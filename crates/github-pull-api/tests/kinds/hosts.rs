//! Git hosts of every kind, on loopback.

use std::{
    io::{self, Read, Write},
    net::{Shutdown, SocketAddr, TcpListener, TcpStream},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    thread,
};

use crate::upstream::{isolated, run};

/// What is replaced on the way, by as many bytes.
type Replace = &'static [(&'static [u8], &'static [u8])];

/// Hands each connection to `serve`, on a thread of its own, until the test process ends. `None` if the
/// address cannot be had.
fn listen(
    address: &str,
    serve: impl Fn(TcpStream) + Clone + Send + 'static,
) -> io::Result<SocketAddr> {
    let listener = TcpListener::bind(address)?;
    let address = listener.local_addr()?;
    thread::spawn(move || {
        for stream in listener.incoming() {
            let (Ok(stream), serve) = (stream, serve.clone()) else { return };
            thread::spawn(move || serve(stream));
        }
    });
    Ok(address)
}

/// Starts `command` for each connection, as inetd does. Its first bytes in both directions are changed
/// by `replace`.
fn inetd(
    address: &str,
    command: impl Fn() -> Command + Clone + Send + 'static,
    replace: Replace,
) -> io::Result<SocketAddr> {
    listen(address, move |stream| {
        let mut command = command();
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
        let mut child = command.spawn().unwrap();
        let (mut stdin, mut stdout) = (child.stdin.take().unwrap(), child.stdout.take().unwrap());
        let mut input = stream.try_clone().unwrap();
        thread::spawn(move || {
            let _ = copy(&mut input, &mut stdin, replace);
        });
        let mut output = stream;
        let _ = copy(&mut stdout, &mut output, replace);
        let _ = output.shutdown(Shutdown::Both);
        let _ = child.wait();
    })
}

fn copy(from: &mut impl Read, to: &mut impl Write, replace: Replace) -> io::Result<()> {
    let mut buffer = vec![0; 64 << 10];
    let mut is_first = true;
    loop {
        let read = from.read(&mut buffer)?;
        if read == 0 {
            return Ok(());
        }
        if std::mem::take(&mut is_first) {
            for (old, new) in replace {
                let at = buffer[..read].windows(old.len()).position(|it| it == *old);
                if let Some(at) = at {
                    buffer[at..at + old.len()].copy_from_slice(new);
                }
            }
        }
        to.write_all(&buffer[..read])?;
        to.flush()?;
    }
}

/// `git daemon` for the repositories in `root`.
pub(crate) fn daemon(address: &str, root: &Path, replace: Replace) -> io::Result<SocketAddr> {
    let root = root.to_owned();
    let command = move || {
        let mut command = isolated("git", 60);
        command.args(["daemon", "--inetd", "--export-all"]);
        command.arg(format!("--base-path={}", root.display())).arg(&root);
        command
    };
    inetd(address, command, replace)
}

/// Passes each connection on to `target`.
pub(crate) fn forward(address: &str, target: SocketAddr) -> io::Result<SocketAddr> {
    listen(address, move |stream| {
        let Ok(upstream) = TcpStream::connect(target) else { return };
        pass(&stream, &upstream);
    })
}

fn pass(one: &TcpStream, other: &TcpStream) {
    let (mut from, mut to) = (one.try_clone().unwrap(), other.try_clone().unwrap());
    thread::spawn(move || {
        let _ = io::copy(&mut from, &mut to);
        let _ = to.shutdown(Shutdown::Write);
    });
    let (mut from, mut to) = (other, one);
    let _ = io::copy(&mut from, &mut to);
    let _ = to.shutdown(Shutdown::Both);
}

/// A web server that knows nothing of git: files beneath `root`.
pub(crate) fn files(root: &Path) -> SocketAddr {
    let root = root.to_owned();
    listen("127.0.0.1:0", move |mut stream| {
        while let Some(head) = head(&mut stream) {
            let path = head.split(' ').nth(1).unwrap_or_default();
            let path = path.split('?').next().unwrap_or_default();
            let path = percent_encoding::percent_decode_str(path).decode_utf8_lossy();
            let file = root.join(path.trim_start_matches('/'));
            let (status, body) = match std::fs::read(file) {
                Ok(body) => ("200 OK", body),
                Err(_) => ("404 Not Found", Vec::new()),
            };
            let answer = format!("HTTP/1.1 {status}\r\nContent-Length: {}\r\n\r\n", body.len());
            if stream.write_all(&[answer.as_bytes(), &body].concat()).is_err() {
                return;
            }
        }
    })
    .unwrap()
}

/// A proxy that connects everybody who asks with CONNECT to `target`, whatever they ask for.
pub(crate) fn proxy(target: SocketAddr) -> SocketAddr {
    listen("127.0.0.1:0", move |mut stream| {
        let Some(head) = head(&mut stream) else { return };
        if !head.starts_with("CONNECT ") {
            let _ = stream.write_all(b"HTTP/1.1 405 No\r\nContent-Length: 0\r\n\r\n");
            return;
        }
        let upstream = TcpStream::connect(target).unwrap();
        stream.write_all(b"HTTP/1.1 200 Connected\r\n\r\n").unwrap();
        pass(&stream, &upstream);
    })
    .unwrap()
}

/// What a server does with a connection, once it has read the head of a request.
pub(crate) enum Answer {
    /// Passes it on, from its beginning.
    Forward(SocketAddr),
    /// Sends this, and then chunk after chunk until nobody reads any more.
    Endless(Vec<u8>, Box<dyn Fn(u64) -> Vec<u8>>),
}

/// A server that does with each connection what `answer` says of its first request.
pub(crate) fn answer(answer: impl Fn(&str) -> Answer + Clone + Send + 'static) -> SocketAddr {
    listen("127.0.0.1:0", move |mut stream| {
        let Some(head) = head(&mut stream) else { return };
        match answer(&head) {
            Answer::Forward(target) => {
                let mut upstream = TcpStream::connect(target).unwrap();
                upstream.write_all(head.as_bytes()).unwrap();
                pass(&stream, &upstream);
            }
            Answer::Endless(first, chunk) => {
                let mut sent = stream.write_all(&first);
                for number in 0.. {
                    if sent.is_err() {
                        return;
                    }
                    sent = stream.write_all(&chunk(number));
                }
            }
        }
    })
    .unwrap()
}

fn head(stream: &mut TcpStream) -> Option<String> {
    let mut head = Vec::new();
    let mut byte = [0];
    while !head.ends_with(b"\r\n\r\n") {
        if stream.read(&mut byte).ok()? == 0 {
            return None;
        }
        head.push(byte[0]);
    }
    Some(String::from_utf8_lossy(&head).into_owned())
}

/// An ssh server, and the files a client needs.
pub(crate) struct Ssh {
    pub(crate) address: SocketAddr,
    pub(crate) user: String,
    pub(crate) key: PathBuf,
    pub(crate) known_hosts: PathBuf,
}

impl Ssh {
    /// `None`, with a word about it, if there is no sshd or the address cannot be had.
    pub(crate) fn start(test: &str, address: &str, directory: &Path) -> Option<Self> {
        let paths = std::env::var("PATH").unwrap_or_default() + ":/usr/sbin:/usr/local/sbin";
        let sshd = std::env::split_paths(&paths).map(|it| it.join("sshd")).find(|it| it.exists());
        let Some(sshd) = sshd else {
            testkit::skip(test, "there is no sshd (Debian: openssh-server)");
            return None;
        };
        if nix::unistd::geteuid().is_root() {
            // For privilege separation. The service would make it.
            std::fs::create_dir_all("/run/sshd").unwrap();
        }
        let key = directory.join("key");
        let host_key = directory.join("host-key");
        for path in [&key, &host_key] {
            let mut keygen = isolated("ssh-keygen", 30);
            run(keygen.args(["-q", "-t", "ed25519", "-N", "", "-f"]).arg(path));
        }
        let authorized = directory.join("authorized");
        std::fs::copy(key.with_extension("pub"), &authorized).unwrap();
        let config = directory.join("sshd_config");
        let text = format!(
            "HostKey {}\nAuthorizedKeysFile {}\nStrictModes no\nUsePAM no\nPidFile none\n\
             PasswordAuthentication no\nPermitRootLogin prohibit-password\nUseDNS no\n",
            host_key.display(),
            authorized.display()
        );
        std::fs::write(&config, text).unwrap();
        let serve = move || {
            let mut command = isolated(sshd.to_str().unwrap(), 60);
            command.args(["-i", "-e", "-f"]).arg(&config);
            command
        };
        let address = match inetd(address, serve, &[]) {
            Ok(address) => address,
            Err(error) => {
                testkit::skip(test, &format!("cannot listen on {address}: {error}"));
                return None;
            }
        };
        let public = std::fs::read_to_string(host_key.with_extension("pub")).unwrap();
        let name = match address.port() {
            22 => address.ip().to_string(),
            port => format!("[{}]:{port}", address.ip()),
        };
        let known_hosts = directory.join("known_hosts");
        std::fs::write(&known_hosts, format!("{name} {public}")).unwrap();
        let user = nix::unistd::User::from_uid(nix::unistd::geteuid()).unwrap().unwrap().name;
        Some(Self { address, user, key, known_hosts })
    }
}
