//! The SSE client with valid and invalid streams, which are written to the socket byte by byte.

use std::{fmt::Write as _, time::Duration};

use serde_json::json;
use testkit::{SseClient, SseRequest, http_json, raw_request};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpListener,
};

const HEAD: &str = "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\
                    Cache-Control: no-cache\r\nX-Accel-Buffering: no\r\nX-Job-Id: j1\r\n";

/// Answers one request with `answer`, sent in these pieces, and closes the connection.
async fn serve(pieces: Vec<String>) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        let mut request = vec![0; 64 * 1024];
        let _read = stream.read(&mut request).await.unwrap();
        for piece in pieces {
            if stream.write_all(piece.as_bytes()).await.is_err() {
                return;
            }
            stream.flush().await.unwrap();
            tokio::task::yield_now().await;
        }
    });
    url
}

/// A chunked body with one chunk for each element, and its proper end.
fn chunked(chunks: &[&str]) -> Vec<String> {
    let mut pieces = cut(chunks);
    pieces.push("0\r\n\r\n".to_owned());
    pieces
}

/// The same without the end.
fn cut(chunks: &[&str]) -> Vec<String> {
    let mut pieces = vec![format!("{HEAD}Transfer-Encoding: chunked\r\n\r\n")];
    for chunk in chunks {
        pieces.push(format!("{:x}\r\n{chunk}\r\n", chunk.len()));
    }
    pieces
}

async fn pull(pieces: Vec<String>) -> SseRequest {
    let url = format!("{}/api/pull", serve(pieces).await);
    SseClient::post(&url, &json!({"repoUrl": "x"})).patience(Duration::from_secs(5))
}

/// What the client reports about a stream, or `None` if it accepts the stream.
async fn complaint(pieces: Vec<String>) -> Option<String> {
    let request = pull(pieces).await;
    let read = tokio::spawn(async move { request.send().await.collect_all().await });
    let panic = read.await.err()?.into_panic();
    Some(*panic.downcast::<String>().expect("a formatted message"))
}

const MESSAGE: &str = "data: {\"type\":\"message\"}\n\n";
const COMPLETED: &str = "data: {\"type\":\"completed\"}\n\n";

#[tokio::test]
async fn a_valid_stream_is_accepted() {
    let url =
        serve(chunked(&[MESSAGE, ": ping\n\n", "data: {\"type\":", "\"completed\"}\n", "\n"]));
    let url = format!("{}/api/pull?x=1", url.await);
    let mut response = SseClient::post(&url, &json!({})).send().await;
    assert_eq!((response.status.as_u16(), response.job_id().as_str()), (200, "j1"));
    let events = response.collect_all().await;
    let kinds: Vec<_> = events.iter().map(testkit::SseEvent::kind).collect();
    assert_eq!(kinds, ["message", "completed"]);
    assert_eq!(events[0].raw, MESSAGE.trim_end().as_bytes());
    assert_eq!(response.pings(), 1);
    assert!(!response.ended_without_terminal());
}

#[tokio::test]
async fn a_valid_stream_is_accepted_however_it_is_split() {
    let stream = format!("{MESSAGE}: ping\n\n{COMPLETED}");
    for at in 1..stream.len() {
        let (begin, end) = stream.split_at(at);
        assert_eq!(complaint(chunked(&[begin, end])).await, None, "split at {at}");
    }
}

#[tokio::test]
async fn violations_are_reported() {
    let cases = [
        (chunked(&[MESSAGE]), "ended without a terminal event"),
        (cut(&[MESSAGE]), "ended without a terminal event"),
        (cut(&[MESSAGE, COMPLETED]), "cut off after the terminal event"),
        (chunked(&[COMPLETED, COMPLETED]), "after the terminal event"),
        (chunked(&[COMPLETED, ": ping\n\n"]), "after the terminal event"),
        (chunked(&[COMPLETED, "d"]), "after the terminal event"),
        (chunked(&["id: 1\n", COMPLETED]), "an id that was not requested"),
        (chunked(&["data: {}\n\n", COMPLETED]), "not an object with a `type`"),
        (chunked(&["event: x\n", COMPLETED]), "no `id: `"),
        (chunked(&["\n\n", COMPLETED]), "does not begin with `data: `"),
    ];
    for (pieces, expected) in cases {
        let complaint = complaint(pieces.clone()).await.expect("the client reports a violation");
        assert!(complaint.contains(expected), "{pieces:?}: {complaint}");
    }
}

