//! curl, as callers use it.

use std::process::Stdio;

use serde_json::Value;
use testkit::PATIENCE;
use tokio::{
    io::{AsyncBufReadExt as _, BufReader, Lines},
    process::{Child, ChildStdout, Command},
};

use crate::{
    proxy::Proxy,
    recipe::{HOST, TOKEN},
};

/// An answer that is not a stream.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) body: String,
}

impl Answer {
    /// The body as JSON.
    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }
}

/// `curl` without a token.
pub(crate) fn stranger(proxy: &Proxy, path: &str, more: &[&str]) -> Command {
    let mut curl = Command::new("curl");
    // Without the caller's own configuration and proxies.
    curl.args(["--disable", "--noproxy", "*", "-sS", "--cacert"]).arg(proxy.certificate());
    curl.arg("--resolve").arg(format!("{HOST}:{}:127.0.0.1", proxy.port));
    curl.args(more).arg(proxy.url(path)).stdin(Stdio::null()).kill_on_drop(true);
    curl
}

/// `curl` with the token.
pub(crate) fn curl(proxy: &Proxy, path: &str, more: &[&str]) -> Command {
    let authorization = format!("Authorization: Bearer {TOKEN}");
    stranger(proxy, path, &[&["-H", &authorization], more].concat())
}

/// `curl` with the token, which posts JSON.
pub(crate) fn post(proxy: &Proxy, path: &str, body: &str, more: &[&str]) -> Command {
    let post = ["-H", "Content-Type: application/json", "--data-binary", body];
    curl(proxy, path, &[&post, more].concat())
}

/// Runs `curl` and returns the answer. The status is 0 if there was none.
pub(crate) async fn answer(mut curl: Command) -> Answer {
    curl.args(["-w", "\n%{http_code}"]);
    let output = tokio::time::timeout(PATIENCE, curl.output()).await;
    let output = output.unwrap_or_else(|_| panic!("no answer to {curl:?}")).unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    let (body, status) = text.rsplit_once('\n').expect("the line of -w");
    Answer { status: status.parse().unwrap(), body: body.to_owned() }
}

/// A stream of events that `curl` reads.
pub(crate) struct EventStream {
    curl: Child,
    lines: Lines<BufReader<ChildStdout>>,
    /// How many comments have arrived.
    pub(crate) pings: usize,
}

impl EventStream {
    pub(crate) fn open(mut curl: Command) -> Self {
        let mut curl = curl.arg("-N").stdout(Stdio::piped()).spawn().unwrap();
        let lines = BufReader::new(curl.stdout.take().unwrap()).lines();
        Self { curl, lines, pings: 0 }
    }

    /// The next event, or `None` at the end of the stream, whether or not it is complete.
    pub(crate) async fn next(&mut self) -> Option<Value> {
        let next = async {
            while let Some(line) = self.lines.next_line().await.unwrap() {
                if let Some(event) = line.strip_prefix("data: ") {
                    return Some(serde_json::from_str(event).unwrap());
                }
                if line == ": ping" {
                    self.pings += 1;
                } else {
                    assert_eq!(line, "", "not a line of a stream");
                }
            }
            None
        };
        tokio::time::timeout(PATIENCE, next).await.expect("an event or the end")
    }

    /// Reads until the agent has said this.
    pub(crate) async fn until_message(&mut self, text: &str) {
        while let Some(event) = self.next().await {
            if says(&event, text) {
                return;
            }
        }
        panic!("the stream ended before {text:?}");
    }

    /// The rest of the stream, and whether `curl` took it for complete.
    pub(crate) async fn rest(&mut self) -> (Vec<Value>, bool) {
        let mut events = Vec::new();
        while let Some(event) = self.next().await {
            events.push(event);
        }
        (events, self.curl.wait().await.unwrap().success())
    }

    /// Hangs up.
    pub(crate) async fn hang_up(mut self) {
        self.curl.kill().await.unwrap();
    }
}

/// Whether this event is a message of the agent with this text.
pub(crate) fn says(event: &Value, text: &str) -> bool {
    event["type"] == "message" && event["content"]["message"]["content"][0]["text"] == text
}
