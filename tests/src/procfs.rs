//! Processes, as reported by `/proc`.

use std::{
    fs,
    os::unix::fs::FileExt as _,
    path::{Path, PathBuf},
};

/// A process.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProcInfo {
    /// Its PID.
    pub pid: u32,
    /// The PID of its parent.
    pub ppid: u32,
    /// `R`, `S`, `Z` and so on, as in proc(5).
    pub state: char,
    /// Its name, of at most 15 bytes.
    pub name: String,
}

impl ProcInfo {
    /// Its arguments, joined by spaces, or its name in brackets if it has none. Reading them waits for the process if it
    /// is in the middle of a fork, which takes long if many other processes are busy.
    #[must_use]
    pub fn cmdline(&self) -> String {
        cmdline(self.pid).unwrap_or_else(|| format!("[{}]", self.name))
    }
}

/// The arguments of a process, joined by spaces, or `None` if it has none, as one that has exited.
pub(crate) fn cmdline(pid: u32) -> Option<String> {
    let arguments = fs::read(format!("/proc/{pid}/cmdline")).ok()?;
    let arguments = String::from_utf8_lossy(&arguments);
    let cmdline = arguments.trim_end_matches('\0').replace('\0', " ");
    (!cmdline.is_empty()).then_some(cmdline)
}

/// Every descendant of `pid`, parents before children.
#[must_use]
pub fn descendants(pid: u32) -> Vec<ProcInfo> {
    let all = processes();
    let mut found: Vec<ProcInfo> = Vec::new();
    let mut parents = vec![pid];
    while let Some(parent) = parents.pop() {
        for child in all.iter().filter(|process| process.ppid == parent) {
            parents.push(child.pid);
            found.push(child.clone());
        }
    }
    found
}

/// The writable memory of a process. It is empty if the process has ended, or may not be read.
///
/// # Panics
/// If the kernel lists it in an unknown form.
#[must_use]
pub fn memory(pid: u32) -> Vec<u8> {
    let maps = fs::read_to_string(format!("/proc/{pid}/maps")).unwrap_or_default();
    let Ok(file) = fs::File::open(format!("/proc/{pid}/mem")) else { return Vec::new() };
    let mut all = Vec::new();
    for map in maps.lines().filter(|map| map.contains(" rw")) {
        let range = map.split(' ').next().and_then(|range| range.split_once('-'));
        let (begin, end) = range.expect("a range of addresses");
        let [begin, end] =
            [begin, end].map(|it| u64::from_str_radix(it, 16).expect("a hexadecimal address"));
        // The CLI's runtime reserves gigabytes that it does not use.
        if end - begin < 1 << 30 {
            let mut part = vec![0; usize::try_from(end - begin).expect("64 bits")];
            if file.read_exact_at(&mut part, begin).is_ok() {
                all.extend(part);
            }
        }
    }
    all
}

/// Whether the process exists and is not a zombie.
#[must_use]
pub fn is_alive(pid: u32) -> bool {
    read(pid).is_some_and(|process| !matches!(process.state, 'Z' | 'X'))
}

/// Its state, as in [`ProcInfo::state`], or `None` if the process does not exist.
pub(crate) fn state(pid: u32) -> Option<char> {
    read(pid).map(|process| process.state)
}

/// The peak memory of a process in kB, or `None` if it has exited.
pub(crate) fn peak_kb(pid: u32) -> Option<u64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    line.trim().strip_suffix(" kB")?.parse().ok()
}

/// The threads of a process and of all its descendants, one a line: what they are, in which state, and where in the kernel
/// they wait. It is for a test that waits in vain. Reads nothing that could wait for the process.
#[must_use]
pub(crate) fn threads_of_tree(pid: u32) -> String {
    let mut lines = vec!["    pid    ppid     tid state  name             waits in".to_owned()];
    let found = read(pid).into_iter().chain(descendants(pid));
    for ProcInfo { pid, ppid, .. } in found {
        let Ok(threads) = fs::read_dir(format!("/proc/{pid}/task")) else { continue };
        for thread in threads.filter_map(Result::ok) {
            let tid = thread.file_name();
            let Some(it) = read_stat(&thread.path().join("stat")) else { continue };
            let wchan = fs::read_to_string(thread.path().join("wchan")).unwrap_or_default();
            lines.push(format!(
                "{pid:>7} {ppid:>7} {:>7} {:>5}  {:<16} {wchan}",
                tid.to_string_lossy(),
                it.state,
                it.name
            ));
        }
    }
    lines.join("\n")
}

