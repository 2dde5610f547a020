//! The commits that an agent has made itself.

use std::path::Path;

use super::{Control, Taken};
use crate::{checkout::LeftGit, failure::Result, git::Git, remote::ObjectId, staging::Staging};

/// The most commits that are listed.
pub(crate) const MOST: usize = 1000;
/// The longest message that is kept, in bytes.
const LONGEST_MESSAGE: usize = 64 << 10;

/// A commit of the agent's. Nothing in it is more than a claim.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Commit {
    pub(crate) id: ObjectId,
    pub(crate) author: String,
    pub(crate) email: String,
    /// The whole message, lossily; cut if it is very long.
    pub(crate) message: String,
}

/// The commits that `HEAD` has and `base` has not, newest first.
///
/// # Errors
/// If they cannot be read.
pub(super) fn since(
    git: &Git,
    staging: &Staging,
    left: &LeftGit,
    base: &ObjectId,
) -> Result<Vec<Commit>> {
    let Some(head) = left.head.as_ref().filter(|head| *head != base) else {
        return Ok(Vec::new());
    };
    let objects = left.objects();
    let places = (objects.as_path(), objects.as_path());
    let theirs = Control::make(git, staging, "theirs", base.format(), None, places, &[])?;
    left.copy_to(theirs.path())?;
    let most = format!("--max-count={MOST}");
    let range = format!("{base}..{head}");
    let format = "--format=%H%n%an%n%ae%n%B";
    let log = [
        "log",
        "-z",
        "--encoding=UTF-8",
        "--no-show-signature",
        "--no-mailmap",
        format,
        &most,
        &range,
    ];
    let listed = theirs.command(&log).output()?;
    Ok(listed.split(|byte| *byte == 0).filter_map(parse).collect())
}

/// Brings the agent's commits into the control directory of `taken`, under the names that their contents have. Returns their
/// IDs, oldest first; `None` if they are not one line of commits that begins at the base.
///
/// # Errors
/// If git cannot be run.
pub(crate) fn adopt(
    git: &Git,
    staging: &Staging,
    checkout: &Path,
    taken: &Taken<'_>,
) -> Result<Option<Vec<ObjectId>>> {
    let Some(head) = taken.commits.first().filter(|_| taken.commits.len() < MOST) else {
        return Ok(None);
    };
    let (base, head) = (&taken.base, &head.id);
    let left = LeftGit::look(&git.monitor, checkout)?;
    let objects = left.objects();
    let places = (objects.as_path(), objects.as_path());
    let theirs = Control::make(git, staging, "theirs", base.format(), None, places, &[])?;
    left.copy_to(theirs.path())?;
    let wanted = format!("{head}\n^{base}\n").into_bytes();
    let pack = ["pack-objects", "--revs", "--stdout", "-q", "--delta-base-offset"];
    let packed = theirs.command(&pack).input(wanted).run()?;
    if !packed.status.success() {
        return Ok(None);
    }
    let index = taken.control.command(&["index-pack", "--stdin", "--strict"]);
    if !index.input(packed.stdout).run()?.status.success() {
        return Ok(None);
    }
    let list = ["rev-list", "--reverse", "--parents", head.as_str(), &format!("^{base}")];
    let listed = taken.control.command(&list).output()?;
    let mut before = base.clone();
    let mut line = Vec::new();
    for entry in listed.split(|byte| *byte == b'\n').filter(|entry| !entry.is_empty()) {
        let ids: Vec<_> = entry.split(|byte| *byte == b' ').map(ObjectId::parse).collect();
        let [Some(id), Some(parent)] = ids.as_slice() else { return Ok(None) };
        if *parent != before {
            return Ok(None);
        }
        before = id.clone();
        line.push(id.clone());
    }
    Ok(Some(line))
}

fn parse(entry: &[u8]) -> Option<Commit> {
    let mut lines = entry.splitn(4, |byte| *byte == b'\n');
    let id = ObjectId::parse(lines.next()?)?;
    let mut text = || {
        let text = lines.next().unwrap_or_default();
        let text = text.get(..LONGEST_MESSAGE).unwrap_or(text);
        String::from_utf8_lossy(text).trim_end().to_owned()
    };
    Some(Commit { id, author: text(), email: text(), message: text() })
}
