//! Branches, tags and commits, and how they move.

use std::{fmt::Write as _, time::Instant};

use contract::Code;
use serde_json::json;

use crate::{
    kind::{End, Expect, Kind, disk_usage},
    support::git,
};

#[tokio::test(flavor = "multi_thread")]
async fn a_tag_for_the_branch() {
    for (row, arguments) in
        [("tag", &["tag", "v1"][..]), ("annotated tag", &["tag", "-a", "v1", "-m", "one"])]
    {
        let kind = Kind::simple(row);
        kind.up.git(arguments);
        kind.up.commit_files(&[("a", "newer\n")]);
        let kind = kind.branch("v1");
        kind.clones(Expect::Same).await;
        kind.up.commit_files(&[("a", "newest\n")]);
        let End::Checkout(look) = kind.our_pull("repo").await else { panic!("no checkout") };
        assert_eq!(look, crate::kind::Look::at(&kind.ours()));
        assert_eq!(std::fs::read(kind.ours().join("a")).unwrap(), b"1\n");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_commit_for_the_branch() {
    let mut kind = Kind::simple("commit");
    let commit = kind.up.git(&["rev-parse", "HEAD"]);
    kind.up.commit_files(&[("a", "newer\n")]);
    kind.checkout = Some(commit.clone());
    kind.request = json!({"branch": commit});
    kind.clones(Expect::Same).await;
    // It stays there, and goes on to another one that is asked for.
    let newer = kind.up.commit_files(&[("a", "newest\n")]);
    for (asked, content) in [(&commit, "1\n"), (&newer, "newest\n")] {
        kind.request = json!({"branch": asked});
        let ours = kind.our_pull("repo").await;
        kind.note(format!("update: ours {ours}"));
        assert!(matches!(ours, End::Checkout(_)), "{ours:#}");
        assert_eq!(git(&kind.ours(), &["rev-parse", "HEAD"]), *asked);
        assert_eq!(std::fs::read_to_string(kind.ours().join("a")).unwrap(), content);
        assert_eq!(git(&kind.ours(), &["status", "--porcelain"]), "");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_branch_that_is_not_there() {
    let kind = Kind::simple("branch that is not there").branch("nowhere");
    kind.clones(Expect::BothFail(Code::BranchNotFound)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn no_commit_at_all() {
    let kind = Kind::new("empty repository");
    kind.clones(Expect::OursFails(Code::EmptyRepository)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_default_branch_that_is_renamed() {
    let kind = Kind::simple("default branch renamed");
    kind.clones(Expect::Same).await;
    kind.up.git(&["branch", "--move", "main", "trunk"]);
    kind.up.default_branch("trunk");
    let commit = kind.up.commit_files(&[("a", "newer\n")]);
    // git fails; ours follows, or says so. It must not stay where it was in silence.
    match kind.our_pull("repo").await {
        End::Checkout(_) => assert_eq!(git(&kind.ours(), &["rev-parse", "HEAD"]), commit),
        End::Failed(Some(Code::BranchNotFound), _) => {}
        other => panic!("{other:#}"),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_head_that_leads_nowhere() {
    let kind = Kind::simple("HEAD that leads nowhere");
    kind.up.default_branch("nowhere");
    kind.clones(Expect::OursFails(Code::BranchNotFound)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_branch_beside_a_head_that_leads_nowhere() {
    let kind = Kind::simple("branch beside such a HEAD").branch("main");
    kind.up.default_branch("nowhere");
    kind.same(|up| {
        up.on("main").commit_files(&[("a", "newer\n")]);
        up.default_branch("nowhere");
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_detached_head_upstream() {
    let kind = Kind::simple("detached HEAD upstream");
    kind.up.git(&["checkout", "--quiet", "--detach"]);
    kind.up.commit_files(&[("a", "detached\n")]);
    kind.clones(Expect::Same).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_force_push() {
    let kind = Kind::simple("force-pushed");
    kind.up.commit_files(&[("a", "2\n")]);
    kind.clones(Expect::Same).await;
    kind.up.git(&["reset", "--hard", "--quiet", "HEAD^"]);
    kind.up.commit_files(&[("a", "other\n")]);
    kind.update(Expect::BothFail(Code::Diverged)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rewind() {
    let kind = Kind::simple("rewound");
    kind.up.commit_files(&[("a", "2\n")]);
    kind.clones(Expect::Same).await;
    kind.up.git(&["reset", "--hard", "--quiet", "HEAD^"]);
    // The commit that is gone upstream counts as one of the checkout's own, for git too.
    kind.update(Expect::Same).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn twenty_thousand_references() {
    let kind = Kind::simple("20,000 references");
    let commit = kind.up.git(&["rev-parse", "HEAD"]);
    let mut packed = String::from("# pack-refs with: peeled fully-peeled sorted \n");
    for number in 0..10_000 {
        writeln!(packed, "{commit} refs/heads/branch/{number:05}").unwrap();
    }
    writeln!(packed, "{commit} refs/heads/main").unwrap();
    for number in 0..10_000 {
        writeln!(packed, "{commit} refs/tags/tag-{number:05}").unwrap();
    }
    std::fs::write(kind.up.directory.join("packed-refs"), packed).unwrap();
    kind.clones(Expect::Same).await;
    kind.up.commit_files(&[("a", "newer\n")]);
    let start = Instant::now();
    kind.update(Expect::Same).await;
    let took = start.elapsed();
    kind.note(format!("both updates in {took:.1?}"));
    assert!(took.as_secs_f64() < 5.0, "{took:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn annotated_tags_are_not_sent_again() {
    let kind = Kind::simple("annotated tags, four updates");
    let mut noise = fastrand_bytes();
    for number in 0..10 {
        kind.up.write("noise", noise());
        kind.up.commit();
        kind.up.git(&["tag", "-a", &format!("v{number}"), "-m", "tag"]);
    }
    kind.clones(Expect::Same).await;
    for number in 0..4 {
        kind.up.commit_files(&[("a", &format!("{number} newer\n"))]);
        kind.update(Expect::Same).await;
    }
    let [theirs, ours] = [kind.theirs(), kind.ours()].map(|it| disk_usage(&it.join(".git")) >> 10);
    kind.note(format!(".git: git {theirs} KiB, ours {ours} KiB"));
    assert!(ours < theirs + theirs / 2, "{ours} KiB, git's has {theirs}");
}

/// 100 KB that do not compress, other ones each time.
fn fastrand_bytes() -> impl FnMut() -> Vec<u8> {
    let mut seed = 0x9e37_79b9_7f4a_7c15_u64;
    move || {
        let mut bytes = Vec::new();
        while bytes.len() < 100_000 {
            seed ^= seed << 13;
            seed ^= seed >> 7;
            seed ^= seed << 17;
            bytes.extend(seed.to_le_bytes());
        }
        bytes
    }
}
