//! Files in Git LFS, with the real git-lfs on both sides.

use std::{fs, os::unix::fs::symlink, path::Path};

use contract::Code;
use serde_json::json;
use testkit::GitServer;

use crate::{
    kind::{End, Expect, Kind},
    replica,
    support::git,
    upstream::{isolated, run},
};

const ATTRIBUTES: &str = "*.bin filter=lfs diff=lfs merge=lfs -text\n";

/// A repository with files in LFS that both pull; `None`, with a word about it, without git-lfs.
fn kind(name: &'static str) -> Option<Kind> {
    if !isolated("git", 30).args(["lfs", "version"]).output().unwrap().status.success() {
        testkit::skip(name, "there is no git-lfs (Debian: git-lfs)");
        return None;
    }
    if !child_process::is_port_confinement_available() {
        testkit::skip(name, "this kernel has no Landlock for ports");
        return None;
    }
    let mut kind = Kind::simple(name);
    kind.up.write(".gitattributes", ATTRIBUTES);
    put(&kind, "a.bin", b"one\n");
    put(&kind, "d/b.bin", &[7; 100_000]);
    kind.up.commit();
    kind.clone = ["process=git-lfs filter-process", "clean=git-lfs clean -- %f", "required=true"]
        .map(|setting| format!("--config=filter.lfs.{setting}"))
        .to_vec();
    kind.our_url = Some(in_words(&kind.url));
    kind.request = json!({"lfs": true});
    Some(kind)
}

/// The URL with a name for its host: git-lfs uses no proxy for `127.0.0.1` and `localhost`.
fn in_words(url: &str) -> String {
    url.replacen("127.0.0.1", "localhost.", 1)
}

/// Has `content` in LFS and its pointer at `path`, not committed yet.
fn put(kind: &Kind, path: &str, content: &[u8]) {
    let file = kind.root.path().join("content");
    fs::write(&file, content).unwrap();
    let pointer = run(isolated("git", 30).args(["lfs", "pointer", "--file"]).arg(file)).stdout;
    let pointer = String::from_utf8(pointer).unwrap();
    let id = pointer.lines().find_map(|line| line.strip_prefix("oid sha256:")).unwrap();
    kind.server.put_lfs("app", id, content.to_vec());
    kind.up.write(path, &pointer);
}

