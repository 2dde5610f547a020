//! Invalid requests are refused by the gateway and by replicas alike, and do not consume a replica.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    net::SocketAddr,
    os::unix::fs::symlink,
    sync::Mutex,
    time::{Duration, Instant},
};

use bytes::Bytes;
use contract::JobId;
use http::HeaderMap;
use serde_json::{Value, json};
use testkit::{Stack, http_json, raw_request};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};

use workspace::{Statement, Workspace};

use crate::support::{get, header, named_jobs, registry};

/// A service, and a valid request body for it.
struct Target {
    name: &'static str,
    path: &'static str,
    gateway: String,
    body: Value,
}

fn targets(stack: &Stack) -> [Target; 3] {
    let url = "https://127.0.0.1:1/user/repo.git";
    [
        Target {
            name: "workflow-api",
            path: "/api/workflow",
            gateway: stack.workflow_url(),
            body: json!({"prompt": "Do it.", "repoUrl": url}),
        },
        Target {
            name: "github-pull-api",
            path: "/api/pull",
            gateway: stack.pull_url(),
            body: json!({"repoUrl": url}),
        },
        Target {
            name: "claude-code-api",
            path: "/api/execute",
            gateway: stack.claude_url(),
            body: json!({"prompt": "Do it."}),
        },
    ]
}

/// By the address of a replica: the ID of a job, and the proof that a gateway gives it to the replica.
static PROOFS: Mutex<BTreeMap<String, (String, String)>> = Mutex::new(BTreeMap::new());

/// One base URL each for the gateway and for the replica itself.
fn bases(stack: &Stack, target: &Target) -> [String; 2] {
    let replicas = registry(stack, target.name);
    let (id, entry) = replicas.iter().next().expect("an idle replica");
    let address = entry["address"].as_str().unwrap();
    // What the gateway sends with a job, so that the replica reads the request at all.
    let secret = Workspace::open(stack.workspace()).unwrap().stack_secret().unwrap();
    let (replica, job) = (id.parse().unwrap(), JobId::new());
    let proof = secret.prove(Statement::Dispatch { replica, job });
    PROOFS.lock().unwrap().insert(address.to_owned(), (job.to_string(), proof));
    [target.gateway.clone(), format!("http://{address}")]
}

/// The idle replicas and all jobs.
fn used(stack: &Stack) -> (Vec<String>, BTreeSet<String>) {
    let services = ["workflow-api", "github-pull-api", "claude-code-api"];
    let idle = services.iter().flat_map(|name| registry(stack, name).into_keys()).collect();
    (idle, named_jobs(stack))
}

/// Asserts the status and the shape of a refusal.
async fn refused(
    what: &str,
    (method, url): (&str, &str),
    body: Option<Bytes>,
    headers: &[(&str, &str)],
    (status, code, field): (u16, &str, Option<&str>),
) -> HeaderMap {
    let authority = url.strip_prefix("http://").and_then(|rest| rest.split('/').next()).unwrap();
    let proof = PROOFS.lock().unwrap().get(authority).cloned();
    let proof =
        proof.iter().flat_map(|(job, proof)| [("x-job-id", job), ("x-dispatch-proof", proof)]);
    let headers: Vec<_> =
        headers.iter().copied().chain(proof.map(|(name, value)| (name, value.as_str()))).collect();
    let (got, headers, answer) = http_json(method, url, body, &headers).await;
    let what = format!("{what}: {method} {url}: {answer}");
    assert_eq!(got.as_u16(), status, "{what}");
    assert_eq!((answer["code"].as_str(), answer["field"].as_str()), (Some(code), field), "{what}");
    assert!(answer["error"].as_str().is_some_and(|error| error.len() > 10), "{what}");
    headers
}

