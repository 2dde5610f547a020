//! Many jobs, after which everything must be as before.

use std::{
    collections::BTreeSet,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use claude_stand_in::Ending;
use tempfile::TempDir;
use tokio::task::JoinSet;

use super::{
    caller::Caller,
    census::{Census, census, changes},
    kill::sentence,
    outcomes::check_volume,
    report::{Report, count, seconds},
};
use crate::{AgentScript, GitServer, Stack};

/// How long things that end by themselves may take to disappear, such as descriptors of closed
/// connections.
const SETTLING: Duration = Duration::from_secs(10);

/// The kinds of jobs: successes, failures, agents that leave processes behind, and cancelled ones.
const KINDS: usize = 7;

/// The size of the campaign.
#[derive(Clone, Copy, Debug)]
pub struct Leaks {
    /// How many jobs run between the two counts.
    pub jobs: usize,
    /// How many callers there are at once.
    pub callers: usize,
}

struct Field {
    stack: Stack,
    git: GitServer,
    next: AtomicUsize,
    jobs: usize,
}

impl Leaks {
    /// Runs the campaign.
    ///
    /// # Panics
    /// If a stack cannot be started, or if it does not become idle again.
    pub async fn run(self) -> Report {
        let mut report = Report::new("leaks", None);
        let temporary = TempDir::new().unwrap();
        let git = GitServer::start().await;
        git.create_repo("app", &[("README.md", "hello\n")]);
        git.create_empty_repo("empty");
        let stack = Stack::builder()
            .replicas(2, 2, 4)
            .env("LOG_LEVEL", "warn")
            .env("TMPDIR", temporary.path())
            .start()
            .await;
        let field =
            Arc::new(Field { stack, git, next: AtomicUsize::new(0), jobs: KINDS + self.jobs });
        let started = Instant::now();
        // First one of each kind, because mirrors, checkouts and thread pools exist from then on.
        let mut done = Vec::new();
        for number in 0..KINDS {
            done.push(Ok(Arc::clone(&field).one(number).await));
        }
        field.next.store(KINDS, Ordering::Relaxed);
        field.stack.wait_until_idle().await;
        let before = settled(&field.stack, &temporary, None).await;
        let mut callers = JoinSet::new();
        for _ in 0..self.callers {
            callers.spawn(Arc::clone(&field).call());
        }
        while let Some(some) = callers.join_next().await {
            done.extend(some.unwrap());
        }
        field.stack.wait_until_idle().await;
        let after = settled(&field.stack, &temporary, Some(&before)).await;

        let (mut callers, mut ends) = (BTreeSet::new(), Vec::new());
        for one in done {
            match one {
                Ok((id, end)) => {
                    callers.insert(id);
                    ends.push(end);
                }
                Err(broken) => report.violate(broken),
            }
        }
        report.figure("jobs between the counts", self.jobs);
        report.figure("ends", serde_json::json!(count(ends)));
        check_volume(&mut report, &field.stack, &callers);
        for (name, count) in &after {
            let was = before.get(name).copied().unwrap_or_default();
            report.figure(format!("{name}, before and after"), format!("{was} {count}"));
        }
        for change in changes(&before, &after) {
            report.violate(change);
        }
        report.figure("seconds", seconds(started.elapsed()));
        report
    }
}

impl Field {
    async fn call(self: Arc<Self>) -> Vec<Result<(String, String), String>> {
        let mut done = Vec::new();
        loop {
            let number = self.next.fetch_add(1, Ordering::Relaxed);
            if number >= self.jobs {
                return done;
            }
            done.push(tokio::spawn(Arc::clone(&self).one(number)).await.map_err(sentence));
        }
    }

    async fn one(self: Arc<Self>, number: usize) -> (String, String) {
        let url = self.git.url("app");
        let stack = &self.stack;
        let failing = AgentScript::new().result(Ending { is_error: true, ..Ending::default() });
        let leaving = AgentScript::new().spawn_in_new_session(&["sleep", "300"]).flood(5, 100);
        let caller = match number % KINDS {
            0 => Caller::workflow(stack, &url, &AgentScript::new()),
            1 => Caller::workflow(stack, &url, &leaving),
            2 => Caller::pull(stack, &url),
            3 => Caller::pull(stack, &self.git.url("empty")),
            4 => Caller::execute(stack, &leaving),
            5 => Caller::execute(stack, &failing),
            // Its deadline ends it in the middle of its work.
            _ => Caller::execute(stack, &leaving.hang()).with("timeoutSeconds", 1),
        };
        let end = caller.read().await.end;
        (caller.id, end)
    }
}

/// The count, as soon as it no longer changes or is the same as before.
async fn settled(stack: &Stack, temporary: &TempDir, before: Option<&Census>) -> Census {
    let started = Instant::now();
    let mut last = census(stack, temporary.path());
    loop {
        tokio::time::sleep(Duration::from_millis(500)).await;
        let now = census(stack, temporary.path());
        let is_still = before.is_none_or(|before| *before == now) && now == last;
        if is_still || started.elapsed() > SETTLING {
            return now;
        }
        last = now;
    }
}
