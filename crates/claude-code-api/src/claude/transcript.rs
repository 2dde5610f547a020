//! The CLI's own conversation files: one transcript per session, in a directory per project.

use std::{
    fs::{self, File},
    io::{self, BufRead as _, BufReader, Read as _},
    os::unix::fs::symlink,
    path::Path,
};

use serde::Deserialize;

use crate::dialect::Transcript;

/// The longest project directory name before the CLI truncates it.
const MAX_PROJECT: usize = 200;

/// How far into a transcript its first message is searched for, in bytes: more than the longest escaped prompt.
const MAX_HEAD: u64 = 64 << 20;

/// Links the session's directory to where a CLI that works in `cwd`, with the configuration directory `config`, looks
/// for it, so that the CLI writes directly to the volume. Blocking.
pub(super) fn link(project: &Path, config: &Path, cwd: &str) -> io::Result<()> {
    let projects = config.join("projects");
    fs::create_dir_all(&projects)?;
    symlink(project, projects.join(project_name(cwd)))
}

/// Checks a transcript. The CLI (version 2.1.197) cannot resume one without a message. A CLI that was killed early
/// leaves such a file: it contains only other kinds of lines, and the last one may be truncated.
pub(super) fn read(path: &Path) -> io::Result<Transcript> {
    #[derive(Deserialize)]
    struct Line<'a> {
        #[serde(borrow, rename = "type")]
        kind: Option<std::borrow::Cow<'a, str>>,
    }
    match fs::symlink_metadata(path) {
        Ok(found) if found.is_file() => {}
        // Not opened: a pipe would block.
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
            // A line may be truncated at its end, but not at its beginning.
            Err(_) => is_damaged |= is_whole || !line.starts_with(b"{") || line.contains(&0),
        }
        line.clear();
    }
    Ok(if is_damaged { Transcript::Damaged } else { Transcript::Empty })
}

/// The CLI's name for a project's directory. Version 2.1.197 counts in UTF-16 code units, as JavaScript does.
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
    fn project_names_match_the_cli() {
        assert_eq!(project_name("/workspace/jobs/é.x_1"), "-workspace-jobs---x-1");
        assert_eq!(project_name("/a🦀b"), "-a--b", "two UTF-16 code units");
        // Both observed with the real CLI.
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
