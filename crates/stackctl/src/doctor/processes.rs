//! Whether the processes of jobs can be bounded and ended, and whether there is room for them.

use std::io;

use child_process::{
    LimitedBy,
    machine::{Capacity, Delegation},
};

use super::{
    finding::{Finding, State},
    limits::Counts,
};
use crate::program;

/// How the processes of a job are ended. `pid_namespace` says whether a job could have one.
pub(super) fn end_of_jobs(
    cgroup: &Result<Delegation, String>,
    pid_namespace: &io::Result<()>,
) -> Finding {
    const NAME: &str = "end of jobs";
    let namespace = match pid_namespace {
        Ok(()) => "PID namespaces are available".to_owned(),
        Err(error) => format!("no PID namespaces: {error}"),
    };
    match cgroup {
        Ok(Delegation { directory, can_kill: true }) => Finding::ok(
            NAME,
            format!("a job's cgroup is killed in one step ({}); {namespace}", directory.display()),
        ),
        Ok(Delegation { directory, can_kill: false }) => Finding::advice(
            NAME,
            format!(
                "a job's cgroup is frozen and its processes killed one by one ({}); {namespace}",
                directory.display()
            ),
            "update the kernel: Linux 5.14 and newer kill a cgroup in one step",
        ),
        Err(why) => Finding::advice(
            NAME,
            format!(
                "a job's processes are stopped and killed one by one; no cgroup: {why}; {namespace}"
            ),
            delegate(),
        ),
    }
}

/// What bounds the number of a job's processes.
pub(super) fn process_limit(limited_by: LimitedBy, processes: u32) -> Finding {
    const NAME: &str = "process limit";
    match limited_by {
        LimitedBy::Cgroup => {
            Finding::ok(NAME, format!("{processes} per job (JOB_PROCESSES), set for its cgroup"))
        }
        LimitedBy::UserLimit => Finding::ok(
            NAME,
            format!(
                "{processes} per job (JOB_PROCESSES), counted together with the other processes of this user"
            ),
        ),
        LimitedBy::NothingForRoot => Finding::advice(
            NAME,
            "none: there is no cgroup for jobs, and other limits do not apply to root",
            format!("run as another user, or: {}", delegate()),
        ),
        LimitedBy::Container => Finding::advice(
            NAME,
            "only that of this container, if it has one",
            "docker run --pids-limit 4096 …, or `pids` in the stack file",
        ),
    }
}

fn delegate() -> String {
    format!("systemd-run --user --scope -p Delegate=yes {} up", program::name())
}

/// Room for the processes and threads of a whole stack. `resource` is what the room is of, `setting` what bounds it.
pub(super) fn room(
    resource: &'static str,
    setting: &str,
    room: &io::Result<Capacity>,
    counts: Counts,
    processes: u32,
) -> Finding {
    let Capacity { used, limit } = match room {
        Ok(room) => *room,
        Err(error) => return Finding::unknown(resource, format!("cannot be read: {error}")),
    };
    let free = limit.saturating_sub(used);
    let needed = counts.threads(processes);
    let found = format!("{free} of {limit} free, at most {needed} needed");
    let raise = format!("sudo sysctl -w {setting}={}", (used + needed).next_power_of_two());
    Finding::judge(resource, found, free >= needed, State::Advice, raise)
}

#[cfg(test)]
mod tests {
    use contract::PerService;

    use super::{
        super::finding::State::{Advice, Ok as Fine, Unknown},
        *,
    };

    #[test]
    fn how_jobs_end_here() {
        let cgroup = |can_kill| Ok(Delegation { directory: "/sys/fs/cgroup/x".into(), can_kill });
        let denied = || Err(io::Error::from(io::ErrorKind::PermissionDenied));
        assert_eq!(end_of_jobs(&cgroup(true), &Ok(())).state, Fine);
        assert_eq!(end_of_jobs(&cgroup(false), &denied()).state, Advice);
        let none = end_of_jobs(&Err("it is not delegated".into()), &denied());
        assert!(none.found.contains("it is not delegated") && none.found.contains("permission"));
        assert!(none.fix.unwrap().starts_with("systemd-run "));
    }

    #[test]
    fn what_bounds_a_job() {
        let of = |by| process_limit(by, 1024).state;
        assert_eq!([of(LimitedBy::Cgroup), of(LimitedBy::UserLimit)], [Fine, Fine]);
        assert_eq!([of(LimitedBy::NothingForRoot), of(LimitedBy::Container)], [Advice, Advice]);
    }

    #[test]
    fn room_for_all_agents_at_once() {
        let counts = Counts(PerService::from_fn(|_| 1));
        let of = |room: io::Result<Capacity>| super::room("x", "kernel.x", &room, counts, 1000);
        assert_eq!(of(Ok(Capacity { used: 100, limit: 32_768 })).state, Fine);
        let little = of(Ok(Capacity { used: 100, limit: 1000 }));
        assert_eq!(little.state, Advice);
        assert!(little.fix.unwrap().starts_with("sudo sysctl -w kernel.x=2048"));
        assert_eq!(of(Err(io::ErrorKind::NotFound.into())).state, Unknown);
    }
}
