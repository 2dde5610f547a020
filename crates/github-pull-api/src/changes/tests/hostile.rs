//! What an agent may leave to attack whoever looks.

use super::*;

/// Each of these would make git wait, or lead it elsewhere.
#[tokio::test(flavor = "multi_thread")]
async fn traps_are_not_sprung() {
    let fifo = |path: &Path| {
        let _ = fs::remove_file(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        mkfifo(path, Mode::from_bits_truncate(0o644)).unwrap();
    };
    let zero = |path: &Path| {
        let _ = fs::remove_file(path);
        symlink("/dev/zero", path).unwrap();
    };
    // In .git: they are not opened, and the change is seen all the same.
    let scene = Scene::new(base);
    scene.write("new", "1\n");
    for name in ["index", "HEAD", "config", "objects/info/commit-graph", "packed-refs", "shallow"] {
        let (path, kept) =
            (scene.checkout().join(".git").join(name), scene.root.path().join("kept"));
        let is_there = fs::rename(&path, &kept).is_ok();
        for trap in [&fifo as &dyn Fn(&Path), &zero] {
            trap(&path);
            let look = scene.look().await.unwrap();
            assert_eq!(names(&look.files), [("new".to_owned(), Status::Added)], "{name}");
        }
        fs::remove_file(&path).unwrap();
        if is_there {
            fs::rename(&kept, &path).unwrap();
        }
    }
    let scene = Scene::new(base);
    let at = scene.checkout();
    scene.write("new", "1\n");
    // In repositories within: not looked into, whether their .git is a directory or leads elsewhere.
    fs::create_dir_all(at.join("n/.git/refs")).unwrap();
    fs::create_dir_all(at.join("n/.git/objects")).unwrap();
    fifo(&at.join("n/.git/HEAD"));
    // The agent claims to have added a file there.
    let mut claim = Command::new("git");
    let entry = format!("100644,{},n/x", git(&at, &["rev-parse", "HEAD:a"]));
    claim.args(["update-index", "--add", "--cacheinfo", &entry]).current_dir(&at);
    run(&mut claim);
    fs::write(at.join("n/x"), "1\n").unwrap();
    // In a directory with files of the base, git does not look for one.
    for directory in [".git/refs", ".git/objects"] {
        fs::create_dir_all(at.join("e").join(directory)).unwrap();
    }
    fifo(&at.join("e/.git/HEAD"));
    fs::create_dir_all(at.join("m/x/refs")).unwrap();
    fs::create_dir_all(at.join("m/x/objects")).unwrap();
    fifo(&at.join("m/x/HEAD"));
    scene.write("o/.git", "gitdir: ../m/x\n");
    fs::remove_dir_all(at.join("d")).unwrap();
    symlink("/", at.join("d")).unwrap();
    zero(&at.join(".gitmodules"));
    scene.write("e/f", "changed\n");
    let look = scene.look().await.unwrap();
    let seen = ["d", "d/b", "d/c", "e/f", "new"];
    assert_eq!(
        look.files.iter().map(|it| it.path.clone()).collect::<Vec<_>>(),
        seen.map(|it| it.as_bytes().to_vec())
    );
    // What git reads on its way is refused.
    for name in [".gitattributes", ".gitignore", "deep/er/.gitattributes", "deep/.gitignore"] {
        let path = at.join(name);
        fifo(&path);
        let failure = scene.look().await.unwrap_err();
        assert!(matches!(failure, Failure::Told { code: Code::CheckoutConflict, .. }), "{failure}");
        fs::remove_file(&path).unwrap();
    }
}

/// The checkout's own configuration would run a program, hide files, and send git elsewhere.
#[tokio::test(flavor = "multi_thread")]
async fn a_hostile_git_directory_is_not_obeyed() {
    let scene = Scene::new(base);
    let at = scene.checkout();
    let mark = scene.root.path().join("mark");
    let touch = format!("touch {}; cat", mark.display());
    for (key, value) in [
        ("filter.evil.clean", touch.as_str()),
        ("filter.evil.required", "true"),
        ("core.fsmonitor", touch.as_str()),
        ("core.worktree", "/etc"),
        ("core.hooksPath", "hooks"),
        ("core.excludesFile", ".git/info/exclude"),
        ("diff.evil.textconv", touch.as_str()),
        ("diff.external", touch.as_str()),
    ] {
        git(&at, &["config", "--file", ".git/config", key, value]);
    }
    write(&at, ".git/info/exclude", "*\n");
    write(&at, ".git/info/attributes", "* filter=evil diff=evil -diff\n");
    scene.write(".gitattributes", "* filter=evil diff=evil\n");
    scene.write("new", "1\n");
    scene.write("a", "changed\n");
    let look = scene.look().await.unwrap();
    let expected =
        [(".gitattributes", Status::Added), ("a", Status::Modified), ("new", Status::Added)];
    assert_eq!(names(&look.files), expected.map(|(name, status)| (name.to_owned(), status)));
    assert!(!mark.exists());
    // The control: plain git obeys it.
    let _ = Command::new("git")
        .args(["-C", at.to_str().unwrap(), "--work-tree=.", "add", "a"])
        .output();
    assert!(mark.exists());
}

/// An agent exchanges what an object of the base contains, so that its change would not show.
#[tokio::test(flavor = "multi_thread")]
async fn forged_objects_do_not_hide_a_change() {
    let scene = Scene::new(base);
    let at = scene.checkout();
    scene.write("a", "evil\n");
    let (old, new) = (git(&at, &["rev-parse", "HEAD:a"]), git(&at, &["hash-object", "-w", "a"]));
    let object = |id: &str| at.join(".git/objects").join(&id[..2]).join(&id[2..]);
    for pack in fs::read_dir(at.join(".git/objects/pack")).unwrap().flatten() {
        let kept = scene.root.path().join(pack.file_name());
        fs::rename(pack.path(), &kept).unwrap();
        if kept.extension() == Some("pack".as_ref()) {
            let mut unpack = Command::new("git");
            unpack
                .args(["unpack-objects", "-q"])
                .current_dir(&at)
                .stdin(fs::File::open(&kept).unwrap());
            run(&mut unpack);
        }
    }
    let _ = fs::remove_file(object(&old));
    fs::create_dir_all(object(&old).parent().unwrap()).unwrap();
    fs::copy(object(&new), object(&old)).unwrap();
    // The control: plain git takes the one for the other.
    let plain = git(&at, &["cat-file", "-p", "HEAD:a"]);
    assert_eq!(plain, "evil");
    let look = scene.look().await.unwrap();
    assert!(String::from_utf8_lossy(&look.patch).contains("-1\n-2\n-3\n+evil\n"), "{look:?}");
    // Without a mirror there is nothing to compare with, and that is said.
    fs::remove_dir_all(scene.workspace.mirrors()).unwrap();
    scene.look().await.unwrap_err();
}
