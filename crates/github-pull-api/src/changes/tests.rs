//! Trees taken of checkouts, compared with what plain git says.

#![expect(clippy::disallowed_methods, reason = "tests run real git")]

mod hostile;
mod limits;

use std::{
    fs,
    os::unix::{
        ffi::OsStrExt as _,
        fs::{PermissionsExt as _, symlink},
    },
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use contract::{FileRepositories, FileStatus as Status, Policy};
use nix::{sys::stat::Mode, unistd::mkfifo};
use oneshot::Stop;

use super::{list::FileChange, *};
use crate::{Config, monitor::Monitor, remote::mirror_location, report::Reporter};

/// A workspace with a mirror, and a checkout of it.
struct Scene {
    root: tempfile::TempDir,
    workspace: Workspace,
    repo: RepoUrl,
    base: String,
    /// Whether the pull asked for files in LFS.
    lfs: bool,
    config: Config,
}

/// What was taken of it.
#[derive(Debug)]
struct Look {
    files: Vec<FileChange>,
    skipped: Vec<Skipped>,
    commits: Vec<String>,
    tree: String,
    patch: Vec<u8>,
    is_whole: bool,
    /// Why it is not delivered.
    refused: Option<Failure>,
}

impl Scene {
    /// A checkout of a repository whose one commit has what `make` writes.
    fn new(make: impl FnOnce(&Path)) -> Self {
        Self::new_in(tempfile::tempdir().unwrap(), make)
    }

    fn new_in(root: tempfile::TempDir, make: impl FnOnce(&Path)) -> Self {
        Self::with(root, &[], make)
    }

    /// With more arguments of `git init`.
    fn with(root: tempfile::TempDir, init: &[&str], make: impl FnOnce(&Path)) -> Self {
        let workspace = Workspace::open(&root.path().join("volume")).unwrap();
        let tree = root.path().join("upstream");
        fs::create_dir(&tree).unwrap();
        git(&tree, &[&["init", "-q", "-b", "main"], init].concat());
        make(&tree);
        git(&tree, &["add", "-A"]);
        git(&tree, &["commit", "-q", "--allow-empty", "-m", "base"]);
        let base = git(&tree, &["rev-parse", "HEAD"]);
        let policy = Policy { file_repositories: FileRepositories::Allowed, ..Policy::default() };
        let repo = RepoUrl::parse(tree.to_str().unwrap(), &policy).unwrap();
        let mirror = mirror_location(&workspace, &repo, Extent::default());
        fs::create_dir_all(mirror.parent().unwrap()).unwrap();
        let config = Config::default();
        let scene = Self { root, workspace, repo, base, lfs: false, config };
        for (options, to) in [(&["--mirror"][..], &mirror), (&[][..], &scene.checkout())] {
            let from = tree.to_str().unwrap();
            let clone =
                [&["clone", "-q", "--no-local"][..], options, &[from, to.to_str().unwrap()]];
            git(&tree, &clone.concat());
        }
        scene
    }

    fn checkout(&self) -> PathBuf {
        self.root.path().join("checkout")
    }

    fn write(&self, name: &str, content: impl AsRef<[u8]>) {
        write(&self.checkout(), name, content);
    }

    async fn look(&self) -> Result<Look> {
        self.look_with(None).await
    }

    /// With these bounds of the patch.
    async fn look_with(&self, bounds: Option<(u64, usize)>) -> Result<Look> {
        let (workspace, repo) = (self.workspace.clone(), self.repo.clone());
        let (checkout, base, lfs) = (self.checkout(), self.base.clone(), self.lfs);
        let config = self.config.clone();
        let looked = tokio::task::spawn_blocking(move || {
            let monitor = Monitor { reporter: Reporter::default(), stop: Stop::default() };
            let staging = Staging::create(&monitor, workspace.temporary().join("job"))?;
            let git = Git::new(&config, monitor, &staging, Duration::from_secs(60))?;
            let base = ObjectId::parse(base.as_bytes()).unwrap();
            let (extent, checkout) = (Extent { lfs, ..Extent::default() }, checkout.as_path());
            let (workspace, repo, base) = (&workspace, &repo, &base);
            let source = Source { workspace, repo, extent, uses_lfs: lfs, checkout, base };
            let mut taken = take(&git, &staging, &source)?;
            let patch = staging.join("patch");
            let is_whole = match bounds {
                None => taken.write_patch(&patch)?,
                Some((most, most_files)) => taken.write_patch_of(&patch, most, most_files)?,
            };
            Ok(Look {
                refused: taken.check_whole().err(),
                files: taken.files.0,
                skipped: taken.skipped,
                commits: taken.commits.into_iter().map(|commit| commit.message).collect(),
                tree: taken.tree.to_string(),
                patch: fs::read(patch).unwrap(),
                is_whole,
            })
        });
        looked.await.unwrap()
    }

    /// Takes the tree and compares it with that of plain git, which adds everything in a copy; and applies the patch to the
    /// base, which gives that tree too.
    async fn same(&self) -> Look {
        let look = self.look().await.unwrap();
        let copy = self.root.path().join("copy");
        run(Command::new("cp").arg("-a").arg(self.checkout()).arg(&copy));
        git(&copy, &["add", "-A"]);
        assert_eq!(look.tree, git(&copy, &["write-tree"]), "{look:?}");
        let plain =
            git(&copy, &["diff-tree", "-r", "-M", "--name-only", "-z", &self.base, &look.tree]);
        let names: Vec<_> = look.files.iter().map(|file| file.path.clone()).collect();
        let plain: Vec<_> = plain
            .split('\0')
            .filter(|it| !it.is_empty())
            .map(|it| it.as_bytes().to_vec())
            .collect();
        assert!(names == plain || names.iter().any(|name| std::str::from_utf8(name).is_err()));
        assert_eq!(self.applied(&look.patch), look.tree);
        look
    }

    /// The tree that the base becomes with a patch.
    fn applied(&self, patch: &[u8]) -> String {
        let clone = self.root.path().join("clone");
        let _ = fs::remove_dir_all(&clone);
        let from = self.root.path().join("upstream");
        git(self.root.path(), &["clone", "-q", from.to_str().unwrap(), clone.to_str().unwrap()]);
        if !patch.is_empty() {
            let file = self.root.path().join("patch");
            fs::write(&file, patch).unwrap();
            git(&clone, &["apply", "--index", file.to_str().unwrap()]);
        }
        git(&clone, &["write-tree"])
    }
}

fn write(directory: &Path, name: &str, content: impl AsRef<[u8]>) {
    let path = directory.join(name);
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, content).unwrap();
}

