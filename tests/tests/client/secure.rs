//! https, tokens, and URLs that would give a secret away.

use std::{fs, path::PathBuf, process::Stdio, sync::Arc};

use tempfile::TempDir;
use testkit::{AgentScript, CommandOutput, RunningCommand, skip};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    process::Command,
    sync::mpsc,
    task::JoinSet,
};
use tokio_rustls::{
    TlsAcceptor,
    rustls::{
        ServerConfig,
        crypto::ring,
        pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject as _},
    },
};

use crate::support::{Scene, id_of, ran, stackctl};

const TOKEN: &str = "wfs_00000000_s3cret";

/// Terminates TLS before a stack, and reports the head of each request.
struct Front {
    url: String,
    certificate: PathBuf,
    heads: mpsc::UnboundedReceiver<String>,
    _directory: TempDir,
    _serving: JoinSet<()>,
}

impl Front {
    /// `None` on a machine without openssl, which makes the certificate.
    async fn start(stack: &str) -> Option<Self> {
        let directory = TempDir::new().unwrap();
        let (certificate, key) =
            (directory.path().join("cert.pem"), directory.path().join("key.pem"));
        let made = Command::new("openssl")
            .args([
                "req",
                "-x509",
                "-newkey",
                "ec",
                "-pkeyopt",
                "ec_paramgen_curve:P-256",
                "-nodes",
            ])
            .args(["-subj", "/CN=stack", "-days", "2", "-addext", "subjectAltName=IP:127.0.0.1"])
            .args(["-addext", "basicConstraints=critical,CA:FALSE"])
            .arg("-keyout")
            .arg(&key)
            .arg("-out")
            .arg(&certificate)
            .stderr(Stdio::null())
            .status()
            .await;
        if !made.is_ok_and(|status| status.success()) {
            return None;
        }
        let chain = vec![CertificateDer::from_pem_file(&certificate).unwrap()];
        let config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(chain, PrivateKeyDer::from_pem_file(&key).unwrap())
            .unwrap();
        let acceptor = TlsAcceptor::from(Arc::new(config));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("https://{}", listener.local_addr().unwrap());
        let target = stack.strip_prefix("http://").unwrap().to_owned();
        let (sender, heads) = mpsc::unbounded_channel();
        let mut serving = JoinSet::new();
        serving.spawn(async move {
            let mut connections = JoinSet::new();
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                let (acceptor, target, sender) = (acceptor.clone(), target.clone(), sender.clone());
                connections.spawn(async move {
                    // A client that does not trust the certificate ends the handshake.
                    let Ok(mut caller) = acceptor.accept(stream).await else { return };
                    let mut head = vec![0; 16 << 10];
                    let Ok(read) = caller.read(&mut head).await else { return };
                    head.truncate(read);
                    let _ = sender.send(String::from_utf8_lossy(&head).into_owned());
                    let mut stack = TcpStream::connect(target).await.unwrap();
                    stack.write_all(&head).await.unwrap();
                    // It ends when either side does.
                    let _ = tokio::io::copy_bidirectional(&mut caller, &mut stack).await;
                });
            }
        });
        Some(Self { url, certificate, heads, _directory: directory, _serving: serving })
    }

    /// `stackctl` that trusts the certificate, with this token in its environment.
    async fn ran(&self, arguments: &[&str], token: Option<&str>) -> CommandOutput {
        let mut command = stackctl(&self.url, arguments);
        command.env("SSL_CERT_FILE", &self.certificate);
        if let Some(token) = token {
            command.env("STACK_TOKEN", token);
        }
        RunningCommand::start(command).finish().await
    }

    fn heads(&mut self) -> Vec<String> {
        std::iter::from_fn(|| self.heads.try_recv().ok()).collect()
    }
}

#[tokio::test]
async fn over_https_with_a_token_in_each_request() {
    let scene = Scene::new().await;
    let Some(mut front) = Front::start(&scene.url()).await else {
        return skip("over_https_with_a_token_in_each_request", "there is no openssl");
    };
    let (repo, prompt) = (scene.repo(), AgentScript::new().say("hello").prompt());
    let said = front.ran(&["run", "--repo", &repo, "--prompt", &prompt], Some(TOKEN)).await;
    assert_eq!((said.code, said.stderr.as_str()), (0, ""), "{said:?}");
    assert!(said.stdout.contains("  hello\n") && !said.stdout.contains(TOKEN), "{said:?}");
    let heads = front.heads();
    assert!(!heads.is_empty());
    let authorization = format!("\r\nauthorization: Bearer {TOKEN}\r\n");
    assert!(heads.iter().all(|head| head.contains(&authorization)), "{heads:#?}");

    // A token in a file comes first. Reads have it too.
    let file = scene.mark("token");
    fs::write(&file, "wfs_11111111_other\n").unwrap();
    let said = front.ran(&["jobs", "--token-file", file.to_str().unwrap()], Some(TOKEN)).await;
    assert_eq!(said.code, 0, "{said:?}");
    let heads = front.heads();
    assert!(heads.len() > 1, "{heads:#?}");
    assert!(heads.iter().all(|head| head.contains("Bearer wfs_11111111_other\r\n")), "{heads:#?}");

    // Without a token there is no header.
    let id = id_of(&scene.workflow().await);
    assert_eq!(front.ran(&["show", &id], None).await.code, 0);
    assert!(front.heads().iter().all(|head| !head.contains("authorization")));
}

