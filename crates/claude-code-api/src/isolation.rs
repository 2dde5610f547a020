//! What an agent can reach, as the operator has set it and as this machine can enforce it.

mod closed;
mod sockets;
mod user;

use std::{
    io,
    path::{Component, Path, PathBuf},
};

use boot::{AgentUser, ChosenBy, Settings};
use child_process::{Confinement, Enforcement, UnixSockets};
use contract::Code;

use crate::refusal::Refusal;
use closed::{homes_below, resolved, without};
pub(crate) use user::{HandedOver, as_user};
pub use user::{Obstacle, Trial};

const ISOLATION: &str = "AGENT_ISOLATION";
const READ: &str = "AGENT_READ_PATHS";
const WRITE: &str = "AGENT_WRITE_PATHS";
const ENVIRONMENT: &str = "AGENT_ENVIRONMENT";
const SOCKETS: &str = "AGENT_UNIX_SOCKETS";

/// Where the system's files about host names are, beside `/etc`, and the sockets of its resolvers.
const NAME_RESOLUTION: [&str; 6] = [
    "/run/systemd/resolve",
    "/run/resolvconf",
    "/run/NetworkManager",
    "/run/connman",
    "/run/nscd",
    "/run/netconfig",
];

/// What programs of some systems need beside [`Confinement::SYSTEM`]: openSUSE's certificates, and Debian's gems.
const OF_SYSTEMS: [&str; 2] = ["/var/lib/ca-certificates", "/var/lib/gems"];

/// Settings that name a file with a secret of the stack. Those of other parts are known if this one has them too, as
/// with `up`.
const SECRET_FILES: [&str; 7] = [
    "CLAUDE_CODE_CREDENTIALS_SECRET",
    "STACK_SECRET_FILE",
    "GITHUB_TOKEN_SECRET",
    "GITHUB_APP_PRIVATE_KEY_SECRET",
    "SSH_KEY_FILE",
    "ADMIN_TOKEN_SECRET",
    "TLS_KEY",
];

/// Whether agents are confined.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum IsolationMode {
    /// They are, and a job is refused if the kernel cannot confine its agent.
    Require,
    /// They are, as far as the kernel can.
    #[default]
    BestEffort,
    /// They are not.
    None,
}

/// What agents can reach beside what each of them needs.
#[derive(Clone, Debug, Default)]
pub struct Isolation {
    /// `AGENT_ISOLATION`.
    pub mode: IsolationMode,
    /// `AGENT_READ_PATHS`: what all agents can read and execute.
    pub read: Vec<PathBuf>,
    /// `AGENT_WRITE_PATHS`: what all agents can read and write.
    pub write: Vec<PathBuf>,
    /// `AGENT_ENVIRONMENT`: variables of this process that are passed on.
    pub environment: Vec<(String, String)>,
    /// `AGENT_UNIX_SOCKETS`. `None` allows them unless they would give an agent the machine.
    pub unix_sockets: Option<UnixSockets>,
    /// The files with the stack's secrets, each with the setting that names it.
    pub secret_files: Vec<(&'static str, PathBuf)>,
    /// `HOME` of this process.
    pub home: Option<PathBuf>,
    /// `DOCKER_HOST`: where the user's Docker Engine listens.
    pub docker_host: Option<String>,
    /// `AGENT_USER`: who agents run as.
    pub user: AgentUser,
    /// `IS_SANDBOX`: this machine is a sandbox, so an agent may run as root without permission prompts.
    pub is_sandbox: bool,
    /// What was found when a child of this user looked around.
    pub seen: Seen,
}

/// What a child of the agents' user has found, if they have one of their own.
#[derive(Clone, Debug, Default)]
pub struct Seen {
    /// What it may not use of [`read`](field@Isolation::read) and [`write`](field@Isolation::write), each as a sentence.
    pub closed: Vec<String>,
    /// The control sockets that it may connect to.
    pub control_sockets: Option<Vec<PathBuf>>,
}

/// The places of one agent.
#[derive(Debug)]
pub(crate) struct Places<'a> {
    /// The volume. Nothing in it can be reached but the following.
    pub(crate) workspace: &'a Path,
    /// Where all agents get their private directories.
    pub(crate) temporary: &'a Path,
    /// What it executes.
    pub(crate) programs: &'a [PathBuf],
    /// What it works on.
    pub(crate) checkout: &'a Path,
    /// Its private directories.
    pub(crate) private: &'a [PathBuf],
    /// The directory of its session's files.
    pub(crate) session: &'a Path,
}

