//! Objects that well-behaved tools do not write.

use contract::Code;

use crate::{
    kind::{End, Expect, Kind},
    upstream::{isolated, run},
};

const INVALID: Expect = Expect::BothFail(Code::RepositoryInvalid);

/// A commit whose author and committer are written like this.
async fn who(row: &'static str, who: &str) {
    let kind = Kind::simple(row);
    let commit = |kind: &Kind| {
        let tree = kind.up.git(&["rev-parse", "HEAD^{tree}"]);
        let parent = kind.up.git(&["rev-parse", "HEAD"]);
        let text = format!("tree {tree}\nparent {parent}\nauthor {who}\ncommitter {who}\n\nx\n");
        let commit = kind.up.object("commit", text.as_bytes());
        kind.up.point("refs/heads/main", &commit);
    };
    commit(&kind);
    kind.clones(Expect::Same).await;
    commit(&kind);
    kind.update(Expect::Same).await;
    // And on with an ordinary one.
    kind.up.commit_files(&[("a", "newer\n")]);
    kind.update(Expect::Same).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn authors() {
    who("author without e-mail", "T <> 1700000000 +0000").await;
    who("author without brackets", "T 1700000000 +0000").await;
    who("author without a time", "T <t@example.com>").await;
    who("time that overflows", "T <t@example.com> 99999999999999999999999 +0000").await;
    who("time before 1970", "T <t@example.com> -1700000000 +0000").await;
    who("time zone of 51 hours", "T <t@example.com> 1700000000 +51800").await;
    who("brackets within", "T <t <a@b>@example.com> 1700000000 +0000").await;
}

/// A tree with this entry beside a good one.
async fn tree(row: &'static str, mode: &str, name: &[u8], expect: Expect) {
    let kind = Kind::new(row);
    let blob = kind.up.object("blob", b"x\n");
    let object = if mode == "40000" {
        kind.up.tree_object(&[("100644", b"in", &blob)])
    } else {
        blob.clone()
    };
    let mut entries = [("100644", &b"good"[..], &*blob), (mode, name, &*object)];
    entries.sort_by_key(|entry| entry.1);
    let tree = kind.up.tree_object(&entries);
    kind.up.commit_tree(&tree);
    kind.clones(expect).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn trees() {
    tree("tree entry ..", "100644", b"..", INVALID).await;
    tree("tree entry ../x", "100644", b"../x", INVALID).await;
    tree("tree entry .", "40000", b".", INVALID).await;
    tree("tree entry .git", "40000", b".git", INVALID).await;
    tree("tree entry .GIT", "40000", b".GIT", INVALID).await;
    tree("tree entry git~1", "40000", b"git~1", INVALID).await;
    // git takes it where it does not protect the Mac's file system; we always do.
    let expect = Expect::OursFails(Code::RepositoryInvalid);
    tree("tree entry .g\\u200cit", "40000", ".g\u{200c}it".as_bytes(), expect).await;
    tree("tree entry d/e", "100644", b"d/e", Expect::Ends).await;
    tree("mode 664", "100664", b"x", Expect::Same).await;
    tree("mode 0100644", "0100644", b"x", Expect::Same).await;
    tree("mode 100600", "100600", b"x", Expect::Same).await;
    tree("entry of the same name", "100644", b"good", Expect::Ends).await;
    tree("entry .gitmodules that is a link", "120000", b".gitmodules", Expect::Ends).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bad_tree_that_comes_with_an_update() {
    let kind = Kind::new("tree entry .. comes with an update");
    let blob = kind.up.object("blob", b"x\n");
    let good = kind.up.tree_object(&[("100644", b"good", &blob)]);
    kind.up.commit_tree(&good);
    kind.clones(Expect::Same).await;
    let bad = kind.up.tree_object(&[("100644", b"..", &blob), ("100644", b"good", &blob)]);
    kind.up.commit_tree(&bad);
    kind.update(INVALID).await;
    // Once it is repaired upstream, the next pull succeeds.
    kind.up.commit_tree(&good);
    kind.update(Expect::Same).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn missing_objects() {
    let kind = Kind::simple("missing blob");
    let blob = kind.up.git(&["rev-parse", "HEAD:a"]);
    std::fs::remove_file(kind.up.directory.join("objects").join(&blob[..2]).join(&blob[2..]))
        .unwrap();
    kind.clones(Expect::Ends).await;
    let kind = Kind::new("blob that is nowhere");
    let tree = kind.up.tree_object(&[("100644", b"x", &"1".repeat(40))]);
    kind.up.commit_tree(&tree);
    kind.clones(Expect::Ends).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn sha_256() {
    let kind = Kind::new("SHA-256");
    std::fs::remove_dir_all(&kind.up.directory).unwrap();
    let mut init = isolated("git", 30);
    init.args(["init", "--quiet", "--bare", "--initial-branch=main", "--object-format=sha256"]);
    run(init.arg(&kind.up.directory));
    kind.up.commit_files(&[("a", "1\n")]);
    kind.same(|up| {
        up.commit_files(&[("a", "2\n")]);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_shallow_upstream() {
    let kind = Kind::simple("shallow upstream");
    for number in 0..5 {
        kind.up.commit_files(&[("a", &format!("{number}\n"))]);
    }
    let full = kind.up.directory.with_extension("full");
    std::fs::rename(&kind.up.directory, &full).unwrap();
    let mut clone = isolated("git", 30);
    clone.args(["clone", "--quiet", "--bare", "--depth=2"]);
    run(clone.arg(format!("file://{}", full.display())).arg(&kind.up.directory));
    kind.same(|up| {
        up.commit_files(&[("a", "newer\n")]);
    })
    .await;
    // What comes from the mirror that is there knows where the history ends, too.
    let ours = kind.our_pull("third").await;
    assert!(matches!(ours, End::Checkout(_)), "{ours:#}");
    for (directory, commits) in [("repo", "3"), ("second", "2"), ("third", "3")] {
        let checkout = kind.ours().with_file_name(directory);
        let git = |arguments: &[&str]| crate::support::git(&checkout, arguments);
        assert_eq!(git(&["rev-list", "--count", "HEAD"]), commits, "{directory}");
        git(&["fsck", "--full", "--strict"]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_large_blob_over_and_over() {
    let kind = Kind::new("100 MB of zeros, many times over");
    let blob = kind.up.object("blob", &vec![0; 100 << 20]);
    let names: Vec<String> = (0..200).map(|number| format!("f{number:03}")).collect();
    let entries: Vec<_> = names.iter().map(|it| ("100644", it.as_bytes(), &*blob)).collect();
    let tree = kind.up.tree_object(&entries);
    kind.up.commit_tree(&tree);
    // 20 GB of files: over GIT_CHECKOUT_LIMIT_MIB. git would write them all, so it is not asked.
    let ours = kind.our_pull("repo").await;
    kind.note(format!("clone: ours {ours}"));
    assert!(matches!(ours, End::Failed(Some(_), _)), "{ours:#}");
    assert!(!kind.ours().exists());
    // The same with an update.
    kind.up.git(&["update-ref", "-d", "refs/heads/main"]);
    kind.up.commit_files(&[("a", "1\n")]);
    let ours = kind.our_pull("repo").await;
    assert!(matches!(ours, End::Checkout(_)), "{ours:#}");
    let before = crate::support::snapshot(&kind.ours());
    kind.up.commit_tree(&tree);
    let ours = kind.our_pull("repo").await;
    kind.note(format!("update: ours {ours}"));
    assert!(matches!(ours, End::Failed(Some(Code::GitFailed), _)), "{ours:#}");
    assert!(crate::support::snapshot(&kind.ours()) == before);
}
