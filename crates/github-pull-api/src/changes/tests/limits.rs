//! What is too much, and what cannot be read.

use super::*;

fn skipped(path: &str, reason: Reason) -> Skipped {
    Skipped { path: path.into(), reason }
}

/// Makes a file of that many bytes, which has no blocks on the disk.
fn sparse(path: &Path, bytes: u64) {
    fs::File::options()
        .write(true)
        .create(true)
        .truncate(true)
        .open(path)
        .unwrap()
        .set_len(bytes)
        .unwrap();
}

/// Copied, it would fill the volume.
#[tokio::test(flavor = "multi_thread")]
async fn a_huge_index_says_nothing() {
    let scene = Scene::new(base);
    scene.write("new", "1\n");
    for name in ["index", "shallow"] {
        let path = scene.checkout().join(".git").join(name);
        let kept = fs::read(&path).ok();
        sparse(&path, 1 << 40);
        let look = scene.look().await.unwrap();
        assert_eq!(names(&look.files), [("new".to_owned(), Status::Added)], "{name}");
        match kept {
            Some(kept) => fs::write(&path, kept).unwrap(),
            None => fs::remove_file(&path).unwrap(),
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deep_object_directory_is_not_followed() {
    let scene = Scene::new(base);
    scene.write("new", "1\n");
    // More than a process may have open. Each is made in the one before it, because the path would be too long.
    let mut directory = scene.checkout().join(".git/objects/deep");
    for _ in 0..1200 {
        directory.push("x");
    }
    fs::create_dir_all(&directory).unwrap();
    let look = scene.look().await.unwrap();
    assert_eq!(names(&look.files), [("new".to_owned(), Status::Added)]);
    assert_eq!(look.skipped, []);
}

#[cfg(target_os = "linux")]
#[tokio::test(flavor = "multi_thread")]
async fn a_git_directory_without_permissions_says_nothing() {
    let scene = Scene::new(base);
    let (checkout, git_dir) = (scene.checkout(), scene.checkout().join(".git"));
    fs::set_permissions(&git_dir, fs::Permissions::from_mode(0o0)).unwrap();
    // Permissions are nothing to root, but the thread of another user may be denied.
    let looked = std::thread::spawn(move || {
        nix::unistd::setfsuid(nix::unistd::Uid::from_raw(65534));
        let monitor = Monitor { reporter: Reporter::default(), stop: Stop::default() };
        let look = || LeftGit::look(&monitor, &checkout).map(Some);
        (look().err(), claimed(look()).unwrap().is_none())
    });
    let (failure, is_none) = looked.join().unwrap();
    assert!(matches!(failure, Some(Failure::Told { code: Code::Internal, .. })), "{failure:?}");
    assert!(is_none);
    fs::set_permissions(&git_dir, fs::Permissions::from_mode(0o755)).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn the_branch_of_an_agent_is_found_wherever_it_is() {
    let scene = Scene::new(base);
    let at = scene.checkout();
    git(&at, &["checkout", "-q", "-b", "deep/branch"]);
    git(&at, &["commit", "-q", "--allow-empty", "-m", "its own"]);
    for pack in [&[][..], &["pack-refs", "--all"]] {
        if !pack.is_empty() {
            git(&at, pack);
            // What is left of a branch in it.
            fs::create_dir_all(at.join(".git/refs/heads/deep/branch")).unwrap();
        }
        assert_eq!(scene.look().await.unwrap().commits, ["its own"]);
    }
    git(&at, &["checkout", "-q", "--detach"]);
    assert_eq!(scene.look().await.unwrap().commits, ["its own"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn endless_messages_say_nothing() {
    let scene = Scene::new(base);
    let at = scene.checkout();
    scene.write("new", "1\n");
    let message = scene.root.path().join("message");
    fs::write(&message, "x".repeat(45_000_000)).unwrap();
    for _ in 0..3 {
        git(&at, &["commit", "-q", "--allow-empty", "-F", message.to_str().unwrap()]);
    }
    let look = scene.look().await.unwrap();
    assert_eq!(names(&look.files), [("new".to_owned(), Status::Added)]);
    assert_eq!(look.commits, [""; 0]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_huge_file_is_named_and_not_read() {
    let scene = Scene::new(base);
    let at = scene.checkout();
    scene.write("z", "1\n");
    // The larger one is larger than all files together may be.
    sparse(&at.join("core"), 3 << 30);
    sparse(&at.join("a"), 11 << 30);
    let look = scene.look().await.unwrap();
    assert_eq!(names(&look.files), [("z".to_owned(), Status::Added)]);
    let large = ["a", "core"].map(|path| skipped(path, Reason::TooLarge));
    assert_eq!((look.skipped, look.is_whole), (large.to_vec(), true));
    scene.applied(&look.patch);
    // A delivery without it would look like the whole result.
    let refused = look.refused.unwrap().to_string();
    assert!(refused.contains("'a' is larger than 100 MB"), "{refused}");
    // Many files that are too large together have an end too.
    for path in ["a", "core"] {
        fs::remove_file(at.join(path)).unwrap();
    }
    for number in 0..200 {
        sparse(&at.join(format!("part{number}")), 90_000_000);
    }
    let failure = scene.look().await.unwrap_err();
    assert!(matches!(failure, Failure::Told { code: Code::TooLarge, .. }), "{failure}");
}

/// The base may have larger files than a patch.
#[tokio::test(flavor = "multi_thread")]
async fn a_huge_file_of_the_base_is_left_out_of_the_patch() {
    let large = 200 << 20;
    let mut scene = Scene::new(|tree| {
        base(tree);
        sparse(&tree.join("large"), large);
        sparse(&tree.join("same"), large);
    });
    scene.config.memory = 150 << 20;
    let at = scene.checkout();
    scene.write("a", "changed\n");
    let look = scene.look().await.unwrap();
    assert_eq!(names(&look.files), [("a".to_owned(), Status::Modified)]);
    assert_eq!((look.skipped, look.is_whole), (vec![], true));
    assert!(look.refused.is_none());
    fs::remove_file(at.join("large")).unwrap();
    scene.write("z", "1\n");
    let look = scene.look().await.unwrap();
    let expected = [("a", Status::Modified), ("large", Status::Deleted), ("z", Status::Added)];
    assert_eq!(names(&look.files), expected.map(|(name, status)| (name.to_owned(), status)));
    assert!(!look.is_whole);
    let text = String::from_utf8(look.patch.clone()).unwrap();
    assert!(text.contains("+changed\n") && text.contains("z b/z"), "{text}");
    assert!(!text.contains("large") && text.ends_with("files.\n"), "{text}");
    scene.applied(&look.patch);
}

/// More than is left out by name.
#[tokio::test(flavor = "multi_thread")]
async fn what_git_has_no_memory_for_is_cut() {
    let mut scene = Scene::new(|tree| {
        base(tree);
        sparse(&tree.join("large"), 90 << 20);
    });
    scene.config.memory = 80 << 20;
    fs::remove_file(scene.checkout().join("large")).unwrap();
    let look = scene.look().await.unwrap();
    assert_eq!(names(&look.files), [("large".to_owned(), Status::Deleted)]);
    assert!(!look.is_whole && !look.files[0].is_large);
    let mark = "# The rest of this diff was left out: ";
    assert!(look.patch.starts_with(mark.as_bytes()), "{look:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn attributes_hide_nothing() {
    let scene = Scene::new(|tree| {
        base(tree);
        write(tree, "kept.u", b"\xff\xfea\0\n\0");
        write(tree, ".gitattributes", "*.u working-tree-encoding=UTF-16\n");
    });
    scene.write(".gitattributes", "*.u working-tree-encoding=UTF-16\n*.rs -diff\n* binary\n");
    scene.write("bad.u", "no mark of its byte order");
    for number in 0..20 {
        scene.write(&format!("good{number}.u"), b"\xff\xfeb\0\n\0");
    }
    scene.write("evil.rs", "evil\n");
    let look = scene.look().await.unwrap();
    assert_eq!(look.skipped, [skipped("bad.u", Reason::Unreadable)]);
    assert_eq!(look.files.len(), 22, "{look:?}");
    assert!(look.files.iter().all(|file| !file.is_binary), "{look:?}");
    let text = String::from_utf8(look.patch).unwrap();
    assert!(text.contains("+evil\n") && text.contains("+b\n"), "{text}");
}

/// A mirror that is not whole has the tree of the base, but not its files.
#[tokio::test(flavor = "multi_thread")]
async fn what_the_mirror_lacks_is_taken_from_the_checkout() {
    let scene = Scene::new(base);
    let upstream = scene.root.path().join("upstream");
    git(&upstream, &["config", "uploadpack.allowFilter", "true"]);
    let mirror = mirror_location(&scene.workspace, &scene.repo, Extent::default());
    fs::remove_dir_all(&mirror).unwrap();
    let from = format!("file://{}", upstream.display());
    let to = mirror.to_str().unwrap();
    git(&upstream, &["clone", "-q", "--mirror", "--filter=blob:none", &from, to]);
    scene.write("a", "changed\n");
    let look = scene.same().await;
    assert_eq!(names(&look.files), [("a".to_owned(), Status::Modified)]);
}

#[tokio::test(flavor = "multi_thread")]
async fn files_that_hide_something_are_marked() {
    let scene = Scene::new(base);
    let at = scene.checkout();
    fs::remove_file(at.join("a")).unwrap();
    symlink("x", at.join("a")).unwrap();
    scene.write("crlf", "1\r\n2\r\n\ttab\n");
    scene.write("d/b", "b\n\u{202e}\n");
    scene.write("escape", ": \"\x1b]0;\"; evil; : \"\x07\"\n");
    scene.write("latin", b"\xe9\n");
    let look = scene.look().await.unwrap();
    let hiding: Vec<_> = look.files.iter().filter(|file| file.is_hiding).collect();
    assert_eq!(look.files.len(), 5);
    let paths: Vec<_> = hiding.iter().map(|file| file.path.as_slice()).collect();
    assert_eq!(paths, [b"d/b".as_slice(), b"escape"]);
}
