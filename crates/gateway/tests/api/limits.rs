//! What one caller may use.

use contract::{CallerLimits, Scope};
use serde_json::json;
use tokio::{io::AsyncWriteExt as _, net::TcpStream};

use crate::support::{REPO, Volume, answer, ask, bearer};

#[tokio::test(flavor = "multi_thread")]
async fn a_caller_that_asks_too_often_is_told_when_to_come_back() {
    let volume = Volume::new();
    let limits = CallerLimits { requests_per_minute: Some(3), ..CallerLimits::default() };
    let [one, two] = [0, 1].map(|_| bearer(&volume.limited_token("ci", &[Scope::Read], limits)));
    let other = bearer(&volume.token("other", &[Scope::Read]));
    let gateway = volume.gateway(|_| {}).await;
    for (token, left) in [(&one, 2), (&two, 1), (&one, 0)] {
        let (head, status, _) = ask(&gateway, "GET", "/api/jobs", token, "").await;
        assert_eq!(status, 200);
        assert!(head.contains(&format!("ratelimit-remaining: {left}\r\n")), "{head}");
    }
    let (head, status, error) = ask(&gateway, "GET", "/api/jobs", &two, "").await;
    assert_eq!((status, &error["code"]), (429, &json!("rate_limited")), "{error}");
    for name in
        ["ratelimit-limit: 3", "ratelimit-remaining: 0", "ratelimit-reset: ", "retry-after: "]
    {
        assert!(head.contains(name), "{name}: {head}");
    }
    let (head, status, _) = ask(&gateway, "GET", "/api/jobs", &other, "").await;
    assert!(status == 200 && !head.contains("ratelimit"), "{head}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_caller_has_its_own_part_of_the_queue() {
    let volume = Volume::new();
    let limits = CallerLimits { queued: Some(1), ..CallerLimits::default() };
    let limited = bearer(&volume.limited_token("ci", &[Scope::Submit], limits));
    let other = bearer(&volume.token("other", &[Scope::Submit]));
    let gateway = volume.gateway(|_| {}).await;
    let body = json!({"repoUrl": REPO}).to_string();
    // It waits for as long as its caller is connected.
    let mut waiting = TcpStream::connect(gateway.address(contract::Service::Pull)).await.unwrap();
    let request = format!(
        "POST /api/pull HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n{limited}content-length: {}\r\n\r\n{body}",
        body.len()
    );
    waiting.write_all(request.as_bytes()).await.unwrap();
    assert!(answer(&mut waiting).await.contains(r#""type":"queued""#));
    let (head, status, error) = ask(&gateway, "POST", "/api/pull", &limited, &body).await;
    assert_eq!((status, &error["code"]), (429, &json!("rate_limited")), "{error}");
    assert!(head.contains("retry-after: "), "{head}");
    let execute = json!({"prompt": "x"}).to_string();
    let of_another_service = ask(&gateway, "POST", "/api/execute", &limited, &execute).await;
    assert_eq!(of_another_service.1, 429, "the limit is of the caller, not of a service");
    let another = json!({"repoUrl": REPO, "directory": "others"}).to_string();
    assert_eq!(ask(&gateway, "POST", "/api/pull", &other, &another).await.1, 200);
}
