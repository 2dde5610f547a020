//! Things that change their kind, and checkouts that have changes of their own.

use std::{
    fs,
    os::unix::fs::{PermissionsExt as _, symlink},
    path::Path,
};

use contract::Code;

use crate::{
    kind::{Expect, Kind},
    support::git,
    upstream::Upstream,
};

/// What can stand at a path.
#[derive(Clone, Copy, Debug)]
enum Thing {
    File,
    Program,
    Directory,
    Link,
    LinkToDirectory,
    Submodule,
    Nothing,
}

impl Thing {
    const ALL: [Self; 7] = [
        Self::File,
        Self::Program,
        Self::Directory,
        Self::Link,
        Self::LinkToDirectory,
        Self::Submodule,
        Self::Nothing,
    ];

    /// Commits this at `x`.
    fn commit(self, up: &Upstream) {
        let x = up.tree.join("x");
        let _ = fs::remove_file(&x).or_else(|_| fs::remove_dir_all(&x));
        up.git(&["rm", "-r", "-q", "--cached", "--ignore-unmatch", "x"]);
        match self {
            Self::File => up.write("x", "file\n"),
            Self::Program => {
                up.write("x", "file\n");
                fs::set_permissions(&x, fs::Permissions::from_mode(0o755)).unwrap();
            }
            Self::Directory => {
                up.write("x/y", "1\n");
                up.write("x/z/x", "2\n");
            }
            Self::Link => symlink("a", &x).unwrap(),
            Self::LinkToDirectory => symlink("d", &x).unwrap(),
            Self::Submodule => {
                let commit = up.git(&["rev-parse", "HEAD"]);
                fs::create_dir(&x).unwrap();
                up.git(&["add", "--all"]);
                up.git(&["update-index", "--add", "--cacheinfo", &format!("160000,{commit},x")]);
                up.git(&["commit", "--quiet", "--message", "submodule"]);
                return;
            }
            Self::Nothing => {}
        }
        up.commit();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn each_thing_becomes_each_other() {
    for (number, from) in Thing::ALL.into_iter().enumerate() {
        let name = format!("{from:?} and others become each other");
        let kind = Kind::simple(Box::leak(name.into_boxed_str()));
        from.commit(&kind.up);
        kind.clones(Expect::Same).await;
        for &to in &Thing::ALL[number + 1..] {
            to.commit(&kind.up);
            kind.update(Expect::Same).await;
            from.commit(&kind.up);
            kind.update(Expect::Same).await;
        }
    }
}

/// Both checkouts are changed, then upstream, then both are updated.
async fn local(
    row: &'static str,
    change: impl Fn(&Path),
    upstream: impl FnOnce(&Upstream),
    expect: Expect,
) {
    let kind = Kind::simple(row);
    kind.up.commit_files(&[("c", "one\n"), (".gitignore", "*.o\n"), ("e/f", "x\n")]);
    kind.clones(Expect::Same).await;
    kind.both(change);
    upstream(&kind.up);
    let before = crate::support::snapshot(&kind.ours());
    kind.update(expect).await;
    if matches!(expect, Expect::BothFail(_) | Expect::OursFails(_)) {
        assert!(
            crate::support::snapshot(&kind.ours()) == before,
            "{row}: changed by a failed pull"
        );
    }
}

fn newer(up: &Upstream) {
    up.commit_files(&[("a", "newer\n"), ("d/b", "newer\n"), ("new/n", "1\n")]);
}

fn write(directory: &Path, path: &str, content: &str) {
    let path = directory.join(path);
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, content).unwrap();
}

const CONFLICT: Expect = Expect::BothFail(Code::CheckoutConflict);

#[tokio::test(flavor = "multi_thread")]
async fn changes_elsewhere_are_kept() {
    let change = |it: &Path| {
        write(it, "c", "mine\n");
        write(it, "untracked", "mine\n");
        write(it, "staged", "mine\n");
        git(it, &["add", "staged"]);
        fs::remove_file(it.join("e/f")).unwrap();
    };
    local("local changes elsewhere", change, newer, Expect::Same).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_change_in_the_way() {
    local("local change in the way", |it| write(it, "a", "mine\n"), newer, CONFLICT).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_staged_change_in_the_way() {
    let change = |it: &Path| {
        write(it, "a", "mine\n");
        git(it, &["add", "a"]);
    };
    local("staged change in the way", change, newer, CONFLICT).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_staged_change_that_is_gone_from_the_file() {
    let change = |it: &Path| {
        write(it, "a", "mine\n");
        git(it, &["add", "a"]);
        write(it, "a", "1\n");
    };
    local("staged only, in the way", change, newer, CONFLICT).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_same_change_on_both_sides() {
    let change = |it: &Path| {
        write(it, "a", "newer\n");
        git(it, &["add", "a"]);
    };
    local("the same change, staged", change, newer, Expect::Same).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_untracked_file_in_the_way() {
    local("untracked file in the way", |it| write(it, "new/n", "mine\n"), newer, CONFLICT).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_untracked_file_that_is_the_same() {
    let change = |it: &Path| write(it, "new/n", "1\n");
    local("untracked file, the same", change, newer, Expect::OursWorks).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_untracked_directory_in_the_way() {
    let up = |up: &Upstream| drop(up.commit_files(&[("place", "1\n")]));
    local("untracked directory in the way", |it| write(it, "place/x", "mine\n"), up, CONFLICT)
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_ignored_file_in_the_way() {
    let up = |up: &Upstream| drop(up.commit_files(&[("x.o", "1\n")]));
    // git overwrites what is ignored, and so do we.
    local("ignored file in the way", |it| write(it, "x.o", "mine\n"), up, Expect::Same).await;
    let change = |it: &Path| {
        fs::create_dir_all(it.join(".git/info")).unwrap();
        fs::write(it.join(".git/info/exclude"), "x.p\n").unwrap();
        write(it, "x.p", "mine\n");
    };
    let up = |up: &Upstream| drop(up.commit_files(&[("x.p", "1\n")]));
    local("file in the way, ignored by .git/info/exclude", change, up, Expect::Same).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_that_is_deleted_here_and_changed_there() {
    let delete = |it: &Path| fs::remove_file(it.join("a")).unwrap();
    local("deleted here, changed there", delete, newer, Expect::Same).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_whose_deletion_is_staged_and_which_is_changed_there() {
    let delete = |it: &Path| drop(git(it, &["rm", "-q", "a"]));
    local("deletion staged, changed there", delete, newer, CONFLICT).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_that_is_changed_here_and_deleted_there() {
    let up = |up: &Upstream| {
        fs::remove_file(up.tree.join("a")).unwrap();
        up.commit();
    };
    local("changed here, deleted there", |it| write(it, "a", "mine\n"), up, CONFLICT).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn read_only_files() {
    let change = |it: &Path| {
        let path = it.join("a");
        fs::set_permissions(path, fs::Permissions::from_mode(0o444)).unwrap();
    };
    local("read-only file", change, newer, Expect::Same).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_exec_bit_of_ones_own() {
    let change = |it: &Path| {
        let path = it.join("a");
        fs::set_permissions(path, fs::Permissions::from_mode(0o755)).unwrap();
    };
    local("exec bit set here, changed there", change, newer, CONFLICT).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn times_that_changed_only() {
    let touch = |it: &Path| write(it, "a", "1\n");
    local("touched only", touch, newer, Expect::Same).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn commits_of_ones_own() {
    let commit = |it: &Path| drop(git(it, &["commit", "-q", "--allow-empty", "-m", "mine"]));
    local("commits here, none there", commit, |_| {}, Expect::Same).await;
    let diverged = Expect::BothFail(Code::Diverged);
    local("commits here and there", commit, newer, diverged).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn another_branch_that_is_checked_out() {
    let change = |it: &Path| drop(git(it, &["checkout", "-q", "-b", "mine"]));
    // git has nothing to merge with; we go back to the branch that was asked for, or say why not.
    local("another branch checked out", change, newer, Expect::Ends).await;
}

/// Makes `it` stop in the middle of `operation`.
fn in_the_middle(it: &Path, operation: &[&str]) {
    git(it, &["checkout", "-q", "-b", "other"]);
    write(it, "c", "other\n");
    git(it, &["commit", "-q", "-a", "-m", "other"]);
    git(it, &["checkout", "-q", "main"]);
    write(it, "c", "mine\n");
    git(it, &["commit", "-q", "-a", "-m", "mine"]);
    let ended = crate::upstream::isolated("git", 30).arg("-C").arg(it).args(operation).output();
    assert!(!ended.unwrap().status.success(), "{operation:?} should conflict");
}

macro_rules! middles {
    ($($test:ident: $operation:expr,)*) => { $(
        #[tokio::test(flavor = "multi_thread")]
        async fn $test() {
            let row = concat!("in the middle of a ", stringify!($test));
            let middle = |it: &Path| in_the_middle(it, &$operation);
            let kind = Kind::simple(row);
            kind.up.commit_files(&[("c", "one\n")]);
            kind.clones(Expect::Same).await;
            kind.both(middle);
            newer(&kind.up);
            let before = crate::support::snapshot(&kind.ours());
            kind.update(Expect::Ends).await;
            let unchanged = crate::support::snapshot(&kind.ours()) == before;
            assert!(unchanged, "an operation of the owner's was disturbed");
        }
    )* };
}

middles! {
    merge: ["merge", "-q", "other"],
    rebase: ["rebase", "-q", "other"],
    pick: ["cherry-pick", "other"],
}

#[tokio::test(flavor = "multi_thread")]
async fn bisect() {
    let change = |it: &Path| {
        git(it, &["bisect", "start", "-q"]);
        git(it, &["bisect", "bad"]);
    };
    local("in the middle of a bisect", change, newer, Expect::Ends).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sparse_checkout() {
    let newer_elsewhere = |up: &Upstream| {
        newer(up);
        up.commit_files(&[("e/f", "newer\n"), ("e/g", "1\n"), ("d/e/f", "1\n")]);
    };
    let change = |it: &Path| drop(git(it, &["sparse-checkout", "set", "--cone", "d"]));
    local("sparse checkout of directories", change, newer_elsewhere, Expect::Same).await;
    let change = |it: &Path| drop(git(it, &["sparse-checkout", "set", "--no-cone", "/a", "*f"]));
    local("sparse checkout of patterns", change, newer_elsewhere, Expect::Same).await;
    let change = |it: &Path| {
        drop(git(it, &["sparse-checkout", "set", "--cone", "--sparse-index", "d"]));
    };
    local("sparse index", change, newer_elsewhere, Expect::Same).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_split_index() {
    let change = |it: &Path| drop(git(it, &["update-index", "--split-index"]));
    local("split index", change, newer, Expect::Same).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn indexes_of_other_versions() {
    let change = |it: &Path| drop(git(it, &["update-index", "--index-version", "4"]));
    local("index of version 4", change, newer, Expect::Same).await;
    let change = |it: &Path| drop(git(it, &["update-index", "--untracked-cache"]));
    local("untracked cache", change, newer, Expect::Same).await;
    let change = |it: &Path| drop(git(it, &["update-index", "--assume-unchanged", "c"]));
    local("assume-unchanged", change, newer, Expect::Same).await;
    let change = |it: &Path| {
        write(it, "added", "1\n");
        git(it, &["add", "-N", "added"]);
    };
    local("intent to add", change, newer, Expect::Same).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_worktree() {
    let change = |it: &Path| {
        let beside = it.with_file_name("beside");
        git(it, &["worktree", "add", "-q", "-b", "beside", beside.to_str().unwrap()]);
    };
    local("a second worktree", change, newer, Expect::Same).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_collected_checkout() {
    let change = |it: &Path| drop(git(it, &["gc", "-q", "--prune=now"]));
    local("after git gc", change, newer, Expect::Same).await;
    let change = |it: &Path| drop(git(it, &["commit-graph", "write", "--reachable"]));
    local("with a commit graph", change, newer, Expect::Same).await;
    let change = |it: &Path| drop(git(it, &["multi-pack-index", "write"]));
    local("with a multi-pack index", change, newer, Expect::Same).await;
}
