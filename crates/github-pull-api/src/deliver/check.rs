//! The check of new commits, right before they are pushed.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs::File,
    io::{self, BufReader, Read as _},
};

use super::{
    commit::Words,
    lfs::{Candidates, Uploads},
    placement::Line,
    rules::{self, Links},
    source::Source,
};
use crate::{
    changes::{self, Control},
    drive::Site,
    failure::{Failure, Result},
    git::Git,
    remote::ObjectId,
    staging::Staging,
};

/// The shortest line of a private key that is looked for, in characters.
const SHORTEST_KEY_LINE: usize = 40;

/// Refuses commits that must not leave the stack. Each of them is looked at: what one adds and the next one removes leaves it too.
/// Returns what has to be uploaded before they are pushed.
///
/// # Errors
/// What is in them that is not to be delivered.
pub(super) fn check(
    site: &Site<'_>,
    staging: &Staging,
    (git, source, control): (&Git, &Source, &Control<'_>),
    line: &Line,
    allow_protected: bool,
) -> Result<Uploads> {
    let settings = &site.config.deliver;
    let (mut files, mut in_lfs) = (BTreeSet::new(), Candidates::default());
    for (parent, made) in &line.steps {
        let changed = changes::Files::between(control, parent, made)?;
        let tree = Tree::list(control, made)?;
        if !allow_protected {
            let links = tree.links(control, &settings.protected)?;
            let paths = changed.0.iter().flat_map(|file| [Some(&file.path), file.from.as_ref()]);
            settings.protected.check(paths.flatten().map(Vec::as_slice), &links)?;
        }
        let paths: Vec<&[u8]> = changed.0.iter().map(|file| file.path.as_slice()).collect();
        in_lfs.add(control, (made, &tree), &paths)?;
        files.extend(changed.0.into_iter().map(|file| file.path));
    }
    let (mut size, mut is_whole) = (0, true);
    let patch = staging.join("delivery.patch");
    for (parent, made) in &line.steps {
        let (bytes, all) = changes::write_diff(control, parent, made, &patch)?;
        (size, is_whole) = (size + bytes, is_whole && all);
    }
    rules::check_size(settings, files.len(), (size, is_whole))?;
    let secrets = secrets(site, source)?;
    scan(staging, control, line, &secrets, site.config.checkout_limit)?;
    let uploads = in_lfs.uploads(git, control, line)?;
    uploads.check(control, &secrets)?;
    Ok(uploads)
}

/// Refuses words that contain a secret. They need not be in a commit.
///
/// # Errors
/// If they do.
pub(super) fn check_words(site: &Site<'_>, source: &Source, words: &Words) -> Result<()> {
    let output = source.verification.as_ref().map_or("", |(_, output)| output);
    let text = format!("{}\n{}\n{output}", words.title, words.body);
    if rules::holds_secret(text.as_bytes(), &secrets(site, source)?) {
        return rules::secret_found();
    }
    Ok(())
}

/// The credentials that may be sent to the repository, and the lines of the private keys.
fn secrets(site: &Site<'_>, source: &Source) -> Result<Vec<String>> {
    let mut secrets = site.access.secrets(&source.repo);
    if let Some(app) = &site.config.app {
        secrets.extend(key_lines(app.key()));
    }
    if let Some(path) = &site.config.ssh_key_file {
        let key = std::fs::read(path).map_err(Failure::io("read", path))?;
        secrets.extend(key_lines(&String::from_utf8_lossy(&key)));
    }
    Ok(secrets)
}

/// The lines of a private key that are its own.
fn key_lines(key: &str) -> Vec<String> {
    let lines: Vec<_> = key.lines().map(str::trim).filter(|it| !it.contains("-----")).collect();
    // Keys of the same kind begin alike.
    let own = lines.get(1..).filter(|rest| !rest.is_empty()).unwrap_or(&lines);
    let own = own.iter().filter(|line| line.len() >= SHORTEST_KEY_LINE);
    own.map(|line| (*line).to_owned()).collect()
}

/// An entry of a tree.
struct Entry {
    id: ObjectId,
    is_link: bool,
}

/// All files of a commit.
pub(super) struct Tree {
    files: BTreeMap<Vec<u8>, Entry>,
}

impl Tree {
    /// # Errors
    /// If git cannot list them.
    pub(super) fn list(control: &Control<'_>, commit: &ObjectId) -> Result<Self> {
        let printed = control.command(&["ls-tree", "-r", "-z", commit.as_str()]).output()?;
        // `MODE TYPE ID`, a tab, and the path.
        let parse = |line: &[u8]| {
            let tab = line.iter().position(|byte| *byte == b'\t')?;
            let (head, path) = (line.get(..tab)?, line.get(tab + 1..)?);
            let id = ObjectId::parse(head.rsplit(|byte| *byte == b' ').next()?)?;
            Some((path.to_vec(), Entry { id, is_link: head.starts_with(b"120000 ") }))
        };
        Ok(Self { files: printed.split(|byte| *byte == 0).filter_map(parse).collect() })
    }

    /// The blob of a file that is no link.
    pub(super) fn file(&self, path: &[u8]) -> Option<&ObjectId> {
        self.files.get(path).filter(|entry| !entry.is_link).map(|entry| &entry.id)
    }

    /// What it consists of.
    pub(super) fn ids(&self) -> impl Iterator<Item = &ObjectId> {
        self.files.values().map(|entry| &entry.id)
    }

    /// Its links, if some of them are protected.
    fn links(&self, control: &Control<'_>, protected: &rules::Protected) -> Result<Links> {
        let links: Vec<_> = self.files.iter().filter(|(_, entry)| entry.is_link).collect();
        if !links.iter().any(|(path, _)| protected.contains(path)) {
            return Ok(Links::default());
        }
        let ids: Vec<u8> =
            links.iter().flat_map(|(_, entry)| format!("{}\n", entry.id).into_bytes()).collect();
        let printed = control.command(&["cat-file", "--batch"]).input(ids).output()?;
        let targets = contents(&printed)
            .map_err(|_| Failure::Git("the links of a tree cannot be read".into()))?;
        let target = |entry: &Entry| targets.get(&entry.id).map(Vec::as_slice);
        let links = links.into_iter();
        Ok(links.filter_map(|(path, entry)| Some((path.as_slice(), target(entry)?))).collect())
    }
}

/// The small objects that `git cat-file --batch` has printed.
///
/// # Errors
/// If that is incomplete.
pub(super) fn contents(mut objects: &[u8]) -> io::Result<BTreeMap<ObjectId, Vec<u8>>> {
    let mut found = BTreeMap::new();
    while let Some((id, size)) = object_head(&mut objects)? {
        let mut content = Vec::new();
        (&mut objects).take(size).read_to_end(&mut content)?;
        objects.read_exact(&mut [0])?;
        found.insert(id, content);
    }
    Ok(found)
}

/// Searches everything that a push of `line` sends.
///
/// # Errors
/// If there is a secret in it.
fn scan(
    staging: &Staging,
    control: &Control<'_>,
    line: &Line,
    secrets: &[String],
    most: u64,
) -> Result<()> {
    let not = line.steps.first().map(|(parent, _)| format!("^{parent}"));
    let list = ["rev-list", "--objects", line.end.as_str()];
    let list: Vec<_> = list.into_iter().chain(not.as_deref()).collect();
    let listed = control.command(&list).output()?;
    if rules::holds_secret(&listed, secrets) {
        return rules::secret_found();
    }
    let ids: Vec<&[u8]> = listed
        .split(|byte| *byte == b'\n')
        .filter_map(|line| line.split(|byte| *byte == b' ').next())
        .filter(|id| !id.is_empty())
        .collect();
    // In a file, because they may be large although the patch is small.
    let path = staging.join("delivery.objects");
    let file = File::create(&path).map_err(Failure::io("write", &path))?;
    let input = [ids.join(&b'\n'), b"\n".to_vec()].concat();
    let is_whole = control.command(&["cat-file", "--batch"]).input(input).output_to(file, most)?;
    if !is_whole {
        let sentence =
            "the changed files are larger than GIT_CHECKOUT_LIMIT_MIB: ask for smaller changes";
        return super::refuse(contract::Code::TooLarge, sentence);
    }
    let read = File::open(&path).map(BufReader::new).and_then(|file| search(file, secrets));
    if read.map_err(Failure::io("read", &path))? { rules::secret_found() } else { Ok(()) }
}

/// Whether a secret is in what `git cat-file --batch` has printed.
fn search(mut objects: impl io::BufRead, secrets: &[String]) -> io::Result<bool> {
    while let Some((_, size)) = object_head(&mut objects)? {
        if search_part(&mut objects, size, secrets)? {
            return Ok(true);
        }
        objects.read_exact(&mut [0])?;
    }
    Ok(false)
}

/// Whether a secret is in a file.
///
/// # Errors
/// If it cannot be read.
pub(super) fn search_file(file: File, secrets: &[String]) -> io::Result<bool> {
    let size = file.metadata()?.len();
    search_part(&mut BufReader::new(file), size, secrets)
}

/// Whether a secret is in the next `left` bytes. If not, all of them have been read.
fn search_part(from: &mut impl io::BufRead, mut left: u64, secrets: &[String]) -> io::Result<bool> {
    const BLOCK: u64 = 1 << 20;
    let longest = secrets.iter().map(String::len).max().unwrap_or(0);
    let mut bytes = Vec::new();
    while left > 0 {
        // A secret may begin in one block and end in the next.
        bytes.drain(..bytes.len().saturating_sub(longest));
        let read = from.take(left.min(BLOCK)).read_to_end(&mut bytes)?;
        if read == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        left -= read as u64;
        if rules::holds_secret(&bytes, secrets) {
            return Ok(true);
        }
    }
    Ok(false)
}

/// The ID and the size in the next line `ID TYPE SIZE`. Objects that a partial clone does not have are skipped: their line says so.
///
/// # Errors
/// If it cannot be read.
pub(super) fn object_head(objects: &mut impl io::BufRead) -> io::Result<Option<(ObjectId, u64)>> {
    loop {
        let mut line = Vec::new();
        if objects.read_until(b'\n', &mut line)? == 0 {
            return Ok(None);
        }
        let mut words = line.trim_ascii_end().split(|byte| *byte == b' ');
        let id = words.next().and_then(ObjectId::parse);
        let size = words.next_back().and_then(|word| std::str::from_utf8(word).ok()?.parse().ok());
        if let (Some(id), Some(size)) = (id, size) {
            return Ok(Some((id, size)));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_are_found_across_blocks() {
        let id = "0123456789012345678901234567890123456789";
        let object = |bytes: &[u8]| {
            [format!("{id} blob {}\n", bytes.len()).as_bytes(), bytes, b"\n"].concat()
        };
        let secrets = ["s3cret".to_owned(), "much-longer-s3cret".to_owned()];
        let mut large = vec![b'x'; (1 << 20) - 3];
        large.extend(b"s3cret and more");
        let missing = format!("{id} missing\n").into_bytes();
        let objects = [missing, object(b""), object(&large)].concat();
        assert!(search(objects.as_slice(), &secrets).unwrap());
        assert!(!search(objects.as_slice(), &[]).unwrap());
        assert!(!search(object(b"none").as_slice(), &secrets).unwrap());
        let cut = objects.len() - 20;
        assert!(search(&objects[..cut], &[]).is_err());
        let mut file = tempfile::NamedTempFile::new().unwrap();
        io::Write::write_all(&mut file, &large).unwrap();
        assert!(search_file(file.reopen().unwrap(), &secrets).unwrap());
    }
}
