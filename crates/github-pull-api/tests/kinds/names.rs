//! Names of branches and files.

use std::{fs, os::unix::fs::PermissionsExt as _};

use contract::Code;

use crate::kind::{Expect, Kind, bytes};

/// A branch of this name, asked for by name.
async fn branch(row: &'static str, name: &str) {
    let kind = Kind::simple(row);
    kind.up.on(name).commit_files(&[("a", "branch\n")]);
    kind.up.default_branch("main");
    let kind = kind.branch(name);
    kind.same(|up| {
        up.on(name).commit_files(&[("a", "newer\n")]);
    })
    .await;
}

macro_rules! branches {
    ($($test:ident: $name:literal,)*) => { $(
        #[tokio::test(flavor = "multi_thread")]
        async fn $test() {
            branch(concat!("branch ", $name), $name).await;
        }
    )* };
}

branches! {
    branch_hash: "feature/#123",
    branch_semicolon: "semi;colon",
    branch_quote: "fix-\"quote",
    branch_refs_heads: "refs/heads/x",
    branch_at: "@",
    branch_unicode: "ünïcode",
    branch_shell: "a$(id)&b",
    branch_percent: "a%2fb",
}

#[tokio::test(flavor = "multi_thread")]
async fn a_default_branch_of_an_odd_name() {
    let kind = Kind::simple("default branch fix-\"quote#;");
    kind.up.on("fix-\"quote#;").commit_files(&[("a", "branch\n")]);
    kind.same(|up| {
        up.commit_files(&[("a", "newer\n")]);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_branch_in_latin_1_beside() {
    let kind = Kind::simple("branch caf\\xe9 beside");
    let commit = kind.up.git(&["rev-parse", "HEAD"]);
    kind.up.point(b"refs/heads/caf\xe9", &commit);
    kind.up.point(b"refs/tags/caf\xe9-1", &commit);
    kind.same(|up| {
        let commit = up.commit_files(&[("a", "newer\n")]);
        up.point(b"refs/heads/caf\xe9", &commit);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_branch_that_becomes_a_directory_of_branches() {
    let mut kind = Kind::simple("branch a, later a/b");
    kind.up.git(&["branch", "a"]);
    kind.clones(Expect::Same).await;
    kind.up.git(&["branch", "-D", "a"]);
    kind.up.git(&["branch", "a/b"]);
    kind.up.commit_files(&[("a", "newer\n")]);
    // git has to be told to prune first.
    kind.pull.push("--prune".into());
    kind.update(Expect::Same).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tag_and_a_branch_of_one_name() {
    let kind = Kind::simple("tag v1 and branch v1");
    kind.up.git(&["tag", "v1"]);
    kind.up.on("v1").commit_files(&[("a", "branch\n")]);
    kind.up.default_branch("main");
    let kind = kind.branch("v1");
    kind.same(|up| {
        up.on("v1").commit_files(&[("a", "newer\n")]);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn files_of_every_byte() {
    let kind = Kind::new("file names of every byte");
    for byte in (1..=255_u8).filter(|byte| *byte != b'/') {
        kind.up.write(bytes(&[b'x', byte]), [byte]);
        kind.up.write(bytes(&[b'd', byte, b'/', byte, b'x']), [byte, byte]);
    }
    for name in [&b"-x"[..], b" ", b"--", b"a b ", b":x", b"\\", b"\"", b"con", b"a\nb", b"~1"] {
        kind.up.write(bytes(name), name);
    }
    kind.up.commit();
    kind.same(|up| {
        for byte in (1..=255_u8).filter(|byte| *byte != b'/') {
            up.write(bytes(&[b'x', byte]), [byte, byte]);
        }
        up.commit();
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_component_that_is_too_long() {
    let kind = Kind::new("component of 256 bytes");
    let blob = kind.up.object("blob", b"x");
    let tree = kind.up.tree_object(&[("100644", "x".repeat(256).as_bytes(), &blob)]);
    kind.up.commit_tree(&tree);
    kind.clones(Expect::BothFail(Code::RepositoryInvalid)).await;
    let kind = Kind::simple("component of 256 bytes, with an update");
    kind.clones(Expect::Same).await;
    let blob = kind.up.object("blob", b"x");
    let tree = kind.up.tree_object(&[("100644", "x".repeat(256).as_bytes(), &blob)]);
    kind.up.commit_tree(&tree);
    kind.update(Expect::BothFail(Code::RepositoryInvalid)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rename_of_case_only() {
    let kind = Kind::new("case-only rename");
    kind.up.commit_files(&[("Readme", "1\n"), ("Dir/file", "1\n")]);
    kind.same(|up| {
        fs::rename(up.tree.join("Readme"), up.tree.join("README")).unwrap();
        fs::rename(up.tree.join("Dir"), up.tree.join("dir")).unwrap();
        up.commit();
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deep_path() {
    let kind = Kind::new("path of 3,000 bytes");
    let path = format!("{}/", "d".repeat(99)).repeat(30) + "f";
    kind.up.write(&path, "1\n");
    kind.up.commit();
    kind.same(|up| {
        up.write(&path, "2\n");
        up.commit();
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn modes_and_links() {
    let kind = Kind::simple("exec bits and links");
    kind.up.write("run", "#!/bin/sh\n");
    let executable = fs::Permissions::from_mode(0o755);
    fs::set_permissions(kind.up.tree.join("run"), executable.clone()).unwrap();
    std::os::unix::fs::symlink("a", kind.up.tree.join("link")).unwrap();
    std::os::unix::fs::symlink("../../outside", kind.up.tree.join("dangling")).unwrap();
    kind.up.commit();
    kind.same(|up| {
        fs::set_permissions(up.tree.join("run"), fs::Permissions::from_mode(0o644)).unwrap();
        fs::set_permissions(up.tree.join("a"), executable).unwrap();
        fs::remove_file(up.tree.join("link")).unwrap();
        std::os::unix::fs::symlink("d/b", up.tree.join("link")).unwrap();
        up.commit();
    })
    .await;
}
