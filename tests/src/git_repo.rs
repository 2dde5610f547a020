//! Bare repositories, written by `git fast-import`, which creates a commit in a single process.

use std::{
    io::Write,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::atomic::{AtomicU64, Ordering},
};

/// The time of the first commit. Each later one is a second younger, so that no two are the same.
const FIRST_COMMIT_AT: u64 = 1_700_000_000;

/// Bare repositories in one directory.
#[derive(Debug)]
pub(crate) struct BareRepos {
    root: PathBuf,
    commits: AtomicU64,
}

/// An entry of a commit's tree.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Entry<'a> {
    File(&'a str),
    Executable(&'a str),
    Symlink(&'a str),
}

/// The parent of a commit.
enum Parent {
    /// This revision, including its files.
    Revision(String),
    /// No parent.
    Root,
}

impl BareRepos {
    pub(crate) fn new(root: PathBuf) -> Self {
        Self { root, commits: AtomicU64::new(0) }
    }

    /// The directory of a repository; `a` and `a.git` are the same one.
    pub(crate) fn directory(&self, name: &str) -> PathBuf {
        self.root.join(format!("{}.git", key(name)))
    }

    /// Creates an empty repository whose `HEAD` points to `main`.
    pub(crate) fn init(&self, name: &str) {
        let directory = self.directory(name);
        std::fs::create_dir_all(&directory).expect("failed to create the repository's directory");
        git(&directory, &["init", "--quiet", "--bare", "--initial-branch=main", "."]);
        git(&directory, &["config", "gc.auto", "0"]);
    }

    /// Adds a commit to `branch`, which starts at `main` if it is new. Returns the commit's ID.
    pub(crate) fn commit(&self, name: &str, branch: &str, entries: &[(&str, Entry<'_>)]) -> String {
        let parent = [branch, "main"].iter().find_map(|branch| self.resolve(name, branch));
        self.import(name, branch, parent.map_or(Parent::Root, Parent::Revision), |stream| {
            write_entries(stream, entries)
        })
    }

    /// Replaces the last commit of `branch`. Returns the new commit's ID.
    pub(crate) fn amend(&self, name: &str, branch: &str, entries: &[(&str, Entry<'_>)]) -> String {
        let parent = self.resolve(name, &format!("{branch}^"));
        self.import(name, branch, parent.map_or(Parent::Root, Parent::Revision), |stream| {
            write_entries(stream, entries)
        })
    }

    /// Adds a commit with `files` files of `bytes_each` bytes that do not compress.
    pub(crate) fn commit_noise(&self, name: &str, files: usize, bytes_each: usize) -> String {
        self.import(name, "main", Parent::Root, |stream| {
            let mut seed = 0x9e37_79b9_7f4a_7c15_u64;
            let mut content = Vec::with_capacity(bytes_each + 8);
            for number in 0..files {
                content.clear();
                while content.len() < bytes_each {
                    // xorshift64: noise, but the same noise in every run.
                    seed ^= seed << 13;
                    seed ^= seed >> 7;
                    seed ^= seed << 17;
                    content.extend_from_slice(&seed.to_le_bytes());
                }
                content.truncate(bytes_each);
                writeln!(stream, "M 100644 inline noise/{:03}/{number}.bin", number / 256)?;
                write_data(stream, &content)?;
            }
            Ok(())
        })
    }

    /// The commit that `revision` names, if there is one.
    pub(crate) fn resolve(&self, name: &str, revision: &str) -> Option<String> {
        let output = command(&self.directory(name))
            .args(["rev-parse", "--quiet", "--verify", &format!("{revision}^{{commit}}")])
            .output()
            .expect("failed to run git");
        output.status.success().then(|| String::from_utf8(output.stdout).unwrap().trim().to_owned())
    }

    /// Deletes a branch.
    pub(crate) fn delete_branch(&self, name: &str, branch: &str) {
        git(&self.directory(name), &["update-ref", "-d", &format!("refs/heads/{branch}")]);
    }

    /// Sets a value in the repository's own configuration.
    pub(crate) fn configure(&self, name: &str, key: &str, value: &str) {
        git(&self.directory(name), &["config", key, value]);
    }

    /// Runs git in the repository, and returns what it prints.
    pub(crate) fn run(&self, name: &str, arguments: &[&str]) -> String {
        let output =
            command(&self.directory(name)).args(arguments).output().expect("failed to run git");
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "git {arguments:?} failed: {said}");
        String::from_utf8_lossy(&output.stdout).trim_end().to_owned()
    }

    fn import(
        &self,
        name: &str,
        branch: &str,
        parent: Parent,
        write: impl FnOnce(&mut dyn Write) -> std::io::Result<()>,
    ) -> String {
        let number = self.commits.fetch_add(1, Ordering::Relaxed);
        let mut child = command(&self.directory(name))
            .args(["-c", "core.compression=0", "fast-import", "--quiet", "--force"])
            .stdin(Stdio::piped())
            .spawn()
            .expect("failed to run git fast-import");
        let mut stream = std::io::BufWriter::new(child.stdin.take().unwrap());
        let who = format!("Test <test@example.com> {} +0000", FIRST_COMMIT_AT + number);
        let message = format!("commit {number}\n");
        let written = (|| {
            writeln!(stream, "commit refs/heads/{branch}\nauthor {who}\ncommitter {who}")?;
            write_data(&mut stream, message.as_bytes())?;
            match parent {
                Parent::Revision(revision) => writeln!(stream, "from {revision}")?,
                Parent::Root => writeln!(stream, "deleteall")?,
            }
            write(&mut stream)?;
            writeln!(stream, "done")?;
            stream.flush()
        })();
        drop(stream);
        let status = child.wait().expect("failed to wait for git fast-import");
        assert!(status.success(), "git fast-import failed on {name}: {status}");
        written.expect("failed to write to git fast-import");
        self.resolve(name, branch).expect("the branch exists after the import")
    }
}

/// Normalizes the name of a repository.
pub(crate) fn key(name: &str) -> &str {
    let name = name.trim_matches('/');
    name.strip_suffix(".git").unwrap_or(name)
}

fn write_entries(stream: &mut dyn Write, entries: &[(&str, Entry<'_>)]) -> std::io::Result<()> {
    for (path, entry) in entries {
        let (mode, content) = match entry {
            Entry::File(content) => ("100644", content),
            Entry::Executable(content) => ("100755", content),
            Entry::Symlink(target) => ("120000", target),
        };
        let path = path.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n");
        writeln!(stream, "M {mode} inline \"{path}\"")?;
        write_data(stream, content.as_bytes())?;
    }
    Ok(())
}

fn write_data(stream: &mut dyn Write, data: &[u8]) -> std::io::Result<()> {
    writeln!(stream, "data {}", data.len())?;
    stream.write_all(data)?;
    writeln!(stream)
}

/// Runs git in a bare repository, with no configuration except the repository's own.
fn command(directory: &Path) -> Command {
    let mut command = Command::new("git");
    command.arg("--git-dir").arg(directory).current_dir(directory);
    for (name, value) in ISOLATION {
        command.env(name, value);
    }
    command
}

/// Ignores the configuration of the machine and the user.
pub(crate) const ISOLATION: [(&str, &str); 3] =
    [("GIT_CONFIG_GLOBAL", "/dev/null"), ("GIT_CONFIG_SYSTEM", "/dev/null"), ("LC_ALL", "C")];

fn git(directory: &Path, arguments: &[&str]) {
    let output = command(directory).args(arguments).output().expect("failed to run git");
    assert!(
        output.status.success(),
        "git {arguments:?} failed: {}",
        String::from_utf8_lossy(&output.stderr)
    );
}