/// Every process, except this one, that works in `directory` or below it, or has its path in its
/// arguments or its environment. A stack on that workspace may have left such processes behind,
/// whatever their parent is now.
#[must_use]
pub fn processes_of_directory(directory: &Path) -> Vec<ProcInfo> {
    let needle = directory.to_string_lossy();
    let works_there = |process: &ProcInfo| {
        fs::read_link(format!("/proc/{}/cwd", process.pid))
            .is_ok_and(|cwd| without_deleted(cwd).starts_with(directory))
    };
    let was_told = |process: &ProcInfo| {
        fs::read(format!("/proc/{}/environ", process.pid)).is_ok_and(|environment| {
            memchr::memmem::find(&environment, needle.as_bytes()).is_some()
        })
    };
    let mut all = processes();
    all.retain(|process| {
        process.pid != std::process::id()
            && process.state != 'Z'
            && (process.cmdline().contains(&*needle) || works_there(process) || was_told(process))
    });
    all
}

/// The kernel marks a deleted directory.
fn without_deleted(path: PathBuf) -> PathBuf {
    path.to_str()
        .and_then(|path| path.strip_suffix(" (deleted)"))
        .map(PathBuf::from)
        .unwrap_or(path)
}

fn processes() -> Vec<ProcInfo> {
    fs::read_dir("/proc")
        .expect("failed to read /proc")
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
        .filter_map(read)
        .collect()
}

/// A process that exits meanwhile is simply skipped.
fn read(pid: u32) -> Option<ProcInfo> {
    read_stat(Path::new(&format!("/proc/{pid}/stat")))
}

/// Of a process, or of one of its threads.
fn read_stat(file: &Path) -> Option<ProcInfo> {
    let stat = fs::read_to_string(file).ok()?;
    // The name is in parentheses and may contain any character, even parentheses.
    let (pid, rest) = stat.split_once(" (")?;
    let (name, rest) = rest.rsplit_once(')')?;
    let pid = pid.parse().ok()?;
    let mut fields = rest.split_whitespace();
    let state = fields.next()?.chars().next()?;
    let ppid = fields.next()?.parse().ok()?;
    Some(ProcInfo { pid, ppid, state, name: name.to_owned() })
}

#[cfg(test)]
mod tests {
    use std::process::{Command, Stdio};

    use super::*;

    #[test]
    fn finds_children_and_grandchildren_until_they_are_gone() {
        let directory = tempfile::tempdir().unwrap();
        let mut shell = Command::new("sh")
            .args(["-c", "sleep 61 & echo ready; wait"])
            .current_dir(directory.path())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        let mut output = std::io::BufReader::new(shell.stdout.take().unwrap());
        std::io::BufRead::read_line(&mut output, &mut line).unwrap();

        let below = descendants(std::process::id());
        assert!(below.iter().any(|process| process.pid == shell.id()), "{below:?}");
        let sleep = descendants(shell.id());
        let [sleep] = &*sleep else { panic!("{sleep:?}") };
        assert_eq!(sleep.ppid, shell.id());
        let tree = threads_of_tree(shell.id());
        let line = |name: &str| {
            let found = tree.lines().find(|line| line.split_whitespace().nth(4) == Some(name));
            found.unwrap_or_else(|| panic!("{tree}")).to_owned()
        };
        assert!(line("sh").split_whitespace().next() == Some(&*shell.id().to_string()), "{tree}");
        assert!(line("sleep").contains(" S "), "{tree}");
        let there = processes_of_directory(directory.path());
        assert_eq!(there.len(), 2, "{there:?}");

        for pid in [shell.id(), sleep.pid] {
            let pid = nix::unistd::Pid::from_raw(pid.cast_signed());
            nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGKILL).unwrap();
        }
        shell.wait().unwrap();
        assert!(!is_alive(shell.id()));
        assert!(is_alive(std::process::id()));
    }
}
