//! Requests as real clients send them: what is accepted, what is refused, and when.

use std::net::SocketAddr;

use contract::{Service, UnknownFields};
use gateway::{Config, Gateway};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use crate::support::{PATIENCE, REPO, Volume, answer, parse, raw};

struct Bench {
    volume: Volume,
    gateway: Gateway,
}

impl Bench {
    async fn start(change: impl FnOnce(&mut Config)) -> Self {
        let volume = Volume::new();
        let gateway = volume.gateway(change).await;
        Self { volume, gateway }
    }

    fn address(&self, service: Service) -> SocketAddr {
        self.gateway.address(service)
    }

    async fn raw(&self, service: Service, request: &[u8]) -> String {
        raw(self.address(service), request).await
    }

    /// The status and the body of a request with these lines after its first.
    async fn ask(&self, service: Service, first: &str, headers: &str, body: &[u8]) -> (u16, Value) {
        let length = body.len();
        let head =
            format!("{first}\r\n{headers}content-length: {length}\r\nconnection: close\r\n\r\n");
        let mut request = head.into_bytes();
        request.extend_from_slice(body);
        parse(&self.raw(service, &request).await)
    }

    async fn pull(&self, headers: &str, body: &[u8]) -> (u16, Value) {
        let headers = format!("host: localhost\r\ncontent-type: application/json\r\n{headers}");
        self.ask(Service::Pull, "POST /api/pull HTTP/1.1", &headers, body).await
    }
}

fn pull() -> Value {
    json!({"repoUrl": REPO})
}

#[tokio::test]
async fn a_request_names_one_host_and_the_right_one() {
    let bench = Bench::start(|_| {}).await;
    let health = async |head: &str| {
        parse(
            &bench.raw(Service::Pull, format!("{head}connection: close\r\n\r\n").as_bytes()).await,
        )
    };
    for (head, status) in [
        ("GET /health HTTP/1.1\r\nhost: localhost\r\n", 200),
        ("GET /health HTTP/1.0\r\n", 200),
        ("GET /health HTTP/1.1\r\n", 400),
        ("GET /health HTTP/1.1\r\nhost: localhost\r\nhost: localhost\r\n", 400),
        ("GET /health HTTP/1.1\r\nhost: localhost\r\nhost: evil.example\r\n", 400),
        ("GET http://localhost:1/health HTTP/1.1\r\nhost: localhost:1\r\n", 200),
        ("GET http://localhost:1/health HTTP/1.1\r\nhost: localhost:2\r\n", 400),
        ("GET http://evil.example/health HTTP/1.1\r\nhost: localhost\r\n", 400),
        ("GET http://evil.example/health HTTP/1.1\r\nhost: evil.example\r\n", 400),
        ("GET /health HTTP/1.1\r\nhost: stack.example.org\r\n", 400),
    ] {
        let (got, body) = health(head).await;
        assert_eq!(got, status, "{head}: {body}");
        assert!(got == 200 || body["error"].as_str().unwrap().contains("'Host'"), "{body}");
    }
    let (_, body) = health("GET /health HTTP/1.1\r\nhost: stack.example.org\r\n").await;
    assert!(body["error"].as_str().unwrap().contains("ALLOWED_HOSTS=stack.example.org"), "{body}");
}

#[tokio::test]
async fn names_that_the_operator_allows() {
    let bench = Bench::start(|config| {
        config.allowed_hosts = Some("stack.example.org,*.example.com".parse().unwrap());
    })
    .await;
    for (host, status) in [
        ("stack.example.org", 200),
        ("a.example.com:8443", 200),
        ("localhost", 200),
        ("10.0.0.7", 400),
        ("evil.example", 400),
    ] {
        let head = format!("host: {host}\r\n");
        let (got, body) = bench.ask(Service::Pull, "GET /health HTTP/1.1", &head, b"").await;
        assert_eq!(got, status, "{host}: {body}");
    }
}

#[tokio::test]
async fn fields_and_parameters_that_do_not_exist() {
    let bench = Bench::start(|_| {}).await;
    let mut body = pull();
    body["brnach"] = "main".into();
    let (status, error) = bench.pull("", body.to_string().as_bytes()).await;
    assert_eq!(
        (status, &error["code"], &error["field"]),
        (400, &json!("unknown_field"), &json!("brnach"))
    );
    assert!(error["error"].as_str().unwrap().contains("'branch'"), "{error}");
    let get = async |bench: &Bench, target: &str| {
        let first = format!("GET {target} HTTP/1.1");
        bench.ask(Service::Pull, &first, "host: localhost\r\n", b"").await
    };
    let (status, error) = get(&bench, "/api/jobs?limt=3").await;
    assert_eq!(
        (status, &error["code"], &error["field"]),
        (400, &json!("unknown_field"), &json!("limt"))
    );
    assert!(error["error"].as_str().unwrap().contains("'limit'"), "{error}");
    assert_eq!(get(&bench, "/api/jobs?limit=3").await.0, 200);
    for (target, unknown) in [
        ("/api/repos?limit=3", "limit"),
        ("/health?verbose", "verbose"),
        ("/status?x=1", "x"),
        ("/api/jobs?limit=3&%6cimt=3", "limt"),
    ] {
        let (status, error) = get(&bench, target).await;
        assert_eq!((status, &error["field"]), (400, &json!(unknown)), "{target}");
    }
    let headers = "host: localhost\r\ncontent-type: application/json\r\n";
    let unknown = br#"{"wrkspace": "app"}"#;
    let session = "POST /api/sessions HTTP/1.1";
    let (status, error) = bench.ask(Service::Claude, session, headers, unknown).await;
    assert_eq!((status, &error["field"]), (400, &json!("wrkspace")));

    let lenient =
        Bench::start(|config| config.policy.unknown_fields = UnknownFields::Ignored).await;
    assert_eq!(lenient.pull("", body.to_string().as_bytes()).await.0, 200);
    assert_eq!(get(&lenient, "/api/jobs?limt=3").await.0, 200);
    assert_eq!(lenient.ask(Service::Claude, session, headers, unknown).await.0, 200);
}

