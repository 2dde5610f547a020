//! Callers that disconnect.

use contract::Service;
use futures_util::StreamExt;
use http::StatusCode;
use workspace::Registry;

use super::super::*;
use super::bench::{Bench, events};

#[tokio::test(flavor = "multi_thread")]
async fn a_disconnect_does_not_stop_the_job() {
    let bench = Bench::idle().await;
    let answer = bench.execute("first", &[]).await;
    let job: JobId = answer.header("x-job-id").unwrap().parse().unwrap();
    drop(answer);
    bench.gate.send(true).unwrap();
    assert_eq!(bench.exit.await.unwrap(), Exit::Ok);
    let job = Job::open(&bench.workspace, job).unwrap().unwrap();
    let entries: Vec<_> = workspace::follow(job, 0).collect().await;
    assert_eq!(entries.len(), 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_disconnect_cancels_the_job_only_on_request() {
    for (wish, code) in [("cancel", Some(Code::Cancelled)), ("continue", None)] {
        let bench = Bench::idle().await;
        let answer = bench.execute("first", &[(web::header::ON_DISCONNECT, wish.into())]).await;
        let job: JobId = answer.header("x-job-id").unwrap().parse().unwrap();
        let mut frames = Box::pin(answer.events());
        frames.next().await.unwrap().unwrap();
        drop(frames);
        let job = Job::open(&bench.workspace, job).unwrap().unwrap();
        if code.is_none() {
            // This request is processed after the disconnect was noticed.
            bench.get("/status").await;
            bench.gate.send(true).unwrap();
        }
        assert_eq!(bench.exit.await.unwrap(), Exit::Ok);
        assert_eq!(job.outcome().unwrap().unwrap().code, code, "{wish}");
    }
    let bench = Bench::idle().await;
    let answer = bench.execute("first", &[(web::header::ON_DISCONNECT, "maybe".into())]).await;
    assert_eq!(answer.status, StatusCode::BAD_REQUEST);
    assert!(Registry::new(&bench.workspace, Service::Claude).contains(bench.id).unwrap());
}

#[tokio::test(flavor = "multi_thread")]
async fn an_idle_connection_does_not_delay_the_exit() {
    let bench = Bench::idle().await;
    let address = bench.base.to_string().replace("http://", "");
    let silent = tokio::net::TcpStream::connect(&address).await.unwrap();
    let mut slow = tokio::net::TcpStream::connect(&address).await.unwrap();
    tokio::io::AsyncWriteExt::write_all(&mut slow, b"GET /hea").await.unwrap();
    // This request is answered, so both connections were accepted.
    bench.get("/health").await;
    bench.gate.send(true).unwrap();
    events(bench.execute("first", &[]).await).await;
    let exit = tokio::time::timeout(FLUSH_TIME / 2, bench.exit).await;
    assert_eq!(exit.unwrap().unwrap(), Exit::Ok);
    drop((silent, slow));
}

/// If the caller was gone before the claim was written, the claim and the job were once dropped with it.
#[tokio::test(flavor = "multi_thread")]
async fn a_job_continues_if_its_caller_disconnects_at_once() {
    let mut heard_count = 0;
    for _ in 0..20 {
        let bench = Bench::idle().await;
        bench.gate.send(true).unwrap();
        let address = bench.base.to_string().replace("http://", "");
        let mut caller = tokio::net::TcpStream::connect(&address).await.unwrap();
        let body = r#"{"prompt":"first"}"#;
        let head = "POST /api/execute HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n";
        let request = format!("{head}content-length: {}\r\n\r\n{body}", body.len());
        tokio::io::AsyncWriteExt::write_all(&mut caller, request.as_bytes()).await.unwrap();
        drop(caller);
        // The connection may have been closed before the request was read. Then there is no job, and the replica is
        // still idle.
        let heard = async {
            while Job::list(&bench.workspace).unwrap().is_empty() {
                tokio::task::yield_now().await;
            }
        };
        if tokio::time::timeout(Duration::from_millis(300), heard).await.is_ok() {
            heard_count += 1;
            assert_eq!(bench.exit.await.unwrap(), Exit::Ok);
            let id = Job::list(&bench.workspace).unwrap()[0];
            let outcome =
                Job::open(&bench.workspace, id).unwrap().unwrap().settle().unwrap().unwrap();
            assert_eq!(outcome.state, contract::JobState::Succeeded, "{:?}", outcome.error);
        }
    }
    assert!(heard_count > 0, "no request arrived before its caller disconnected");
}

/// A caller with `X-On-Disconnect: cancel` may also disconnect before it gets an answer.
#[tokio::test(flavor = "multi_thread")]
async fn a_job_is_cancelled_if_its_caller_asked_and_disconnects_at_once() {
    for n in 0..20 {
        let bench = Bench::idle().await;
        let address = bench.base.to_string().replace("http://", "");
        let request = "POST /api/execute HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n\
                       x-on-disconnect: cancel\r\ncontent-length: 14\r\n\r\n{\"prompt\":\"x\"}";
        let mut stream = tokio::net::TcpStream::connect(&address).await.unwrap();
        tokio::io::AsyncWriteExt::write_all(&mut stream, request.as_bytes()).await.unwrap();
        tokio::time::sleep(Duration::from_micros(n * 100)).await;
        drop(stream);
        // The request may not have been read. Then the replica has no job. If it had one, it may have exited already.
        let _ = bench.orders.send(Order::Leave);
        let exit = tokio::time::timeout(Duration::from_secs(10), bench.exit).await;
        assert_eq!(
            exit.expect("its job was not cancelled").unwrap(),
            Exit::Ok,
            "after {n} x 100 us"
        );
    }
}
