//! Streams without events for more than a minute, which is the limit of most proxies.

use std::time::{Duration, Instant};

use futures_util::future::join_all;
use serde_json::Value;
use testkit::skip;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    sync::watch,
    task::JoinSet,
};

use crate::{
    caller::{EventStream, curl, post},
    proxy::{Proxy, missing_program},
    recipe::Kind,
    scene::Scene,
};

/// More than the 60 s of nginx and the 50 s of Debian's HAProxy.
const SILENCE: Duration = Duration::from_secs(66);

/// A server whose streams contain one event, then nothing, not even pings, until it is released.
struct MuteServer {
    port: u16,
    release: watch::Sender<bool>,
    _serving: JoinSet<()>,
}

impl MuteServer {
    async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let (release, released) = watch::channel(false);
        let mut serving = JoinSet::new();
        serving.spawn(async move {
            let mut connections = JoinSet::new();
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                connections.spawn(serve(stream, released.clone()));
            }
        });
        Self { port, release, _serving: serving }
    }
}

async fn serve(mut stream: TcpStream, mut released: watch::Receiver<bool>) {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        // A proxy may connect only to see whether somebody listens.
        let Ok(byte) = stream.read_u8().await else { return };
        head.push(byte);
    }
    let begin = "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nX-Accel-Buffering: no\r\n\
                 Transfer-Encoding: chunked\r\n\r\n14\r\ndata: {\"type\":\"a\"}\n\n\r\n";
    let end = "14\r\ndata: {\"type\":\"b\"}\n\n\r\n0\r\n\r\n";
    if stream.write_all(begin.as_bytes()).await.is_ok()
        && released.wait_for(|released| *released).await.is_ok()
    {
        // The proxy may have given up.
        let _gone = stream.write_all(end.as_bytes()).await;
    }
}

#[tokio::test]
async fn streams_survive_more_than_a_minute_of_silence() {
    if let Some(program) = missing_program() {
        let why = format!("{program} is not installed");
        return skip("streams_survive_more_than_a_minute_of_silence", &why);
    }
    let scene = Scene::new().await;
    let mute = MuteServer::start().await;
    let began = Instant::now();

    let (mut idle, mut silent, mut controls) = (Vec::new(), Vec::new(), Vec::new());
    for kind in Kind::ALL {
        let proxy = Proxy::start(kind, scene.port()).await;
        let request = post(&proxy, "/api/workflow", &scene.gated_workflow("gate"), &[]);
        let mut stream = EventStream::open(request);
        stream.until_message("before").await;
        idle.push((proxy, stream));

        let proxy = Proxy::start(kind, mute.port).await;
        let mut stream = EventStream::open(curl(&proxy, "/", &[]));
        assert_eq!(stream.next().await.unwrap()["type"], "a", "{kind:?}");
        silent.push((proxy, stream));
    }
    // With the limits of Debian's configuration.
    let nginx = [("proxy_read_timeout 1h;", ""), ("proxy_send_timeout 1h;", "")];
    let haproxy =
        [("timeout client 1h", "timeout client 50s"), ("timeout server 1h", "timeout server 50s")];
    for (kind, changes) in [(Kind::Nginx, nginx), (Kind::HaProxy, haproxy)] {
        let proxy = Proxy::start_changed(kind, mute.port, &changes).await;
        let mut stream = EventStream::open(curl(&proxy, "/", &[]));
        assert_eq!(stream.next().await.unwrap()["type"], "a", "{kind:?}");
        controls.push((proxy, stream));
    }

    // The silence itself is what is tested, so this waits for nothing else.
    tokio::time::sleep(SILENCE).await;
    join_all(controls.iter_mut().map(|(proxy, stream)| async move {
        // Its end looks complete in HTTP/2, and yet an event is missing.
        let (events, _) = stream.rest().await;
        assert_eq!(events, Vec::<Value>::new(), "{:?} has no limit of its own", proxy.kind);
    }))
    .await;
    scene.open("gate");
    mute.release.send(true).unwrap();
    for (proxy, stream) in &mut silent {
        let (events, is_complete) = stream.rest().await;
        assert!(is_complete && events.len() == 1, "{:?}: {events:?}", proxy.kind);
        assert_eq!(events[0]["type"], "b", "{:?}", proxy.kind);
    }
    for (proxy, stream) in &mut idle {
        let (events, is_complete) = stream.rest().await;
        assert_eq!(events.last().unwrap()["type"], "workflow_complete", "{:?}", proxy.kind);
        assert!(is_complete && stream.pings >= 3, "{:?}: {} pings", proxy.kind, stream.pings);
    }
    assert!(began.elapsed() > SILENCE);
}
