//! References: names, which are bytes, and the objects they lead to.

use std::{collections::BTreeMap, fmt, os::unix::ffi::OsStrExt as _, path::Path};

use cap_std::fs::Dir;

use crate::failure::{Failure, Result};

/// The largest `packed-refs` that is read, in bytes.
pub(crate) const LARGEST_REFS: u64 = 128 << 20;

/// The first line of a `packed-refs` that is sorted and holds no peeled tags.
const PACKED_HEADER: &[u8] = b"# pack-refs with: sorted \n";

/// The id of an object, in hexadecimal: 40 digits of SHA-1 or 64 of SHA-256.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct ObjectId(String);

/// References by name, like `refs/heads/main`.
pub(crate) type Refs = BTreeMap<Vec<u8>, ObjectId>;

impl ObjectId {
    pub(crate) fn parse(text: &[u8]) -> Option<Self> {
        let is_id = matches!(text.len(), 40 | 64)
            && text.iter().all(|it| matches!(it, b'0'..=b'9' | b'a'..=b'f'));
        is_id.then(|| Self(text.iter().map(|&byte| char::from(byte)).collect()))
    }

    pub(crate) fn format(&self) -> ObjectFormat {
        if self.0.len() == 40 { ObjectFormat::Sha1 } else { ObjectFormat::Sha256 }
    }

    pub(crate) fn as_str(&self) -> &str {
        &self.0
    }

    /// The first digits, for people.
    pub(crate) fn short(&self) -> &str {
        self.0.get(..10).unwrap_or(&self.0)
    }

    /// The id that stands for no object.
    pub(crate) fn zero(&self) -> String {
        "0".repeat(self.0.len())
    }
}

/// How objects are named.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ObjectFormat {
    Sha1,
    Sha256,
}

impl fmt::Display for ObjectId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for ObjectId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Reads the file of this name in a control directory, if it is there, but no more than so many bytes of it.
type Read<'a> = &'a dyn Fn(&Path, u64) -> Result<Option<Vec<u8>>>;

/// Every reference of a control directory, symbolic ones left out.
///
/// # Errors
/// If they cannot be listed, or `read` fails.
pub(crate) fn read(git: &Dir, read: Read<'_>) -> Result<Refs> {
    let packed = read(Path::new("packed-refs"), LARGEST_REFS)?.unwrap_or_default();
    let mut refs = parse(&packed, b' ');
    read_loose(git, Path::new("refs"), read, &mut refs)?;
    Ok(refs)
}

fn read_loose(git: &Dir, directory: &Path, read: Read<'_>, refs: &mut Refs) -> Result<()> {
    let failed = |error| Failure::io("list in .git", directory)(error);
    for entry in git.read_dir(directory).map_err(failed)? {
        let entry = entry.map_err(failed)?;
        let name = directory.join(entry.file_name());
        if entry.file_type().map_err(failed)?.is_dir() {
            read_loose(git, &name, read, refs)?;
        } else if let Some(text) = read(&name, 1024)?
            && let Some(id) = ObjectId::parse(text.trim_ascii())
        {
            refs.insert(name.as_os_str().as_bytes().to_vec(), id);
        }
    }
    Ok(())
}

/// Reads lines of an id, one character, and a name: what `for-each-ref`, `ls-remote` and `packed-refs` have
/// in common. Other lines are left out, and so are the peeled tags of `ls-remote`.
pub(crate) fn parse(text: &[u8], separator: u8) -> Refs {
    text.split(|byte| *byte == b'\n')
        .filter_map(|line| {
            let at = line.iter().position(|byte| *byte == separator)?;
            let (id, name) = line.split_at_checked(at)?;
            let name = name.get(1..)?;
            (!name.ends_with(b"^{}")).then_some((name.to_vec(), ObjectId::parse(id)?))
        })
        .collect()
}

/// The contents of a `packed-refs`.
pub(crate) fn pack(refs: &Refs) -> Vec<u8> {
    let mut text = PACKED_HEADER.to_vec();
    for (name, id) in refs {
        text.extend_from_slice(id.as_str().as_bytes());
        text.push(b' ');
        text.extend_from_slice(name);
        text.push(b'\n');
    }
    text
}
