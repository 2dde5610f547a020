//! Repositories for pulls, and the `git` program that pulls are compared with.

use std::{
    fmt::Write as _,
    fs::{self, File},
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use crate::{Bench, Error, Result};

/// How many lines a file has.
const LINES: usize = 40;
/// How many directories the files are in.
const DIRECTORIES: usize = 50;
/// The time of the first commit, in seconds since 1970.
const FIRST_COMMIT_AT: usize = 1_750_000_000;

/// What a repository contains. Each commit after the first changes a line of one file.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Contents {
    pub(crate) files: usize,
    pub(crate) commits: usize,
}

/// The URL of a repository on this machine. Git copies nothing around its own protocol for such a URL, as it does for a
/// plain path.
pub(crate) fn url(path: &Path) -> String {
    format!("file://{}", path.display())
}

/// Creates a bare repository, always the same for the same contents.
///
/// # Errors
/// If git fails.
pub(crate) async fn create(bench: &Bench, path: &Path, contents: Contents) -> Result<()> {
    let history = path.with_extension("history");
    // In place, and not in a task that would go on writing after an interrupt.
    let written = tokio::task::block_in_place(|| fs::write(&history, stream(contents)));
    written.map_err(Error::io("write a repository"))?;
    fs::create_dir(path).map_err(Error::io("create a repository"))?;
    git(bench, path, &["init", "--quiet", "--bare", "--initial-branch=main"], None).await?;
    git(bench, path, &["fast-import", "--quiet"], Some(&history)).await?;
    git(bench, path, &["repack", "-a", "-d", "-q"], None).await?;
    fs::remove_file(&history).map_err(Error::io("write a repository"))
}

/// Clones a repository with git, and returns the clone and how long it took.
///
/// # Errors
/// As [`git`].
pub(crate) async fn clone(bench: &Bench, url: &str) -> Result<(PathBuf, Duration)> {
    let path = bench.path("clone");
    fs::create_dir(&path).map_err(Error::io("create a clone"))?;
    let took = git(bench, &path, &["clone", "--quiet", url, "."], None).await?;
    Ok((path, took))
}

/// Runs git in a directory, and returns how long it took.
///
/// # Errors
/// If it fails, or there is no git.
pub(crate) async fn git(
    bench: &Bench,
    directory: &Path,
    arguments: &[&str],
    input: Option<&Path>,
) -> Result<Duration> {
    let mut guest = bench
        .guest(Path::new("git"))
        .args(arguments)
        .cwd(directory)
        .env("GIT_CONFIG_NOSYSTEM", "1")
        .env("GIT_CONFIG_GLOBAL", "/dev/null")
        .env("GIT_TERMINAL_PROMPT", "0");
    if let Some(input) = input {
        guest = guest.stdin(File::open(input).map_err(Error::io("read a repository"))?);
    }
    let started = Instant::now();
    let mut git = guest.spawn().await.map_err(Error::io("start git"))?;
    let status = git.wait().await.map_err(Error::io("wait for git"))?;
    if status.success() {
        return Ok(started.elapsed());
    }
    let program = format!("git {}", arguments.join(" "));
    Err(Error::Program { program, why: status.to_string() })
}

/// The history for `git fast-import`.
fn stream(contents: Contents) -> String {
    let Contents { files, commits } = contents;
    let mut stream = String::new();
    let mut put = |commit: usize| {
        let message = format!("commit {commit}\n");
        let at = FIRST_COMMIT_AT + commit;
        let _ = write!(
            stream,
            "commit refs/heads/main\ncommitter bench <bench@localhost> {at} +0000\ndata {}\n{message}",
            message.len()
        );
        let changed = if commit == 0 { 0..files } else { commit % files..commit % files + 1 };
        for file in changed {
            let text: String = (0..LINES)
                .map(|line| {
                    let seed = if line == commit % LINES { commit } else { file * LINES + line };
                    format!("line {line} of {}\n", seed.wrapping_mul(2_654_435_761))
                })
                .collect();
            let directory = file % DIRECTORIES;
            let length = text.len();
            let _ = write!(stream, "M 644 inline d{directory}/f{file}\ndata {length}\n{text}");
        }
        stream.push('\n');
    };
    (0..commits).for_each(&mut put);
    stream
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_commit_changes_one_file() {
        let stream = stream(Contents { files: 3, commits: 5 });
        assert_eq!(stream.matches("commit refs/heads/main\n").count(), 5);
        assert_eq!(stream.matches("\nM 644 inline ").count(), 3 + 4);
    }
}
