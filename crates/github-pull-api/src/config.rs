//! What an operator sets.

use std::{path::PathBuf, time::Duration};

use boot::{Secret, Settings, SystemUser};
use contract::{Policy, RepoUrl, Scheme};

use crate::{
    app::{AppRepository, GitHubApp},
    connector::ConnectorSettings,
    deliver::DeliverSettings,
    remote::without_port,
};

/// The settings of a pull.
#[derive(Clone, Debug)]
pub struct Config {
    /// What callers may ask for.
    pub policy: Policy,
    /// For the hosts of [`credential_hosts`](Self::credential_hosts), where a URL has no credentials.
    pub token: Option<Secret>,
    /// For repositories at those of the hosts of [`credential_hosts`](Self::credential_hosts) where GitHub runs, before the token.
    pub app: Option<GitHubApp>,
    /// The hosts the token and the GitHub App are for, each with its port if that is not the scheme's own.
    pub credential_hosts: Vec<String>,
    /// The private key for ssh. Without it there is no ssh.
    pub ssh_key_file: Option<PathBuf>,
    /// The host keys that ssh accepts, in OpenSSH's format. Without it there is no ssh.
    pub ssh_known_hosts_file: Option<PathBuf>,
    /// How long a git host may send next to nothing.
    pub stall: Duration,
    /// How long git's work on this machine may go on without progress.
    pub local_patience: Duration,
    /// How much memory each process of git may address, in bytes.
    pub memory: u64,
    /// How large the files of a checkout may be together, in bytes.
    pub checkout_limit: u64,
    /// How git reaches the network.
    pub connector: ConnectorSettings,
    /// What is delivered, and how.
    pub deliver: DeliverSettings,
    /// Who agents run as. What a killed replica has left in their hands is taken back.
    pub agent_user: Option<SystemUser>,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            policy: Policy::default(),
            token: None,
            app: None,
            credential_hosts: vec!["github.com".into()],
            ssh_key_file: None,
            ssh_known_hosts_file: None,
            stall: Duration::from_secs(60),
            local_patience: Duration::from_secs(120),
            memory: 2048 << 20,
            checkout_limit: 10_240 << 20,
            connector: ConnectorSettings::default(),
            deliver: DeliverSettings::default(),
            agent_user: None,
        }
    }
}

impl Config {
    /// Reads the settings; what is wrong with them is noted in `settings`.
    pub fn read(settings: &mut Settings<'_>) -> Self {
        let mut config = Self { policy: boot::read_policy(settings), ..Self::default() };
        config.token = settings.secret("GITHUB_TOKEN_SECRET", "GITHUB_TOKEN");
        config.app = GitHubApp::read(settings);
        if let Some(hosts) = settings.list("GIT_CREDENTIAL_HOSTS") {
            config.credential_hosts = hosts.iter().map(|host| host.to_ascii_lowercase()).collect();
        }
        config.ssh_key_file = file(settings, "SSH_KEY_FILE");
        config.ssh_known_hosts_file = file(settings, "SSH_KNOWN_HOSTS_FILE");
        config.stall = settings.seconds("GIT_STALL_SECONDS", config.stall.as_secs());
        config.local_patience =
            settings.seconds("GIT_LOCAL_SECONDS", config.local_patience.as_secs());
        let mut mib = |name: &str, default: u64| {
            let mib: u64 = settings.or(name, default >> 20, "whole MiB, such as 2048");
            if !(64..=1 << 30).contains(&mib) {
                settings.problem(name, "must be a number of MiB from 64 on, such as 2048");
            }
            mib.clamp(64, 1 << 30) << 20
        };
        config.memory = mib("GIT_MEMORY_MIB", config.memory);
        config.checkout_limit = mib("GIT_CHECKOUT_LIMIT_MIB", config.checkout_limit);
        config.connector = ConnectorSettings::read(settings);
        config.deliver = DeliverSettings::read(settings);
        config.agent_user = boot::read_owner_of_leftovers(settings);
        config
    }

