//! What an agent can leave in a checkout that would stop whoever opens it.

use std::{
    fs,
    os::unix::{fs::symlink, net::UnixListener},
    path::Path,
    time::{Duration, Instant},
};

use nix::{sys::stat::Mode, unistd::mkfifo};

use crate::kind::{End, Expect, Kind};

/// A pull of a checkout with a trap, at the same time as one of the same repository into another
/// directory. Both end; the second is not held up.
async fn trap(row: &'static str, path: &str, set: impl Fn(&Path)) {
    let mut kind = Kind::simple(row);
    kind.up.commit_files(&[(".gitattributes", "*.x text\n"), (".gitignore", "*.o\n")]);
    kind.up.commit_files(&[("d/.gitattributes", "*.y text\n")]);
    kind.clones(Expect::Same).await;
    // For looks at checkouts in which git may wait for good.
    kind.patience = 1;
    kind.both(|directory| {
        let path = directory.join(path);
        let _ = fs::remove_file(&path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        set(&path);
    });
    kind.up.commit_files(&[("a", "newer\n"), ("d/b", "newer\n"), ("new", "1\n")]);
    let start = Instant::now();
    let (trapped, free) = tokio::join!(kind.our_pull("repo"), async {
        let end = kind.our_pull("second").await;
        (end, start.elapsed())
    });
    let took = start.elapsed();
    let (End::Checkout(_), passed) = free else { panic!("{row}: the other pull: {:#}", free.0) };
    assert!(passed < Duration::from_secs(10), "{row}: held up for {passed:?}");
    assert!(!matches!(trapped, End::Stuck), "{row}: is stuck");
    assert!(took < Duration::from_secs(25), "{row}: {took:?}");
    kind.judge_trap(&trapped, took);
}

fn fifo(path: &Path) {
    mkfifo(path, Mode::from_bits_truncate(0o644)).unwrap();
}

fn socket(path: &Path) {
    // The path may be longer than a socket's address takes, so it is made beside.
    let directory = tempfile::tempdir().unwrap();
    drop(UnixListener::bind(directory.path().join("s")).unwrap());
    fs::rename(directory.path().join("s"), path)
        .or_else(|_| UnixListener::bind(path).map(drop))
        .unwrap();
}

fn zero(path: &Path) {
    symlink("/dev/zero", path).unwrap();
}

/// `/dev/zero` by its numbers, where a test may make one.
fn device(path: &Path) {
    let device = nix::sys::stat::makedev(1, 5);
    let kind = nix::sys::stat::SFlag::S_IFCHR;
    if let Err(error) = nix::sys::stat::mknod(path, kind, Mode::from_bits_truncate(0o666), device) {
        testkit::skip(&format!("device at {}", path.display()), &error.to_string());
    }
}

fn directory(path: &Path) {
    fs::create_dir(path).unwrap();
}

macro_rules! traps {
    ($($test:ident: $what:ident $path:literal,)*) => { $(
        #[tokio::test(flavor = "multi_thread")]
        async fn $test() {
            trap(concat!(stringify!($what), " at ", $path), $path, $what).await;
        }
    )* };
}

traps! {
    fifo_attributes: fifo ".gitattributes",
    fifo_ignore: fifo ".gitignore",
    fifo_inner_attributes: fifo "d/.gitattributes",
    fifo_file: fifo "a",
    fifo_untracked: fifo "new",
    fifo_log: fifo ".git/logs/HEAD",
    fifo_midx: fifo ".git/objects/pack/multi-pack-index",
    fifo_index: fifo ".git/index",
    fifo_head: fifo ".git/HEAD",
    fifo_config: fifo ".git/config",
    fifo_packed_refs: fifo ".git/packed-refs",
    fifo_exclude: fifo ".git/info/exclude",
    fifo_info_attributes: fifo ".git/info/attributes",
    fifo_sparse: fifo ".git/info/sparse-checkout",
    fifo_shallow: fifo ".git/shallow",
    fifo_merge_head: fifo ".git/MERGE_HEAD",
    fifo_fetch_head: fifo ".git/FETCH_HEAD",
    fifo_commit_graph: fifo ".git/objects/info/commit-graph",
    fifo_modules: fifo ".gitmodules",
    fifo_lfs_config: fifo ".lfsconfig",
    socket_attributes: socket ".gitattributes",
    zero_attributes: zero ".gitattributes",
    zero_ignore: zero ".gitignore",
    zero_log: zero ".git/logs/HEAD",
    zero_midx: zero ".git/objects/pack/multi-pack-index",
    zero_exclude: zero ".git/info/exclude",
    zero_index: zero ".git/index",
    device_attributes: device ".gitattributes",
    device_ignore: device "d/.gitignore",
    device_file: device "a",
    device_untracked: device "new",
    device_index: device ".git/index",
    device_midx: device ".git/objects/pack/multi-pack-index",
    directory_attributes: directory ".gitattributes",
    directory_index: directory ".git/index",
}
