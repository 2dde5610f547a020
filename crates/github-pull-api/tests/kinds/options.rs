//! What a request can ask for beside a branch, and what it does not get without asking.

use std::fs;

use contract::Code;
use serde_json::json;

use crate::{
    kind::{End, Expect, Kind, Look},
    support::git,
    upstream::{Upstream, isolated},
};

/// Another repository on the same server, with one commit.
fn another(kind: &Kind, name: &str) -> Upstream {
    kind.server.create_empty_repo(name);
    let up = Upstream::new(kind.server.path(name), kind.root.path().join(format!("tree-{name}")));
    up.commit_files(&[("inner", "1\n")]);
    up
}

/// Commits the submodule `name` at `path` of `up`, at the last commit of `module`.
fn add_submodule(up: &Upstream, path: &str, url: &str, module: &Upstream) {
    let commit = module.git(&["rev-parse", "HEAD"]);
    let modules = up.tree.join(".gitmodules");
    let mut text = fs::read_to_string(&modules).unwrap_or_default();
    if !text.contains(path) {
        text += &format!("[submodule \"{path}\"]\n\tpath = {path}\n\turl = {url}\n");
    }
    fs::write(&modules, text).unwrap();
    fs::create_dir_all(up.tree.join(path)).unwrap();
    up.git(&["add", ".gitmodules"]);
    up.git(&["update-index", "--add", "--cacheinfo", &format!("160000,{commit},{path}")]);
    up.git(&["commit", "--quiet", "--message", "submodule"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn submodules_that_are_not_asked_for() {
    let kind = Kind::simple("submodules, not asked for");
    let lib = another(&kind, "lib");
    add_submodule(&kind.up, "lib", "../lib", &lib);
    kind.same(|up| {
        lib.commit_files(&[("inner", "2\n")]);
        add_submodule(up, "lib", "../lib", &lib);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn submodules() {
    let mut kind = Kind::simple("submodules: relative, recursive");
    let (lib, deep) = (another(&kind, "lib"), another(&kind, "deep"));
    add_submodule(&lib, "vendor/deep", "../deep", &deep);
    add_submodule(&kind.up, "lib", "../lib", &lib);
    kind.clone = vec!["--recurse-submodules".into()];
    kind.pull = ["pull", "--ff-only", "--recurse-submodules"].map(str::to_owned).to_vec();
    kind.request = json!({"submodules": true});
    kind.same(|up| {
        deep.commit_files(&[("inner", "2\n"), ("more", "1\n")]);
        add_submodule(&lib, "vendor/deep", "../deep", &deep);
        add_submodule(up, "lib", "../lib", &lib);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn submodules_that_lead_elsewhere() {
    for (row, url) in [
        ("submodule of scheme ext::", "ext::sh -c touch% /tmp/owned"),
        ("submodule in a file", "file:///etc"),
        ("submodule at another address", "http://127.9.9.9:1/lib"),
        ("submodule of an option", "-u./x"),
    ] {
        let mut kind = Kind::simple(row);
        let lib = another(&kind, "lib");
        add_submodule(&kind.up, "lib", url, &lib);
        kind.clone = vec!["--recurse-submodules".into()];
        kind.scene.config.policy = contract::Policy::default();
        kind.scene.config.connector.policy.networks = vec!["127.0.0.1/32".parse().unwrap()];
        kind.request = json!({"submodules": true});
        let ours = kind.our_pull("repo").await;
        kind.note(format!("clone: ours {ours}"));
        match &ours {
            End::Failed(Some(code), _) if *code != Code::Internal => {}
            other => panic!("{row}: {other:#}"),
        }
        assert!(!kind.ours().exists(), "{row}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_first_clone_of_some_depth() {
    let mut kind = Kind::simple("depth: 2");
    for number in 0..5 {
        kind.up.commit_files(&[("a", &format!("{number}\n"))]);
    }
    kind.clone = ["--depth=2", "--no-single-branch"].map(str::to_owned).to_vec();
    kind.request = json!({"depth": 2});
    kind.clones(Expect::Same).await;
    kind.up.commit_files(&[("a", "newer\n")]);
    kind.update(Expect::Ends).await;
    assert_eq!(fs::read(kind.ours().join("a")).unwrap(), b"newer\n");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_branch_from_before_the_depth() {
    for (row, later) in [
        ("depth: 2, then an old branch", json!({"depth": 2})),
        ("depth: 2, then an old branch and no depth", json!({})),
    ] {
        let mut kind = Kind::simple(row);
        let root = kind.up.git(&["rev-parse", "HEAD"]);
        for number in 0..5 {
            kind.up.commit_files(&[("a", &format!("{number}\n"))]);
        }
        kind.request = json!({"depth": 2});
        let End::Checkout(_) = kind.our_pull("repo").await else { panic!("{row}: no clone") };
        kind.up.git(&["branch", "old", &root]);
        kind.up.on("old").commit_files(&[("a", "old\n"), ("b", "1\n")]);
        kind.up.on("main").commit_files(&[("a", "newer\n")]);
        kind.request = later;
        let ours = kind.our_pull("repo").await;
        kind.note(format!("update: ours {ours}"));
        let End::Checkout(_) = ours else { panic!("{row}: {ours:#}") };
        assert_eq!(fs::read(kind.ours().join("a")).unwrap(), b"newer\n");
        git(&kind.ours(), &["fsck", "--connectivity-only"]);
        git(&kind.ours(), &["rev-list", "--objects", "--all"]);
        assert_eq!(git(&kind.ours(), &["show", "origin/old:b"]), "1");
        kind.request["branch"] = "old".into();
        let ours = kind.our_pull("repo").await;
        let End::Checkout(_) = ours else { panic!("{row}: {ours:#}") };
        assert_eq!(fs::read(kind.ours().join("a")).unwrap(), b"old\n");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_first_clone_without_blobs() {
    let mut kind = Kind::simple("filter: blob:none");
    kind.up.git(&["config", "uploadpack.allowFilter", "true"]);
    kind.up.git(&["config", "uploadpack.allowAnySHA1InWant", "true"]);
    for number in 0..5 {
        kind.up.commit_files(&[("a", &format!("{number}\n"))]);
    }
    kind.request = json!({"filter": "blob:none"});
    let ours = kind.our_pull("repo").await;
    kind.note(format!("clone: ours {ours}"));
    let End::Checkout(look) = ours else { panic!("{ours:#}") };
    assert!(look.has("a"));
    kind.up.commit_files(&[("a", "newer\n")]);
    let End::Checkout(_) = kind.our_pull("repo").await else { panic!("no update") };
    assert_eq!(fs::read(kind.ours().join("a")).unwrap(), b"newer\n");
    assert_eq!(git(&kind.ours(), &["status", "--porcelain"]), "");
    assert_eq!(git(&kind.ours(), &["log", "--format=%H"]).lines().count(), 7);
}

/// A history of six commits, and a branch at the third of them.
fn history(row: &'static str) -> Kind {
    let kind = Kind::simple(row);
    kind.up.git(&["config", "uploadpack.allowFilter", "true"]);
    kind.up.git(&["config", "uploadpack.allowAnySHA1InWant", "true"]);
    for number in 0..5 {
        kind.up.commit_files(&[("a", &format!("{number}\n"))]);
    }
    kind.up.git(&["branch", "old", "HEAD~3"]);
    kind
}

#[tokio::test(flavor = "multi_thread")]
async fn old_files_of_a_clone_without_blobs() {
    for later in [json!({"filter": "blob:none"}), json!({})] {
        let mut kind = history("filter: blob:none, then old files");
        kind.request = json!({"filter": "blob:none"});
        let End::Checkout(_) = kind.our_pull("repo").await else { panic!("no clone") };
        kind.request = later.clone();
        // A branch that it knows, whose files it does not have; then a commit with an old file.
        kind.request["branch"] = "old".into();
        let ours = kind.our_pull("repo").await;
        kind.note(format!("an old branch: ours {ours}"));
        let End::Checkout(_) = ours else { panic!("{later}: {ours:#}") };
        assert_eq!(fs::read(kind.ours().join("a")).unwrap(), b"1\n");
        kind.up.commit_files(&[("a", "0\n"), ("new", "1\n")]);
        kind.request = later.clone();
        kind.request["branch"] = "main".into();
        let ours = kind.our_pull("repo").await;
        kind.note(format!("a commit with an old file: ours {ours}"));
        let End::Checkout(_) = ours else { panic!("{later}: {ours:#}") };
        assert_eq!(fs::read(kind.ours().join("a")).unwrap(), b"0\n");
        assert_eq!(git(&kind.ours(), &["status", "--porcelain"]), "");
        git(&kind.ours(), &["fsck"]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn options_of_a_first_clone_with_an_update() {
    for options in [json!({"depth": 1}), json!({"filter": "blob:none"})] {
        let mut kind = history("depth or filter with an update");
        kind.clones(Expect::Same).await;
        for number in 0..5 {
            kind.up.commit_files(&[("a", &format!("newer {number}\n"))]);
        }
        kind.request = options.clone();
        kind.update(Expect::Same).await;
        git(&kind.ours(), &["rev-list", "--objects", "--all"]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn reset() {
    let mut kind = Kind::simple("force-pushed, reset: true");
    kind.up.commit_files(&[("a", "2\n"), ("gone", "1\n")]);
    kind.clones(Expect::Same).await;
    fs::write(kind.ours().join("mine"), "mine\n").unwrap();
    git(&kind.ours(), &["add", "mine"]);
    git(&kind.ours(), &["commit", "-q", "-m", "mine"]);
    let mine = git(&kind.ours(), &["rev-parse", "HEAD"]);
    kind.up.git(&["reset", "--hard", "--quiet", "HEAD^"]);
    let commit = kind.up.commit_files(&[("a", "other\n")]);
    kind.request = json!({"reset": true});
    let ours = kind.our_pull("repo").await;
    kind.note(format!("update: ours {ours}"));
    let End::Checkout(look) = ours else { panic!("{ours:#}") };
    assert_eq!(look, Look::at(&kind.ours()));
    assert!(!look.has("mine") && !look.has("gone"));
    assert_eq!(git(&kind.ours(), &["rev-parse", "HEAD"]), commit);
    assert_eq!(git(&kind.ours(), &["status", "--porcelain"]), "");
    let kept = git(&kind.ours(), &["for-each-ref", "--format=%(objectname)", "refs/wip"]);
    assert_eq!(kept, mine);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_force_push_removed_is_in_no_new_checkout() {
    let kind = Kind::simple("secret removed by a force push");
    let secret = kind.up.git_with_input(&["hash-object", "--stdin"], b"pa55word\n");
    kind.up.commit_files(&[("secret", "pa55word\n")]);
    kind.clones(Expect::Same).await;
    kind.up.git(&["reset", "--hard", "--quiet", "HEAD^"]);
    kind.up.commit_files(&[("a", "clean\n")]);
    kind.clones_into(["fresh", "fresher"], Expect::Same).await;
    for directory in ["fresh", "fresher"] {
        let mut command = isolated("git", 30);
        command.arg("-C").arg(kind.scene.path(directory)).args(["cat-file", "-e", &secret]);
        assert!(!command.output().unwrap().status.success(), "{directory} has it");
    }
}
