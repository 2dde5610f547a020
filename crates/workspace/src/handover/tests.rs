use std::{
    os::unix::fs::{chown, symlink},
    path::PathBuf,
    sync::atomic::{AtomicBool, Ordering},
    time::{Duration, Instant},
};

use super::*;
use crate::fixtures::workspace;

const AGENT: UserIds = UserIds { uid: 65534, gid: 65534 };
const ANOTHER: u32 = 4_294_960_000;
/// Goes on.
const ON: Check<'static> = &|| Ok(());

/// Whether a test can run here.
fn may_change_owners(test: &str) -> bool {
    if geteuid().is_root() {
        return true;
    }
    assert!(std::env::var_os("FORBID_SKIPS").is_none(), "{test}: only root may change owners");
    eprintln!("SKIPPED: {test}: only root may change owners");
    false
}

fn ids(path: &Path) -> (u32, u32) {
    let found = fs::symlink_metadata(path).unwrap();
    (found.uid(), found.gid())
}

const OURS: (u32, u32) = (0, 0);
const THEIRS: (u32, u32) = (AGENT.uid, AGENT.gid);

#[test]
fn a_tree_changes_hands_and_nothing_beside_it() {
    if !may_change_owners("a_tree_changes_hands_and_nothing_beside_it") {
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    let at = |name: &str| directory.path().join(name);
    fs::create_dir_all(at("outside/deep")).unwrap();
    fs::create_dir_all(at("top/a/b")).unwrap();
    for file in ["outside/file", "outside/linked", "top/file", "top/a/b/file", "top/another"] {
        fs::write(at(file), "x").unwrap();
    }
    symlink(at("outside"), at("top/link")).unwrap();
    symlink(at("outside/file"), at("top/a/file-link")).unwrap();
    symlink("nowhere", at("top/a/dangling")).unwrap();
    fs::hard_link(at("outside/linked"), at("top/a/second-name")).unwrap();
    nix::unistd::mkfifo(&at("top/a/pipe"), Mode::S_IRUSR).unwrap();
    chown(at("top/another"), Some(ANOTHER), Some(ANOTHER)).unwrap();
    chown(at("top/file"), None, Some(ANOTHER)).unwrap();
    fs::set_permissions(at("top/a"), fs::Permissions::from_mode(0o000)).unwrap();
    let inside = [
        "top",
        "top/a",
        "top/a/b",
        "top/a/b/file",
        "top/link",
        "top/a/file-link",
        "top/a/dangling",
        "top/a/pipe",
    ];
    let outside = ["outside", "outside/deep", "outside/file", "outside/linked"];

    hand_over(&at("top"), AGENT, ON).unwrap();
    assert!(inside.iter().all(|name| ids(&at(name)) == THEIRS));
    assert!(outside.iter().all(|name| ids(&at(name)) == OURS));
    assert_eq!(ids(&at("top/a/second-name")), OURS, "it has a name outside");
    assert_eq!(ids(&at("top/another")), (ANOTHER, ANOTHER));
    assert_eq!(ids(&at("top/file")), (AGENT.uid, ANOTHER), "a group that is not ours stays");

    // What is right does not change.
    let changed = |name: &str| {
        let found = fs::symlink_metadata(at(name)).unwrap();
        (found.ctime(), found.ctime_nsec())
    };
    let before = inside.map(changed);
    hand_over(&at("top"), AGENT, ON).unwrap();
    assert_eq!(inside.map(changed), before);

    fs::write(at("top/a/b/new"), "x").unwrap();
    chown(at("top/a/b/new"), Some(AGENT.uid), Some(AGENT.gid)).unwrap();
    take_back(&at("top"), AGENT, ON).unwrap();
    assert!(inside.iter().chain(&["top/a/b/new"]).all(|name| ids(&at(name)) == OURS));
    assert_eq!(ids(&at("top/file")), (0, ANOTHER));
    hand_over(&at("missing"), AGENT, ON).unwrap();
    assert!(hand_over(&at("top/link"), AGENT, ON).is_err(), "a link is no tree");
    assert_eq!(ids(&at("outside")), OURS);
}

/// Such as packs, and what build tools leave. A hostile agent can give any file of its own a second name.
#[test]
fn a_file_with_several_names_changes_hands_if_all_of_them_are_in_the_tree() {
    if !may_change_owners("a_file_with_several_names_changes_hands_if_all_of_them_are_in_the_tree")
    {
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    let at = |name: &str| directory.path().join(name);
    fs::create_dir_all(at("top/a/b")).unwrap();
    fs::create_dir(at("cache")).unwrap();
    for (file, names) in [
        ("top/inside", &["top/a/2", "top/a/b/3"][..]),
        ("cache/file", &["top/a/cached", "top/a/b/cached"]),
    ] {
        fs::write(at(file), "x").unwrap();
        names.iter().for_each(|name| fs::hard_link(at(file), at(name)).unwrap());
    }
    for file in ["top/inside", "cache/file"] {
        hand_over(&at("top"), AGENT, ON).unwrap();
        assert_eq!((ids(&at("top/inside")), ids(&at("cache/file"))), (THEIRS, OURS), "{file}");
        take_back(&at("top"), AGENT, ON).unwrap();
        assert_eq!(ids(&at("top/inside")), OURS, "{file}");
    }
    chown(at("cache/file"), Some(AGENT.uid), Some(AGENT.gid)).unwrap();
    take_back(&at("top"), AGENT, ON).unwrap();
    assert_eq!(ids(&at("top/a/cached")), THEIRS, "what is shared stays the agents'");
}

/// A walk through millions of files must not outlive its job, and what is not taken back as a whole can be told.
#[test]
fn a_walk_ends_when_it_is_told_to() {
    if !may_change_owners("a_walk_ends_when_it_is_told_to") {
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    let top = directory.path().join("top");
    fs::create_dir(&top).unwrap();
    for number in 0..3000 {
        fs::write(top.join(number.to_string()), "").unwrap();
    }
    hand_over(&top, AGENT, ON).unwrap();
    let stop: Check<'_> = &|| Err(io::ErrorKind::Interrupted.into());
    let ended = take_back_if_left(&top, AGENT, stop).unwrap_err();
    let left = || {
        let entries = fs::read_dir(&top).unwrap();
        entries.filter(|it| it.as_ref().unwrap().metadata().unwrap().uid() == AGENT.uid).count()
    };
    assert_eq!((ended.kind(), ids(&top)), (io::ErrorKind::Interrupted, THEIRS));
    assert!((1..3000).contains(&left()), "{}", left());
    take_back_if_left(&top, AGENT, ON).unwrap();
    assert_eq!((left(), ids(&top)), (0, OURS));
}

#[test]
fn what_was_left_is_told_by_its_top() {
    if !may_change_owners("what_was_left_is_told_by_its_top") {
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    let top = directory.path().join("top");
    fs::create_dir(&top).unwrap();
    let file = top.join("file");
    fs::write(&file, "").unwrap();
    chown(&file, Some(AGENT.uid), Some(AGENT.gid)).unwrap();
    take_back_if_left(&top, AGENT, ON).unwrap();
    assert_eq!(ids(&file), THEIRS, "an operator's own directory is not looked through");
    chown(&top, Some(AGENT.uid), Some(AGENT.gid)).unwrap();
    take_back_if_left(&top, AGENT, ON).unwrap();
    assert_eq!((ids(&top), ids(&file)), (OURS, OURS));
    take_back_if_left(&directory.path().join("missing"), AGENT, ON).unwrap();
}

/// Who changes the tree meanwhile does not get what is outside. A walk that goes by paths is fooled by the same changes.
#[test]
fn a_tree_that_changes_meanwhile_leads_nowhere() {
    if !may_change_owners("a_tree_that_changes_meanwhile_leads_nowhere") {
        return;
    }
    fn by_path(directory: &Path) -> io::Result<()> {
        for entry in fs::read_dir(directory)? {
            let entry = entry?;
            if entry.file_type()?.is_dir() {
                by_path(&entry.path())?;
            } else if fs::symlink_metadata(entry.path())?.is_file() {
                chown(entry.path(), Some(AGENT.uid), Some(AGENT.gid))?;
            }
        }
        Ok(())
    }
    let directory = tempfile::tempdir().unwrap();
    let at = |name: &str| -> PathBuf { directory.path().join(name) };
    fs::create_dir_all(at("outside")).unwrap();
    fs::create_dir_all(at("top/it")).unwrap();
    for name in ["outside/file", "top/it/file", "top/file"] {
        fs::write(at(name), "").unwrap();
    }
    symlink(at("outside"), at("link")).unwrap();
    symlink(at("outside/file"), at("file-link")).unwrap();
    let is_over = AtomicBool::new(false);
    let exchange = |a: &str, b: &str| {
        let _ = nix::fcntl::renameat2(
            nix::fcntl::AT_FDCWD,
            &at(a),
            nix::fcntl::AT_FDCWD,
            &at(b),
            nix::fcntl::RenameFlags::RENAME_EXCHANGE,
        );
    };
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !is_over.load(Ordering::Relaxed) {
                exchange("top/it", "link");
                exchange("top/file", "file-link");
            }
        });
        let until = Instant::now() + Duration::from_millis(300);
        let mut walks = 0;
        while Instant::now() < until {
            hand_over(&at("top"), AGENT, ON).unwrap();
            take_back(&at("top"), AGENT, ON).unwrap();
            walks += 1;
        }
        let safe = ids(&at("outside/file")) == OURS && ids(&at("outside")) == OURS;
        let until = Instant::now() + Duration::from_secs(10);
        while ids(&at("outside/file")) == OURS && Instant::now() < until {
            let _ = by_path(&at("top"));
        }
        is_over.store(true, Ordering::Relaxed);
        assert!(safe && walks > 10, "{walks}");
        assert_eq!(ids(&at("outside/file")), THEIRS, "the control was not fooled");
    });
}