#[tokio::test]
async fn certificates_that_are_not_trusted() {
    let scene = Scene::new().await;
    let Some(mut front) = Front::start(&scene.url()).await else {
        return skip("certificates_that_are_not_trusted", "there is no openssl");
    };
    // Another authority, and none at all.
    let other = Front::start(&scene.url()).await.unwrap();
    for trusted in [other.certificate.as_path(), "/dev/null".as_ref()] {
        let mut command = stackctl(&front.url, &["jobs"]);
        command.env("SSL_CERT_FILE", trusted).env("STACK_TOKEN", TOKEN);
        let said = RunningCommand::start(command).finish().await;
        assert_eq!((said.code, said.stdout.as_str()), (3, ""), "{said:?}");
        assert!(
            said.stderr.contains("SSL_CERT_FILE") && !said.stderr.contains("s3cret"),
            "{said:?}"
        );
    }
    assert_eq!(front.heads(), Vec::<String>::new(), "no request may leave");
}

/// Every command that takes a URL, as its help shows it.
async fn commands_with_a_url() -> Vec<String> {
    let help = async |arguments: &[&str]| ran("http://127.0.0.1:1", arguments).await.stdout;
    let all = help(&["--help"]).await;
    let (_, all) = all.split_once("Commands:\n").unwrap();
    let mut commands = Vec::new();
    for name in all.lines().take_while(|line| line.starts_with("  ")) {
        let name = name.split_whitespace().next().unwrap();
        match name {
            // These have commands of their own.
            "token" => {
                commands.extend(["create", "list", "revoke"].map(|verb| format!("token {verb}")))
            }
            _ if help(&[name, "--help"]).await.contains("--url") => commands.push(name.to_owned()),
            _ => {}
        }
    }
    commands
}

/// Neither an option, nor the environment, nor a wrong place on the command line gives a password away.
#[tokio::test]
async fn credentials_in_a_url_are_refused_and_not_repeated() {
    const URL: &str = "https://user:pa55@stack.example:5000/x";
    let commands = commands_with_a_url().await;
    for command in ["run", "attach", "jobs", "show", "cancel", "delete", "load", "ps", "logs"] {
        assert!(commands.iter().any(|it| it == command), "{command}: {commands:?}");
    }
    for command in &commands {
        let needed: &[&str] = match command.as_str() {
            "run" | "load" => &["--repo=r", "--prompt=p"],
            "show" | "attach" | "cancel" | "delete" => &["019aa001"],
            "token create" => &["--name=ci"],
            "token revoke" => &["Ab3dE6gH"],
            _ => &[],
        };
        let words: Vec<&str> = command.split(' ').collect();
        let with_option = [&words, &["--url", URL][..], needed].concat();
        let with_equals = format!("--url={URL}");
        let with_equals = [&words, &[&*with_equals][..], needed].concat();
        for arguments in [with_option, with_equals] {
            let output = ran("http://127.0.0.1:1", &arguments).await;
            assert_eq!((output.code, output.stdout.as_str()), (2, ""), "{output:?}");
            let (hints, secret) = (["STACK_TOKEN", "--token-file"], "pa55");
            assert!(hints.iter().all(|hint| output.stderr.contains(hint)), "{output:?}");
            assert!(!output.stderr.contains(secret), "{output:?}");
        }
        // Of these, some do not use the variable, or refuse the command line; none repeats the URL.
        let misplaced = [&words, &[URL][..], needed].concat();
        let unknown = format!("--ulr={URL}");
        let unknown = [&words, &[&*unknown][..], needed].concat();
        let wanted = [&words, needed].concat();
        for arguments in [misplaced, unknown, wanted, [&words, &["--help"][..]].concat()] {
            let output = ran(URL, &arguments).await;
            let printed = output.stdout + &output.stderr;
            assert!(!printed.contains("pa55"), "{arguments:?}: {printed}");
        }
    }
}

#[tokio::test]
async fn what_is_not_a_token_is_refused() {
    let scene = Scene::new().await;
    for token in ["two words", "line\nbreak", "ü"] {
        let mut command = stackctl(&scene.url(), &["jobs"]);
        command.env("STACK_TOKEN", token);
        let said = RunningCommand::start(command).finish().await;
        assert_eq!((said.code, said.stdout.as_str()), (2, ""), "{said:?}");
        assert!(said.stderr.contains("STACK_TOKEN") && !said.stderr.contains(token), "{said:?}");
    }
    let said = ran(&scene.url(), &["jobs", "--token-file", "/nowhere"]).await;
    assert!(said.code == 2 && said.stderr.contains("/nowhere"), "{said:?}");
}
