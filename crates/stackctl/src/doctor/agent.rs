//! What agents need: the CLI, a credential, and a user that may run it.

use std::{
    os::unix::fs::chown,
    path::{Path, PathBuf},
    process::Stdio,
    time::{Duration, SystemTime},
};

use boot::SystemUser;
use child_process::{Gid, Guest, Signal, Uid};
use claude_code_api::{Config, Credential};
use tokio::io::AsyncReadExt as _;

use super::finding::Finding;

/// The version this stack is tested with.
const TESTED: &str =
    include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/claude-code.version"));

/// How long the CLI may take to say its version.
const ANSWER_TIME: Duration = Duration::from_secs(15);

/// The variables that hold a credential, in the order in which they are read.
pub(super) const CREDENTIALS: [&str; 4] = [
    "CLAUDE_CODE_CREDENTIALS_SECRET",
    "CLAUDE_CODE_CREDENTIALS_JSON",
    "ANTHROPIC_API_KEY",
    "CLAUDE_CODE_OAUTH_TOKEN",
];

/// The CLI, as it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Cli {
    /// Not on the `PATH`.
    Absent,
    /// It cannot be started or it failed, for this reason.
    Broken(PathBuf, String),
    /// It was not started, because no home directory could be created for it, for this reason.
    Unasked(PathBuf, String),
    /// It printed this as its version.
    Says(PathBuf, String),
}

impl Cli {
    /// Asks for its version.
    pub(super) async fn look(config: &Config) -> Self {
        let Some(path) = config.claude_bin.clone() else { return Self::Absent };
        let home = match tempfile::tempdir_in(&config.temporary) {
            Ok(home) => home,
            Err(error) => return Self::Unasked(path, error.kind().to_string()),
        };
        let user = config.isolation.user.user();
        if let Some(user) = user
            && let Err(error) = chown(home.path(), Some(user.uid), Some(user.gid))
        {
            return Self::Unasked(path, error.kind().to_string());
        }
        let asked = version(&path, &config.path, home.path(), user);
        match tokio::time::timeout(ANSWER_TIME, asked).await {
            Ok(Ok(said)) => Self::Says(path, said),
            Ok(Err(why)) => Self::Broken(path, why),
            Err(_) => {
                Self::Broken(path, format!("it did not answer within {} s", ANSWER_TIME.as_secs()))
            }
        }
    }
}

/// Runs it as a replica would: as the agents' user, with nothing of this process's environment but the `PATH`, and a home of
/// its own.
async fn version(
    program: &Path,
    path: &str,
    home: &Path,
    user: Option<&SystemUser>,
) -> Result<String, String> {
    let told = |error: std::io::Error| error.to_string();
    let guest = match user {
        Some(user) => Guest::new(program).user(Uid::from_raw(user.uid), Gid::from_raw(user.gid)),
        None => Guest::new(program),
    };
    let mut child = guest
        .args(["--version"])
        .env("PATH", path)
        .env("HOME", home)
        .env("CLAUDE_CONFIG_DIR", home)
        .env("DISABLE_AUTOUPDATER", "1")
        .cwd(home)
        .stdout(Stdio::piped())
        .die_with_parent(Signal::SIGKILL)
        .spawn()
        .await
        .map_err(told)?;
    let mut said = Vec::new();
    if let Some(stdout) = child.take_stdout() {
        stdout.take(1000).read_to_end(&mut said).await.map_err(told)?;
    }
    let status = child.wait().await.map_err(told)?;
    let said = String::from_utf8_lossy(&said).trim().to_owned();
    if status.success() { Ok(said) } else { Err(format!("`--version` ended with {status}")) }
}

