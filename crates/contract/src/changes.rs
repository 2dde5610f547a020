//! `GET /api/jobs/:id/diff` as JSON: what a job has left, compared with what it was given.

use serde::{Deserialize, Serialize};

/// What a job has changed.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Changes {
    /// The commit that the job was given.
    pub base: String,
    /// The files, in the order of their paths; at most 50,000, and fewer if their paths are very long.
    pub files: Vec<FileChange>,
    /// The lines that were added, in all files.
    pub additions: u64,
    /// The lines that were removed, in all files.
    pub deletions: u64,
    /// Whether files are missing in `files` or in the patch, because there are too many or they are too large.
    pub truncated: bool,
    /// What is in the checkout but not in the patch, and was not ignored; at most as many as `files` may have.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub skipped: Vec<SkippedFile>,
    /// The commits that the agent has made itself, newest first; at most 1,000.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub commits: Vec<AgentCommit>,
}

/// A file that a job has changed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct FileChange {
    /// Its path. Bytes that are not UTF-8 are replaced.
    pub path: String,
    /// The exact path in percent-encoding, if `path` is not exact.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub encoded_path: Option<String>,
    /// Where a renamed file was.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub from: Option<String>,
    /// What has become of it.
    pub status: FileStatus,
    /// The lines that were added; 0 in a binary file.
    pub additions: u64,
    /// The lines that were removed; 0 in a binary file.
    pub deletions: u64,
    /// Whether git takes it for a binary file.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub binary: bool,
    /// Whether it is in Git LFS: the patch has only its pointer.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub lfs: bool,
    /// Whether lines were added with characters that a terminal would interpret or not show.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub hidden: bool,
}

/// What has become of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FileStatus {
    /// It is new.
    Added,
    /// It is gone.
    Deleted,
    /// Its content or its mode is another.
    Modified,
    /// It has another path, and perhaps another content.
    Renamed,
    /// A file has become a link, or the like.
    TypeChanged,
}

/// Something that is not in the patch.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SkippedFile {
    /// Its path. Bytes that are not UTF-8 are replaced.
    pub path: String,
    /// Why.
    pub reason: SkipReason,
}

/// Why something is not in a patch.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SkipReason {
    /// A repository of its own in the checkout.
    Repository,
    /// A submodule that is checked out: what was changed in it is not looked at.
    Submodule,
    /// A pipe, a socket or a device.
    Special,
    /// The stack's user cannot read it, its path is too long, or git does not take its content.
    Unreadable,
    /// It is larger than a patch may be.
    TooLarge,
    /// git refuses its name.
    RefusedName,
}

impl SkipReason {
    /// The reason in a few words, for people.
    #[must_use]
    pub const fn words(self) -> &'static str {
        match self {
            Self::Repository => "a repository of its own",
            Self::Submodule => "a submodule: what is in it is not looked at",
            Self::Special => "a pipe, a socket or a device",
            Self::Unreadable => "cannot be read",
            Self::TooLarge => "too large for a diff",
            Self::RefusedName => "git refuses the name",
        }
    }
}

/// A commit that an agent has made itself. Nothing in it is more than a claim.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AgentCommit {
    /// Its ID.
    pub commit: String,
    /// The first line of its message, cut if it is very long.
    pub subject: String,
}
