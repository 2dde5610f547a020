//! The shared volume, read as plain files, without the code under test.

use std::{
    fs,
    path::{Path, PathBuf},
};

use serde_json::Value;

/// The directory of a job.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct JobDirectory(PathBuf);

impl JobDirectory {
    pub(crate) fn of(workspace: &Path, id: &str) -> Self {
        Self(workspace.join(".stack/jobs").join(id))
    }

    /// The job that this file belongs to.
    pub(crate) fn holding(file: &Path) -> Option<Self> {
        Some(Self(file.parent()?.to_owned()))
    }

    /// Every job that was ever created.
    pub(crate) fn all(workspace: &Path) -> Vec<Self> {
        let entries = fs::read_dir(workspace.join(".stack/jobs")).into_iter().flatten();
        entries.flatten().map(|entry| Self(entry.path())).collect()
    }

    pub(crate) fn id(&self) -> String {
        self.0.file_name().unwrap_or_default().to_string_lossy().into_owned()
    }

    pub(crate) fn has(&self, file: &str) -> bool {
        self.0.join(file).exists()
    }

    /// Whether the file exists and is not empty.
    pub(crate) fn has_bytes(&self, file: &str) -> bool {
        fs::metadata(self.0.join(file)).is_ok_and(|file| file.len() > 0)
    }

    /// Whether the words are in its journal.
    pub(crate) fn says(&self, words: &str) -> bool {
        fs::read_to_string(self.0.join("events.ndjson"))
            .is_ok_and(|journal| journal.contains(words))
    }

    /// The request, the service and the parent, or `None` if the job was still being created.
    pub(crate) fn record(&self) -> Option<Value> {
        serde_json::from_slice(&fs::read(self.0.join("job.json")).ok()?).ok()
    }

    /// The jobs that it started.
    pub(crate) fn children(&self) -> Vec<Self> {
        let entries = fs::read_dir(self.0.join("children")).into_iter().flatten();
        let jobs = self.0.parent().map(Path::to_owned).unwrap_or_default();
        let mut children: Vec<_> =
            entries.flatten().map(|entry| Self(jobs.join(entry.file_name()))).collect();
        // A dangling name: the parent died before it requested the job.
        children.retain(|child| child.has("job.json"));
        children
    }
}
