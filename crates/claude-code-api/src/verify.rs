//! The commands that check what an agent has done. They run what the agent wrote, so they are confined as it was, and end with
//! everything that they have started.

use std::{io, process::ExitStatus, sync::Arc, time::Duration};

use child_process::{Guest, JobBounds, end_job};
use contract::{AgentSummary, Prompt};
use oneshot::Stop;
use tokio::{io::AsyncReadExt as _, time::timeout};
use tracing::warn;

use crate::runner::Tail;

/// How long the descendants of a command may take to end, and its output to be read.
const CLEANUP: Duration = Duration::from_secs(5);

/// The shell that runs a command.
pub(crate) const SHELL: &str = "/bin/sh";

/// How a command ended.
#[derive(Debug)]
pub(crate) struct Checked {
    /// `None` if it was stopped.
    status: Option<ExitStatus>,
    /// The end of what it printed.
    pub(crate) output: String,
}

impl Checked {
    pub(crate) fn passed(&self) -> bool {
        self.status.is_some_and(|status| status.success())
    }

    pub(crate) fn exit_code(&self) -> Option<i32> {
        self.status.and_then(|status| status.code())
    }
}

/// The script for a command. What it prints on both streams stays in its order.
pub(crate) fn script(command: &str) -> String {
    format!("exec 2>&1\n{command}")
}

/// Runs a command to its end, or until `stop` is requested. Its standard streams must be pipes.
///
/// # Errors
/// If it cannot be started.
pub(crate) async fn run(guest: Guest, bounds: Arc<JobBounds>, stop: &Stop) -> io::Result<Checked> {
    let mut child = guest.bounded(&bounds).spawn().await?;
    drop(child.take_stdin());
    let mut stdout = child.take_stdout();
    // The shell closes its own at once; if it cannot, nobody reads what it says.
    drop(child.take_stderr());
    let mut tail = Tail::default();
    let status = loop {
        let read = async {
            match &mut stdout {
                Some(pipe) => pipe.read_buf(tail.buffer()).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            biased;
            _ = stop.requested() => break None,
            status = child.wait() => break Some(status?),
            read = read => match read {
                Ok(1..) => tail.trim(),
                Ok(0) | Err(_) => stdout = None,
            },
        }
    };
    let until = std::time::Instant::now() + CLEANUP;
    let left = end_job(&bounds, until).await;
    if !left.is_empty() {
        warn!(?left, "some processes of a command could not be killed");
    }
    // Nobody holds the pipe any more, so it ends.
    if let Some(mut pipe) = stdout {
        let rest = async {
            while matches!(pipe.read_buf(tail.buffer()).await, Ok(1..)) {
                tail.trim();
            }
        };
        let _ = timeout(CLEANUP, rest).await;
    }
    let output = tail.text(None);
    let from = output
        .char_indices()
        .rev()
        .map(|(at, _)| at)
        .take_while(|at| output.len() - at <= Tail::KEPT);
    let from = from.last().unwrap_or(0);
    Ok(Checked { status, output: output.get(from..).unwrap_or_default().to_owned() })
}

/// What the agent is told about a command that failed.
pub(crate) fn feedback(command: &str, checked: &Checked) -> Option<Prompt> {
    let how = match checked.exit_code() {
        Some(code) => format!("exit code {code}"),
        None => "a signal ended it".to_owned(),
    };
    let output = checked.output.trim_end();
    let end = if output.is_empty() {
        "It printed nothing.".to_owned()
    } else {
        format!("The end of its output:\n\n{output}")
    };
    let text =
        format!("This check of your work fails ({how}): {command}\n\nFix what it finds. {end}");
    Prompt::parse(&text.replace('\0', "\u{fffd}")).ok()
}

/// What is left of the limits of a job after its earlier runs; `None` if one of them is used up.
pub(crate) fn left(
    (budget, turns): (Option<f64>, Option<u32>),
    spent: &AgentSummary,
) -> Option<(Option<f64>, Option<u32>)> {
    let budget = budget.map(|most| most - spent.cost_usd.unwrap_or(0.0));
    let taken = u32::try_from(spent.num_turns.unwrap_or(0)).unwrap_or(u32::MAX);
    let turns = turns.map(|most| most.saturating_sub(taken));
    let is_left = budget.is_none_or(|usd| usd > 0.0) && turns != Some(0);
    is_left.then_some((budget, turns))
}

#[cfg(test)]
mod tests {
    use std::os::unix::process::ExitStatusExt as _;

    use super::*;

    #[test]
    fn what_the_agent_is_told() {
        let checked = |status, output: &str| Checked {
            status: Some(ExitStatus::from_raw(status)),
            output: output.into(),
        };
        let told = |checked| feedback("make", &checked).unwrap().as_str().to_owned();
        assert_eq!(
            told(checked(3 << 8, "one\0\ntwo\n")),
            "This check of your work fails (exit code 3): make\n\nFix what it finds. The end of its output:\n\none\u{fffd}\ntwo"
        );
        assert!(told(checked(9, "")).contains("(a signal ended it)"));
        assert!(told(checked(9, "")).ends_with("It printed nothing."));
    }

    #[test]
    fn limits_are_those_of_the_job() {
        let spent =
            AgentSummary { cost_usd: Some(0.75), num_turns: Some(3), ..AgentSummary::default() };
        assert_eq!(left((None, None), &spent), Some((None, None)));
        assert_eq!(left((Some(1.0), Some(5)), &spent), Some((Some(0.25), Some(2))));
        assert_eq!(left((Some(0.75), None), &spent), None);
        assert_eq!(left((None, Some(3)), &spent), None);
    }
}
