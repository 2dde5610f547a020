//! Ways to a repository.

use std::fs;

use contract::Code;
use testkit::Fault;

use crate::{
    hosts::{self, Ssh},
    kind::{Expect, Kind},
    upstream::{Upstream, isolated},
};

fn newer(up: &Upstream) {
    up.commit_files(&[("a", "newer\n"), ("new/n", "1\n")]);
    up.git(&["tag", "later"]);
}

/// The directory of the repositories.
fn root(kind: &Kind) -> &std::path::Path {
    kind.up.directory.parent().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn smart_http() {
    Kind::simple("smart HTTP, protocol v2").same(newer).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn smart_http_of_version_0() {
    let kind = Kind::simple("smart HTTP, protocol v0");
    kind.server.set_old_protocol("app");
    kind.same(newer).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn dumb_http() {
    let mut kind = Kind::simple("dumb HTTP");
    kind.up.git(&["update-server-info"]);
    kind.url = format!("http://{}/app.git", hosts::files(root(&kind)));
    kind.same(|up| {
        newer(up);
        up.git(&["repack", "-a", "-d", "-q"]);
        up.git(&["update-server-info"]);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn git_daemon() {
    let mut kind = Kind::simple("git://");
    let address = hosts::daemon("127.0.0.1:0", root(&kind), &[]).unwrap();
    kind.url = format!("git://{address}/app.git");
    kind.same(newer).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_host_without_side_bands() {
    let mut kind = Kind::simple("git:// v0 without side-band, ofs-delta");
    let address = hosts::daemon(
        "127.0.0.1:0",
        root(&kind),
        &[
            (b"version=2", b"version=0"),
            (b" side-band side-band-64k ofs-delta", b" s1de-band s1de-band-64k o1s-delta"),
        ],
    );
    kind.url = format!("git://{}/app.git", address.unwrap());
    for number in 0..5 {
        let text = "line\n".repeat(1000) + &number.to_string();
        kind.up.commit_files(&[("large", &text)]);
    }
    kind.same(newer).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn ipv6() {
    let mut kind = Kind::simple("git:// by IPv6");
    let address = match hosts::daemon("[::1]:0", root(&kind), &[]) {
        Ok(address) => address,
        Err(error) => return testkit::skip("ipv6", &error.to_string()),
    };
    kind.url = format!("git://{address}/app.git");
    kind.same(newer).await;

    let mut kind = Kind::simple("HTTP by IPv6");
    let address = hosts::forward("[::1]:0", kind.server.address()).unwrap();
    kind.url = format!("http://{address}/app");
    kind.same(newer).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn percent_encoded_paths() {
    for (row, protocol) in [("git:// path 'my repo%41'", "git"), ("http path 'my repo%41'", "http")]
    {
        let mut kind = Kind::simple(row);
        let directory = root(&kind).join("my repo%41.git");
        fs::rename(&kind.up.directory, &directory).unwrap();
        kind.up.directory = directory;
        kind.up.git(&["update-server-info"]);
        let address = match protocol {
            "git" => hosts::daemon("127.0.0.1:0", root(&kind), &[]).unwrap(),
            _ => hosts::files(root(&kind)),
        };
        kind.url = format!("{protocol}://{address}/my%20repo%2541.git");
        kind.same(|up| {
            newer(up);
            up.git(&["update-server-info"]);
        })
        .await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_redirect_on_the_same_host() {
    let mut kind = Kind::simple("redirect on the same host");
    kind.server.set_fault("old", Fault::RedirectTo(kind.server.url("app")));
    kind.url = kind.server.url("old");
    kind.same(newer).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_redirect_to_another_host() {
    let mut kind = Kind::simple("redirect to another host");
    let port = kind.server.address().port();
    let other = format!("http://localhost:{port}/app");
    kind.server.set_fault("old", Fault::RedirectTo(other));
    kind.url = kind.server.url("old");
    kind.clones(Expect::OursFails(Code::RepositoryUnreachable)).await;
}

/// Uses `ssh` for both, at `url`.
fn by_ssh(kind: &mut Kind, ssh: &Ssh, url: String) {
    kind.url = url;
    kind.scene.config.ssh_key_file = Some(ssh.key.clone());
    kind.scene.config.ssh_known_hosts_file = Some(ssh.known_hosts.clone());
    let command = format!(
        "ssh -F /dev/null -i {} -o UserKnownHostsFile={} -o BatchMode=yes",
        ssh.key.display(),
        ssh.known_hosts.display()
    );
    kind.environment.push(("GIT_SSH_COMMAND".into(), command));
}

#[tokio::test(flavor = "multi_thread")]
async fn ssh() {
    let mut kind = Kind::simple("ssh://");
    let Some(ssh) = Ssh::start("ssh", "127.0.0.1:0", kind.root.path()) else { return };
    let path = kind.up.directory.display().to_string();
    by_ssh(&mut kind, &ssh, format!("ssh://{}@{}{path}", ssh.user, ssh.address));
    kind.same(newer).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn ssh_with_a_percent_encoded_path() {
    let mut kind = Kind::simple("ssh:// path with a space and %");
    let Some(ssh) = Ssh::start("ssh path", "127.0.0.1:0", kind.root.path()) else { return };
    let directory = kind.up.directory.with_file_name("a b%41");
    fs::rename(&kind.up.directory, &directory).unwrap();
    kind.up.directory = directory;
    let path = kind.up.directory.parent().unwrap().display().to_string();
    by_ssh(&mut kind, &ssh, format!("ssh://{}@{}{path}/a%20b%2541", ssh.user, ssh.address));
    kind.same(newer).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn ssh_in_the_short_form() {
    // This form has no port, and a server of the machine's may have port 22.
    const MARK: &str = "IN_A_NETWORK_OF_ITS_OWN";
    let has_ip = isolated("ip", 30).arg("-V").output().is_ok_and(|ip| ip.status.success());
    if std::env::var_os(MARK).is_none() && nix::unistd::geteuid().is_root() && has_ip {
        let mut command = isolated("unshare", 120);
        command.args(["--net", "sh", "-c", "ip link set lo up && exec \"$@\"", "sh"]);
        command.arg(std::env::current_exe().unwrap()).env(MARK, "1");
        command.args(["--exact", "transport::ssh_in_the_short_form", "--nocapture"]);
        command.envs(std::env::var_os("FORBID_SKIPS").map(|it| ("FORBID_SKIPS", it)));
        let output = tokio::task::block_in_place(|| command.output().unwrap());
        print!("{}", String::from_utf8_lossy(&output.stdout));
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        return;
    }
    for (row, address, is_absolute) in
        [("user@host:/path", "127.77.0.1:22", true), ("user@host:path", "127.77.0.2:22", false)]
    {
        let mut kind = Kind::simple(row);
        let Some(ssh) = Ssh::start(row, address, kind.root.path()) else { return };
        let mut path = kind.up.directory.display().to_string();
        if !is_absolute {
            let home = nix::unistd::User::from_uid(nix::unistd::geteuid()).unwrap().unwrap().dir;
            path = "../".repeat(home.components().count() - 1) + &path[1..];
        }
        by_ssh(&mut kind, &ssh, format!("{}@{}:{path}", ssh.user, ssh.address.ip()));
        kind.same(newer).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_ssh_host_that_is_not_known() {
    let mut kind = Kind::simple("ssh host that is not known");
    let Some(ssh) = Ssh::start("unknown host", "127.0.0.1:0", kind.root.path()) else { return };
    fs::write(&ssh.known_hosts, "").unwrap();
    let path = kind.up.directory.display().to_string();
    by_ssh(&mut kind, &ssh, format!("ssh://{}@{}{path}", ssh.user, ssh.address));
    kind.clones(Expect::BothFail(Code::AuthenticationFailed)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn addresses_that_are_not_public() {
    let mut kind = Kind::simple("address that is not allowed");
    kind.scene.config.connector.policy = github_pull_api::AddressPolicy::default();
    kind.clones(Expect::OursFails(Code::RepositoryUnreachable)).await;
    let daemon = hosts::daemon("127.0.0.1:0", root(&kind), &[]).unwrap();
    kind.url = format!("git://{daemon}/app.git");
    kind.clones_into(["git", "git2"], Expect::OursFails(Code::RepositoryUnreachable)).await;
    let Some(ssh) = Ssh::start("addresses", "127.0.0.1:0", kind.root.path()) else { return };
    let path = kind.up.directory.display().to_string();
    by_ssh(&mut kind, &ssh, format!("ssh://{}@{}{path}", ssh.user, ssh.address));
    kind.clones_into(["ssh", "ssh2"], Expect::OursFails(Code::RepositoryUnreachable)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn all_refused_and_unreachable_addresses_get_one_answer() {
    let mut kind = Kind::new("one answer for addresses");
    kind.scene.config.connector.policy.networks = vec!["127.0.0.1/32".parse().unwrap()];
    let closed = testkit::free_port();
    let mut sentences = Vec::new();
    for host in [format!("127.0.0.1:{closed}"), "127.9.9.9".into(), "nowhere.invalid".into()] {
        for scheme in ["http", "https", "git"] {
            let url = format!("{scheme}://{host}/app");
            let outcome = kind.scene.pull(&url).await;
            let sentence = outcome.failed(Code::RepositoryUnreachable);
            sentences.push(sentence.replace(&url, "URL"));
        }
    }
    sentences.dedup();
    assert_eq!(sentences.len(), 1, "{sentences:#?}");
}
