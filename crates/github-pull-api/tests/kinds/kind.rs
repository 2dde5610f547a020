//! One kind of repository, pulled by git and by us, and the two compared.

use std::{
    cell::RefCell,
    collections::BTreeMap,
    ffi::{OsStr, OsString},
    fmt, fs,
    os::unix::{ffi::OsStrExt as _, fs::MetadataExt as _},
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use contract::Code;
use serde_json::{Value, json};
use tempfile::TempDir;
use testkit::GitServer;

use crate::{
    replica::{self, Memory},
    support::Scene,
    upstream::{Upstream, isolated},
};

/// How long a pull of ours may take.
const LONGEST: Duration = Duration::from_secs(30);
/// The repository's name on the server.
const NAME: &str = "app";

/// One kind of repository: what is served, and the checkouts of it.
pub(crate) struct Kind {
    name: &'static str,
    pub(crate) server: GitServer,
    pub(crate) up: Upstream,
    pub(crate) scene: Scene,
    pub(crate) root: TempDir,
    pub(crate) url: String,
    /// The URL for our pull, where it is another one.
    pub(crate) our_url: Option<String>,
    /// More arguments of `git clone`.
    pub(crate) clone: Vec<String>,
    /// git's update.
    pub(crate) pull: Vec<String>,
    /// More variables of git's.
    pub(crate) environment: Vec<(String, String)>,
    /// What git checks out once it has cloned.
    pub(crate) checkout: Option<String>,
    /// How long git may take, in seconds.
    pub(crate) patience: u32,
    /// If it is there, the program itself pulls, with these variables.
    pub(crate) replica: Option<Vec<(&'static str, String)>>,
    /// The umask of git and of the program itself.
    pub(crate) umask: Option<u32>,
    /// More fields of our request.
    pub(crate) request: Value,
    row: RefCell<Vec<String>>,
}

/// How a step should end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Expect {
    /// git succeeds, and we leave what it leaves.
    Same,
    /// git fails, and so do we, with this code.
    BothFail(Code),
    /// We fail with this code, whatever git does.
    OursFails(Code),
    /// We succeed, and the checkout is clean, whatever git does.
    OursWorks,
    /// We end, whatever git does.
    Ends,
}

/// How a step ended.
#[derive(Debug)]
pub(crate) enum End {
    Checkout(Look),
    Failed(Option<Code>, String),
    /// It was not over in time.
    Stuck,
}

/// A checkout.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Look {
    /// Every file with its mode and content, every link with its target.
    files: BTreeMap<PathBuf, Vec<u8>>,
    head: String,
    status: Vec<u8>,
    log: Vec<u8>,
    refs: Vec<u8>,
    fsck: bool,
}

impl Kind {
    /// An empty repository.
    pub(crate) fn new(name: &'static str) -> Self {
        // The server has threads of its own, and starting it takes no waiting.
        let server = tokio::task::block_in_place(|| {
            tokio::runtime::Handle::current().block_on(GitServer::start())
        });
        server.create_empty_repo(NAME);
        let root = tempfile::tempdir().unwrap();
        let up = Upstream::new(server.path(NAME), root.path().join("tree"));
        Self {
            name,
            url: server.url(NAME),
            our_url: None,
            up,
            scene: Scene::new(),
            root,
            server,
            clone: Vec::new(),
            pull: ["pull", "--ff-only", "--no-recurse-submodules"].map(str::to_owned).to_vec(),
            environment: Vec::new(),
            checkout: None,
            patience: 30,
            replica: None,
            umask: None,
            request: json!({}),
            row: RefCell::default(),
        }
    }

    /// A repository with one commit of one file.
    pub(crate) fn simple(name: &'static str) -> Self {
        let kind = Self::new(name);
        kind.up.commit_files(&[("a", "1\n"), ("d/b", "2\n")]);
        kind
    }

    /// Both pull this branch or tag.
    pub(crate) fn branch(mut self, name: &str) -> Self {
        self.clone = vec!["--branch".into(), name.into()];
        self.request["branch"] = name.into();
        self
    }

    /// git's checkout.
    pub(crate) fn theirs(&self) -> PathBuf {
        self.root.path().join("repo")
    }

    /// Our checkout.
    pub(crate) fn ours(&self) -> PathBuf {
        self.scene.path("repo")
    }

    /// Does the same to both checkouts.
    pub(crate) fn both(&self, act: impl Fn(&Path)) {
        act(&self.theirs());
        act(&self.ours());
    }

    /// Clone, second clone, and update after `change`: all as git does them.
    pub(crate) async fn same(&self, change: impl FnOnce(&Upstream)) {
        self.clones(Expect::Same).await;
        change(&self.up);
        self.update(Expect::Same).await;
    }

    /// Clone and second clone.
    pub(crate) async fn clones(&self, expect: Expect) {
        self.clones_into(["repo", "second"], expect).await;
    }

