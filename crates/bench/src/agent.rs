//! The agent without a stack: what everything with an agent is compared with.

use std::{process::Stdio, time::Instant};

use claude_stand_in::workload::Workload;
use serde_json::json;
use tokio::io::AsyncWriteExt as _;

use crate::{
    Bench, Error, Result,
    caller::{self, Observe, Read},
};

/// Starts the agent, gives it its prompt, and reads what it writes through a pipe. The times count from its start.
///
/// # Errors
/// If it fails.
pub(crate) async fn alone(
    bench: &Bench,
    workload: &Workload,
    observer: &mut impl Observe,
) -> Result<Read> {
    let failed = || Error::io("run the agent");
    let started = Instant::now();
    let guest = bench.guest(&bench.agent()).stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut agent = guest.spawn().await.map_err(failed())?;
    let (stdin, stdout) = (agent.take_stdin(), agent.take_stdout());
    let (Some(mut stdin), Some(mut stdout)) = (stdin, stdout) else {
        return Err(program_failed("it has no pipes".to_owned()));
    };
    let content = json!([{"type": "text", "text": workload.prompt()}]);
    let message = json!({"type": "user", "message": {"role": "user", "content": content}});
    stdin.write_all(format!("{message}\n").as_bytes()).await.map_err(failed())?;
    drop(stdin);
    let read = caller::read(&mut stdout, started, observer).await?;
    let status = agent.wait().await.map_err(failed())?;
    if status.success() { Ok(read) } else { Err(program_failed(status.to_string())) }
}

fn program_failed(why: String) -> Error {
    Error::Program { program: "the agent".to_owned(), why }
}