    /// Whether credentials of ours are for this host, which has its port if that is not the scheme's own.
    pub(crate) fn is_credential_host(&self, host: &str) -> bool {
        self.credential_hosts.iter().any(|it| it == host)
    }

    /// The GitHub App, and what `repo` is called at its host, if it is one of its hosts.
    pub(crate) fn app_for(&self, repo: &RepoUrl) -> Option<(&GitHubApp, AppRepository)> {
        let app = self.app.as_ref()?;
        let host = match repo.scheme() {
            Scheme::Http | Scheme::Https => repo.host(),
            Scheme::Ssh => without_port(repo.host()),
            Scheme::Git | Scheme::File => return None,
        };
        let repository = self.deliver.forges.github(repo)?;
        self.is_credential_host(host).then_some((app, repository))
    }
}

/// A path to a file that can be read now: a typing error stops the start, not a job.
fn file(settings: &mut Settings<'_>, name: &str) -> Option<PathBuf> {
    let path = PathBuf::from(settings.text(name)?);
    if let Err(error) = std::fs::File::open(&path) {
        settings.problem(name, &format!("cannot read {}: {error}", path.display()));
    }
    Some(path)
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use contract::FileRepositories;

    use super::*;

    fn read(variables: &[(&str, &str)]) -> (Config, Result<(), boot::InvalidSettings>) {
        let env: HashMap<String, String> =
            variables.iter().map(|&(name, value)| (name.to_owned(), value.to_owned())).collect();
        let mut settings = Settings::new(&env);
        let config = Config::read(&mut settings);
        (config, settings.finish())
    }

    #[test]
    fn defaults() {
        let (config, problems) = read(&[]);
        assert_eq!(problems, Ok(()));
        assert_eq!(config.policy.file_repositories, FileRepositories::Refused);
        assert_eq!(config.credential_hosts, ["github.com"]);
        assert_eq!(config.stall, Duration::from_secs(60));
        assert!(config.token.is_none());
    }

    #[test]
    fn the_file_of_the_token_comes_before_its_value() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), "from-file\n").unwrap();
        let (config, problems) = read(&[
            ("GITHUB_TOKEN_SECRET", file.path().to_str().unwrap()),
            ("GITHUB_TOKEN", "from-variable"),
            ("GIT_CREDENTIAL_HOSTS", "Git.Example.com:8443, github.com"),
            ("ALLOW_FILE_REPOSITORIES", "1"),
            ("GIT_STALL_SECONDS", "5"),
        ]);
        assert_eq!(problems, Ok(()));
        assert_eq!(config.token.as_ref().map(Secret::expose), Some("from-file"));
        assert_eq!(config.credential_hosts, ["git.example.com:8443", "github.com"]);
        assert_eq!(config.policy.file_repositories, FileRepositories::Allowed);
        assert_eq!(config.stall, Duration::from_secs(5));
        assert!(!format!("{config:?}").contains("from-"));
    }

    #[test]
    fn what_is_wrong_is_named() {
        let (_, problems) = read(&[
            ("SSH_KEY_FILE", "/nonexistent"),
            ("GIT_STALL_SECONDS", "soon"),
            ("GIT_ALLOWED_NETWORKS", "10/8"),
            ("HTTPS_PROXY", "https://user:pa55@proxy:1"),
        ]);
        let problems = problems.unwrap_err().problems;
        assert!(
            problems[2].starts_with("GIT_ALLOWED_NETWORKS: cannot read '10/8'"),
            "{problems:?}"
        );
        assert!(problems[3].starts_with("HTTPS_PROXY: use the URL"), "{problems:?}");
        assert!(!problems[3].contains("pa55"), "{problems:?}");
        assert!(problems[0].starts_with("SSH_KEY_FILE: cannot read"), "{problems:?}");
        assert!(problems[1].starts_with("GIT_STALL_SECONDS: "), "{problems:?}");
    }
}
