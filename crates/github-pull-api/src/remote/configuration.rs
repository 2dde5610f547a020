//! The configurations of control directories.

use contract::RepoUrl;

use super::{Extent, ObjectFormat};

/// The configuration of a mirror.
pub(super) fn configuration(repo: &RepoUrl, format: ObjectFormat, extent: Extent) -> String {
    let filter = extent.filter.map(|filter| filter.as_str());
    let mut text = git_format(format, filter);
    text.push_str("\tfilemode = true\n\tbare = true\n");
    text.push_str(&origin(repo.address(), filter));
    text
}

/// The beginning of a configuration, within the section `core`.
pub(crate) fn git_format(format: ObjectFormat, filter: Option<&str>) -> String {
    let mut extensions = String::new();
    if format == ObjectFormat::Sha256 {
        extensions.push_str("\tobjectformat = sha256\n");
    }
    if filter.is_some() {
        extensions.push_str("\tpartialclone = origin\n");
    }
    if extensions.is_empty() {
        return "[core]\n\trepositoryformatversion = 0\n".to_owned();
    }
    format!("[extensions]\n{extensions}[core]\n\trepositoryformatversion = 1\n")
}

/// The section of the remote `origin`, which more can be added to.
pub(crate) fn origin(address: &str, filter: Option<&str>) -> String {
    let address = address.replace('\\', "\\\\").replace('"', "\\\"");
    let promisor =
        filter.map(|filter| format!("\tpromisor = true\n\tpartialclonefilter = {filter}\n"));
    format!("[remote \"origin\"]\n\turl = \"{address}\"\n{}", promisor.unwrap_or_default())
}
