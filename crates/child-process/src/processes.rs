//! The process tree, read from `/proc`.

use std::{collections::HashMap, io};

use nix::unistd::Pid;

/// A snapshot of a process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Process {
    pub(crate) pid: Pid,
    pub(crate) parent: Pid,
    pub(crate) group: Pid,
    pub(crate) life: Life,
    /// Its start time, in ticks since boot. Together with the pid it identifies a process.
    pub(crate) started: u64,
}

/// Whether a process is running.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Life {
    Alive,
    /// It has exited but was not reaped.
    Zombie,
}

/// Every descendant of `pid`, parents before their children, including zombies.
///
/// A process that is forked meanwhile may be missing, so repeat this until it finds nothing new. It reads all of
/// `/proc`, which takes milliseconds, so do not call it on an async thread. Returns nothing on systems other than
/// Linux.
///
/// # Errors
/// If the processes cannot be listed, for example because no file descriptors are left.
pub fn descendants(pid: Pid) -> io::Result<Vec<Pid>> {
    Ok(below(&processes()?, pid, &[]).into_iter().map(|process| process.pid).collect())
}

/// The processes in `all` that descend from `root`, parents first, without those in `except` and their descendants.
pub(crate) fn below(all: &[Process], root: Pid, except: &[Pid]) -> Vec<Process> {
    let mut children: HashMap<Pid, Vec<Process>> = HashMap::new();
    for process in all {
        children.entry(process.parent).or_default().push(*process);
    }
    let mut found = Vec::new();
    let mut parents = vec![root];
    while let Some(parent) = parents.pop() {
        // Removed, because a pid reused while /proc was read could cause a cycle.
        for process in children.remove(&parent).unwrap_or_default() {
            if process.pid != root && !except.contains(&process.pid) {
                parents.push(process.pid);
                found.push(process);
            }
        }
    }
    found
}

/// The children of this process, including zombies. `None` if the kernel has no list of children
/// (`CONFIG_PROC_CHILDREN`), or if it cannot be read.
///
/// Much cheaper than reading all processes. In a subreaper, the children of a process that exits join the list at
/// once.
#[cfg(target_os = "linux")]
pub(crate) fn children() -> Option<Vec<Pid>> {
    let mut children = Vec::new();
    // A child belongs to the thread that forked it, or, if adopted, to any thread.
    for thread in std::fs::read_dir("/proc/self/task").ok()? {
        let thread = thread.ok()?.path();
        match std::fs::read_to_string(thread.join("children")) {
            Ok(list) => {
                let pids = list.split_ascii_whitespace().filter_map(|pid| pid.parse().ok());
                children.extend(pids.map(Pid::from_raw));
            }
            // The thread has exited. Its children moved to another thread and are found next time.
            Err(_) if matches!(thread.try_exists(), Ok(false)) => {}
            Err(_) => return None,
        }
    }
    Some(children)
}

#[cfg(not(target_os = "linux"))]
pub(crate) fn children() -> Option<Vec<Pid>> {
    None
}

