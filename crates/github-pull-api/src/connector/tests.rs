//! The connector with real sockets and real git.

use std::{
    io::{Read as _, Write as _},
    net::{TcpListener, TcpStream},
    sync::mpsc,
    time::Duration,
};

use contract::Policy;
use testkit::GitServer;

use super::*;

/// A server that answers each connection with what it was sent first.
struct Echo(SocketAddr);

impl Echo {
    fn start(address: &str) -> Self {
        let listener = TcpListener::bind(address).unwrap();
        let address = listener.local_addr().unwrap();
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let Ok(mut stream) = stream else { return };
                std::thread::spawn(move || {
                    let mut bytes = [0; 100];
                    while let Ok(length @ 1..) = stream.read(&mut bytes) {
                        stream.write_all(&bytes[..length]).unwrap();
                    }
                });
            }
        });
        Self(address)
    }
}

async fn connector(policy: AddressPolicy, hosts: &[&str]) -> Connector {
    let settings = ConnectorSettings { policy, ..ConnectorSettings::default() };
    with_settings(settings, hosts).await
}

/// Of loopback, one address only.
fn one_address() -> AddressPolicy {
    AddressPolicy { hosts: vec![], networks: vec!["127.0.0.1/32".parse().unwrap()] }
}

async fn with_settings(settings: ConnectorSettings, hosts: &[&str]) -> Connector {
    let connector = Connector::start(JobId::new(), settings).await.unwrap();
    for host in hosts {
        let url = format!("ssh://{host}/repo");
        connector.permit(&RepoUrl::parse(&url, &Policy::default()).unwrap());
    }
    connector
}

/// Asks `connector` for a connection, and for an echo through it.
async fn ask(connector: &Connector, user: User, host: &str, port: u16) -> io::Result<()> {
    let secret = connector.shared.secret.clone();
    let stream = try_connect(connector.address, user, &secret, host, port).await?;
    tokio::task::spawn_blocking(move || echo(stream)).await.unwrap()
}

async fn try_connect(
    address: SocketAddr,
    user: User,
    secret: &str,
    host: &str,
    port: u16,
) -> io::Result<TcpStream> {
    let (secret, host) = (secret.to_owned(), host.to_owned());
    tokio::task::spawn_blocking(move || {
        let mut stream = TcpStream::connect(address)?;
        stream.set_read_timeout(Some(Duration::from_secs(20)))?;
        socks::connect(&mut stream, (user.name(), &secret), &host, port)?;
        Ok(stream)
    })
    .await
    .unwrap()
}

fn echo(mut stream: TcpStream) -> io::Result<()> {
    stream.write_all(b"hello")?;
    let mut answer = [0; 5];
    stream.read_exact(&mut answer)?;
    assert_eq!(&answer, b"hello");
    Ok(())
}

fn git(connector: &Connector, arguments: &[&str]) -> (bool, String) {
    #[expect(clippy::disallowed_methods, reason = "tests run real git")]
    let mut command = std::process::Command::new("git");
    command.args(arguments).env_clear().env("PATH", std::env::var_os("PATH").unwrap());
    command.env("GIT_CONFIG_NOSYSTEM", "1").env("GIT_TERMINAL_PROMPT", "0");
    let output = command.envs(connector.environment(Hosts::Asked)).output().unwrap();
    let text = [output.stdout, output.stderr].concat();
    (output.status.success(), String::from_utf8_lossy(&text).into_owned())
}

/// Every way to write 127.0.0.1 that getaddrinfo or a URL parser knows.
const SPELLINGS: [&str; 9] = [
    "127.0.0.1",
    "localhost",
    "LOCALHOST.",
    "127.1",
    "2130706433",
    "0x7f.1",
    "0177.0.0.1",
    "0x7f000001",
    "[::ffff:127.0.0.1]",
];

#[tokio::test(flavor = "multi_thread")]
async fn no_spelling_of_an_inner_address_leads_there() {
    let echo = Echo::start("127.0.0.1:0");
    let strict = connector(AddressPolicy::default(), &SPELLINGS).await;
    let lenient = connector(AddressPolicy::loopback(), &SPELLINGS).await;
    for host in SPELLINGS {
        let refused = ask(&strict, User::Other, host, echo.0.port()).await.unwrap_err();
        assert_eq!(refused.kind(), io::ErrorKind::HostUnreachable, "{host}");
        assert_eq!(strict.refusal(), Some(Refusal::Unreachable));
        // The same request succeeds where the network is allowed: it was not wrong in itself.
        ask(&lenient, User::Other, host, echo.0.port()).await.expect(host);
    }
    assert_eq!(strict.transferred(), 0);
    assert_eq!(lenient.transferred(), 10 * 9);
    assert_eq!(lenient.refusal(), None);
}

