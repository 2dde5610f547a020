//! https, tokens, and URLs that would give a secret away.

use std::{fs, path::Path, process::Stdio};

use contract::Service;
use nix::sys::signal::Signal;
use testkit::{AgentScript, CommandOutput, GitServer, RunningCommand, Stack, TlsFront, skip};
use tokio::process::Command;

use crate::support::{Scene, id_of, ran, stackctl};

const TOKEN: &str = "wfs_00000000_s3cret";

/// `stackctl` that trusts the certificate of `front`, with this token in its environment.
async fn ran_with(front: &TlsFront, arguments: &[&str], token: Option<&str>) -> CommandOutput {
    let mut command = stackctl(front.url(), arguments);
    command.env("SSL_CERT_FILE", front.certificate());
    if let Some(token) = token {
        command.env("STACK_TOKEN", token);
    }
    RunningCommand::start(command).finish().await
}

#[tokio::test]
async fn over_https_with_a_token_in_each_request() {
    let scene = Scene::new().await;
    let Some(mut front) = TlsFront::start(&scene.url()).await else {
        return skip("over_https_with_a_token_in_each_request", "there is no openssl");
    };
    let (repo, prompt) = (scene.repo(), AgentScript::new().say("hello").prompt());
    let said = ran_with(&front, &["run", "--repo", &repo, "--prompt", &prompt], Some(TOKEN)).await;
    assert_eq!((said.code, said.stderr.as_str()), (0, ""), "{said:?}");
    assert!(said.stdout.contains("  hello\n") && !said.stdout.contains(TOKEN), "{said:?}");
    let heads = front.heads();
    assert!(!heads.is_empty());
    let authorization = format!("\r\nauthorization: Bearer {TOKEN}\r\n");
    assert!(heads.iter().all(|head| head.contains(&authorization)), "{heads:#?}");

    // A token in a file comes first. Reads have it too.
    let file = scene.mark("token");
    fs::write(&file, "wfs_11111111_other\n").unwrap();
    let said =
        ran_with(&front, &["jobs", "--token-file", file.to_str().unwrap()], Some(TOKEN)).await;
    assert_eq!(said.code, 0, "{said:?}");
    let heads = front.heads();
    assert!(heads.len() > 1, "{heads:#?}");
    assert!(heads.iter().all(|head| head.contains("Bearer wfs_11111111_other\r\n")), "{heads:#?}");

    // Without a token there is no header.
    let id = id_of(&scene.workflow().await);
    assert_eq!(ran_with(&front, &["show", &id], None).await.code, 0);
    assert!(front.heads().iter().all(|head| !head.contains("authorization")));
}

/// Without a proxy: `stackctl` and curl by https, and the stack's own parts as before.
#[tokio::test]
async fn a_stack_with_a_certificate_of_its_own() {
    let fixture = |name: &str| {
        let certificates = Path::new(env!("CARGO_MANIFEST_DIR")).join("../crates/web/tests/tls");
        certificates.join(name).into_os_string()
    };
    let git = GitServer::start().await;
    git.create_repo("app", &[("README.md", "hello\n")]);
    let certificate = fixture("first.pem");
    let builder =
        Stack::builder().env("TLS_CERT", &certificate).env("TLS_KEY", fixture("first.key.pem"));
    let mut stack = builder.start().await;
    let port = stack.ports()[Service::Workflow];
    let url = format!("https://localhost:{port}");
    let (repo, prompt) = (git.url("app"), AgentScript::new().say("hello").prompt());
    let mut command = stackctl(&url, &["run", "--repo", &repo, "--prompt", &prompt]);
    command.env("SSL_CERT_FILE", &certificate);
    let said = RunningCommand::start(command).finish().await;
    assert_eq!((said.code, said.stderr.as_str()), (0, ""), "{said:?}");
    assert!(said.stdout.contains("  hello\n"), "{said:?}");

    let body = serde_json::json!({"prompt": prompt, "repoUrl": repo}).to_string();
    let curl = async |trusted: &std::ffi::OsStr| {
        let mut curl = Command::new("curl");
        curl.args(["-sN", "--max-time", "60", "-H", "Content-Type: application/json", "-d", &body]);
        curl.arg(format!("{url}/api/workflow")).arg("--cacert").arg(trusted).stdin(Stdio::null());
        curl.output().await
    };
    match curl(&certificate).await {
        Ok(output) => {
            let events = String::from_utf8_lossy(&output.stdout);
            assert!(output.status.success(), "{output:?}");
            assert!(events.contains(r#"data: {"type":"workflow_complete""#), "{events}");
            // 60: the certificate is not trusted.
            assert_eq!(curl(&fixture("second.pem")).await.unwrap().status.code(), Some(60));
        }
        Err(_) => skip("a_stack_with_a_certificate_of_its_own", "there is no curl"),
    }
    stack.signal(Signal::SIGINT);
    assert_eq!(stack.ended().await, 0, "{}", stack.log());
    // It listens on loopback, where that name may not lead.
    let hint = format!("curl -N http://127.0.0.1:{port}/api/workflow");
    assert!(stack.log().contains(&hint), "{}", stack.log());
}

#[tokio::test]
async fn certificates_that_are_not_trusted() {
    let scene = Scene::new().await;
    let Some(mut front) = TlsFront::start(&scene.url()).await else {
        return skip("certificates_that_are_not_trusted", "there is no openssl");
    };
    // Another authority, and none at all.
    let other = TlsFront::start(&scene.url()).await.unwrap();
    for trusted in [other.certificate(), "/dev/null".as_ref()] {
        let mut command = stackctl(front.url(), &["jobs"]);
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
            "show" | "attach" | "cancel" | "delete" | "deliver" | "diff" | "apply" | "checkout" => {
                &["019aa001"]
            }
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