#[tokio::test]
async fn malformed_requests() {
    let stack = Stack::builder().start().await;
    let before = used(&stack);
    for target in targets(&stack) {
        for base in bases(&stack, &target) {
            let url = format!("{base}{}", target.path);
            let post = ("POST", &*url);
            let invalid = (400, "invalid_json", None);
            refused("no body", post, None, &[], invalid).await;
            for text in ["{", "[]", "\"x\"", "null", "\u{feff}", "prompt=x", "  "] {
                refused(text, post, Some(text.into()), &[], invalid).await;
            }
            let not_utf8 = Bytes::from_static(b"{\"prompt\": \"\xff\xfe\"}");
            refused("not UTF-8", post, Some(not_utf8), &[], invalid).await;
            let deep = "[".repeat(200_000);
            refused("very deep", post, Some(deep.into()), &[], invalid).await;

            let mut large = target.body.clone();
            large["prompt"] = "x".repeat(2 << 20).into();
            let too_large = (413, "body_too_large", None);
            refused("2 MiB", post, Some(large.to_string().into()), &[], too_large).await;

            let good = || Some(Bytes::from(target.body.to_string()));
            for kind in ["text/plain", "application/x-www-form-urlencoded", "", "json"] {
                let headers = [("content-type", kind)];
                let media = (415, "unsupported_media_type", None);
                refused(kind, post, good(), &headers, media).await;
            }

            for path in ["/", "/api", "/api/nope", "/API/execute", "/../etc/passwd", "/api/pull/"] {
                let nowhere = format!("{base}{path}");
                let not_found = (404, "not_found", None);
                refused("unknown path", ("GET", &nowhere), None, &[], not_found).await;
                refused("unknown path", ("POST", &nowhere), good(), &[], not_found).await;
            }
            for (method, path, allow) in [
                ("GET", target.path, "POST"),
                ("PUT", target.path, "POST"),
                ("DELETE", target.path, "POST"),
                ("POST", "/health", "GET, HEAD"),
                ("DELETE", "/status", "GET, HEAD"),
            ] {
                let url = format!("{base}{path}");
                let not_allowed = (405, "method_not_allowed", None);
                let headers = refused("method", (method, &url), good(), &[], not_allowed).await;
                assert_eq!(header(&headers, "allow"), allow);
            }
        }
    }
    assert_eq!(used(&stack), before);
}

#[tokio::test]
async fn invalid_fields() {
    let stack = Stack::builder().start().await;
    let before = used(&stack);
    let long = "x".repeat(5000);
    let prompt = [json!(null), json!(""), json!(" \n\t"), json!(5), json!(["x"]), json!({})];
    let directory =
        ["../x", "/etc", ".git", ".stack", "jobs", &long, "a\0b", "", "a/b", "-x", ".."];
    let workspace =
        ["../x", "/etc", "/", "", ".", ".git", ".stack/jobs", "a/.git", "a/../..", "a\0b"];
    let urls = [
        ("file:///etc", "scheme_not_allowed"),
        ("/etc", "scheme_not_allowed"),
        ("ext::sh -c touch% /tmp/pwned", "scheme_not_allowed"),
        ("ftp://host/r.git", "scheme_not_allowed"),
        ("--upload-pack=touch /tmp/pwned", "invalid_field"),
        ("-oProxyCommand=touch:x", "invalid_field"),
        ("ssh://-oProxyCommand=touch/x", "invalid_field"),
        ("https://host", "invalid_field"),
        ("https://host/a b", "invalid_field"),
        ("https://host/r.git\0", "invalid_field"),
        ("", "invalid_field"),
    ];
    for target in targets(&stack) {
        let asks_an_agent = target.name != "github-pull-api";
        let has_repository = target.name != "claude-code-api";
        let mut cases: Vec<(&str, Value, &str)> = Vec::new();
        if asks_an_agent {
            cases.extend(prompt.iter().map(|value| ("prompt", value.clone(), "invalid_field")));
            for (field, value) in [
                ("dangerouslySkipPermissions", json!("yes")),
                ("resumeSessionId", json!("../../x")),
                ("model", json!("--help")),
                ("maxTurns", json!(0)),
                ("maxTurns", json!(-1)),
                ("maxBudgetUsd", json!(0)),
                ("allowedTools", json!(["Bash --x"])),
                ("allowedTools", json!("Bash")),
                ("timeoutSeconds", json!(1e9)),
                ("appendSystemPrompt", json!("x".repeat(20_001))),
            ] {
                cases.push((field, value, "invalid_field"));
            }
        }
        if has_repository {
            cases.extend(urls.iter().map(|(url, code)| ("repoUrl", json!(url), *code)));
            cases.push(("repoUrl", json!(null), "invalid_field"));
            cases.push(("repoUrl", json!(7), "invalid_field"));
            cases.push(("directory", json!(7), "invalid_field"));
            cases.extend(directory.iter().map(|it| ("directory", json!(it), "invalid_field")));
            for branch in ["--upload-pack=touch", "a..b", "", "a b"] {
                cases.push(("branch", json!(branch), "invalid_field"));
            }
        } else {
            cases.extend(workspace.iter().map(|it| ("workspace", json!(it), "invalid_field")));
        }
        for base in bases(&stack, &target) {
            let url = format!("{base}{}", target.path);
            for (field, value, code) in &cases {
                let mut body = target.body.clone();
                body[field] = value.clone();
                let what = format!("{field} = {:.60}", value.to_string());
                let body = Some(body.to_string().into());
                refused(&what, ("POST", &url), body, &[], (400, code, Some(field))).await;
            }
        }
    }
    assert_eq!(used(&stack), before);
}

