//! The operator's settings.

use std::{
    fs,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
};

use boot::Settings;
use contract::Policy;

use crate::{Credential, Isolation, MessagesUrl, TimeLimits};

/// Where programs are searched for if `PATH` is not set.
const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// The default of `JOB_PROCESSES`.
const DEFAULT_PROCESSES: u32 = 1024;

/// The allowed range. The CLI alone has about 30 threads, and a build needs many more.
const PROCESSES: std::ops::RangeInclusive<u32> = 64..=1_000_000;

/// How agents are run.
#[derive(Clone, Debug)]
pub struct Config {
    /// The CLI: `CLAUDE_BIN`, or else `claude` on the `PATH`. `None` if there is no such program.
    pub claude_bin: Option<PathBuf>,
    /// The credential for the Messages API. Without one, the CLI reports that it is not logged in.
    pub credential: Option<Credential>,
    /// `ANTHROPIC_BASE_URL`: another Messages API.
    pub base_url: Option<MessagesUrl>,
    /// `AGENT_KEY`: how an agent reaches the Messages API.
    pub agent_key: AgentKey,
    /// `TRUST_REPOSITORY_SETTINGS`: use the repository's own hooks, servers and settings. They run programs and can
    /// redirect the credential.
    pub trust_repository_settings: bool,
    /// What callers may ask for.
    pub policy: Policy,
    /// `JOB_PROCESSES`: the maximum number of processes and threads of an agent and its descendants.
    pub processes: u32,
    /// The time limits of a run.
    pub time_limits: TimeLimits,
    /// What agents can reach.
    pub isolation: Isolation,
    /// The agent's `PATH`: this process's own.
    pub path: String,
    /// `TMPDIR`: where each agent gets a private directory. It should be on a local disk.
    pub temporary: PathBuf,
}

/// How an agent reaches the Messages API.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AgentKey {
    /// Through this replica, which keeps the credential.
    Endpoint,
    /// By itself, with the credential.
    Direct,
}

impl AgentKey {
    const EXPECTED: &str = "endpoint or direct";
}

impl std::str::FromStr for AgentKey {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        match text {
            "endpoint" => Ok(Self::Endpoint),
            "direct" => Ok(Self::Direct),
            _ => Err(()),
        }
    }
}

impl Config {
    /// Reads the settings of this service.
    pub fn read(settings: &mut Settings<'_>) -> Self {
        let path = settings.text("PATH").unwrap_or_else(|| DEFAULT_PATH.to_owned());
        let claude_bin = match settings.text("CLAUDE_BIN") {
            // The agent works in another directory, so the path must not be relative.
            Some(file) if file.contains('/') => {
                Some(std::path::absolute(&file).unwrap_or_else(|_| file.into()))
            }
            Some(name) => find(&name, &path).or_else(|| Some(name.into())),
            None => find("claude", &path),
        };
        let isolation = Isolation::read(settings);
        Self {
            claude_bin,
            credential: Credential::read(settings),
            base_url: settings.optional("ANTHROPIC_BASE_URL", MessagesUrl::EXPECTED),
            agent_key: settings.or("AGENT_KEY", AgentKey::Endpoint, AgentKey::EXPECTED),

            trust_repository_settings: settings.flag("TRUST_REPOSITORY_SETTINGS"),
            policy: boot::read_policy(settings),
            processes: processes(settings),
            time_limits: TimeLimits {
                silence: settings.seconds("SILENCE_TIMEOUT_SECONDS", 900),
                ..TimeLimits::default()
            },
            isolation,
            path,
            temporary: settings.text("TMPDIR").map_or_else(|| "/tmp".into(), PathBuf::from),
        }
    }

    /// Why jobs will fail, and how to fix it, for the log of a starting replica. The replica starts anyway: it can
    /// answer requests, and each job fails with the same message.
    #[must_use]
    pub fn preflight(&self) -> Vec<String> {
        let mut said = self.isolation.preflight();
        match &self.claude_bin {
            None => said.push(no_agent("it is not on the PATH")),
            Some(file) if !is_executable(file) => {
                said.push(no_agent(&format!("{} is not an executable file", file.display())));
            }
            Some(_) => {}
        }
        match &self.credential {
            None => said.push(
                "there is no credential for the Messages API: set ANTHROPIC_API_KEY, \
                 CLAUDE_CODE_CREDENTIALS_SECRET or CLAUDE_CODE_CREDENTIALS_JSON"
                    .to_owned(),
            ),
            Some(credential) if credential.is_expired() => said.push(
                "the OAuth token has expired: set a long-lived one (claude setup-token) or an API key"
                    .to_owned(),
            ),
            Some(_) => {}
        }
        if self.runs_agents_as_root() && !self.isolation.is_sandbox {
            said.push(REFUSES_ROOT.to_owned());
        }
        said
    }

    /// Whether agents run as root, because the operator wants it or permits it.
    #[must_use]
    pub fn runs_agents_as_root(&self) -> bool {
        let isolation = &self.isolation;
        let has_none = isolation.user.user().is_none() && isolation.refusal_of_user().is_none();
        nix::unistd::geteuid().is_root() && has_none
    }
}