pub(super) fn cli(cli: &Cli) -> Finding {
    const NAME: &str = "Claude Code CLI";
    let tested = TESTED.trim();
    let install = format!("npm install -g @anthropic-ai/claude-code@{tested}");
    match cli {
        Cli::Absent => Finding::missing(
            NAME,
            "there is no `claude` on the PATH",
            format!("{install}\nor set CLAUDE_BIN to where it is"),
        ),
        Cli::Broken(path, why) => Finding::missing(
            NAME,
            format!("{} cannot be used: {why}", path.display()),
            format!("{install}\nor set CLAUDE_BIN to where it is"),
        ),
        Cli::Unasked(path, why) => Finding::unknown(
            NAME,
            format!(
                "{} was not started: cannot create a temporary directory for it: {why}",
                path.display()
            ),
        ),
        Cli::Says(path, said) => {
            let found = format!("{said}, {}", path.display());
            match (numbers(said), numbers(tested)) {
                _ if path
                    .file_name()
                    .is_some_and(|name| name == claude_stand_in::rehearsal::NAME) =>
                {
                    Finding::ok(NAME, found)
                }
                (Some(has), Some(tested)) if has >= tested => Finding::ok(NAME, found),
                _ => Finding::advice(NAME, format!("{found}; tested with {tested}"), install),
            }
        }
    }
}

/// Major and minor version of `2.1.197 (Claude Code)`.
fn numbers(said: &str) -> Option<(u32, u32)> {
    let mut parts = said.split_whitespace().next()?.split('.');
    Some((parts.next()?.parse().ok()?, parts.next()?.parse().ok()?))
}

/// `source` is the variable it comes from; `problem` what is wrong with that, without the secret.
pub(super) fn credential(
    credential: Option<&Credential>,
    source: Option<&str>,
    problem: Option<&str>,
    now: SystemTime,
) -> Finding {
    const NAME: &str = "credential";
    const SET: &str = "export ANTHROPIC_API_KEY=sk-ant-…";
    const RENEW: &str = "export CLAUDE_CODE_OAUTH_TOKEN=…  (a long-lived one: claude setup-token)";
    let source = source.unwrap_or("the environment");
    if let Some(problem) = problem {
        return Finding::missing(NAME, problem, SET);
    }
    let expires_at = match credential {
        None => {
            return Finding::missing(
                NAME,
                "there is none in the environment",
                format!("{SET}\nor {RENEW}"),
            );
        }
        Some(Credential::ApiKey(_)) => {
            return Finding::ok(NAME, format!("an API key in {source}"));
        }
        Some(Credential::OAuthToken { expires_at, .. }) => expires_at.map(Duration::from_millis),
    };
    let Some(end) = expires_at else {
        return Finding::ok(NAME, format!("an OAuth token in {source}"));
    };
    let now = now.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    match end.checked_sub(now).map(|left| left.as_secs() / 3600) {
        None => Finding::missing(NAME, format!("the OAuth token in {source} has expired"), RENEW),
        Some(hours @ 0..24) => Finding::advice(
            NAME,
            format!(
                "the OAuth token in {source} expires within {} h, and the stack does not renew it",
                hours + 1
            ),
            RENEW,
        ),
        Some(hours) => {
            Finding::ok(NAME, format!("an OAuth token in {source}, good for {} days", hours / 24))
        }
    }
}

/// As root, the CLI refuses to skip permission prompts. Agents are root only if the operator wants it.
pub(super) fn user(uid: u32, is_sandbox: bool, are_agents_root: bool) -> Finding {
    const NAME: &str = "user";
    match (uid, is_sandbox) {
        (0, _) if !are_agents_root => Finding::ok(NAME, "root, but agents are not"),
        (0, false) => Finding::missing(
            NAME,
            "root, and the CLI refuses to skip permission prompts as root",
            "run as another user, unset AGENT_USER, or, if this machine is for agents only: export IS_SANDBOX=1",
        ),
        (0, true) => Finding::ok(NAME, "root, in a sandbox (IS_SANDBOX)"),
        _ => Finding::ok(NAME, format!("uid {uid}")),
    }
}

/// A replica does not start with invalid settings.
pub(super) fn settings(problems: &[String]) -> Finding {
    const NAME: &str = "settings";
    if problems.is_empty() {
        Finding::ok(NAME, "all variables are valid")
    } else {
        Finding::missing(NAME, problems.join("; "), "correct these variables, or unset them")
    }
}

#[cfg(test)]
mod tests {
    use std::{fs, os::unix::fs::PermissionsExt as _};

    use boot::Secret;

    use super::{
        super::finding::State::{Advice, Missing, Ok as Fine},
        *,
    };