impl Isolation {
    /// Reads the settings.
    pub(crate) fn read(settings: &mut Settings<'_>) -> Self {
        let mut choice = |name, expected, values: &[&str]| {
            let text = settings.text(name)?;
            let found = values.iter().position(|value| *value == text.trim());
            if found.is_none() {
                settings.problem(name, expected);
            }
            found
        };
        let mode = choice(
            ISOLATION,
            "must be require, best-effort or none",
            &["require", "best-effort", "none"],
        );
        let unix_sockets = choice(SOCKETS, "must be allow or refuse", &["allow", "refuse"]);
        let mode = match mode {
            Some(0) => IsolationMode::Require,
            Some(2) => IsolationMode::None,
            _ => IsolationMode::BestEffort,
        };
        let mut user = boot::read_agent_user(settings);
        if mode == IsolationMode::None {
            if user.chosen_by() == ChosenBy::Operator {
                settings.problem(
                    "AGENT_USER",
                    "agents get no user of their own with AGENT_ISOLATION=none: unset one of the two",
                );
            }
            user = AgentUser::Own;
        }
        Self {
            mode,
            user,
            is_sandbox: settings.flag("IS_SANDBOX"),
            seen: Seen::default(),
            unix_sockets: unix_sockets.map(|found| match found {
                0 => UnixSockets::Allowed,
                _ => UnixSockets::Refused,
            }),
            read: paths(settings, READ),
            write: paths(settings, WRITE),
            environment: environment(settings),
            secret_files: SECRET_FILES
                .into_iter()
                .filter_map(|name| Some((name, settings.text(name)?.into())))
                .collect(),
            home: settings.text("HOME").map(PathBuf::from),
            docker_host: settings.text("DOCKER_HOST"),
        }
    }

    /// The directories that are the user's home, according to the system and to `HOME`, without links.
    pub(crate) fn homes(&self) -> Vec<PathBuf> {
        let user = nix::unistd::User::from_uid(nix::unistd::geteuid()).ok().flatten();
        let mut homes: Vec<_> =
            user.map(|user| user.dir).iter().chain(&self.home).map(|home| resolved(home)).collect();
        homes.dedup();
        homes
    }

    /// Sockets that would give an agent the machine or its user's other programs, if its user may connect to them. Blocking.
    #[must_use]
    pub fn control_sockets(&self) -> Vec<PathBuf> {
        let seen = self.seen.control_sockets.clone();
        seen.unwrap_or_else(|| sockets::usable(&self.homes(), self.docker_host.as_deref()))
    }

    /// What an operator must know, for the log of a starting replica.
    pub(crate) fn preflight(&self) -> Vec<String> {
        let mut said = Vec::new();
        match missing(Enforcement::of_this_kernel()) {
            _ if self.mode == IsolationMode::None => said.push(
                "agents are NOT confined (AGENT_ISOLATION=none): they can read and change whatever this user can, \
                 such as other checkouts, and stop every part of this stack"
                    .to_owned(),
            ),
            Some(missing) if self.mode == IsolationMode::Require => {
                said.push(format!("every job will be refused: {}", refused(missing)));
            }
            Some(missing) => said.push(format!(
                "agents are NOT fully confined: {missing}. AGENT_ISOLATION=require refuses jobs on such a machine"
            )),
            None => {}
        }
        if let AgentUser::Unavailable { why, fix, .. } = &self.user {
            said.push(match self.refusal_of_user() {
                Some(refusal) => format!("every job will be refused: {refusal}"),
                None if nix::unistd::geteuid().is_root() => format!(
                    "agents run as ROOT (IS_SANDBOX), and not as a user of their own: {why}; {fix}"
                ),
                None => format!(
                    "agents run as the user of the stack, and not as one of their own: {why}; {fix}"
                ),
            });
        }
        said.extend(self.seen.closed.iter().cloned());
        let is_risky = self.mode != IsolationMode::None
            && self.unix_sockets == Some(UnixSockets::Allowed)
            && !Enforcement::of_this_kernel().mediates_unix_sockets();
        if is_risky && let Some(path) = self.control_sockets().first() {
            said.push(format!(
                "agents can use {} (AGENT_UNIX_SOCKETS=allow), and with it this machine: run this service as a user \
                 who may not use it, or unset AGENT_UNIX_SOCKETS",
                path.display()
            ));
        }
        for (name, path) in
            self.read.iter().map(|path| (READ, path)).chain(self.write.iter().map(|it| (WRITE, it)))
        {
            if let Err(error) = path.metadata() {
                said.push(format!("{name}: {}: {error}", path.display()));
            }
        }
        if self.mode != IsolationMode::None {
            said.extend(self.reachable_secrets());
        }
        said
    }