    pub(crate) async fn clones_into(&self, directories: [&str; 2], expect: Expect) {
        for (step, directory) in ["clone", "again"].into_iter().zip(directories) {
            let theirs = self.git_clone(directory);
            let ours = self.our_pull(directory).await;
            self.scene.assert_clean();
            self.judge(step, &theirs, &ours, expect);
        }
    }

    /// Update of the first clones.
    pub(crate) async fn update(&self, expect: Expect) {
        let theirs = self.git_pull();
        let ours = self.our_pull("repo").await;
        self.scene.assert_clean();
        self.judge("update", &theirs, &ours, expect);
    }

    pub(crate) fn git_clone(&self, directory: &str) -> End {
        let path = self.root.path().join(directory);
        let mut command = isolated("git", self.patience);
        command.args(["-c", "advice.detachedHead=false", "clone", "--quiet"]).args(&self.clone);
        command.arg(&self.url).arg(&path);
        let end = self.git_end(command, &path);
        let (Some(revision), End::Checkout(_)) = (&self.checkout, &end) else { return end };
        let mut command = isolated("git", self.patience);
        command.arg("-C").arg(&path).args(["checkout", "--quiet", revision]);
        self.git_end(command, &path)
    }

    fn git_pull(&self) -> End {
        let path = self.theirs();
        let mut command = isolated("git", self.patience);
        command.arg("-C").arg(&path).args(&self.pull);
        self.git_end(command, &path)
    }

    fn git_end(&self, mut command: Command, path: &Path) -> End {
        command.envs(self.environment.iter().map(|(name, value)| (name, value)));
        if let Some(mask) = self.umask {
            let mut shell = isolated("sh", 0);
            shell.args(["-c", &format!("umask {mask:o}; exec \"$@\""), "sh"]);
            shell.arg(command.get_program()).args(command.get_args());
            shell.envs(command.get_envs().filter_map(|(name, value)| Some((name, value?))));
            command = shell;
        }
        let output = tokio::task::block_in_place(|| command.output().unwrap());
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        match output.status.code() {
            Some(0) => End::Checkout(Look::within(path, self.patience)),
            Some(124 | 137) | None => End::Stuck,
            _ => End::Failed(None, said),
        }
    }

    pub(crate) async fn our_pull(&self, directory: &str) -> End {
        let mut body = self.request.clone();
        body["repoUrl"] = self.our_url.as_ref().unwrap_or(&self.url).as_str().into();
        body["directory"] = directory.into();
        let pull = async {
            match &self.replica {
                Some(environment) => {
                    let root = self.scene.workspace.root();
                    let run =
                        replica::run_with(root, environment, &body, self.umask, Memory::Ignored)
                            .await;
                    run.terminal().clone()
                }
                None => self.scene.pull_with(body).await.terminal,
            }
        };
        let Ok(terminal) = tokio::time::timeout(LONGEST, pull).await else { return End::Stuck };
        if terminal["type"] == "completed" {
            return End::Checkout(Look::within(&self.scene.path(directory), self.patience));
        }
        let sentence = terminal["error"].as_str().unwrap().to_owned();
        assert!(!sentence.contains("check the volume"), "{sentence}");
        End::Failed(Some(serde_json::from_value(terminal["code"].clone()).unwrap()), sentence)
    }

    fn judge(&self, step: &str, theirs: &End, ours: &End, expect: Expect) {
        let fault = match (expect, theirs, ours) {
            (Expect::Same, End::Checkout(theirs), End::Checkout(ours)) => ours.differs(theirs),
            (Expect::BothFail(code), End::Failed(..), End::Failed(Some(found), _))
            | (Expect::OursFails(code), _, End::Failed(Some(found), _))
                if code == *found =>
            {
                None
            }
            (Expect::OursWorks, _, End::Checkout(look)) if look.status.is_empty() => None,
            (Expect::Ends, _, End::Checkout(_)) => None,
            (Expect::Ends, _, End::Failed(Some(code), _)) if *code != Code::Internal => None,
            _ => Some(format!("expected {expect:?}")),
        };
        let verdict = fault.as_deref().unwrap_or("ok");
        self.row.borrow_mut().push(format!("{step}: git {theirs}, ours {ours}: {verdict}"));
        if fault.is_some() {
            panic!("{}: {step}: {verdict}\n  git: {theirs:#}\n  ours: {ours:#}", self.name);
        }
    }

    /// Notes how a pull of a checkout with a trap ended, and how git's does.
    pub(crate) fn judge_trap(&self, ours: &End, took: Duration) {
        let theirs = self.git_pull();
        let step = format!("update in {:.1} s", took.as_secs_f64());
        self.judge(&step, &theirs, ours, Expect::Ends);
    }

    /// Notes one more thing in the row.
    pub(crate) fn note(&self, text: impl Into<String>) {
        self.row.borrow_mut().push(text.into());
    }
}