impl Config {
    /// The directories of `PATH`, that of the CLI, and that of what it is a link to. A directory that contains the
    /// user's home is left out: of the CLI, only the file remains.
    pub(crate) fn programs(&self) -> Vec<PathBuf> {
        let homes = self.isolation.homes();
        let is_home = |directory: &Path| {
            let real = directory.canonicalize();
            let directory = real.as_deref().unwrap_or(directory);
            directory.parent().is_none() || homes.iter().any(|home| home.starts_with(directory))
        };
        let mut programs: Vec<PathBuf> = self.path.split(':').map(PathBuf::from).collect();
        programs.retain(|directory| directory.is_absolute());
        if let Some(file) = &self.claude_bin {
            let real = file.canonicalize();
            for file in [Some(file), real.as_ref().ok()].into_iter().flatten() {
                programs.push(file.clone());
                programs.extend(file.parent().map(Path::to_owned));
            }
        }
        programs.retain(|path| !is_home(path));
        programs
    }
}

/// Why running as root is refused, for the log and for callers.
pub(crate) const REFUSES_ROOT: &str = "the Claude Code CLI refuses to skip permissions as root: run this service \
    as another user, give agents one of their own (unset AGENT_USER), or set IS_SANDBOX=1 if this machine is a sandbox";

/// The error for a missing CLI.
pub(crate) fn no_agent(why: &str) -> String {
    format!(
        "the Claude Code CLI cannot be started ({why}): install it with `npm install -g \
         @anthropic-ai/claude-code`, or set CLAUDE_BIN to its path"
    )
}

fn processes(settings: &mut Settings<'_>) -> u32 {
    const NAME: &str = "JOB_PROCESSES";
    const EXPECTED: &str = "a whole number of processes from 64 to 1000000, such as 1024";
    let processes = settings.or(NAME, DEFAULT_PROCESSES, EXPECTED);
    if !PROCESSES.contains(&processes) {
        settings.problem(NAME, &format!("must be {EXPECTED}"));
    }
    processes
}

fn find(name: &str, path: &str) -> Option<PathBuf> {
    path.split(':')
        .filter(|directory| directory.starts_with('/'))
        .map(|directory| Path::new(directory).join(name))
        .find(|file| is_executable(file))
}

fn is_executable(file: &Path) -> bool {
    fs::metadata(file).is_ok_and(|meta| meta.is_file() && meta.permissions().mode() & 0o111 != 0)
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use super::*;

    fn read(pairs: &[(&str, &str)]) -> (Config, Vec<String>) {
        let env: HashMap<_, _> =
            pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
        let mut settings = Settings::new(&env);
        let config = Config::read(&mut settings);
        (config, settings.finish().err().map(|error| error.problems).unwrap_or_default())
    }

    #[test]
    fn the_cli_is_found_on_the_path_or_by_its_variable() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("claude");
        fs::write(&file, "").unwrap();
        let path = format!("relative:/nonexistent:{}", directory.path().display());
        let bin = |pairs: &[(&str, &str)]| read(pairs).0.claude_bin;
        assert_eq!(bin(&[("PATH", &path)]), None, "it is not executable");
        fs::set_permissions(&file, fs::Permissions::from_mode(0o755)).unwrap();
        assert_eq!(bin(&[("PATH", &path)]), Some(file));
        assert_eq!(bin(&[("PATH", &path), ("CLAUDE_BIN", "/x/y")]), Some("/x/y".into()));
        let named = bin(&[("PATH", &path), ("CLAUDE_BIN", "./y")]).unwrap();
        assert!(named.is_absolute() && named.ends_with("y"));
    }

    #[test]
    fn preflight_reports_what_is_missing_and_how_to_fix_it() {
        let (config, problems) = read(&[("PATH", "/nonexistent")]);
        assert!(problems.is_empty());
        let preflight = |config: &Config| {
            let mut said = config.preflight();
            // This depends on the kernel.
            said.retain(|line| !line.contains("AGENT_ISOLATION"));
            said
        };
        let said = preflight(&config);
        assert!(said[0].contains("npm install -g @anthropic-ai/claude-code"), "{said:?}");
        assert!(said[1].contains("CLAUDE_CODE_CREDENTIALS_SECRET"), "{said:?}");
        let about_root = |said: &[String]| said.iter().any(|line| line.contains("IS_SANDBOX=1"));
        assert_eq!(about_root(&said), config.runs_agents_as_root());
        let mut config = config;
        config.isolation.user = boot::AgentUser::Own;
        assert_eq!(about_root(&preflight(&config)), nix::unistd::geteuid().is_root());

        let (config, _) =
            read(&[("CLAUDE_BIN", "/bin/sh"), ("ANTHROPIC_API_KEY", "k"), ("IS_SANDBOX", "1")]);
        assert_eq!(preflight(&config), Vec::<String>::new());
        assert_eq!(config.processes, 1024);
    }

    #[test]
    fn invalid_settings_are_reported() {
        let (config, problems) = read(&[
            ("ANTHROPIC_BASE_URL", "api.example.org"),
            ("IS_SANDBOX", "perhaps"),
            ("SILENCE_TIMEOUT_SECONDS", "x"),
            ("JOB_PROCESSES", "10"),
        ]);
        assert_eq!(config.time_limits, TimeLimits::default());
        assert_eq!(problems.len(), 4, "{problems:?}");
    }
}