/// During an update, a workflow of a newer version may send fields that this gateway does not know.
#[tokio::test(flavor = "multi_thread")]
async fn unknown_fields_of_a_workflow_are_ignored() {
    let bench = Bench::start(|_| {}).await;
    let workflow = bench.volume.running_workflow("app");
    let mut body = pull();
    body["ofTomorrow"] = true.into();
    let body = body.to_string();
    let proven = bench.volume.as_workflow(workflow.job().id());
    assert_eq!(bench.pull(&proven, body.as_bytes()).await.0, 200);
    // A caller gains nothing by naming a workflow.
    let named = format!("x-parent-job-id: {}\r\n", workflow.job().id());
    let (status, error) = bench.pull(&named, body.as_bytes()).await;
    assert_eq!((status, &error["code"]), (403, &json!("forbidden")));
    assert_eq!(bench.pull("", body.as_bytes()).await.0, 400);
}

#[tokio::test]
async fn bodies_as_other_platforms_write_them() {
    let bench = Bench::start(|_| {}).await;
    let with_mark = format!("\u{feff}{}", pull());
    assert_eq!(bench.pull("", with_mark.as_bytes()).await.0, 200);
    let little_endian: Vec<u8> =
        pull().to_string().encode_utf16().flat_map(u16::to_le_bytes).collect();
    let with_mark: Vec<u8> = [0xff, 0xfe].into_iter().chain(little_endian.clone()).collect();
    for body in [little_endian, with_mark] {
        let (status, error) = bench.pull("", &body).await;
        assert_eq!((status, &error["code"]), (400, &json!("invalid_json")));
        assert!(error["error"].as_str().unwrap().contains("UTF-16"), "{error}");
    }
    let body = pull().to_string();
    assert_eq!(bench.pull("content-encoding: identity\r\n", body.as_bytes()).await.0, 200);
    let (status, error) = bench.pull("content-encoding: gzip\r\n", body.as_bytes()).await;
    assert_eq!((status, &error["code"]), (415, &json!("unsupported_media_type")));
}

/// A caller that sends `Expect: 100-continue` is never told to send a body that will be refused.
#[tokio::test]
async fn a_request_that_its_head_rules_out_is_refused_before_the_body() {
    let bench = Bench::start(|_| {}).await;
    for (headers, status) in [
        ("content-type: application/json\r\ncontent-length: 2000000\r\n", 413),
        ("content-type: text/plain\r\ncontent-length: 20\r\n", 415),
        ("content-type: application/json\r\ncontent-encoding: br\r\ncontent-length: 20\r\n", 415),
    ] {
        let expect = format!(
            "POST /api/pull HTTP/1.1\r\nhost: localhost\r\nexpect: 100-continue\r\n{headers}\r\n"
        );
        let answer = bench.raw(Service::Pull, expect.as_bytes()).await;
        assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{answer}");
        assert!(!answer.contains("100 Continue"), "{answer}");
    }
    let body = pull().to_string();
    let head = format!(
        "POST /api/pull HTTP/1.1\r\nhost: localhost\r\nexpect: 100-continue\r\ncontent-type: application/json\r\n\
         content-length: {}\r\n\r\n",
        body.len()
    );
    let mut stream = TcpStream::connect(bench.address(Service::Pull)).await.unwrap();
    stream.write_all(head.as_bytes()).await.unwrap();
    let mut told = [0; 25];
    tokio::time::timeout(PATIENCE, stream.read_exact(&mut told)).await.unwrap().unwrap();
    assert_eq!(told, *b"HTTP/1.1 100 Continue\r\n\r\n");
    stream.write_all(body.as_bytes()).await.unwrap();
    assert!(answer(&mut stream).await.starts_with("HTTP/1.1 200 "));
}

