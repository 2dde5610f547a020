//! The configurations in docs/PROXIES.md, with the addresses and paths of a test.

use std::path::Path;

use contract::Service;

const PAGE: &str = include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/PROXIES.md"));

/// The name by which callers know the stack on that page.
pub(crate) const HOST: &str = "agents.example.org";

/// The token that the configurations on that page demand.
pub(crate) const TOKEN: &str = "CHANGE-ME";

/// The proxies on that page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    HaProxy,
    Caddy,
    Nginx,
}

impl Kind {
    pub(crate) const ALL: [Self; 3] = [Self::HaProxy, Self::Caddy, Self::Nginx];

    /// The program, and the language of the block that contains its configuration.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::HaProxy => "haproxy",
            Self::Caddy => "caddy",
            Self::Nginx => "nginx",
        }
    }

    fn block(self) -> &'static str {
        let language = if self == Self::Caddy { "caddyfile" } else { self.name() };
        let (_, rest) = PAGE.split_once(&format!("\n```{language}\n")).expect("its block");
        rest.split_once("```").expect("the end of its block").0
    }
}

/// Where a proxy listens, what is behind it, and where its files are.
pub(crate) struct Placement<'a> {
    pub(crate) port: u16,
    /// The gateway's port.
    pub(crate) behind: u16,
    /// Contains `cert.pem`, `key.pem` and `both.pem`.
    pub(crate) files: &'a Path,
}

/// The configuration of a proxy. `changes` are replaced in it, for a control.
pub(crate) fn configuration(kind: Kind, at: &Placement<'_>, changes: &[(&str, &str)]) -> String {
    let mut text = kind.block().to_owned();
    for (from, to) in changes {
        replace(&mut text, from, to);
    }
    let address = |port| format!("127.0.0.1:{port}");
    replace(&mut text, &address(Service::Workflow.default_port()), &address(at.behind));
    let (port, file) = (at.port, |name: &str| at.files.join(name).display().to_string());
    let (certificate, key) = (file("cert.pem"), file("key.pem"));
    match kind {
        Kind::HaProxy => {
            replace(&mut text, "bind :443", &format!("bind 127.0.0.1:{port}"));
            replace(&mut text, "/etc/haproxy/agents.pem", &file("both.pem"));
        }
        Kind::Caddy => {
            // `localhost` is for stackctl, which cannot be told the address of a name.
            let site = format!("{HOST}:{port}, localhost:{port} {{\n\tbind 127.0.0.1\n");
            replace(&mut text, &format!("{HOST} {{\n"), &site);
            replace(&mut text, "/etc/caddy/agents.crt", &certificate);
            replace(&mut text, "/etc/caddy/agents.key", &key);
            // No port for commands, and no authority of its own among those that this machine trusts.
            text = text.replacen("{\n", "{\n\tadmin off\n\tskip_install_trust\n", 1);
        }
        Kind::Nginx => {
            replace(&mut text, "listen 443", &format!("listen 127.0.0.1:{port}"));
            replace(&mut text, "/etc/nginx/agents.crt", &certificate);
            replace(&mut text, "/etc/nginx/agents.key", &key);
        }
    }
    text
}

fn replace(text: &mut String, from: &str, to: &str) {
    assert!(text.contains(from), "docs/PROXIES.md does not contain {from:?}");
    *text = text.replace(from, to);
}