#[tokio::test(flavor = "multi_thread")]
async fn ipv6() {
    let echo = Echo::start("[::1]:0");
    let strict = connector(AddressPolicy::default(), &["[::1]"]).await;
    let lenient = connector(AddressPolicy::loopback(), &["[::1]:9"]).await;
    ask(&strict, User::Other, "::1", echo.0.port()).await.unwrap_err();
    ask(&lenient, User::Other, "::1", echo.0.port()).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_host_of_the_operators_may_have_any_address() {
    let echo = Echo::start("127.0.0.1:0");
    let named =
        |host: String| AddressPolicy { hosts: vec![host.parse().unwrap()], networks: vec![] };
    let port = echo.0.port();
    let hosts = ["localhost", "127.0.0.1"];
    let this_port = connector(named(format!("localhost:{port}")), &hosts).await;
    ask(&this_port, User::Other, "localhost", port).await.unwrap();
    ask(&this_port, User::Other, "127.0.0.1", port).await.unwrap_err();
    let other_port = connector(named("localhost:1".into()), &hosts).await;
    ask(&other_port, User::Other, "localhost", port).await.unwrap_err();
}

#[tokio::test(flavor = "multi_thread")]
async fn refused_and_unreachable_are_one_answer() {
    let closed = testkit::free_port();
    let hosts = ["127.0.0.1", "nowhere.invalid", "127.9.9.9"];
    let connector = connector(one_address(), &hosts).await;
    let mut answers = Vec::new();
    for (host, port) in [(hosts[0], closed), (hosts[1], 80), (hosts[2], 80), ("other.com", 80)] {
        let error = ask(&connector, User::Other, host, port).await.unwrap_err();
        answers.push((error.kind(), error.to_string()));
    }
    answers.dedup();
    assert_eq!(answers.len(), 1, "{answers:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn only_hosts_that_the_pull_asks_for() {
    let echo = Echo::start("127.0.0.1:0");
    let connector = connector(AddressPolicy::loopback(), &["127.0.0.1:22"]).await;
    ask(&connector, User::Other, "127.0.0.1", echo.0.port()).await.unwrap();
    ask(&connector, User::Other, "localhost", echo.0.port()).await.unwrap_err();
    assert_eq!(connector.refusal(), Some(Refusal::OtherHost("localhost".into())));
    // git-lfs may ask for others, under the same rules for addresses.
    ask(&connector, User::OtherAnywhere, "localhost", echo.0.port()).await.unwrap();
    let strict = self::connector(AddressPolicy::default(), &["127.0.0.1"]).await;
    for user in [User::OtherAnywhere, User::HttpsAnywhere] {
        ask(&strict, user, "localhost", echo.0.port()).await.unwrap_err();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_gets_in_without_the_password() {
    let echo = Echo::start("127.0.0.1:0");
    let connector = connector(AddressPolicy::loopback(), &["127.0.0.1"]).await;
    let port = echo.0.port();
    try_connect(connector.address, User::Other, "guess", "127.0.0.1", port).await.unwrap_err();
    let other = self::connector(AddressPolicy::loopback(), &[]).await;
    let others = &other.shared.secret;
    try_connect(connector.address, User::Other, others, "127.0.0.1", port).await.unwrap_err();
    // A client that offers no password.
    let mut stream = TcpStream::connect(connector.address).unwrap();
    stream.write_all(&[5, 1, 0]).unwrap();
    let mut answer = Vec::new();
    tokio::task::spawn_blocking(move || {
        stream.read_to_end(&mut answer).unwrap();
        assert_eq!(answer, [5, 0xff]);
    })
    .await
    .unwrap();
    assert_eq!(connector.transferred(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn its_connections_end_with_it() {
    let echo = Echo::start("127.0.0.1:0");
    let connector = connector(AddressPolicy::loopback(), &["127.0.0.1"]).await;
    let secret = connector.shared.secret.clone();
    let mut stream =
        try_connect(connector.address, User::Other, &secret, "127.0.0.1", echo.0.port())
            .await
            .unwrap();
    let address = connector.address;
    drop(connector);
    let left = tokio::task::spawn_blocking(move || stream.read(&mut [0; 10])).await.unwrap();
    let is_closed = match &left {
        Ok(bytes) => *bytes == 0,
        Err(error) => error.kind() == std::io::ErrorKind::ConnectionReset,
    };
    assert!(is_closed, "{left:?}");
    assert!(TcpStream::connect(address).is_err());
}

/// A proxy that tells the heads of what it is asked, and answers `answer`, then echoes.
fn proxy(answer: &'static str) -> (SocketAddr, mpsc::Receiver<String>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let (heads, asked) = mpsc::channel();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            let mut head = Vec::new();
            let mut byte = [0];
            while !head.ends_with(b"\r\n\r\n") && stream.read(&mut byte).unwrap() == 1 {
                head.push(byte[0]);
            }
            heads.send(String::from_utf8(head).unwrap()).unwrap();
            stream.write_all(answer.as_bytes()).unwrap();
            let mut bytes = [0; 5];
            if stream.read_exact(&mut bytes).is_ok() {
                stream.write_all(&bytes).unwrap();
            }
        }
    });
    (address, asked)
}

fn behind(proxy: SocketAddr, no_proxy: &str) -> ConnectorSettings {
    let env: std::collections::HashMap<String, String> = [
        ("HTTPS_PROXY", format!("http://me:pa55@{proxy}")),
        ("NO_PROXY", no_proxy.to_owned()),
        ("GIT_ALLOWED_NETWORKS", "127.0.0.1".to_owned()),
    ]
    .map(|(name, value)| (name.to_owned(), value))
    .into();
    let mut settings = Settings::new(&env);
    let connector = ConnectorSettings::read(&mut settings);
    assert_eq!(settings.finish(), Ok(()));
    assert!(!format!("{connector:?}").contains("pa55"));
    connector
}

#[tokio::test(flavor = "multi_thread")]
async fn https_goes_through_the_operators_proxy() {
    let (address, asked) = proxy("HTTP/1.1 200 Fine\r\nX: y\r\n\r\n");
    let echo = Echo::start("127.0.0.1:0");
    let hosts = ["git.invalid", "127.0.0.1", "localhost", "127.9.9.9"];
    let connector = with_settings(behind(address, "localhost"), &hosts).await;
    // The proxy resolves what this machine cannot.
    ask(&connector, User::Https, "git.invalid", 443).await.unwrap();
    let head = asked.recv().unwrap();
    assert!(head.starts_with("CONNECT git.invalid:443 HTTP/1.1\r\n"), "{head}");
    assert!(head.contains("\r\nProxy-Authorization: Basic bWU6cGE1NQ==\r\n"), "{head}");
    // NO_PROXY, and what is not https.
    ask(&connector, User::Https, "localhost", echo.0.port()).await.unwrap();
    ask(&connector, User::Other, "127.0.0.1", echo.0.port()).await.unwrap();
    // An address that is not allowed is not asked of the proxy either.
    ask(&connector, User::Https, "127.9.9.9", 443).await.unwrap_err();
    assert!(asked.try_recv().is_err());
    ask(&connector, User::Https, "127.0.0.1", echo.0.port()).await.unwrap();
    assert!(asked.recv().unwrap().starts_with("CONNECT 127.0.0.1:"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_proxy_that_refuses() {
    let (address, _asked) = proxy("HTTP/1.1 407 Proxy Authentication Required\r\n\r\n");
    let connector = with_settings(behind(address, ""), &["git.invalid"]).await;
    let error = ask(&connector, User::Https, "git.invalid", 443).await.unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::HostUnreachable);
}

#[tokio::test(flavor = "multi_thread")]
async fn git_goes_through_it() {
    let server = GitServer::start().await;
    let commit = server.create_repo("app", &[("a", "1\n")]);
    let url = server.url("app");
    let strict = connector(AddressPolicy::default(), &["127.0.0.1"]).await;
    let lenient = connector(AddressPolicy::loopback(), &["127.0.0.1"]).await;
    tokio::task::spawn_blocking(move || {
        let (succeeded, text) = git(&strict, &["ls-remote", &url]);
        assert!(!succeeded, "{text}");
        let (succeeded, text) = git(&lenient, &["ls-remote", &url]);
        assert!(succeeded && text.contains(&commit), "{text}");
        assert!(lenient.transferred() > 500);
    })
    .await
    .unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_redirect_to_another_host_is_refused_and_one_to_another_port_is_not() {
    let (first, second) = (GitServer::start().await, GitServer::start().await);
    let commit = second.create_repo("app", &[("a", "1\n")]);
    let port = second.address().port();
    let connector = connector(AddressPolicy::loopback(), &["127.0.0.1"]).await;
    let url = first.url("app");
    first.set_fault("app", testkit::Fault::RedirectTo(second.url("app")));
    let (connector, url) = tokio::task::spawn_blocking(move || {
        let (succeeded, text) = git(&connector, &["ls-remote", &url]);
        assert!(succeeded && text.contains(&commit), "{text}");
        (connector, url)
    })
    .await
    .unwrap();
    let other = format!("http://localhost:{port}/app");
    first.set_fault("app", testkit::Fault::RedirectTo(other));
    let before = second.requests("app");
    tokio::task::spawn_blocking(move || {
        let (succeeded, text) = git(&connector, &["ls-remote", &url]);
        assert!(!succeeded, "{text}");
        assert_eq!(connector.refusal(), Some(Refusal::OtherHost("localhost".into())));
    })
    .await
    .unwrap();
    assert_eq!(second.requests("app"), before);
}