fn run(command: &mut Command) -> String {
    let output = command.output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command:?}: {said}");
    String::from_utf8_lossy(&output.stdout).trim().to_owned()
}

#[track_caller]
fn git(directory: &Path, arguments: &[&str]) -> String {
    let mut command = Command::new("git");
    command
        .args(["-c", "user.name=Test", "-c", "user.email=test@example.com", "-c", "gc.auto=0"])
        .args(["-c", "protocol.file.allow=always"])
        .args(arguments)
        .current_dir(directory)
        .env("GIT_CONFIG_GLOBAL", "/dev/null")
        .env("GIT_CONFIG_SYSTEM", "/dev/null");
    run(&mut command)
}

fn names(files: &[FileChange]) -> Vec<(String, Status)> {
    let name = |file: &FileChange| String::from_utf8_lossy(&file.path).into_owned();
    files.iter().map(|file| (name(file), file.status)).collect()
}

fn base(tree: &Path) {
    for (name, content) in
        [("a", "1\n2\n3\n"), ("d/b", "b\n"), ("d/c", "c\n"), ("e/f", "f\n"), ("run", "#!/bin/sh\n")]
    {
        write(tree, name, content);
    }
    write(tree, ".gitignore", "*.o\n");
    symlink("a", tree.join("link")).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn an_untouched_checkout_has_no_changes() {
    let scene = Scene::new(base);
    let look = scene.same().await;
    assert_eq!((look.files, look.skipped, look.commits), (vec![], vec![], vec![]));
    assert_eq!((look.patch, look.is_whole), (vec![], true));
}

#[tokio::test(flavor = "multi_thread")]
async fn every_kind_of_change() {
    let scene = Scene::new(base);
    let at = scene.checkout();
    // Committed, staged, changed, untracked, ignored.
    scene.write("committed", "1\n");
    git(&at, &["add", "committed"]);
    git(&at, &["commit", "-q", "-m", "the agent's own\n\nbody"]);
    scene.write("staged", "1\n");
    git(&at, &["add", "staged"]);
    scene.write("a", "1\nzwei\n3\n");
    scene.write("new/file", "1\n2\n");
    scene.write("new/x.o", "ignored");
    scene.write("forced.o", "added although ignored\n");
    git(&at, &["add", "-f", "forced.o"]);
    // Deleted, renamed, mode, link, binary, bytes in names.
    fs::remove_file(at.join("d/b")).unwrap();
    fs::rename(at.join("d/c"), at.join("moved")).unwrap();
    fs::set_permissions(at.join("run"), fs::Permissions::from_mode(0o755)).unwrap();
    fs::remove_file(at.join("link")).unwrap();
    symlink("nowhere", at.join("link")).unwrap();
    scene.write("binary", [0, 159, 146, 150, 0, 1]);
    scene.write("empty", "");
    let odd = std::ffi::OsStr::from_bytes(b"odd \xff \"name\"\t\n");
    fs::write(at.join(odd), "odd\n").unwrap();
    let look = scene.same().await;
    use Status::{Added, Deleted, Modified, Renamed};
    let expected = [
        ("a", Modified),
        ("binary", Added),
        ("committed", Added),
        ("d/b", Deleted),
        ("empty", Added),
        ("forced.o", Added),
        ("link", Modified),
        ("moved", Renamed),
        ("new/file", Added),
        ("odd \u{fffd} \"name\"\t\n", Added),
        ("run", Modified),
        ("staged", Added),
    ];
    assert_eq!(names(&look.files), expected.map(|(name, status)| (name.to_owned(), status)));
    let counts = |name: &str| {
        let file = look.files.iter().find(|file| file.path == name.as_bytes()).unwrap();
        (file.additions, file.deletions, file.is_binary)
    };
    assert_eq!(counts("a"), (1, 1, false));
    assert_eq!(counts("binary"), (0, 0, true));
    assert_eq!(counts("new/file"), (2, 0, false));
    assert_eq!(look.commits, ["the agent's own\n\nbody"]);
    assert_eq!(look.skipped, []);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_repository_of_sha256() {
    let scene = Scene::with(tempfile::tempdir().unwrap(), &["--object-format=sha256"], base);
    scene.write("a", "changed\n");
    let look = scene.look().await.unwrap();
    assert_eq!(names(&look.files), [("a".to_owned(), Status::Modified)]);
    assert_eq!(look.tree.len(), 64);
}

/// A checkout has the files themselves, its commits their pointers.
#[tokio::test(flavor = "multi_thread")]
async fn files_in_lfs_are_their_pointers() {
    let pointer = |id: &str, size: usize| {
        format!("version https://git-lfs.github.com/spec/v1\noid sha256:{id}\nsize {size}\n")
    };
    let content = "x\n";
    let id = "73cb3858a687a8494ca3323053016282f3dad39d42cf62ca4e79dda2aac7d9ac";
    let mut scene = Scene::new(|tree| {
        base(tree);
        write(tree, ".gitattributes", "*.bin filter=lfs diff=lfs merge=lfs -text\n");
        write(tree, "kept.bin", pointer(id, content.len()));
        write(tree, "changed.bin", pointer(id, content.len()));
        write(tree, "pointer.bin", pointer(id, content.len()));
    });
    for name in ["kept.bin", "changed.bin"] {
        scene.write(name, content);
    }
    scene.write("changed.bin", "y\n");
    scene.write("new.bin", "new\n");
    // The control: without git-lfs, every file in it is another one.
    let look = scene.look().await.unwrap();
    assert!(look.files.len() == 3 && look.files.iter().all(|it| !it.is_in_lfs), "{look:?}");
    scene.lfs = true;
    if lfs_is_missing().await {
        testkit::skip("files in LFS", "git-lfs is not installed, or the kernel is too old for it");
        return;
    }
    let look = scene.look().await.unwrap();
    let expected = [("changed.bin", Status::Modified), ("new.bin", Status::Added)];
    assert_eq!(names(&look.files), expected.map(|(name, status)| (name.to_owned(), status)));
    assert!(look.files.iter().all(|it| it.is_in_lfs), "{look:?}");
    let patch = String::from_utf8(look.patch).unwrap();
    assert_eq!(patch.matches("+oid sha256:").count(), 2, "{patch}");
    // A pointer is small, however large the file.
    let large = fs::File::create(scene.checkout().join("large.bin")).unwrap();
    large.set_len(MOST_PATCH + 1).unwrap();
    let look = scene.look().await.unwrap();
    assert_eq!((look.files.len(), look.skipped), (3, vec![]));
    // A link that git-lfs would follow.
    mkfifo(&scene.checkout().join("pipe"), Mode::from_bits_truncate(0o644)).unwrap();
    symlink("pipe", scene.checkout().join(".lfsconfig")).unwrap();
    let failure = scene.look().await.unwrap_err();
    assert!(matches!(failure, Failure::Told { code: Code::CheckoutConflict, .. }), "{failure}");
}

async fn lfs_is_missing() -> bool {
    let look = || {
        let root = tempfile::tempdir().unwrap();
        let monitor = Monitor { reporter: Reporter::default(), stop: Stop::default() };
        let staging = Staging::create(&monitor, root.path().join("job"))?;
        let git = Git::new(&Config::default(), monitor, &staging, Duration::from_secs(60))?;
        lfs_obstacle(&git)
    };
    tokio::task::spawn_blocking(look).await.unwrap().unwrap().is_some()
}

#[tokio::test(flavor = "multi_thread")]
async fn files_and_directories_become_each_other() {
    let scene = Scene::new(base);
    let at = scene.checkout();
    fs::remove_dir_all(at.join("d")).unwrap();
    scene.write("d", "a file now\n");
    fs::remove_file(at.join("a")).unwrap();
    scene.write("a/inner", "1\n");
    fs::remove_file(at.join("run")).unwrap();
    symlink("a", at.join("run")).unwrap();
    let look = scene.same().await;
    assert!(names(&look.files).contains(&("run".to_owned(), Status::TypeChanged)), "{look:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_directory_that_became_a_link_hides_nothing() {
    let scene = Scene::new(base);
    let at = scene.checkout();
    fs::rename(at.join("d"), at.join("moved")).unwrap();
    symlink("moved", at.join("d")).unwrap();
    scene.same().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn without_git_directory_or_mirror() {
    let scene = Scene::new(base);
    scene.write("a", "changed\n");
    let git_dir = scene.checkout().join(".git");
    let kept = scene.root.path().join("kept");
    fs::rename(&git_dir, &kept).unwrap();
    let look = scene.look().await.unwrap();
    assert_eq!(names(&look.files), [("a".to_owned(), Status::Modified)]);
    assert_eq!(look.skipped, [Skipped { path: b".git".to_vec(), reason: Reason::Unreadable }]);

    fs::rename(&kept, &git_dir).unwrap();
    fs::remove_dir_all(scene.workspace.mirrors()).unwrap();
    let look = scene.same().await;
    assert_eq!(names(&look.files), [("a".to_owned(), Status::Modified)]);

    fs::remove_dir_all(&git_dir).unwrap();
    let failure = scene.look().await.unwrap_err();
    assert!(matches!(failure, Failure::Told { code: Code::WorkspaceGone, .. }), "{failure}");
    fs::remove_dir_all(scene.checkout()).unwrap();
    let failure = scene.look().await.unwrap_err();
    assert!(matches!(failure, Failure::Told { code: Code::WorkspaceGone, .. }), "{failure}");
}

#[tokio::test(flavor = "multi_thread")]
async fn repositories_within_and_submodules_are_named() {
    let scene = Scene::new(|tree| {
        base(tree);
        let inner = tree.parent().unwrap().join("inner");
        fs::create_dir(&inner).unwrap();
        git(&inner, &["init", "-q"]);
        git(&inner, &["commit", "-q", "--allow-empty", "-m", "inner"]);
        for name in ["sub", "unused", "gone"] {
            git(tree, &["submodule", "--quiet", "add", inner.to_str().unwrap(), name]);
        }
    });
    let at = scene.checkout();
    git(&at, &["submodule", "--quiet", "update", "--init", "sub"]);
    scene.write("sub/changed", "1\n");
    fs::remove_dir(at.join("gone")).unwrap();
    for name in ["nested", "ne*ted [x]"] {
        fs::create_dir(at.join(name)).unwrap();
        git(&at.join(name), &["init", "-q"]);
        scene.write(&format!("{name}/file"), "1\n");
    }
    scene.write("neXted/kept", "1\n");
    // A repository in a directory that the base has files in hides nothing.
    git(&at.join("d"), &["init", "-q"]);
    scene.write("d/new", "1\n");
    scene.write("d/b", "changed\n");
    let look = scene.look().await.unwrap();
    let expected = [
        ("d/b", Status::Modified),
        ("d/new", Status::Added),
        ("gone", Status::Deleted),
        ("neXted/kept", Status::Added),
    ];
    assert_eq!(names(&look.files), expected.map(|(name, status)| (name.to_owned(), status)));
    let skipped = [
        ("ne*ted [x]", Reason::Repository),
        ("nested", Reason::Repository),
        ("sub", Reason::Submodule),
    ];
    let skipped = skipped.map(|(path, reason)| Skipped { path: path.into(), reason });
    assert_eq!(look.skipped, skipped);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_taken_is_named() {
    let scene = Scene::new(base);
    let at = scene.checkout();
    fs::remove_file(at.join("a")).unwrap();
    for name in ["a", "d/pipe", ".gitmodules"] {
        mkfifo(&at.join(name), Mode::from_bits_truncate(0o644)).unwrap();
    }
    drop(std::os::unix::net::UnixListener::bind(at.join("socket")).unwrap());
    // git takes no such name, because other systems would read it as `.git`.
    fs::create_dir(at.join(".g\u{200c}it")).unwrap();
    scene.write(".g\u{200c}it/config", "x");
    let look = scene.look().await.unwrap();
    assert_eq!(names(&look.files), [("a".to_owned(), Status::Deleted)]);
    let skipped = [
        (".gitmodules", Reason::Special),
        (".g\u{200c}it/config", Reason::RefusedName),
        ("a", Reason::Special),
        ("d/pipe", Reason::Special),
        ("socket", Reason::Special),
    ];
    let mut skipped = skipped.map(|(path, reason)| Skipped { path: path.into(), reason });
    skipped.sort();
    assert_eq!(look.skipped, skipped);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_too_large_is_cut_between_files() {
    let scene = Scene::new(base);
    for name in ["m", "n", "o"] {
        scene.write(name, "diff --git a/x b/x\n".repeat(100));
    }
    let whole = scene.look().await.unwrap();
    let most = whole.patch.len() as u64 - 10;
    for look in [
        scene.look_with(Some((most, 50))).await.unwrap(),
        scene.look_with(Some((most, 2))).await.unwrap(),
    ] {
        assert!(!look.is_whole);
        let text = String::from_utf8(look.patch.clone()).unwrap();
        assert!(text.ends_with("files.\n"), "{text}");
        assert_eq!(text.matches("\ndiff --git ").count() + 1, 2);
        assert_eq!(look.files.len(), 3);
        scene.applied(&look.patch);
    }
}

#[ignore = "takes half a minute: see CONTRIBUTING.md"]
#[tokio::test(flavor = "multi_thread")]
async fn sixty_thousand_files() {
    // In memory, where making them takes a second.
    let root = tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).unwrap();
    let scene = Scene::new_in(root, base);
    for directory in 0..60 {
        let directory = scene.checkout().join(format!("many{directory}"));
        fs::create_dir(&directory).unwrap();
        for file in 0..1000 {
            fs::write(directory.join(file.to_string()), "x\n").unwrap();
        }
    }
    let start = std::time::Instant::now();
    let look = scene.look().await.unwrap();
    println!("{:?} for {} files", start.elapsed(), look.files.len());
    assert_eq!((look.files.len(), look.is_whole), (60_000, false));
    let text = String::from_utf8(look.patch).unwrap();
    assert_eq!(text.matches("diff --git ").count(), MOST_FILES);
}