/// Only the replica can look at the volume. It refuses these requests and stays idle.
#[tokio::test]
async fn workspaces_that_are_missing_or_outside_the_volume() {
    let stack = Stack::builder().start().await;
    let app = stack.workspace().join("app");
    fs::create_dir_all(app.join("inside")).unwrap();
    fs::write(app.join("file"), "").unwrap();
    for (link, to) in [("etc", "/etc"), ("up", "../.."), ("stack", "../.stack"), ("loop", "loop")] {
        symlink(to, app.join(link)).unwrap();
    }
    let replicas = used(&stack).0;
    let [_, _, claude] = targets(&stack);
    for base in bases(&stack, &claude) {
        let url = format!("{base}{}", claude.path);
        for path in
            ["missing", "app/none", "app/file", "app/etc", "app/up", "app/stack", "app/loop"]
        {
            let mut body = claude.body.clone();
            body["workspace"] = path.into();
            let invalid = (400, "invalid_field", Some("workspace"));
            let body = Some(body.to_string().into());
            refused(path, ("POST", &url), body, &[], invalid).await;
        }
    }
    assert_eq!(used(&stack).0, replicas);
}

#[tokio::test]
async fn head_requests_invalid_bytes_and_slow_callers() {
    let stack = Stack::builder().start().await;
    let before = used(&stack);
    let mut slow = Vec::new();
    for target in targets(&stack) {
        for base in bases(&stack, &target) {
            let address: SocketAddr = base.strip_prefix("http://").unwrap().parse().unwrap();
            slow.push(tokio::spawn(cut_off(address, target.path)));
            for path in ["/health", "/status"] {
                let url = format!("{base}{path}");
                let (head, headers, body) = http_json("HEAD", &url, None, &[]).await;
                assert_eq!((head.as_u16(), body), (200, Value::Null), "{url}");
                let length: usize = header(&headers, "content-length").parse().unwrap();
                let (status, body) = get(&url).await;
                assert_eq!((status, body.to_string().len()), (200, length), "{url}: {body}");
            }
            for garbage in [
                &b"\0\0\0\0\r\n\r\n"[..],
                b"GET\r\n\r\n",
                b"GET / HTTP/9.9\r\n\r\n",
                b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
                b"POST /api/workflow HTTP/1.1\r\nContent-Length: x\r\n\r\n",
                b"POST /api/workflow HTTP/1.1\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\n",
                b"POST /api/execute HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\nZZ\r\n",
            ] {
                let answer = raw_request(address, garbage).await;
                let text = String::from_utf8_lossy(&answer);
                assert!(answer.is_empty() || text.starts_with("HTTP/1.1 4"), "{garbage:?}: {text}");
            }
            let many = format!("GET /health HTTP/1.1\r\n{}\r\n", "x: y\r\n".repeat(20_000));
            let answer = raw_request(address, many.as_bytes()).await;
            assert!(!answer.starts_with(b"HTTP/1.1 2"), "20,000 headers were accepted");
            assert_eq!(get(&format!("{base}/health")).await.1["status"], "ok");
        }
        // DNS rebinding: a web page can point its own name at this address.
        let address = target.gateway.strip_prefix("http://").unwrap().parse().unwrap();
        for (host, status) in [("evil.example", "400"), ("localhost", "200"), ("127.0.0.1", "200")]
        {
            let head = format!("GET /health HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n");
            let answer = raw_request(address, head.as_bytes()).await;
            let answer = String::from_utf8_lossy(&answer);
            assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{host}: {answer}");
        }
    }
    for slow in slow {
        slow.await.unwrap();
    }
    assert_eq!(used(&stack), before);
}

/// A caller that never finishes the head of its request is disconnected.
async fn cut_off(address: SocketAddr, path: &str) {
    let started = Instant::now();
    let mut stream = TcpStream::connect(address).await.unwrap();
    let head = format!("POST {path} HTTP/1.1\r\nHost: localhost\r\n");
    stream.write_all(head.as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    let end = stream.read_to_end(&mut answer);
    let end = tokio::time::timeout(Duration::from_secs(45), end).await;
    assert!(end.is_ok(), "the connection is still open after {:?}", started.elapsed());
    assert!(!answer.starts_with(b"HTTP/1.1 2"), "{answer:?}");
}
