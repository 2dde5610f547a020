//! What a stack of this size needs of the kernel: memory, open files, inotify.

use contract::{PerService, Service};

use super::{
    files::{Files, number},
    finding::{Finding, State},
};
use crate::program;

const MIB: u64 = 1 << 20;
/// What an agent takes at work, as measured with the Claude Code CLI.
const AGENT: u64 = 300 * MIB;
/// What one process of the stack itself takes.
const REPLICA: u64 = 16 * MIB;

/// The threads of one process of the stack itself.
const THREADS: u64 = 8;

/// How many replicas there are to be.
#[derive(Clone, Copy, Debug)]
pub(super) struct Counts(pub(super) PerService<u16>);

impl Counts {
    /// All processes of the stack but the agents: the replicas, the gateway and `up`.
    fn processes(self) -> u64 {
        self.0.iter().map(|(_, count)| u64::from(*count)).sum::<u64>() + 2
    }

    /// How many threads a stack may have at most: those of its own processes, and what each agent may start.
    pub(super) fn threads(self, job_processes: u32) -> u64 {
        self.processes() * THREADS + self.agents() * u64::from(job_processes)
    }

    fn agents(self) -> u64 {
        u64::from(self.0[Service::Claude])
    }
}

pub(super) fn memory(files: &dyn Files, counts: Counts) -> Finding {
    const NAME: &str = "memory";
    let Some(available) = available_memory(files) else {
        return Finding::unknown(NAME, "cannot tell how much is free");
    };
    let stack = counts.processes() * REPLICA;
    let needed = stack + counts.agents() * AGENT;
    let found = format!(
        "{} MiB free, {} MiB needed by {} agents at once",
        available / MIB,
        needed / MIB,
        counts.agents()
    );
    if available >= needed {
        return Finding::ok(NAME, found);
    }
    match available.saturating_sub(stack) / AGENT {
        0 => Finding::missing(NAME, found, "free some memory: ps -eo rss,comm --sort=-rss | head"),
        fit => {
            let flag = Service::Claude.spec().short_name;
            Finding::advice(NAME, found, format!("{} up --{flag} {fit}", program::name()))
        }
    }
}

/// What the machine has free, and what this process's control group may still take.
fn available_memory(files: &dyn Files) -> Option<u64> {
    let meminfo = files.read("/proc/meminfo")?;
    let line = meminfo.lines().find_map(|line| line.strip_prefix("MemAvailable:"))?;
    let kib: u64 = line.split_whitespace().next()?.parse().ok()?;
    let group = files.read("/proc/self/cgroup").unwrap_or_default();
    let group = group.lines().find_map(|line| line.strip_prefix("0::")).unwrap_or("/");
    let directory = format!("/sys/fs/cgroup{}", group.trim_end_matches('/'));
    // A group without a limit says "max", which is not a number.
    let bound = number(files, &format!("{directory}/memory.max"));
    let used = number(files, &format!("{directory}/memory.current"));
    let left = bound.map(|bound| bound.saturating_sub(used.unwrap_or(0)));
    Some((kib * 1024).min(left.unwrap_or(u64::MAX)))
}

/// `hard` is the most that this process may have; `up` and its parts take that much by themselves.
pub(super) fn open_files(hard: u64, counts: Counts) -> Finding {
    const NAME: &str = "open files";
    // `up` has a pipe and a descriptor for each child, and the gateway has callers too.
    let needed = 256 + 4 * counts.processes();
    let found = format!("{hard} allowed, {needed} needed");
    let raise = format!("echo \"$USER - nofile {needed}\" | sudo tee -a /etc/security/limits.conf");
    Finding::judge(NAME, found, hard >= needed, State::Missing, raise + ", and log in again")
}

