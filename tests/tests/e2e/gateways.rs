//! Two gateways in front of the same replicas.

use std::{process::Stdio, time::Duration};

use contract::Service;
use nix::sys::signal::Signal;
use testkit::{AgentScript, SseClient, Stack, free_ports, http_json, target_binary, wait_for};
use tokio::process::{Child, Command};

use crate::support::{
    Marks, PATIENCE, execute, job, post_execute, process_of, send_signal, terminal,
};

/// A second gateway beside that of the stack.
struct Second {
    _child: Child,
    claude_url: String,
}

async fn second(stack: &Stack) -> Second {
    let ports = free_ports();
    let mut command = Command::new(target_binary("stackctl"));
    command.args(["serve", "gateway"]).env("BIND_ADDRESS", "127.0.0.1");
    for (service, port) in ports {
        command.env(service.spec().port_variable, port.to_string());
    }
    // All parts of a stack sign with the same secret.
    command.env("STACK_SECRET_FILE", stack.workspace().join(".stack/secret"));
    command.env("WORKSPACE_DIR", stack.workspace()).stderr(Stdio::null()).kill_on_drop(true);
    let child = command.spawn().unwrap();
    let port = ports[Service::Claude];
    let claude_url = format!("http://127.0.0.1:{port}");
    let health = format!("{claude_url}/health");
    wait_for("the second gateway", PATIENCE, || async {
        let listens = tokio::net::TcpStream::connect(("127.0.0.1", port)).await.is_ok();
        (listens && http_json("GET", &health, None, &[]).await.0 == 200).then_some(())
    })
    .await;
    Second { _child: child, claude_url }
}

#[tokio::test]
async fn a_gateway_takes_over_the_queue_of_a_dead_one() {
    let stack = Stack::builder().start().await;
    let second = second(&stack).await;
    let marks = Marks::new();
    let busy = AgentScript::new().touch(marks.path("busy")).wait_file(marks.path("gate"));
    let mut running = post_execute(&stack, &execute(&busy)).allow_cut().send().await;
    marks.wait("busy").await;
    let body = execute(&AgentScript::new().log_run(marks.path("runs")));
    let mut waiting = post_execute(&stack, &body).allow_cut().send().await;
    waiting.next_of_kind("queued").await;
    let (busy, id) = (running.job_id(), waiting.job_id());

    // The stack's own gateway dies and cannot come back, so only the second one is left.
    send_signal(stack.pid(), Signal::SIGSTOP);
    send_signal(process_of(&stack, "gateway"), Signal::SIGKILL);
    running.collect_all().await;
    waiting.collect_all().await;
    let url = format!("{}/api/jobs/{id}/events", second.claude_url);
    let mut again = SseClient::get(&url).service(Service::Claude).send().await;
    // This caller counts as waiting, although it reconnected before the job was taken over.
    let queued = again.next_of_kind("queued").await;
    assert_eq!(queued.json["position"], 1, "{queued:?}");
    marks.open("gate");
    let url = format!("{}/api/jobs/{busy}/events", second.claude_url);
    let mut first = SseClient::get(&url).service(Service::Claude).send().await;
    assert_eq!(terminal(&first.collect_all().await)["type"], "completed");
    send_signal(stack.pid(), Signal::SIGCONT);
    assert_eq!(terminal(&again.collect_all().await)["type"], "completed");
    assert_eq!(marks.lines("runs").len(), 1);
    stack.wait_until_idle().await;
    assert_eq!(job(&stack, &id).await["state"], "succeeded");
}

/// Turns also work across gateways.
#[tokio::test]
async fn jobs_of_two_gateways_take_turns() {
    let stack = Stack::builder().replicas(1, 1, 3).start().await;
    let second = second(&stack).await;
    let marks = Marks::new();
    std::fs::create_dir_all(stack.workspace().join("shared/.git")).unwrap();
    let script =
        AgentScript::new().log_run(marks.path("runs")).sleep_ms(150).log_run(marks.path("runs"));
    let mut body = execute(&script);
    body["workspace"] = "shared".into();
    let mut all = Vec::new();
    for n in 0..6 {
        let base = if n % 2 == 0 { stack.claude_url() } else { second.claude_url.clone() };
        let request = SseClient::post(&format!("{base}/api/execute"), &body);
        all.push(request.service(Service::Claude).patience(Duration::from_secs(60)).send().await);
    }
    for mut response in all {
        assert_eq!(terminal(&response.collect_all().await)["type"], "completed");
    }
    let runs = marks.lines("runs");
    assert_eq!(runs.len(), 12);
    for turn in runs.chunks(2) {
        assert_eq!(turn[0], turn[1], "two agents worked there at once: {runs:?}");
    }
}
