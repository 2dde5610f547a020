//! The repository that is pulled, made with real git.

use std::{
    cell::Cell,
    ffi::OsStr,
    fs,
    io::Write as _,
    os::unix::ffi::OsStrExt as _,
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
};

/// A bare repository, and a tree of files beside it to commit from.
pub(crate) struct Upstream {
    pub(crate) directory: PathBuf,
    pub(crate) tree: PathBuf,
    time: Cell<u64>,
}

impl Upstream {
    /// On a repository that is there.
    pub(crate) fn new(directory: PathBuf, tree: PathBuf) -> Self {
        fs::create_dir_all(&tree).unwrap();
        Self { directory, tree, time: Cell::new(1_700_000_000) }
    }

    fn command(&self) -> Command {
        let time = self.time.get() + 1;
        self.time.set(time);
        let mut command = isolated("git", 0);
        command.args(["-c", "core.bare=false", "-c", "core.protectNTFS=false"]);
        command.args(["-c", "core.protectHFS=false", "-c", "gc.auto=0"]);
        command.env("GIT_DIR", &self.directory).env("GIT_WORK_TREE", &self.tree);
        command.env("GIT_AUTHOR_DATE", format!("{time} +0000"));
        command.env("GIT_COMMITTER_DATE", format!("{time} +0000"));
        command.current_dir(&self.tree);
        command
    }

    /// Runs git here. What it prints, without white space at its ends.
    #[track_caller]
    pub(crate) fn git<A: AsRef<OsStr>>(&self, arguments: &[A]) -> String {
        let mut command = self.command();
        command.args(arguments);
        text(&run(&mut command))
    }

    #[track_caller]
    pub(crate) fn git_with_input(&self, arguments: &[&str], input: &[u8]) -> String {
        let mut command = self.command();
        command.args(arguments).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        child.stdin.take().unwrap().write_all(input).unwrap();
        let output = child.wait_with_output().unwrap();
        assert!(output.status.success(), "git {arguments:?}: {output:?}");
        text(&output)
    }

    /// Writes a file of the tree.
    pub(crate) fn write(&self, path: impl AsRef<Path>, content: impl AsRef<[u8]>) {
        let path = self.tree.join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, content).unwrap();
    }

    /// Commits the tree as it is.
    #[track_caller]
    pub(crate) fn commit(&self) -> String {
        self.git(&["add", "--all", "--force", "."]);
        self.git(&["commit", "--quiet", "--allow-empty", "--message", "change"]);
        self.git(&["rev-parse", "HEAD"])
    }

    /// Writes files and commits them.
    #[track_caller]
    pub(crate) fn commit_files(&self, files: &[(&str, &str)]) -> String {
        for (path, content) in files {
            self.write(path, content);
        }
        self.commit()
    }

    /// Commits from now on to this branch, which begins where `HEAD` is if it is new.
    #[track_caller]
    pub(crate) fn on(&self, branch: &str) -> &Self {
        let full = format!("refs/heads/{branch}");
        let there = self.try_git(&["rev-parse", "--quiet", "--verify", &full]);
        let commit = there.unwrap_or_else(|| self.git(&["rev-parse", "HEAD"]));
        self.git(&["update-ref", &full, &commit]);
        self.git(&["symbolic-ref", "HEAD", &full]);
        self.git(&["read-tree", &commit]);
        for entry in fs::read_dir(&self.tree).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() && !path.is_symlink() {
                fs::remove_dir_all(path).unwrap();
            } else {
                fs::remove_file(path).unwrap();
            }
        }
        self.git(&["checkout-index", "--all", "--force"]);
        self
    }

    /// The default branch of those who clone.
    pub(crate) fn default_branch(&self, branch: &str) {
        self.git(&["symbolic-ref", "HEAD", &format!("refs/heads/{branch}")]);
    }

    pub(crate) fn try_git(&self, arguments: &[&str]) -> Option<String> {
        let output = self.command().args(arguments).output().unwrap();
        output.status.success().then(|| text(&output))
    }

    /// Writes an object as it is, whatever git thinks of it.
    #[track_caller]
    pub(crate) fn object(&self, kind: &str, content: &[u8]) -> String {
        let arguments = ["hash-object", "-t", kind, "-w", "--literally", "--stdin"];
        self.git_with_input(&arguments, content)
    }

    /// Writes a tree of mode, name and object, in this order.
    #[track_caller]
    pub(crate) fn tree_object(&self, entries: &[(&str, &[u8], &str)]) -> String {
        let mut content = Vec::new();
        for (mode, name, object) in entries {
            content.extend_from_slice(mode.as_bytes());
            content.push(b' ');
            content.extend_from_slice(name);
            content.push(0);
            let pairs = object.as_bytes().chunks(2);
            content.extend(
                pairs.map(|pair| u8::from_str_radix(str::from_utf8(pair).unwrap(), 16).unwrap()),
            );
        }
        self.object("tree", &content)
    }

    /// Makes `main` a commit of `tree`, on the one before if there is one.
    #[track_caller]
    pub(crate) fn commit_tree(&self, tree: &str) -> String {
        let parent = self.try_git(&["rev-parse", "--quiet", "--verify", "refs/heads/main"]);
        let parent = parent.map(|it| format!("parent {it}\n")).unwrap_or_default();
        let who = "T <t@example.com> 1700000000 +0000";
        let content = format!("tree {tree}\n{parent}author {who}\ncommitter {who}\n\nraw\n");
        let commit = self.object("commit", content.as_bytes());
        self.point("refs/heads/main", &commit);
        commit
    }

    /// Writes a reference as a file, whatever git thinks of its name.
    pub(crate) fn point(&self, name: impl AsRef<[u8]>, commit: &str) {
        let path = self.directory.join(OsStr::from_bytes(name.as_ref()));
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, format!("{commit}\n")).unwrap();
    }
}

/// A program without the machine's and the user's configuration, ended after so many seconds
/// (0: never).
pub(crate) fn isolated(program: &str, seconds: u32) -> Command {
    let mut command = Command::new(if seconds == 0 { program } else { "timeout" });
    if seconds > 0 {
        command.args(["--kill-after=1", &seconds.to_string(), program]);
    }
    command.env_clear().env("LC_ALL", "C");
    command.env("PATH", std::env::var_os("PATH").unwrap()).env("HOME", "/nonexistent");
    command.env("GIT_CONFIG_GLOBAL", "/dev/null").env("GIT_CONFIG_SYSTEM", "/dev/null");
    command.env("GIT_TERMINAL_PROMPT", "0").stdin(Stdio::null());
    for role in ["AUTHOR", "COMMITTER"] {
        command.env(format!("GIT_{role}_NAME"), "Test");
        command.env(format!("GIT_{role}_EMAIL"), "test@example.com");
    }
    command
}

#[track_caller]
pub(crate) fn run(command: &mut Command) -> Output {
    let output = command.output().unwrap();
    assert!(output.status.success(), "{command:?}: {output:?}");
    output
}

fn text(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).trim().to_owned()
}