impl Drop for Kind {
    /// Prints the row: `cargo test --test kinds -- --nocapture | grep '^|'` is the table.
    fn drop(&mut self) {
        println!("| {} | {} |", self.name, self.row.borrow().join(" | "));
    }
}

impl Look {
    pub(crate) fn at(path: &Path) -> Self {
        Self::within(path, 30)
    }

    /// The same, with so many seconds for each look of git's.
    fn within(path: &Path, seconds: u32) -> Self {
        let git = |arguments: &[&str]| {
            let mut command = isolated("git", seconds);
            command.arg("-C").arg(path).args(arguments).output().unwrap()
        };
        let status = git(&["status", "--porcelain=v1", "-z"]);
        let said = status.stderr.iter().copied();
        let patterns = ["refs/remotes", "refs/tags"];
        let format = "--format=%(objectname) %(refname)";
        Self {
            files: files(path),
            head: String::from_utf8_lossy(&fs::read(path.join(".git/HEAD")).unwrap()).into_owned(),
            log: git(&["log", "--format=%H"]).stdout,
            refs: git(&[&["for-each-ref", format], &patterns[..]].concat())
                .stdout
                .split(|byte| *byte == b'\n')
                .filter(|line| !line.ends_with(b"refs/remotes/origin/HEAD"))
                .collect::<Vec<_>>()
                .join(&b'\n'),
            fsck: git(&["fsck", "--no-progress"]).status.success(),
            status: status.stdout.iter().copied().chain(said).collect(),
        }
    }

    fn differs(&self, other: &Self) -> Option<String> {
        let mut found = Vec::new();
        if self.files != other.files {
            let names = self.files.keys().chain(other.files.keys());
            let mut names: Vec<_> =
                names.filter(|name| self.files.get(*name) != other.files.get(*name)).collect();
            names.dedup();
            names.truncate(5);
            found.push(format!("files {names:?}"));
        }
        let pairs = [
            ("status", &self.status, &other.status),
            ("log", &self.log, &other.log),
            ("references", &self.refs, &other.refs),
        ];
        for (what, ours, theirs) in pairs {
            if ours != theirs {
                let show = |bytes: &[u8]| {
                    String::from_utf8_lossy(bytes).chars().take(400).collect::<String>()
                };
                found.push(format!("{what} {:?} not {:?}", show(ours), show(theirs)));
            }
        }
        if self.head != other.head {
            found.push(format!("HEAD {:?} not {:?}", self.head, other.head));
        }
        if self.fsck != other.fsck {
            found.push(format!("fsck {} not {}", self.fsck, other.fsck));
        }
        (!found.is_empty()).then(|| format!("differs in {}", found.join("; ")))
    }

    /// Whether there is such a file.
    pub(crate) fn has(&self, name: &str) -> bool {
        self.files.contains_key(Path::new(name))
    }
}

/// Everything but `.git`: modes, contents, targets. What is no file, directory or link is named only.
fn files(root: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut found = BTreeMap::new();
    let mut directories = vec![root.to_owned()];
    while let Some(directory) = directories.pop() {
        for entry in fs::read_dir(directory).unwrap() {
            let path = entry.unwrap().path();
            if path.file_name() == Some(OsStr::new(".git")) {
                continue;
            }
            let metadata = fs::symlink_metadata(&path).unwrap();
            let mut content = format!("{:o} ", metadata.mode()).into_bytes();
            let name = path.strip_prefix(root).unwrap().to_owned();
            if metadata.is_symlink() {
                content.extend(fs::read_link(&path).unwrap().as_os_str().as_bytes());
            } else if metadata.is_file() {
                content.extend(fs::read(&path).unwrap_or_default());
            } else if metadata.is_dir() {
                directories.push(path);
            }
            found.insert(name, content);
        }
    }
    found
}

impl fmt::Display for End {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Checkout(look) => {
                write!(f, "checks out {} files", look.files.len())?;
                if look.fsck { Ok(()) } else { f.write_str(", fsck complains") }
            }
            Self::Failed(None, said) if f.alternate() => write!(f, "fails: {said}"),
            Self::Failed(None, said) => {
                let last = said
                    .lines()
                    .find(|line| line.starts_with("fatal") || line.starts_with("error"));
                let last: String = last.unwrap_or_default().chars().take(70).collect();
                write!(f, "fails ({})", last.replace('|', " "))
            }
            Self::Failed(Some(code), said) if f.alternate() => write!(f, "{code}: {said}"),
            Self::Failed(Some(code), _) => write!(f, "{code}"),
            Self::Stuck => f.write_str("is stuck"),
        }
    }
}

/// A name of these bytes.
pub(crate) fn bytes(name: &[u8]) -> OsString {
    OsStr::from_bytes(name).to_owned()
}

/// How many bytes the files beneath a directory have.
pub(crate) fn disk_usage(root: &Path) -> u64 {
    crate::support::files(root).iter().map(|path| fs::symlink_metadata(path).unwrap().len()).sum()
}
