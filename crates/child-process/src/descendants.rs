//! The tree of processes, as `/proc` tells it.

use nix::unistd::Pid;

/// A process at the moment it was looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Process {
    pub(crate) pid: Pid,
    pub(crate) parent: Pid,
    pub(crate) life: Life,
}

/// Whether a process still runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Life {
    Alive,
    /// It has ended and its parent has not asked how.
    Zombie,
}

/// Every process below `pid`, parents before their children, zombies included.
///
/// Processes come and go while this looks, so one that has just been forked may be missing: call it
/// until it finds nothing new. Empty elsewhere than on Linux.
#[must_use]
pub fn descendants(pid: Pid) -> Vec<Pid> {
    below(&processes(), pid, &[]).into_iter().map(|process| process.pid).collect()
}

/// The processes of `all` below `root`, parents first, without those of `except` and what is below them.
pub(crate) fn below(all: &[Process], root: Pid, except: &[Pid]) -> Vec<Process> {
    let mut found: Vec<Process> = Vec::new();
    let mut parents = vec![root];
    while let Some(parent) = parents.pop() {
        for process in all.iter().filter(|process| process.parent == parent) {
            // A pid used again while /proc was read could make a circle.
            let is_known = found.iter().any(|known| known.pid == process.pid);
            if !is_known && process.pid != root && !except.contains(&process.pid) {
                parents.push(process.pid);
                found.push(*process);
            }
        }
    }
    found
}

/// Every process there is. One that ends meanwhile is left out.
#[cfg(target_os = "linux")]
pub(crate) fn processes() -> Vec<Process> {
    let Ok(entries) = std::fs::read_dir("/proc") else { return Vec::new() };
    entries
        .filter_map(|entry| {
            let pid: i32 = entry.ok()?.file_name().to_str()?.parse().ok()?;
            parse_stat(&std::fs::read(format!("/proc/{pid}/stat")).ok()?)
        })
        .collect()
}

#[cfg(not(target_os = "linux"))]
pub(crate) fn processes() -> Vec<Process> {
    Vec::new()
}

/// Reads `/proc/<pid>/stat`, proc_pid_stat(5): `pid (name) state parent …`. The name is whatever the
/// process calls itself, brackets, spaces, line breaks and bytes that are no text included.
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
    Some(Process {
        pid: Pid::from_raw(std::str::from_utf8(pid).ok()?.parse().ok()?),
        parent: Pid::from_raw(fields.next()?.parse().ok()?),
        life,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn process(pid: i32, parent: i32, life: Life) -> Process {
        Process { pid: Pid::from_raw(pid), parent: Pid::from_raw(parent), life }
    }

    #[test]
    fn any_name_is_read() {
        for (stat, expected) in [
            (&b"7 (sh) S 1 7 7 0"[..], Some(process(7, 1, Life::Alive))),
            (b"7 (a) Z 9 (b) Z 1 7", Some(process(7, 1, Life::Zombie))),
            (b"7 (x\n) R 2\n) S 3 7", Some(process(7, 3, Life::Alive))),
            (b"7 (\xff\xfe) D 1 7", Some(process(7, 1, Life::Alive))),
            (b"7 () S 1 7", Some(process(7, 1, Life::Alive))),
            (b"7 (sh", None),
            (b"7 (sh)", None),
            (b"7 (sh) S", None),
            (b"x (sh) S 1", None),
            (b"", None),
        ] {
            assert_eq!(parse_stat(stat), expected, "{}", String::from_utf8_lossy(stat));
        }
    }

    #[test]
    fn a_tree_is_walked_parents_first_and_without_the_excepted() {
        let alive = |pid, parent| process(pid, parent, Life::Alive);
        // 1 ─┬ 2 ─┬ 4 ─ 6    8 and 9 are each other's parents: pids used again
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