    /// Warns of secrets that lie where agents can read. This replica closes them to its own agents, but the replicas of
    /// another stack, or one with other settings, do not know them.
    fn reachable_secrets(&self) -> impl Iterator<Item = String> {
        let system = Confinement::SYSTEM.into_iter().chain(OF_SYSTEMS).map(PathBuf::from);
        let reachable = system.chain(self.read.iter().chain(&self.write).cloned());
        let reachable: Vec<_> = reachable.map(|path| resolved(&path)).collect();
        self.secret_files.iter().filter_map(move |(name, file)| {
            let real = resolved(file);
            let directory = reachable.iter().find(|directory| real.starts_with(directory))?;
            Some(format!(
                "{name}: {} is below {}, which agents can read: agents of this replica cannot read the file, but move \
                 it elsewhere, such as to /run/secrets",
                file.display(),
                directory.display()
            ))
        })
    }

    /// What is enforced for each agent.
    #[must_use]
    pub fn enforced(&self) -> contract::Isolation {
        if self.mode == IsolationMode::None {
            return contract::Isolation::default();
        }
        let Enforcement { landlock, scopes, seccomp } = Enforcement::of_this_kernel();
        contract::Isolation { landlock, scopes, seccomp, uid: self.user.user().is_some() }
    }

    /// Refuses a job if its agent must be confined, or have a user of its own, and cannot.
    pub(crate) fn check(&self) -> Result<(), Refusal> {
        self.check_on(Enforcement::of_this_kernel())?;
        let refusal = self.refusal_of_user();
        refusal.map_or(Ok(()), |why| Err(Refusal::new(Code::IsolationUnavailable, why)))
    }

    /// Why no agent may run, if it cannot have the user that it must have. The user of the stack stands in for the default one
    /// only if isolation is not required, and as root only in a sandbox.
    #[must_use]
    pub fn refusal_of_user(&self) -> Option<String> {
        let AgentUser::Unavailable { by, why, fix } = &self.user else { return None };
        let must_have = *by == ChosenBy::Operator
            || self.mode == IsolationMode::Require
            || (nix::unistd::geteuid().is_root() && !self.is_sandbox);
        must_have.then(|| format!("agents must have a user of their own and cannot: {why}; {fix}"))
    }

    fn check_on(&self, kernel: Enforcement) -> Result<(), Refusal> {
        match missing(kernel) {
            Some(missing) if self.mode == IsolationMode::Require => {
                Err(Refusal::new(Code::IsolationUnavailable, refused(missing)))
            }
            _ => Ok(()),
        }
    }

    /// The variables that agents get.
    pub(crate) fn environment(&self) -> impl Iterator<Item = (&str, &str)> {
        self.environment.iter().map(|(name, value)| (&**name, &**value))
    }

    /// Whether agents may make Unix sockets here. Blocking.
    #[must_use]
    pub fn unix_sockets(&self) -> UnixSockets {
        let is_safe = || {
            Enforcement::of_this_kernel().mediates_unix_sockets()
                || self.control_sockets().is_empty()
        };
        self.unix_sockets
            .unwrap_or_else(|| if is_safe() { UnixSockets::Allowed } else { UnixSockets::Refused })
    }

