//! Files in Git LFS: what they contain is uploaded before the pointers to it are pushed.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs::{self, File},
    path::{Path, PathBuf},
};

use contract::Code;

use super::{
    check::{self, Tree},
    placement::Line,
    refuse, rules,
};
use crate::{
    changes::{self, Control},
    failure::{Failure, Result, quote},
    git::Git,
    monitor::Monitor,
    remote::{ObjectId, Transport, lfs_obstacle, upload_to_lfs},
};

/// What a pointer begins with, <https://github.com/git-lfs/git-lfs/blob/main/docs/spec.md>.
const POINTER: &str = "version https://git-lfs.github.com/spec/v1\n";
/// A pointer is shorter than this, in bytes.
const LONGEST_POINTER: u64 = 1024;

/// What new commits have in Git LFS: the size of each object, and one of its paths, by its SHA-256.
#[derive(Debug, Default)]
pub(super) struct Uploads(BTreeMap<String, (u64, Vec<u8>)>);

/// Files of new commits that belong in Git LFS: one of the paths of each blob.
#[derive(Debug, Default)]
pub(super) struct Candidates(BTreeMap<ObjectId, Vec<u8>>);

impl Candidates {
    /// Adds those of the changed `paths` of the commit `made` that its attributes put into LFS.
    ///
    /// # Errors
    /// If git cannot be run.
    pub(super) fn add(
        &mut self,
        control: &Control<'_>,
        (made, tree): (&ObjectId, &Tree),
        paths: &[&[u8]],
    ) -> Result<()> {
        for path in changes::in_lfs_at(control, made, paths)? {
            if let Some(id) = tree.file(path) {
                self.0.insert(id.clone(), path.to_vec());
            }
        }
        Ok(())
    }

    /// The objects that they are pointers to. What the repository had before is left out.
    ///
    /// # Errors
    /// If one of them is no pointer: the host would get the file itself, for good.
    pub(super) fn uploads(
        mut self,
        git: &Git,
        control: &Control<'_>,
        line: &Line,
    ) -> Result<Uploads> {
        let mut uploads = Uploads::default();
        if self.0.is_empty() {
            return Ok(uploads);
        }
        if let Some((parent, _)) = line.steps.first() {
            let known: BTreeSet<ObjectId> = Tree::list(control, parent)?.ids().cloned().collect();
            self.0.retain(|id, _| !known.contains(id));
        }
        let small = self.small(control)?;
        for (id, path) in self.0 {
            match small.get(&id).map(|content| (content.is_empty(), parse(content))) {
                // git-lfs leaves empty files as they are.
                Some((true, _)) => {}
                Some((false, Some((object, size)))) => {
                    uploads.0.insert(object, (size, path));
                }
                _ => {
                    let (path, obstacle) = (shown(&path), lfs_obstacle(git)?);
                    let what = obstacle.map_or_else(
                        || "leave out \"commits\", or set it to \"squash\"".to_owned(),
                        |obstacle| format!("{obstacle}, where pulls run"),
                    );
                    let sentence = format!(
                        "'{path}' belongs in Git LFS, as .gitattributes says, and would become a part of the repository: {what}; \
                         nothing was pushed"
                    );
                    return refuse(Code::GitFailed, sentence);
                }
            }
        }
        Ok(uploads)
    }

    /// The contents of those that may be pointers.
    fn small(&self, control: &Control<'_>) -> Result<BTreeMap<ObjectId, Vec<u8>>> {
        let all: String = self.0.keys().map(|id| format!("{id}\n")).collect();
        let printed =
            control.command(&["cat-file", "--batch-check"]).input(all.into_bytes()).output()?;
        let unreadable = |_| Failure::Git("the files in Git LFS cannot be read".into());
        let (mut lines, mut small) = (printed.as_slice(), String::new());
        while let Some((id, size)) = check::object_head(&mut lines).map_err(unreadable)? {
            if size < LONGEST_POINTER {
                small.push_str(&format!("{id}\n"));
            }
        }
        let printed =
            control.command(&["cat-file", "--batch"]).input(small.into_bytes()).output()?;
        check::contents(&printed).map_err(unreadable)
    }
}

impl Uploads {
    /// Makes sure that all of them are here and hold no secret.
    ///
    /// # Errors
    /// If one is not, or does.
    pub(super) fn check(&self, control: &Control<'_>, secrets: &[String]) -> Result<()> {
        for (object, (size, path)) in &self.0 {
            let place = place(&control.lfs_storage(), object);
            let is_here =
                fs::symlink_metadata(&place).is_ok_and(|it| it.is_file() && it.len() == *size);
            if !is_here {
                let sentence = format!(
                    "'{}' is a pointer of Git LFS to something that is not in the checkout: have the agent leave the file itself \
                     there, or leave out \"commits\"; nothing was pushed",
                    shown(path)
                );
                return refuse(Code::GitFailed, sentence);
            }
            let searched = File::open(&place).and_then(|file| check::search_file(file, secrets));
            if searched.map_err(Failure::io("read", &place))? {
                return rules::secret_found();
            }
        }
        Ok(())
    }

    /// Uploads them to the LFS server that the commit `at` names.
    ///
    /// # Errors
    /// If it does not take them.
    pub(super) fn run(
        &self,
        git: &Git,
        monitor: &Monitor,
        transport: &Transport<'_>,
        control: &Control<'_>,
        at: &ObjectId,
    ) -> Result<()> {
        if self.0.is_empty() {
            return Ok(());
        }
        if let Some(obstacle) = lfs_obstacle(git)? {
            let sentence =
                format!("the result has files in Git LFS, and {obstacle}, where pulls run");
            return refuse(Code::GitFailed, sentence);
        }
        let size: u64 = self.0.values().map(|(size, _)| size).sum();
        monitor.message(format!("Uploading to Git LFS: {} files, {size} bytes", self.0.len()));
        let objects: Vec<&str> = self.0.keys().map(String::as_str).collect();
        upload_to_lfs(git, transport, control, at, &objects)
    }
}

fn shown(path: &[u8]) -> String {
    quote(&rules::shown(path), &[])
}

/// Where git-lfs keeps an object.
fn place(storage: &Path, object: &str) -> PathBuf {
    let part = |range| object.get(range).unwrap_or_default();
    storage.join("objects").join(part(0..2)).join(part(2..4)).join(object)
}

/// The SHA-256 and the size that a pointer names; `None` if it is no pointer.
fn parse(content: &[u8]) -> Option<(String, u64)> {
    let lines = std::str::from_utf8(content).ok()?.strip_prefix(POINTER)?;
    let value = |key: &str| lines.lines().find_map(|line| line.strip_prefix(key));
    let object = value("oid sha256:")?;
    let is_digest = |c: u8| c.is_ascii_digit() || (b'a'..=b'f').contains(&c);
    (object.len() == 64 && object.bytes().all(is_digest))
        .then_some((object.to_owned(), value("size ")?.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pointers_are_known_by_all_of_their_lines() {
        let digest = "4665a5ea423c2713d436b5ee50593a9640e0018c1550b5a0002f74190d6caea8";
        let good = format!("{POINTER}oid sha256:{digest}\nsize 12\n");
        assert_eq!(parse(good.as_bytes()), Some((digest.to_owned(), 12)));
        for bad in [
            "",
            "oid sha256:00\nsize 1\n",
            &good.replace("sha256:4", "sha256:../"),
            &good.replace("sha256:4", "sha256:A"),
            &good.replace("size 12", "size many"),
            &good.replace("size 12\n", ""),
        ] {
            assert_eq!(parse(bad.as_bytes()), None, "{bad}");
        }
    }
}
