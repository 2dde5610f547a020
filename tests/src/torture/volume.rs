//! The shared volume, as a bystander reads it: plain files, without the code under test.

use std::{
    fs,
    path::{Path, PathBuf},
};

use serde_json::Value;

/// A job's directory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct JobDirectory(PathBuf);

impl JobDirectory {
    pub(crate) fn of(workspace: &Path, id: &str) -> Self {
        Self(workspace.join(".stack/jobs").join(id))
    }

    /// The job whose file this is.
    pub(crate) fn holding(file: &Path) -> Option<Self> {
        Some(Self(file.parent()?.to_owned()))
    }

    /// Every job that was ever named.
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

    /// Whether the file is there, with something in it.
    pub(crate) fn has_bytes(&self, file: &str) -> bool {
        fs::metadata(self.0.join(file)).is_ok_and(|file| file.len() > 0)
    }

    /// The request, the service and the parent; nothing if the job was only about to be named.
    pub(crate) fn record(&self) -> Option<Value> {
        serde_json::from_slice(&fs::read(self.0.join("job.json")).ok()?).ok()
    }

    /// The jobs it asked for.
    pub(crate) fn children(&self) -> Vec<Self> {
        let entries = fs::read_dir(self.0.join("children")).into_iter().flatten();
        let jobs = self.0.parent().map(Path::to_owned).unwrap_or_default();
        let mut children: Vec<_> =
            entries.flatten().map(|entry| Self(jobs.join(entry.file_name()))).collect();
        // A name that leads nowhere: its parent died before it was asked for.
        children.retain(|child| child.has("job.json"));
        children
    }
}
