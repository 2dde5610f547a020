//! Counts everything that a stack uses on the machine.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
};

use super::outcomes::entries;
use crate::Stack;

/// The number of each kind of thing.
pub(crate) type Census = BTreeMap<String, usize>;

/// Counts everything now.
pub(crate) fn census(stack: &Stack, temporary: &Path) -> Census {
    let mut census = Census::new();
    let mut add = |name: &str, count: usize| {
        *census.entry(name.to_owned()).or_default() += count;
    };
    let below = stack.descendants();
    add("zombies", below.iter().filter(|process| process.state == 'Z').count());
    let alive = below.iter().filter(|process| process.state != 'Z').map(|process| process.pid);
    for pid in alive.chain([stack.pid()]) {
        add("processes", 1);
        for (descriptor, told) in descriptors(pid) {
            add("open files", 1);
            let target = descriptor.to_string_lossy();
            add("sockets", usize::from(target.starts_with("socket:")));
            add("inotify instances", usize::from(target.contains("inotify")));
            add("inotify watches", told.matches("inotify wd:").count());
            add("locks", told.matches("FLOCK").count());
        }
    }
    let state = stack.workspace().join(".stack");
    for service in ["workflow-api", "github-pull-api", "claude-code-api"] {
        add("registry entries", entries(&state.join("replicas").join(service)));
    }
    for directory in ["tmp", "gateways", "turns", "checkouts", "mirrors"] {
        add(&format!(".stack/{directory}"), entries(&state.join(directory)));
    }
    add("system's temporary directory", entries(temporary));
    census
}

/// The target of each descriptor of a process, and what the kernel reports about it.
fn descriptors(pid: u32) -> Vec<(PathBuf, String)> {
    let directory = fs::read_dir(format!("/proc/{pid}/fd")).into_iter().flatten().flatten();
    let one = |entry: fs::DirEntry| {
        let number = entry.file_name().into_string().ok()?;
        let told = fs::read_to_string(format!("/proc/{pid}/fdinfo/{number}")).ok()?;
        Some((fs::read_link(entry.path()).ok()?, told))
    };
    directory.filter_map(one).collect()
}

/// Describes the counts that differ.
pub(crate) fn changes(before: &Census, after: &Census) -> Vec<String> {
    let names: std::collections::BTreeSet<_> = before.keys().chain(after.keys()).collect();
    let differs = |name: &&&String| before.get(**name) != after.get(**name);
    let told = |name: &String| {
        let [before, after] = [before, after].map(|it| it.get(name).copied().unwrap_or_default());
        format!("{name}: {before} before, {after} after")
    };
    names.iter().filter(differs).map(|name| told(name)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn increases_and_decreases_are_reported() {
        let of = |pairs: &[(&str, usize)]| {
            pairs.iter().map(|(name, count)| ((*name).to_owned(), *count)).collect::<Census>()
        };
        let before = of(&[("a", 1), ("b", 2), ("c", 3)]);
        assert!(changes(&before, &before).is_empty());
        let after = of(&[("a", 1), ("b", 1), ("d", 1)]);
        let told = changes(&before, &after);
        assert_eq!(told, ["b: 2 before, 1 after", "c: 3 before, 0 after", "d: 0 before, 1 after"]);
    }
}