    /// The confinement of one agent; `None` if agents are not confined. Blocking.
    ///
    /// # Errors
    /// If the workspace or the directory for temporary files cannot be resolved.
    pub(crate) fn confinement(&self, places: &Places<'_>) -> io::Result<Option<Confinement>> {
        if self.mode == IsolationMode::None {
            return Ok(None);
        }
        // No path of the system, and none that an operator adds, uncovers what may lie below it: the workspace, the
        // stack's secrets, and of the system's also the user's home.
        let secrets = self.secret_files.iter().map(|(_, file)| resolved(file));
        let for_all: Vec<_> =
            [places.workspace.canonicalize()?].into_iter().chain(secrets).collect();
        let mut for_programs = for_all.clone();
        for_programs.push(places.temporary.canonicalize()?);
        let system: Vec<_> =
            Confinement::SYSTEM.into_iter().chain(OF_SYSTEMS).map(PathBuf::from).collect();
        let mut for_system = for_programs.clone();
        for_system.extend(homes_below(&self.homes(), &system));
        let below = |paths: &[PathBuf], excluded: &[PathBuf]| {
            paths.iter().flat_map(|path| without(path, excluded)).collect::<Vec<_>>()
        };
        let read = [
            below(&system, &for_system),
            below(places.programs, &for_programs),
            below(&self.read, &for_all),
        ];
        let mut confinement =
            read.into_iter().flatten().fold(Confinement::default(), Confinement::read);
        confinement =
            below(&self.write, &for_all).into_iter().fold(confinement, Confinement::write);
        confinement = confinement.read("/proc").read("/sys").read("/etc/resolv.conf").terminals();
        confinement = NAME_RESOLUTION.into_iter().fold(confinement, Confinement::sockets);
        let own = [places.checkout, places.session].into_iter().map(Path::to_owned);
        confinement =
            own.chain(places.private.iter().cloned()).fold(confinement, Confinement::write);
        Ok(Some(confinement.scoped().filter_system_calls(self.unix_sockets())))
    }
}

/// Why agents cannot be confined to their files, if they cannot.
fn missing(kernel: Enforcement) -> Option<&'static str> {
    if kernel.landlock == 0 {
        Some("this machine's kernel has no Landlock (Linux 5.13 or newer, with landlock in lsm=)")
    } else if !kernel.seccomp {
        Some("this machine's kernel cannot filter system calls (seccomp)")
    } else {
        None
    }
}

fn refused(missing: &str) -> String {
    format!(
        "the agent cannot be confined: {missing}; run this service on a machine that has it, or set \
         AGENT_ISOLATION=best-effort if agents may reach everything that this user can"
    )
}

/// Absolute paths, separated by colons.
fn paths(settings: &mut Settings<'_>, name: &str) -> Vec<PathBuf> {
    let text = settings.text(name).unwrap_or_default();
    let parts = text.split(':').map(str::trim).filter(|part| !part.is_empty());
    let paths: Vec<PathBuf> = parts.map(PathBuf::from).collect();
    let is_plain = |path: &PathBuf| {
        path.is_absolute() && !path.components().any(|part| part == Component::ParentDir)
    };
    if !paths.iter().all(is_plain) {
        settings.problem(
            name,
            "must be absolute paths without .., separated by colons, such as /home/me/.cargo:/srv/cache",
        );
    }
    paths
}

/// Whether an agent may get the variable: it is neither a secret of this stack nor one that the stack decides.
fn is_passable(name: &str) -> bool {
    const SECRETS: [&str; 6] = [
        "ADMIN_TOKEN_SECRET",
        "GITHUB_APP_PRIVATE_KEY_SECRET",
        "GITHUB_TOKEN",
        "GITHUB_TOKEN_SECRET",
        "SSH_KEY_FILE",
        "TLS_KEY",
    ];
    const DECIDED: [&str; 4] = ["HOME", "PATH", "TMPDIR", "IS_SANDBOX"];
    const PREFIXES: [&str; 4] = ["ANTHROPIC_", "CLAUDE_", "STACK_", "AGENT_"];
    !SECRETS.contains(&name)
        && !DECIDED.contains(&name)
        && !PREFIXES.iter().any(|prefix| name.starts_with(prefix))
}

fn environment(settings: &mut Settings<'_>) -> Vec<(String, String)> {
    let names = settings.list(ENVIRONMENT).unwrap_or_default();
    let mut variables = Vec::new();
    for name in names {
        let is_name = !name.starts_with(|c: char| c.is_ascii_digit())
            && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_');
        if !is_name {
            settings.problem(
                ENVIRONMENT,
                "must be names of variables, separated by commas, such as CARGO_HOME,RUSTUP_HOME",
            );
        } else if !is_passable(&name) {
            settings.problem(
                ENVIRONMENT,
                &format!(
                    "{name} cannot be passed to agents: it is a secret of this stack, or the stack sets it itself"
                ),
            );
        } else if let Some(value) = settings.text(&name) {
            variables.push((name, value));
        }
    }
    variables
}

#[cfg(test)]
mod tests;
