//! Running proxies.

use std::{
    collections::BTreeSet,
    fs,
    net::Ipv4Addr,
    path::{Path, PathBuf},
    process::Stdio,
};

use tempfile::TempDir;
use testkit::{PATIENCE, RunningCommand, free_port, wait_for};
use tokio::{net::TcpStream, process::Command};

use crate::recipe::{HOST, Kind, Placement, configuration};

/// nginx's own configuration around that of a site: Debian's, without its paths.
const NGINX: &str = "
error_log stderr;
daemon off;
master_process off;
pid nginx.pid;
events {}
http {
    access_log off;
    client_body_temp_path client;
    proxy_temp_path proxy;
    fastcgi_temp_path fastcgi;
    uwsgi_temp_path uwsgi;
    scgi_temp_path scgi;
    include site.conf;
}
";

/// A program that these tests need and that is not installed.
pub(crate) fn missing_program() -> Option<&'static str> {
    ["curl", "openssl"]
        .into_iter()
        .chain(Kind::ALL.map(Kind::name))
        .find(|name| program(name).is_none())
}

/// Finds a program on `PATH`, or where Debian puts servers.
fn program(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let directories = std::env::split_paths(&path).chain(["/usr/sbin".into()]);
    directories.map(|directory| directory.join(name)).find(|file| file.is_file())
}

/// A proxy in the foreground, which ends when this is dropped.
pub(crate) struct Proxy {
    pub(crate) kind: Kind,
    pub(crate) port: u16,
    process: RunningCommand,
    directory: TempDir,
}

impl Proxy {
    /// Starts a proxy with its configuration from the page.
    pub(crate) async fn start(kind: Kind, behind: u16) -> Self {
        Self::start_changed(kind, behind, &[]).await
    }

    /// Starts a proxy with changes to its configuration: pairs of a text on the page and what replaces
    /// it.
    pub(crate) async fn start_changed(kind: Kind, behind: u16, changes: &[(&str, &str)]) -> Self {
        let directory = TempDir::new().unwrap();
        let files = directory.path();
        create_certificate(files).await;
        let port = free_port();
        let text = configuration(kind, &Placement { port, behind, files }, changes);
        let command = match kind {
            Kind::HaProxy => {
                let mut command = Command::new(program("haproxy").unwrap());
                command.arg("-db").arg("-f").arg(write(files, "haproxy.cfg", &text));
                command
            }
            Kind::Caddy => {
                let mut command = Command::new(program("caddy").unwrap());
                command.args(["run", "--adapter", "caddyfile", "--config"]);
                command.arg(write(files, "Caddyfile", &text));
                command.env_clear().env("HOME", files);
                command
            }
            Kind::Nginx => {
                write(files, "site.conf", &text);
                let mut command = Command::new(program("nginx").unwrap());
                command.arg("-p").arg(files).args(["-e", "stderr", "-c"]);
                command.arg(write(files, "nginx.conf", NGINX));
                command
            }
        };
        let process = RunningCommand::start(command);
        if kind == Kind::Caddy {
            // It opens its ports one after the other.
            process.prints("serving initial configuration").await;
        }
        let proxy = Self { kind, port, process, directory };
        wait_for(&format!("{} to listen", kind.name()), PATIENCE, || async move {
            TcpStream::connect((Ipv4Addr::LOCALHOST, port)).await.ok().map(drop)
        })
        .await;
        proxy
    }

    /// The URL of a path, as callers know it.
    pub(crate) fn url(&self, path: &str) -> String {
        format!("https://{HOST}:{}{path}", self.port)
    }

    /// The file with the proxy's certificate, for those who are to trust it.
    pub(crate) fn certificate(&self) -> PathBuf {
        self.directory.path().join("cert.pem")
    }

    /// The ports on which the proxy accepts TCP connections.
    pub(crate) fn listening_ports(&self) -> BTreeSet<u16> {
        let process = PathBuf::from(format!("/proc/{}", self.process.pid()));
        let sockets: BTreeSet<String> = fs::read_dir(process.join("fd"))
            .unwrap()
            .filter_map(|file| fs::read_link(file.unwrap().path()).ok())
            .filter_map(|link| {
                let inode = link.to_str()?.strip_prefix("socket:[")?.strip_suffix(']')?;
                Some(inode.to_owned())
            })
            .collect();
        let tables = ["net/tcp", "net/tcp6"].map(|table| process.join(table));
        let tables = tables.map(|table| fs::read_to_string(table).unwrap_or_default());
        tables.iter().flat_map(|table| table.lines()).filter_map(|row| own(row, &sockets)).collect()
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let (out, err) = (self.process.stdout(), self.process.stderr());
            eprintln!("--- output of {} ---\n{out}{err}--- end ---", self.kind.name());
        }
    }
}

/// The local port in a row of `/proc/net/tcp`, if it is that of a listener among these sockets.
fn own(row: &str, sockets: &BTreeSet<String>) -> Option<u16> {
    const LISTEN: &str = "0A";
    let fields: Vec<_> = row.split_whitespace().collect();
    let is_own = *fields.get(3)? == LISTEN && sockets.contains(*fields.get(9)?);
    let port = fields.get(1)?.rsplit(':').next()?;
    is_own.then(|| u16::from_str_radix(port, 16).unwrap())
}

fn write(directory: &Path, name: &str, text: &str) -> PathBuf {
    let file = directory.join(name);
    fs::write(&file, text).unwrap();
    file
}

/// Creates a certificate for the public name and for `localhost`.
async fn create_certificate(directory: &Path) {
    let (certificate, key) = (directory.join("cert.pem"), directory.join("key.pem"));
    let mut openssl = Command::new("openssl");
    openssl.args(["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256"]);
    openssl.args(["-nodes", "-days", "2", "-subj", "/CN=stack", "-addext"]);
    openssl.arg(format!("subjectAltName=DNS:{HOST},DNS:localhost"));
    openssl.args(["-addext", "basicConstraints=critical,CA:FALSE"]);
    openssl.arg("-keyout").arg(&key).arg("-out").arg(&certificate).stdin(Stdio::null());
    let output = openssl.output().await.unwrap();
    assert!(output.status.success(), "{output:?}");
    let both = [&certificate, &key].map(|file| fs::read_to_string(file).unwrap()).concat();
    fs::write(directory.join("both.pem"), both).unwrap();
}
