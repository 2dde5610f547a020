//! What must be true of a volume after every caller has read its end.

use std::{collections::BTreeSet, fs, path::Path};

use super::{report::Report, volume::JobDirectory};
use crate::Stack;

/// How often the agent of each job has run, according to the marks it left.
pub(crate) fn runs(marks: &Path, id: &str) -> usize {
    fs::read_to_string(marks.join(id)).map_or(0, |text| text.lines().count())
}

/// Every job has ended, every job without a parent is a caller's, and no agent is left.
pub(crate) fn check_volume(report: &mut Report, stack: &Stack, callers: &BTreeSet<String>) {
    let mut asked = BTreeSet::new();
    let mut children = 0;
    for job in JobDirectory::all(stack.workspace()) {
        let id = job.id();
        let Some(record) = job.record() else {
            report.violate(format!("{id} has no record"));
            continue;
        };
        report.check(job.has("outcome"), || format!("{id} has not ended"));
        if record["parent"].is_null() {
            asked.insert(id);
        } else {
            children += 1;
        }
    }
    report.figure("jobs on the volume", asked.len());
    report.figure("jobs that workflows have started", children);
    let lost: Vec<_> = callers.difference(&asked).collect();
    report.check(lost.is_empty(), || format!("jobs missing on the volume: {lost:?}"));
    let extra: Vec<_> = asked.difference(callers).collect();
    report.check(extra.is_empty(), || format!("jobs that nobody requested: {extra:?}"));
    let left = stack.agents();
    report.check(left.is_empty(), || format!("processes of agents left behind: {left:?}"));
}

/// The entries of a directory.
pub(crate) fn entries(directory: &Path) -> usize {
    fs::read_dir(directory).map_or(0, Iterator::count)
}