fn read(kind: &Kind, path: &str) -> Vec<u8> {
    fs::read(kind.ours().join(path)).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn files_in_lfs() {
    let Some(kind) = kind("files in LFS") else { return };
    kind.clones(Expect::Same).await;
    assert_eq!(read(&kind, "a.bin"), b"one\n");
    put(&kind, "a.bin", b"two\n");
    put(&kind, "new.bin", &[9; 2_000_000]);
    fs::remove_file(kind.up.tree.join("d/b.bin")).unwrap();
    kind.up.commit();
    kind.update(Expect::Same).await;
    assert_eq!(read(&kind, "a.bin"), b"two\n");
    // What the checkout has is what a commit made there keeps in LFS.
    fs::write(kind.ours().join("mine.bin"), "mine\n").unwrap();
    git(&kind.ours(), &["add", "mine.bin"]);
    assert!(git(&kind.ours(), &["show", ":mine.bin"]).starts_with("version https://git-lfs"));
}

#[tokio::test(flavor = "multi_thread")]
async fn changes_of_ones_own() {
    let Some(kind) = kind("files in LFS, changed here") else { return };
    kind.clones(Expect::Same).await;
    kind.both(|it| fs::write(it.join("d/b.bin"), "mine\n").unwrap());
    put(&kind, "a.bin", b"two\n");
    kind.up.commit();
    kind.update(Expect::Same).await;
    put(&kind, "d/b.bin", b"theirs\n");
    kind.up.commit();
    kind.update(Expect::BothFail(Code::CheckoutConflict)).await;
    assert_eq!(read(&kind, "d/b.bin"), b"mine\n");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_login() {
    let Some(mut kind) = kind("files in LFS behind a login") else { return };
    kind.server.set_auth("app", "me", "pa55word");
    kind.url = kind.server.url_with_credentials("app", "me", "pa55word");
    kind.our_url = Some(in_words(&kind.url));
    kind.clones(Expect::Same).await;
    put(&kind, "a.bin", b"two\n");
    kind.up.commit();
    kind.update(Expect::Same).await;
    let left = crate::support::files_with(kind.scene.workspace.root(), "pa55word");
    assert_eq!(left, [] as [std::path::PathBuf; 0]);
}

#[tokio::test(flavor = "multi_thread")]
async fn files_at_another_host() {
    let Some(kind) = kind("files in LFS at another host") else { return };
    let storage = GitServer::start().await;
    let base =
        |host: &str| format!("http://{host}:{}/app.git/info/lfs/objects", storage.address().port());
    let pointer = kind.up.git(&["show", "HEAD:a.bin"]);
    let id = pointer.lines().find_map(|line| line.strip_prefix("oid sha256:")).unwrap();
    storage.put_lfs("app", id, "one\n");
    kind.up.git(&["rm", "--quiet", "d/b.bin"]);
    kind.up.commit();
    // `127.1` is neither the host of the repository nor one that git-lfs knows to be loopback.
    kind.server.move_lfs("app", &base("127.1"));
    let ours = kind.our_pull("repo").await;
    kind.note(format!("clone: ours {ours}"));
    assert!(matches!(ours, End::Checkout(_)), "{ours:#}");
    assert_eq!(read(&kind, "a.bin"), b"one\n");
}

#[tokio::test(flavor = "multi_thread")]
async fn addresses_that_are_not_allowed() {
    let Some(mut kind) = kind("files in LFS at addresses that are not allowed") else { return };
    let storage = GitServer::start().await;
    let port = storage.address().port();
    kind.scene.config.connector.policy.networks = vec!["127.0.0.1/32".parse().unwrap()];
    // The second and third would be reached without a proxy.
    for host in ["127.9.9.9.", "127.0.0.1", "localhost", "[::1]"] {
        kind.server.move_lfs("app", &format!("http://{host}:{port}/app.git/info/lfs/objects"));
        let ours = kind.our_pull("repo").await;
        kind.note(format!("{host}: ours {ours}"));
        assert!(matches!(ours, End::Failed(Some(code), _) if code != Code::Internal), "{ours:#}");
        assert!(!kind.ours().exists());
        kind.scene.assert_clean();
    }
    assert_eq!(storage.requests("app"), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn servers_that_a_repository_names() {
    for (url, expected) in [
        ("file:///etc", Code::RepositoryInvalid),
        ("ext::sh", Code::RepositoryInvalid),
        ("http://10.255.255.1:1/lfs", Code::RepositoryUnreachable),
    ] {
        let Some(mut kind) = kind(".lfsconfig") else { return };
        kind.scene.config.policy = contract::Policy::default();
        kind.scene.config.connector.policy.networks = vec!["127.0.0.1/32".parse().unwrap()];
        kind.up.commit_files(&[(".lfsconfig", &format!("[lfs]\n\turl = {url}\n"))]);
        let ours = kind.our_pull("repo").await;
        kind.note(format!("{url}: ours {ours}"));
        assert!(matches!(ours, End::Failed(Some(code), _) if code == expected), "{url}: {ours:#}");
    }
    let Some(kind) = kind(".lfsconfig of the usual server, files left out") else { return };
    let url = format!("{}.git/info/lfs", in_words(&kind.url));
    let config = format!("[lfs]\n\turl = {url}\n\tfetchexclude = *\n");
    kind.up.commit_files(&[(".lfsconfig", &config)]);
    let ours = kind.our_pull("repo").await;
    kind.note(format!("clone: ours {ours}"));
    assert!(matches!(ours, End::Checkout(_)), "{ours:#}");
    assert_eq!(read(&kind, "a.bin"), b"one\n");
}

#[tokio::test(flavor = "multi_thread")]
async fn too_large_and_missing() {
    let Some(mut kind) = kind("files in LFS that are too large, or not there") else { return };
    kind.scene.config.checkout_limit = 1 << 20;
    put(&kind, "large.bin", &vec![1; 2 << 20]);
    kind.up.commit();
    let ours = kind.our_pull("repo").await;
    kind.note(format!("too large: ours {ours}"));
    let End::Failed(Some(Code::GitFailed), said) = &ours else { panic!("{ours:#}") };
    assert!(said.contains("GIT_CHECKOUT_LIMIT_MIB"), "{said}");

    kind.scene.config.checkout_limit = 100 << 20;
    let missing = "1".repeat(64);
    let pointer =
        format!("version https://git-lfs.github.com/spec/v1\noid sha256:{missing}\nsize 9\n");
    kind.up.commit_files(&[("large.bin", &pointer)]);
    let ours = kind.our_pull("repo").await;
    kind.note(format!("missing: ours {ours}"));
    assert!(matches!(ours, End::Failed(Some(Code::GitFailed), _)), "{ours:#}");
    assert!(!kind.ours().exists());
}

#[tokio::test(flavor = "multi_thread")]
async fn without_git_lfs() {
    let mut kind = Kind::simple("LFS without git-lfs");
    let id = "4665a5ea423c2713d436b5ee50593a9640e0018c1550b5a0002f74190d6caea8";
    let pointer = format!("version https://git-lfs.github.com/spec/v1\noid sha256:{id}\nsize 12\n");
    kind.up.commit_files(&[(".gitattributes", ATTRIBUTES), ("large.bin", &pointer)]);
    // git alone, on a PATH of its own.
    let programs = kind.root.path().join("programs");
    fs::create_dir(&programs).unwrap();
    let path = std::env::var_os("PATH").unwrap();
    for name in ["git", "timeout"] {
        let found = std::env::split_paths(&path).map(|it| it.join(name)).find(|it| it.exists());
        symlink(found.unwrap(), programs.join(name)).unwrap();
    }
    let environment = vec![
        ("PATH", programs.display().to_string()),
        ("GIT_ALLOWED_HOSTS", "127.0.0.1".to_owned()),
    ];
    kind.replica = Some(environment.clone());
    kind.request = json!({"lfs": true});
    kind.clones(Expect::Same).await;
    let body = json!({"repoUrl": kind.url, "directory": "third", "lfs": true});
    let root: &Path = kind.scene.workspace.root();
    let run = replica::run(root, &environment, &body).await;
    let messages: Vec<_> =
        run.events.iter().filter_map(|event| event["message"].as_str()).collect();
    let told = messages.iter().filter(|message| message.contains("git-lfs is not installed"));
    assert_eq!(told.count(), 1, "{messages:?}");
}