/// Every process, except those that exit meanwhile, and those that the kernel hides from this user (`hidepid`).
///
/// # Errors
/// If they cannot all be read. A process that was not looked at must not count as one that is not there.
#[cfg(target_os = "linux")]
pub(crate) fn processes() -> io::Result<Vec<Process>> {
    let mut processes = Vec::new();
    for entry in std::fs::read_dir("/proc")? {
        let name = entry?.file_name();
        let Some(pid) = name.to_str().and_then(|name| name.parse::<i32>().ok()) else { continue };
        match std::fs::read(format!("/proc/{pid}/stat")) {
            Ok(stat) => {
                processes.push(parse_stat(&stat).ok_or_else(|| {
                    io::Error::new(
                        io::ErrorKind::InvalidData,
                        format!("unexpected content in /proc/{pid}/stat"),
                    )
                })?);
            }
            Err(error) if is_absent(&error) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(processes)
}

/// Whether a process has exited or is hidden, according to an error of reading its file.
#[cfg(target_os = "linux")]
fn is_absent(error: &io::Error) -> bool {
    use io::ErrorKind::{NotFound, PermissionDenied};
    matches!(error.kind(), NotFound | PermissionDenied)
        || error.raw_os_error() == Some(nix::libc::ESRCH)
}

#[cfg(not(target_os = "linux"))]
#[expect(clippy::unnecessary_wraps, reason = "it can fail on Linux")]
pub(crate) fn processes() -> io::Result<Vec<Process>> {
    Ok(Vec::new())
}

/// Parses `/proc/<pid>/stat`, proc_pid_stat(5): `pid (name) state parent group …`. A process chooses its own name,
/// which may contain parentheses, spaces, line breaks and invalid UTF-8.
#[cfg_attr(not(target_os = "linux"), expect(dead_code, reason = "there is no /proc"))]
fn parse_stat(stat: &[u8]) -> Option<Process> {
    let name_ends = stat.iter().rposition(|byte| *byte == b')')?;
    let pid = stat.split(|byte| *byte == b' ').next()?;
    let rest = std::str::from_utf8(stat.get(name_ends + 1..)?).ok()?;
    let mut fields = rest.split_ascii_whitespace();
    let life = match fields.next()? {
        "Z" | "X" | "x" => Life::Zombie,
        _ => Life::Alive,
    };
    let mut number = || fields.next()?.parse().ok().map(Pid::from_raw);
    let (parent, group) = (number()?, number()?);
    Some(Process {
        pid: Pid::from_raw(std::str::from_utf8(pid).ok()?.parse().ok()?),
        parent,
        group,
        life,
        // The 22nd field; five are already consumed.
        started: fields.nth(16)?.parse().ok()?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn process(pid: i32, parent: i32, life: Life) -> Process {
        let [pid, parent] = [pid, parent].map(Pid::from_raw);
        Process { pid, parent, group: Pid::from_raw(7), life, started: 22 }
    }

    #[test]
    fn any_name_is_parsed() {
        let rest = b" 7 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20 21 22 23";
        for (stat, expected) in [
            (&b"7 (sh) S 1"[..], Some(process(7, 1, Life::Alive))),
            (b"7 (a) Z 9 (b) Z 1", Some(process(7, 1, Life::Zombie))),
            (b"7 (x\n) R 2\n) S 3", Some(process(7, 3, Life::Alive))),
            (b"7 (\xff\xfe) D 1", Some(process(7, 1, Life::Alive))),
            (b"7 () S 1", Some(process(7, 1, Life::Alive))),
            (b"7 (sh", None),
            (b"7 (sh)", None),
            (b"x (sh) S 1", None),
            (b"", None),
        ] {
            let text = String::from_utf8_lossy(stat);
            assert_eq!(parse_stat(&[stat, rest].concat()), expected, "{text}");
            assert_eq!(parse_stat(stat), None, "truncated: {text}");
        }
        let own = std::fs::read("/proc/self/stat").unwrap();
        let own = parse_stat(&own).unwrap();
        assert_eq!((own.pid, own.group), (Pid::this(), nix::unistd::getpgrp()));
        assert!(own.started > 0);
    }

    #[test]
    fn a_tree_is_walked_parents_first_without_exceptions() {
        let alive = |pid, parent| process(pid, parent, Life::Alive);
        // 1 ─┬ 2 ─┬ 4 ─ 6    8 and 9 are each other's parents: reused pids
        //    └ 3  └ 5 ─ 7
        let all = [
            alive(7, 5),
            alive(6, 4),
            alive(5, 2),
            alive(4, 2),
            alive(3, 1),
            alive(2, 1),
            alive(1, 0),
            alive(8, 9),
            alive(9, 8),
        ];
        let pids = |root, except: &[i32]| {
            let except: Vec<_> = except.iter().copied().map(Pid::from_raw).collect();
            let found = below(&all, Pid::from_raw(root), &except);
            found.iter().map(|process| process.pid.as_raw()).collect::<Vec<_>>()
        };
        let found = pids(1, &[]);
        let place = |pid| found.iter().position(|other| *other == pid).unwrap();
        assert_eq!(found.len(), 6);
        for (parent, child) in [(2, 4), (2, 5), (4, 6), (5, 7)] {
            assert!(place(parent) < place(child), "{found:?}");
        }
        assert_eq!(pids(1, &[2]), [3]);
        assert_eq!(pids(1, &[4, 7]), [3, 2, 5]);
        assert_eq!(pids(8, &[]), [9]);
        assert!(pids(99, &[]).is_empty());
    }
}