/// A caller without `Expect` sends its whole body before it reads the answer.
#[tokio::test]
async fn a_caller_that_sends_too_much_gets_the_error() {
    let bench = Bench::start(|_| {}).await;
    let too_much = vec![b' '; 12 << 20];
    let (status, error) = bench.pull("", &too_much).await;
    assert_eq!((status, &error["code"]), (413, &json!("body_too_large")));
    let mut request =
        b"POST /api/pull HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n\
                        transfer-encoding: chunked\r\nconnection: close\r\n\r\n"
            .to_vec();
    for _ in 0..3 {
        request.extend_from_slice(b"100000\r\n");
        request.extend(vec![b' '; 1 << 20]);
        request.extend_from_slice(b"\r\n");
    }
    request.extend_from_slice(b"0\r\n\r\n");
    assert_eq!(parse(&bench.raw(Service::Pull, &request).await).0, 413);
}

#[tokio::test]
async fn ids_in_either_case() {
    let bench = Bench::start(|_| {}).await;
    let id = contract::JobId::new().to_string();
    let named = format!("x-job-id: {}\r\n", id.to_uppercase());
    let body = pull().to_string();
    assert_eq!(bench.pull(&named, body.as_bytes()).await.0, 200);
    for id in [&id, &id.to_uppercase()] {
        let first = format!("GET /api/jobs/{id} HTTP/1.1");
        let (status, job) = bench.ask(Service::Pull, &first, "host: localhost\r\n", b"").await;
        assert_eq!((status, &job["jobId"]), (200, &json!(id.to_lowercase())));
    }
    let get = async |service, target: &str| {
        let first = format!("GET {target} HTTP/1.1");
        bench.ask(service, &first, "host: localhost\r\n", b"").await
    };
    let id = id.to_uppercase();
    let (status, list) = get(Service::Pull, &format!("/api/jobs?cursor={id}")).await;
    assert_eq!((status, &list["count"]), (200, &json!(0)), "nothing is older than this job");
    let events = format!("GET /api/jobs/{id}/events HTTP/1.1\r\nhost: localhost\r\n\r\n");
    let events = bench.raw(Service::Pull, events.as_bytes()).await;
    let named = format!("x-job-id: {}\r\n", id.to_lowercase());
    assert!(events.starts_with("HTTP/1.1 200 ") && events.contains(&named), "{events}");

    let headers = "host: localhost\r\n";
    let (_, made) = bench.ask(Service::Claude, "POST /api/sessions HTTP/1.1", headers, b"").await;
    let session = made["sessionId"].as_str().unwrap();
    let target = format!("/api/sessions/{}", session.to_uppercase());
    assert_eq!(get(Service::Claude, &target).await, (200, made.clone()));
    let first = format!("POST /api/stream/{} HTTP/1.1", session.to_uppercase());
    let headers = "host: localhost\r\ncontent-type: application/json\r\n";
    let resume = json!({"prompt": "x", "resumeSessionId": session.to_uppercase()}).to_string();
    let (status, body) = bench.ask(Service::Claude, &first, headers, resume.as_bytes()).await;
    assert_eq!(status, 200, "{body}");
}

#[tokio::test]
async fn requests_of_pages_of_other_sites_are_refused() {
    let bench = Bench::start(|_| {}).await;
    let body = pull().to_string();
    for headers in [
        "sec-fetch-site: cross-site\r\norigin: https://evil.example\r\n",
        "sec-fetch-site: same-site\r\n",
        "origin: https://evil.example\r\n",
        "origin: null\r\n",
    ] {
        let (status, error) = bench.pull(headers, body.as_bytes()).await;
        assert_eq!((status, &error["code"]), (403, &json!("forbidden")), "{headers}");
        let headers = format!("host: localhost\r\n{headers}");
        let read = bench.ask(Service::Pull, "GET /api/jobs HTTP/1.1", &headers, b"").await;
        assert_eq!((read.0, &read.1["count"]), (200, &json!(0)), "{headers}");
        let delete = "DELETE /api/sessions/x HTTP/1.1";
        assert_eq!(bench.ask(Service::Claude, delete, &headers, b"").await.0, 403, "{headers}");
    }
    let open = Bench::start(|config| config.cors = "https://app.example".parse().unwrap()).await;
    let allowed = "sec-fetch-site: cross-site\r\norigin: https://app.example\r\n";
    assert_eq!(open.pull(allowed, body.as_bytes()).await.0, 200);
    let other = "sec-fetch-site: cross-site\r\norigin: https://evil.example\r\n";
    assert_eq!(open.pull(other, body.as_bytes()).await.0, 403);
}

/// As `nc -N` and many SDKs do.
#[tokio::test]
async fn a_caller_that_closes_its_sending_side_gets_an_answer() {
    let bench = Bench::start(|_| {}).await;
    let body = pull().to_string();
    let job = format!(
        "POST /api/pull HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    );
    for (request, expected) in
        [("GET /health HTTP/1.1\r\nhost: localhost\r\n\r\n", "\"status\""), (&*job, "\"queued\"")]
    {
        let mut stream = TcpStream::connect(bench.address(Service::Pull)).await.unwrap();
        stream.write_all(request.as_bytes()).await.unwrap();
        stream.shutdown().await.unwrap();
        let answer = answer(&mut stream).await;
        assert!(answer.starts_with("HTTP/1.1 200 ") && answer.contains(expected), "{answer}");
    }
}
