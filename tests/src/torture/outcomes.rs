//! What must hold of a volume once every caller has read its end.

use std::{collections::BTreeSet, fs, path::Path};

use super::{report::Report, volume::JobDirectory};
use crate::{ProcInfo, Stack};

/// How often the agent of each job was run, by the marks it left.
pub(crate) fn runs(marks: &Path, id: &str) -> usize {
    fs::read_to_string(marks.join(id)).map_or(0, |text| text.lines().count())
}

/// Every job has ended, the callers' are the only ones nobody else asked for, and no agent is left.
pub(crate) fn check_volume(report: &mut Report, stack: &Stack, callers: &BTreeSet<String>) {
    let mut asked = BTreeSet::new();
    let mut children = 0;
    for job in JobDirectory::all(stack.workspace()) {
        let id = job.id();
        let Some(record) = job.record() else {
            report.break_promise(format!("{id} has no record"));
            continue;
        };
        report.demand(job.has("outcome"), || format!("{id} has no end"));
        if record["parent"].is_null() {
            asked.insert(id);
        } else {
            children += 1;
        }
    }
    report.figure("jobs on the volume", asked.len());
    report.figure("jobs that workflows asked for", children);
    let lost: Vec<_> = callers.difference(&asked).collect();
    report.demand(lost.is_empty(), || format!("jobs that are not on the volume: {lost:?}"));
    let extra: Vec<_> = asked.difference(callers).collect();
    report.demand(extra.is_empty(), || format!("jobs that nobody asked for: {extra:?}"));
    let left = agents(stack);
    report.demand(left.is_empty(), || format!("processes of agents are left: {left:?}"));
}

/// The agents of a stack and what they have started, wherever these hide.
pub(crate) fn agents(stack: &Stack) -> Vec<ProcInfo> {
    let mut found = stack.descendants();
    found.retain(|process| process.state != 'Z' && !process.cmdline.contains(" serve "));
    found
}

/// The entries of a directory.
pub(crate) fn entries(directory: &Path) -> usize {
    fs::read_dir(directory).map_or(0, Iterator::count)
}