#[tokio::test]
async fn wrong_headers_are_reported() {
    for (right, wrong, header) in [
        ("text/event-stream", "text/event-stream; charset=utf-8", "content-type"),
        ("no-cache", "no-store", "cache-control"),
        ("X-Accel-Buffering: no\r\n", "", "x-accel-buffering"),
        ("X-Job-Id: j1\r\n", "", "X-Job-Id"),
        ("X-Job-Id: j1\r\n", "X-Job-Id: j1\r\nContent-Encoding: gzip\r\n", "is encoded"),
    ] {
        let mut pieces = chunked(&[COMPLETED]);
        pieces[0] = pieces[0].replace(right, wrong);
        let complaint = complaint(pieces).await.expect("the client reports the header");
        assert!(complaint.contains(header), "{wrong:?}: {complaint}");
    }
}

#[tokio::test]
async fn ids_must_be_present_if_requested() {
    let with_ids = |ids: [u32; 2]| {
        let kinds = ["message", "workflow_complete"];
        let mut stream = String::new();
        for (id, kind) in ids.into_iter().zip(kinds) {
            write!(stream, "id: {id}\ndata: {{\"type\":\"{kind}\"}}\n\n").unwrap();
        }
        chunked(&[&stream])
    };
    // A relayed `completed` does not end a workflow; only a terminal event of its own type does.
    let url = format!("{}/api/workflow", serve(with_ids([9, 10])).await);
    let mut response = SseClient::post(&url, &json!({})).accept_event_stream().send().await;
    let ids: Vec<_> = response.collect_all().await.into_iter().map(|event| event.id).collect();
    assert_eq!(ids, [Some("9".to_owned()), Some("10".to_owned())]);

    let url = format!("{}/api/jobs/j1/events", serve(with_ids([10, 10])).await);
    let request = SseClient::get(&url).service(contract::Service::Workflow);
    let read = tokio::spawn(async move { request.send().await.collect_all().await });
    assert!(read.await.is_err_and(|error| error.is_panic()), "equal ids were accepted");
}

#[tokio::test]
async fn an_allowed_cut_is_recorded() {
    for pieces in [cut(&[MESSAGE, "data: {"]), chunked(&[MESSAGE])] {
        let mut response = pull(pieces).await.allow_cut().send().await;
        assert_eq!(response.collect_all().await.len(), 1);
        assert!(response.ended_without_terminal());
    }
}

#[tokio::test]
async fn json_answers_are_returned_as_they_are() {
    let refusal = "HTTP/1.1 503 Service Unavailable\r\nContent-Type: application/json\r\n\
                   Retry-After: 1\r\nContent-Length: 15\r\n\r\n{\"code\":\"busy\"}";
    let response = pull(vec![refusal.to_owned()]).await.send().await;
    assert_eq!(response.status.as_u16(), 503);
    assert_eq!(response.json().await, json!({"code": "busy"}));

    let url = serve(vec![refusal.to_owned()]).await;
    let (status, headers, body) =
        http_json("POST", &url, Some("{}".into()), &[("x-test", "1")]).await;
    assert_eq!((status.as_u16(), body), (503, json!({"code": "busy"})));
    assert_eq!(headers["retry-after"], "1");

    let url = serve(vec![refusal.to_owned()]).await;
    let address = url.strip_prefix("http://").unwrap().parse().unwrap();
    assert_eq!(raw_request(address, b"GARBAGE\r\n\r\n").await, refusal.as_bytes());
}
