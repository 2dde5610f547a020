//! Agents that fork without end, and how they are ended.

use std::{
    collections::BTreeSet,
    time::{Duration, Instant},
};

use child_process::{LimitedBy, machine};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

use super::{
    caller::Caller,
    report::Report,
    strike::{SOON, has_lease_of},
    volume::JobDirectory,
};
use crate::{AgentScript, Stack, descendants, http_json, wait_for};

/// How long a storm may take to start. It matters only if a guarantee is broken.
const PATIENCE: Duration = Duration::from_secs(60);

/// Every process forks as often as it can, each in a session of its own, and none waits for its children.
const FLOOD: &str = "use POSIX; $SIG{CHLD} = 'IGNORE'; \
    while (1) { my $pid = fork(); if (defined $pid && !$pid) { POSIX::setsid() } }";

/// Every process forks the next one, which moves to a session of its own, and exits.
const CHAIN: &str =
    "use POSIX; while (1) { my $pid = fork(); exit if $pid; POSIX::setsid() if defined $pid }";

/// Every process leaves orphans that exit at once: zombies, unless they are reaped.
const ORPHANS: &str = "while (1) { my $pid = fork(); \
    if (defined $pid && !$pid) { fork(); exit } waitpid($pid, 0) if $pid }";

/// How a storm ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum EndedBy {
    /// A caller cancels the job.
    Cancel,
    /// Its replica is killed, and `stackctl up` inherits the storm.
    Death,
}

/// The campaign.
#[derive(Clone, Copy, Debug)]
pub struct Storms {
    /// How many processes a job may have, `JOB_PROCESSES`.
    pub processes: usize,
}

impl Storms {
    /// Whether this machine limits the processes of a job. Without a limit a storm takes the whole machine.
    #[must_use]
    pub fn is_safe_here() -> bool {
        matches!(machine::process_limit(), LimitedBy::Cgroup | LimitedBy::UserLimit)
    }

    /// Runs the campaign.
    ///
    /// # Panics
    /// If a stack cannot be started, or if nothing limits the processes of a job on this machine.
    pub async fn run(self) -> Report {
        assert!(Self::is_safe_here(), "nothing limits the processes of a job on this machine");
        let mut report = Report::new("storms", None);
        let stack = Stack::builder()
            .replicas(1, 1, 2)
            .env("LOG_LEVEL", "warn")
            .env("JOB_PROCESSES", self.processes.to_string())
            .start()
            .await;
        let mut times = Vec::new();
        for (name, storm) in [("flood", FLOOD), ("chain", CHAIN), ("orphans", ORPHANS)] {
            for ended_by in [EndedBy::Cancel, EndedBy::Death] {
                let what = format!("{name}, {ended_by:?}");
                let time = self.storm(&stack, storm, ended_by, &what, &mut report).await;
                report.figure(what, format!("all gone after {:.2} s", time.as_secs_f64()));
                times.push(time);
            }
        }
        report.times("until all processes are gone", &mut times);
        stack.wait_until_idle().await;
        report
    }

    /// Starts one storm and ends it. Returns how long it took until all of its processes were gone.
    async fn storm(
        self,
        stack: &Stack,
        storm: &str,
        ended_by: EndedBy,
        what: &str,
        report: &mut Report,
    ) -> Duration {
        stack.wait_until_idle().await;
        let marks = crate::scratch();
        let began = marks.path().join("began");
        let script = AgentScript::new()
            .spawn_in_new_session(&["perl", "-e", storm])
            .touch(&began)
            .ignore_signals()
            .ignore_interrupt()
            .hang();
        let caller = Caller::execute(stack, &script);
        let job = JobDirectory::of(stack.workspace(), &caller.id);
        let cancel = format!("{}/api/jobs/{}/cancel", stack.claude_url(), caller.id);
        let reading = tokio::spawn(async move { caller.read().await });
        wait_for(&format!("{what}: the agent"), PATIENCE, || async {
            began.exists().then_some(())
        })
        .await;
        let replica = stack
            .processes_of("claude-code-api")
            .into_iter()
            .find(|&pid| has_lease_of(stack.workspace(), pid, &job))
            .expect("a replica runs the job");
        // Wait until many processes were seen, one after the other or at once.
        let mut seen = BTreeSet::new();
        let mut most = 0;
        let begun = Instant::now();
        while seen.len() < self.processes / 2 || begun.elapsed() < Duration::from_secs(1) {
            assert!(begun.elapsed() < PATIENCE, "{what}: only {} processes", seen.len());
            let now = descendants(replica);
            most = most.max(now.len());
            seen.extend(now.into_iter().map(|process| process.pid));
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        report.figure(format!("{what}: most at once"), most);
        // The zombies of a process that does not wait for its children count too.
        report.check(most <= self.processes + 1, || format!("{what}: {most} processes at once"));

        // The rest of the stack continues.
        let other = Caller::execute(stack, &AgentScript::new().say("hello")).read().await;
        report
            .check(other.end == "complete", || format!("{what}: another job ended {}", other.end));

        let asked = Instant::now();
        let expected = match ended_by {
            EndedBy::Cancel => {
                let (status, _, body) = http_json("POST", &cancel, None, &[]).await;
                assert_eq!(status, 202, "{what}: {body}");
                "cancelled"
            }
            EndedBy::Death => {
                kill(Pid::from_raw(replica.cast_signed()), Signal::SIGKILL).unwrap();
                "replica_lost"
            }
        };
        let end = reading.await.unwrap().end;
        report.check(end == expected, || format!("{what}: the job ended {end}"));
        // All but the parts of the stack, and their zombies.
        let is_left =
            |process: &crate::ProcInfo| process.state == 'Z' || process.name != "stackctl";
        let left = || stack.descendants().into_iter().filter(is_left).count();
        while left() > 0 && asked.elapsed() < 4 * SOON {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        let time = asked.elapsed();
        report.check(time < SOON, || format!("{what}: after {time:?} there are {} left", left()));
        time
    }
}
