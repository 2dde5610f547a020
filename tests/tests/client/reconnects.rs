//! Connections that break, and what is lost by it, which is nothing.

use std::{
    net::SocketAddr,
    sync::{Arc, Mutex},
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use testkit::{AgentScript, PATIENCE, RunningCommand, wait_for};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    task::JoinSet,
};

use crate::support::{Scene, id_of, journalled};

#[tokio::test]
async fn the_gateway_is_killed_in_the_middle() {
    let scene = Scene::new().await;
    let script = AgentScript::new()
        .flood(50, 100)
        .log_run(scene.mark("began"))
        .wait_file(scene.mark("gate"))
        .flood(50, 100);
    let run = RunningCommand::start(scene.run(&scene.url(), &script, &["--json"]));
    scene.marked("began").await;
    let id = id_of(&scene.workflow().await);
    for _ in 0..2 {
        let gateway = *scene.stack.processes_of("gateway").first().expect("a gateway");
        let notes = run.stderr().matches("the connection is back").count();
        kill(Pid::from_raw(gateway.cast_signed()), Signal::SIGKILL).unwrap();
        wait_for("the connection to be back", PATIENCE, || async {
            let now = run.stderr().matches("the connection is back").count();
            (now > notes).then_some(())
        })
        .await;
    }
    scene.open("gate");
    let said = run.finish().await;
    assert_eq!(said.code, 0, "{}", said.stderr);
    let events = journalled(said.ndjson());
    assert!(events.len() > 100, "{}", events.len());
    assert!(events == scene.journal(&id).await, "events were lost or repeated");
    assert_eq!(said.stderr.matches("the connection broke").count(), 2, "{}", said.stderr);
    assert_eq!(std::fs::read_to_string(scene.mark("began")).unwrap().lines().count(), 1);
}

/// Wherever a connection is cut, in the head of an answer too, the events are those of the journal.
#[tokio::test]
async fn connections_that_are_cut_anywhere() {
    let scene = Scene::new().await;
    let cuts = [0, 1, 100, 300, 700, 1500, 2500, 4000, 7000, 12_000];
    let proxy = Proxy::start(&scene.url(), &cuts).await;
    let script = AgentScript::new().say("one").flood(20, 2000).say("two");
    let said = RunningCommand::start(scene.run(&proxy.url(), &script, &["--json"])).finish().await;
    assert_eq!(said.code, 0, "{}", said.stderr);
    assert!(proxy.left().is_empty(), "not all cuts were made: {:?}", proxy.left());
    let job = scene.workflow().await;
    let events = journalled(said.ndjson());
    assert!(events == scene.journal(&id_of(&job)).await, "events were lost or repeated");
    // However often it was asked for, it was run once.
    let jobs = scene.jobs().await;
    let ran = jobs.iter().filter(|job| job["service"] == "claude-code-api").count();
    assert_eq!(ran, 1, "{jobs:#?}");
}

/// The gateway takes it for a caller who left, and gives the job up. It has not begun, so it is asked for anew.
#[tokio::test]
async fn a_connection_that_breaks_while_the_job_waits() {
    let scene = Scene::new().await;
    let running = RunningCommand::start(scene.run(&scene.url(), &scene.gated(), &[]));
    running.prints("began").await;
    let proxy = Proxy::start(&scene.url(), &[]).await;
    let script = AgentScript::new().say("my turn").log_run(scene.mark("runs"));
    let waiting = RunningCommand::start(scene.run(&proxy.url(), &script, &[]));
    waiting.prints("Waiting: place 1").await;
    let first = id_of(&scene.workflow().await);
    proxy.cut_all();
    waiting.prints("lost its place").await;
    let second = wait_for("another job", PATIENCE, || async {
        Some(id_of(&scene.workflow().await)).filter(|id| *id != first)
    })
    .await;
    scene.open("gate");
    assert_eq!(running.finish().await.code, 0);
    let said = waiting.finish().await;
    assert_eq!(said.code, 0, "{said:?}");
    assert!(said.stdout.contains(&second) && said.stdout.contains("  my turn\n"), "{said:?}");
    assert_eq!(std::fs::read_to_string(scene.mark("runs")).unwrap().lines().count(), 1);
}

#[tokio::test]
async fn a_stack_that_does_not_come_back() {
    let scene = Scene::new().await;
    let run = scene.run(&scene.url(), &scene.gated(), &["--retry-seconds", "1"]);
    let run = RunningCommand::start(run);
    run.prints("began").await;
    let id = id_of(&scene.workflow().await);
    drop(scene);
    let said = run.finish().await;
    assert_eq!(said.code, 3, "{said:?}");
    let come_back = format!("`stackctl attach {} --url", &id[id.len() - 8..]);
    assert!(said.stderr.contains(&come_back), "{said:?}");
}

/// Passes connections on. The first ones are cut after so many bytes of the answer.
struct Proxy {
    address: SocketAddr,
    cuts: Arc<Mutex<Vec<usize>>>,
    cut_all: tokio::sync::watch::Sender<()>,
    _tasks: JoinSet<()>,
}

impl Proxy {
    async fn start(url: &str, cuts: &[usize]) -> Self {
        let target = url.strip_prefix("http://").unwrap().to_owned();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let cuts = Arc::new(Mutex::new(cuts.iter().rev().copied().collect::<Vec<_>>()));
        let (cut_all, cut) = tokio::sync::watch::channel(());
        let mut tasks = JoinSet::new();
        let left = Arc::clone(&cuts);
        tasks.spawn(async move {
            let mut connections = JoinSet::new();
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                let limit = left.lock().unwrap().pop().unwrap_or(usize::MAX);
                let (target, mut cut) = (target.clone(), cut.clone());
                cut.mark_unchanged();
                connections.spawn(async move {
                    tokio::select! {
                        () = pass_on(stream, &target, limit) => {}
                        _ = cut.changed() => {}
                    }
                });
            }
        });
        Self { address, cuts, cut_all, _tasks: tasks }
    }

    fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    fn left(&self) -> Vec<usize> {
        self.cuts.lock().unwrap().clone()
    }

    fn cut_all(&self) {
        self.cut_all.send(()).unwrap();
    }
}

async fn pass_on(mut caller: TcpStream, target: &str, mut limit: usize) {
    let mut stack = TcpStream::connect(target).await.unwrap();
    let (mut from_caller, mut to_caller) = caller.split();
    let (mut from_stack, mut to_stack) = stack.split();
    let request = async {
        let _ = tokio::io::copy(&mut from_caller, &mut to_stack).await;
        std::future::pending::<()>().await;
    };
    let answer = async {
        let mut buffer = [0; 256];
        if limit == 0 {
            // The request is seen, and no byte of the answer.
            let _ = from_stack.peek(&mut buffer).await;
        }
        while limit > 0 {
            let Ok(read) = from_stack.read(&mut buffer).await else { break };
            let passed = read.min(limit);
            if read == 0 || to_caller.write_all(&buffer[..passed]).await.is_err() {
                break;
            }
            limit -= passed;
        }
    };
    tokio::select! {
        () = request => {}
        () = answer => {}
    }
}