#[test]
fn a_tree_may_be_deep() {
    if !may_change_owners("a_tree_may_be_deep") {
        return;
    }
    use cap_std::{ambient_authority, fs::Dir};
    let directory = tempfile::tempdir().unwrap();
    let mut at = Dir::open_ambient_dir(directory.path(), ambient_authority()).unwrap();
    for _ in 0..2000 {
        at.create_dir("d").unwrap();
        at = at.open_dir("d").unwrap();
    }
    hand_over(directory.path(), AGENT, ON).unwrap();
    assert_eq!(ids(&directory.path().join("d/".repeat(250))), THEIRS);
    take_back(directory.path(), AGENT, ON).unwrap();
    crate::remove_tree(&directory.path().join("d")).unwrap();
}

#[test]
fn a_group_gets_through_to_what_is_its_own_and_sees_nothing_else() {
    if !may_change_owners("a_group_gets_through_to_what_is_its_own_and_sees_nothing_else") {
        return;
    }
    let (dir, workspace) = workspace();
    let at = |name: &str| dir.path().join(name);
    for (name, mode) in [(".stack/gc.lock", 0o644), (".stack/mirrors", 0o755), ("", 0o700)] {
        if name.ends_with("lock") {
            fs::write(at(name), "").unwrap();
        }
        fs::set_permissions(at(name), fs::Permissions::from_mode(mode)).unwrap();
    }
    let of = |name: &str| {
        let found = fs::metadata(at(name)).unwrap();
        (found.mode() & 0o777, found.gid())
    };
    workspace.close_stack().unwrap();
    // The agents' user may become another one.
    for group in [ANOTHER, AGENT.gid, AGENT.gid] {
        workspace.open_ways(group).unwrap();
        for way in ["", "jobs", ".stack", ".stack/sessions"] {
            assert_eq!(of(way), (0o710, group), "{way}");
        }
        for entry in fs::read_dir(at(".stack")).unwrap() {
            let found = entry.unwrap();
            if found.file_name() != "sessions" {
                assert_eq!(found.metadata().unwrap().mode() & 0o077, 0, "{found:?}");
            }
        }
        // Another part that opens the volume leaves it so.
        Workspace::open(dir.path()).unwrap();
    }
    // A root that others use, and a directory of somebody else, stay as they are.
    fs::set_permissions(at(""), fs::Permissions::from_mode(0o750)).unwrap();
    chown(at(""), None, Some(0)).unwrap();
    chown(at("jobs"), Some(ANOTHER), Some(0)).unwrap();
    workspace.open_ways(AGENT.gid).unwrap();
    assert_eq!((of(""), of("jobs")), ((0o750, 0), (0o710, 0)));
    close_way(&at(".stack/sessions")).unwrap();
    close_way(&at("")).unwrap();
    assert_eq!((of("").0, of(".stack/sessions").0), (0o750, 0o700));
    try_owner(&workspace.temporary(), AGENT).unwrap();
    assert_eq!(fs::read_dir(workspace.temporary()).unwrap().count(), 0);
}

#[test]
#[ignore = "measures"]
fn what_a_walk_costs() {
    for files in [10, 5_000, 20_000] {
        let directory = tempfile::tempdir().unwrap();
        for number in 0..files {
            let parent = directory.path().join((number / 100).to_string());
            fs::create_dir_all(&parent).unwrap();
            fs::write(parent.join(number.to_string()), "x").unwrap();
        }
        let timed = |what: &str, walk: &dyn Fn()| {
            let start = Instant::now();
            walk();
            println!("{files} files, {what}: {:?}", start.elapsed());
        };
        timed("handed over", &|| hand_over(directory.path(), AGENT, ON).unwrap());
        timed("handed over already", &|| hand_over(directory.path(), AGENT, ON).unwrap());
        timed("taken back", &|| take_back(directory.path(), AGENT, ON).unwrap());
    }
}
