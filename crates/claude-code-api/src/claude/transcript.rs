//! The CLI's own files of a conversation: one transcript a session, in a directory of its project.

use std::{
    fs::{self, File},
    io::{self, BufRead as _, BufReader, Read as _},
    os::unix::fs::symlink,
    path::Path,
};

use serde::Deserialize;

use crate::dialect::Transcript;

/// The longest name of a project's directory before the CLI cuts it.
const MAX_PROJECT: usize = 200;

/// How far into a transcript its first message is looked for, in bytes: past the longest prompt, escaped.
const MAX_HEAD: u64 = 64 << 20;

/// Puts the session's directory where a CLI that works in `cwd` and has the directory `config` looks for it, so
/// that it writes what it remembers straight onto the volume. Blocking.
pub(super) fn link(project: &Path, config: &Path, cwd: &str) -> io::Result<()> {
    let projects = config.join("projects");
    fs::create_dir_all(&projects)?;
    symlink(project, projects.join(project_name(cwd)))
}

/// Reads a transcript. With no message in it the CLI does not take it up, as version 2.1.197 behaves; a process that
/// was killed early leaves such a file, with lines of other kinds, the last of them cut off.
pub(super) fn read(path: &Path) -> io::Result<Transcript> {
    #[derive(Deserialize)]
    struct Line<'a> {
        #[serde(borrow, rename = "type")]
        kind: Option<std::borrow::Cow<'a, str>>,
    }
    match fs::symlink_metadata(path) {
        Ok(found) if found.is_file() => {}
        // Not opened: a pipe in its place would never answer.
        Ok(_) => return Ok(Transcript::Damaged),
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Transcript::Empty),
        Err(error) => return Err(error),
    }
    let mut lines = BufReader::new(File::open(path)?.take(MAX_HEAD));
    let mut line = Vec::new();
    let mut is_damaged = false;
    while lines.read_until(b'\n', &mut line)? > 0 {
        let is_whole = line.ends_with(b"\n");
        match serde_json::from_slice::<Line<'_>>(&line) {
            Ok(Line { kind: Some(kind) }) if matches!(&*kind, "user" | "assistant") => {
                return Ok(Transcript::Conversation);
            }
            Ok(_) => {}
            // The end of a line may be missing, but not its beginning.
            Err(_) => is_damaged |= is_whole || !line.starts_with(b"{") || line.contains(&0),
        }
        line.clear();
    }
    Ok(if is_damaged { Transcript::Damaged } else { Transcript::Empty })
}

/// How the CLI names a project's directory after its path: as version 2.1.197 does it, counting in UTF-16
/// as JavaScript does.
fn project_name(path: &str) -> String {
    let units: Vec<u16> = path.encode_utf16().collect();
    let name: String = units
        .iter()
        .map(|unit| match char::from_u32(u32::from(*unit)) {
            Some(c) if c.is_ascii_alphanumeric() => c,
            _ => '-',
        })
        .collect();
    if name.len() <= MAX_PROJECT {
        return name;
    }
    let hash =
        units.iter().fold(0_i32, |hash, unit| hash.wrapping_mul(31).wrapping_add(i32::from(*unit)));
    let begin = name.get(..MAX_PROJECT).unwrap_or(&name);
    format!("{begin}-{}", base36(hash.unsigned_abs()))
}

fn base36(mut number: u32) -> String {
    let mut digits = Vec::new();
    loop {
        digits.push(char::from_digit(number % 36, 36).unwrap_or('0'));
        number /= 36;
        if number == 0 {
            return digits.into_iter().rev().collect();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn projects_are_named_as_the_cli_names_them() {
        assert_eq!(project_name("/workspace/jobs/é.x_1"), "-workspace-jobs---x-1");
        assert_eq!(project_name("/a🦀b"), "-a--b", "two units of UTF-16");
        // Both seen with the real CLI.
        for (path, end) in [
            (
                format!("/tmp/tmp.tQNF5xxlXn/{}bbbbbbb", "aaaaaaaaa/".repeat(20)),
                "aaaaaaaaa--4cac63",
            ),
            (
                format!("/tmp/tmp.IQOJ3n8QS6/{}ccccccc", "aaaaaaaaa/".repeat(19)),
                "aaaaaaaaa--tz8so2",
            ),
        ] {
            let name = project_name(&path);
            assert!(name.ends_with(end) && name.len() == 207, "{name}");
        }
        assert_eq!(project_name(&"a".repeat(200)).len(), 200);
        assert_eq!((base36(0), base36(35), base36(36)), ("0".into(), "z".into(), "10".into()));
    }
}
