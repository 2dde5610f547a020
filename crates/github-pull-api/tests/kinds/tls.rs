//! https with a private certificate authority, directly and through a proxy: by the program itself,
//! which takes both from its environment.

use std::{
    io::{BufRead as _, BufReader},
    net::SocketAddr,
    path::{Path, PathBuf},
    process::{Child, Stdio},
};

use contract::Code;

use crate::{
    hosts,
    kind::{Expect, Kind},
    upstream::{isolated, run},
};

/// Ends TLS in front of another server. Python's, because nothing in Rust here speaks TLS.
const SCRIPT: &str = r#"
import socket, ssl, sys, threading
certificate, key, port = sys.argv[1:]
context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
context.load_cert_chain(certificate, key)
server = socket.create_server(("127.0.0.1", 0))
print(server.getsockname()[1], flush=True)
def pump(source, target):
    try:
        while data := source.recv(65536):
            target.sendall(data)
        target.shutdown(socket.SHUT_WR)
    except OSError:
        pass
def serve(connection):
    try:
        inner = context.wrap_socket(connection, server_side=True)
    except OSError:
        return
    outer = socket.create_connection(("127.0.0.1", int(port)))
    threading.Thread(target=pump, args=(inner, outer), daemon=True).start()
    pump(outer, inner)
while True:
    connection, _ = server.accept()
    threading.Thread(target=serve, args=(connection,), daemon=True).start()
"#;

struct Tls {
    child: Child,
    address: SocketAddr,
    certificate: PathBuf,
}

impl Tls {
    /// In front of `target`, for `localhost` and `git.invalid`. `None`, with a word, if a program is missing.
    fn start(test: &str, target: SocketAddr, directory: &Path) -> Option<Self> {
        for program in ["openssl", "python3"] {
            let version = if program == "openssl" { "version" } else { "--version" };
            if !isolated(program, 30).arg(version).output().unwrap().status.success() {
                testkit::skip(test, &format!("there is no {program}"));
                return None;
            }
        }
        let (certificate, key) = (directory.join("cert.pem"), directory.join("key.pem"));
        let mut openssl = isolated("openssl", 30);
        openssl
            .args(["req", "-x509", "-nodes", "-newkey", "ec", "-days", "2", "-subj", "/CN=test"]);
        openssl.args(["-pkeyopt", "ec_paramgen_curve:prime256v1"]);
        openssl.args(["-addext", "subjectAltName=DNS:localhost,DNS:git.invalid"]);
        run(openssl.arg("-keyout").arg(&key).arg("-out").arg(&certificate));
        let mut python = isolated("python3", 120);
        python.args(["-c", SCRIPT]).arg(&certificate).arg(&key).arg(target.port().to_string());
        let mut child = python.stdout(Stdio::piped()).spawn().unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let address = SocketAddr::from(([127, 0, 0, 1], line.trim().parse().unwrap()));
        Some(Self { child, address, certificate })
    }

    fn certificate(&self) -> String {
        self.certificate.display().to_string()
    }
}

impl Drop for Tls {
    fn drop(&mut self) {
        // `timeout` passes it on.
        let pid = nix::unistd::Pid::from_raw(self.child.id().cast_signed());
        let _ = nix::sys::signal::kill(pid, nix::sys::signal::SIGTERM);
        let _ = self.child.wait();
    }
}

fn newer(up: &crate::upstream::Upstream) {
    up.commit_files(&[("a", "newer\n")]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_private_authority() {
    let mut kind = Kind::simple("https, private CA");
    let Some(tls) = Tls::start("tls", kind.server.address(), kind.root.path()) else { return };
    kind.url = format!("https://localhost:{}/app", tls.address.port());
    kind.environment.push(("GIT_SSL_CAINFO".into(), tls.certificate()));
    kind.replica =
        Some(vec![("SSL_CERT_FILE", tls.certificate()), ("GIT_ALLOWED_HOSTS", "localhost".into())]);
    kind.same(newer).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_authority_that_is_not_known() {
    let mut kind = Kind::simple("https, unknown CA");
    let Some(tls) = Tls::start("tls", kind.server.address(), kind.root.path()) else { return };
    kind.url = format!("https://localhost:{}/app", tls.address.port());
    kind.replica = Some(vec![("GIT_ALLOWED_HOSTS", "localhost".into())]);
    kind.clones(Expect::BothFail(Code::RepositoryUnreachable)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_proxy() {
    let mut kind = Kind::simple("https through HTTPS_PROXY");
    let Some(tls) = Tls::start("proxy", kind.server.address(), kind.root.path()) else { return };
    let proxy = format!("http://me:pa55@{}", hosts::proxy(tls.address));
    kind.url = "https://git.invalid/app".into();
    kind.environment.push(("GIT_SSL_CAINFO".into(), tls.certificate()));
    kind.environment.push(("HTTPS_PROXY".into(), proxy.clone()));
    kind.replica = Some(vec![("SSL_CERT_FILE", tls.certificate()), ("HTTPS_PROXY", proxy)]);
    kind.same(newer).await;
}