    #[test]
    fn the_cli_is_there_or_not() {
        let path = PathBuf::from("/usr/bin/claude");
        let says = |said: &str| cli(&Cli::Says(path.clone(), said.into()));
        assert_eq!(says("2.1.197 (Claude Code)").state, Fine);
        assert_eq!(says("3.0.0").found, "3.0.0, /usr/bin/claude");
        assert_eq!((says("1.0.128").state, says("hello").state), (Advice, Advice));
        let rehearsal = Cli::Says("/x/claude-rehearsal".into(), "0.1.0 (x)".into());
        assert_eq!(cli(&rehearsal).state, Fine);
        for lack in [Cli::Absent, Cli::Broken(path, "no".into())] {
            let finding = cli(&lack);
            assert_eq!(finding.state, Missing);
            assert!(finding.fix.unwrap().starts_with("npm install -g @anthropic-ai/claude-code@2"));
        }
    }

    #[tokio::test]
    async fn the_cli_is_asked() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("claude");
        let env: std::collections::HashMap<String, String> = [
            ("CLAUDE_BIN".to_owned(), file.to_str().unwrap().to_owned()),
            ("PATH".to_owned(), "/usr/bin:/bin".to_owned()),
        ]
        .into();
        let config = Config::read(&mut boot::Settings::new(&env));
        assert!(matches!(Cli::look(&config).await, Cli::Broken(..)));
        let script = |text: &str| {
            fs::write(&file, format!("#!/bin/sh\n{text}\n")).unwrap();
            fs::set_permissions(&file, fs::Permissions::from_mode(0o755)).unwrap();
        };
        script("echo \"$1 $ANTHROPIC_API_KEY\"");
        assert_eq!(Cli::look(&config).await, Cli::Says(file.clone(), "--version".into()));
        script("exit 3");
        let Cli::Broken(_, why) = Cli::look(&config).await else { panic!("it failed") };
        assert!(why.contains("exit status: 3"), "{why}");
        let nowhere = Config { temporary: directory.path().join("gone"), ..config.clone() };
        assert!(matches!(Cli::look(&nowhere).await, Cli::Unasked(..)));
        let config = Config { claude_bin: None, ..config };
        assert_eq!(Cli::look(&config).await, Cli::Absent);
    }

    #[test]
    fn every_kind_of_credential() {
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000);
        let of = |it: Option<Credential>| credential(it.as_ref(), Some("X"), None, now);
        let token = |end: Option<u64>| {
            let expires_at = end.map(|seconds| seconds * 1000);
            of(Some(Credential::OAuthToken { token: Secret::new("s3cret".into()), expires_at }))
        };
        let key = of(Some(Credential::ApiKey(Secret::new("s3cret".into()))));
        assert_eq!((key.state, &*key.found), (Fine, "an API key in X"));
        assert_eq!(token(None), Finding::ok("credential", "an OAuth token in X"));
        assert_eq!(token(Some(999_999)).state, Missing);
        assert_eq!(token(Some(1_003_601)).state, Advice);
        assert!(token(Some(1_003_601)).found.contains("within 2 h"));
        assert_eq!(token(Some(1_200_000)).found, "an OAuth token in X, good for 2 days");
        assert_eq!(of(None).state, Missing);
        assert!(of(None).fix.unwrap().contains("ANTHROPIC_API_KEY"));
        let problem = credential(None, Some("X"), Some("X: must be"), now);
        assert_eq!((problem.state, &*problem.found), (Missing, "X: must be"));
        assert!(!format!("{key:?}{:?}", token(None)).contains("s3cret"));
    }

    #[test]
    fn root_needs_to_say_so() {
        assert_eq!([user(0, false, true).state, user(0, true, true).state], [Missing, Fine]);
        assert_eq!([user(0, false, false).state, user(0, true, false).state], [Fine; 2]);
        assert_eq!(user(1000, false, false), Finding::ok("user", "uid 1000"));
    }

    #[test]
    fn invalid_settings() {
        assert_eq!(settings(&[]).state, Fine);
        let finding = settings(&["A: bad".into(), "B: bad".into()]);
        assert_eq!((finding.state, &*finding.found), (Missing, "A: bad; B: bad"));
    }
}