/// `used` is how many instances this user has already.
pub(super) fn inotify(files: &dyn Files, used: u64, counts: Counts) -> Finding {
    const NAME: &str = "inotify";
    const INSTANCES: &str = "/proc/sys/fs/inotify/max_user_instances";
    const WATCHES: &str = "/proc/sys/fs/inotify/max_user_watches";
    let (Some(instances), Some(watches)) = (number(files, INSTANCES), number(files, WATCHES))
    else {
        return Finding::unknown(NAME, "cannot read its limits");
    };
    // One instance per process. It watches the registry, each job, and what the job waits for.
    let (more_instances, more_watches) = (counts.processes(), 256 + 16 * counts.processes());
    let found = format!(
        "{} of {instances} instances free, {more_instances} needed; {watches} watches allowed, {more_watches} needed",
        instances.saturating_sub(used)
    );
    let mut fixes = Vec::new();
    if instances < used + more_instances {
        let enough = (used + more_instances).next_power_of_two().max(512);
        fixes.push(format!("fs.inotify.max_user_instances={enough}"));
    }
    if watches < more_watches {
        fixes.push(format!(
            "fs.inotify.max_user_watches={}",
            more_watches.next_power_of_two().max(65536)
        ));
    }
    if fixes.is_empty() {
        Finding::ok(NAME, found)
    } else {
        let found =
            format!("{found}; processes without an instance look for changes ten times a second");
        Finding::advice(NAME, found, format!("sudo sysctl -w {}", fixes.join(" ")))
    }
}

#[cfg(test)]
mod tests {
    use super::{
        super::finding::State::{Advice, Missing, Ok as Fine, Unknown},
        *,
    };

    fn counts() -> Counts {
        let workflows = |service| if service == Service::Workflow { 5 } else { 3 };
        Counts(PerService::from_fn(workflows))
    }

    #[test]
    fn memory_for_all_some_or_no_agents() {
        let of = |kib: &str| {
            let text = format!("MemTotal: 9 kB\nMemAvailable:   {kib} kB\n");
            memory(&[("/proc/meminfo", &*text)], counts())
        };
        assert_eq!(
            of("2000000"),
            Finding::ok("memory", "1953 MiB free, 1108 MiB needed by 3 agents at once")
        );
        assert_eq!(
            (of("1000000").state, of("1000000").fix.unwrap()),
            (Advice, "stackctl up --claude 2".into())
        );
        assert_eq!(of("300000").state, Missing);
        assert_eq!(memory(&[], counts()).state, Unknown);
    }

    #[test]
    fn memory_that_a_control_group_bounds() {
        let of = |max: &str| {
            memory(
                &[
                    ("/proc/meminfo", "MemAvailable: 20000000 kB"),
                    ("/proc/self/cgroup", "0::/user.slice/a.scope\n"),
                    ("/sys/fs/cgroup/user.slice/a.scope/memory.max", max),
                    ("/sys/fs/cgroup/user.slice/a.scope/memory.current", "104857600\n"),
                ],
                counts(),
            )
        };
        assert!(of("1073741824\n").found.starts_with("924 MiB free"));
        assert_eq!(of("1073741824\n").state, Advice);
        assert_eq!(of("max\n").state, Fine);
    }

    #[test]
    fn open_files_against_the_counts() {
        assert_eq!(
            open_files(1024, counts()),
            Finding::ok("open files", "1024 allowed, 308 needed")
        );
        let finding = open_files(256, counts());
        assert_eq!(finding.state, Missing);
        assert!(finding.fix.unwrap().contains("nofile 308"));
        let many = Counts(PerService::from_fn(
            |service| if service == Service::Workflow { 400 } else { 3 },
        ));
        assert_eq!(open_files(1024, many).state, Missing);
    }

    #[test]
    fn inotify_against_the_counts() {
        let of = |instances: &str, watches: &str, used| {
            let files = [
                ("/proc/sys/fs/inotify/max_user_instances", instances),
                ("/proc/sys/fs/inotify/max_user_watches", watches),
            ];
            inotify(&files, used, counts())
        };
        assert_eq!(of("128\n", "65536\n", 100).state, Fine);
        let few = of("128\n", "65536\n", 120);
        assert_eq!(
            (few.state, few.fix.unwrap()),
            (Advice, "sudo sysctl -w fs.inotify.max_user_instances=512".into())
        );
        let both = of("10", "10", 0).fix.unwrap();
        assert!(
            both.contains("max_user_instances=512 fs.inotify.max_user_watches=65536"),
            "{both}"
        );
        assert_eq!(inotify(&[], 0, counts()).state, Unknown);
    }
}
