//! What an agent can reach, as the operator has set it and as this machine can enforce it.

use std::{
    fs, io,
    path::{Component, Path, PathBuf},
};

use boot::Settings;
use child_process::{Confinement, Enforcement, UnixSockets};
use contract::Code;

use crate::refusal::Refusal;

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
        Self {
            mode: match mode {
                Some(0) => IsolationMode::Require,
                Some(2) => IsolationMode::None,
                _ => IsolationMode::BestEffort,
            },
            unix_sockets: unix_sockets.map(|found| match found {
                0 => UnixSockets::Allowed,
                _ => UnixSockets::Refused,
            }),
            read: paths(settings, READ),
            write: paths(settings, WRITE),
            environment: environment(settings),
        }
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
        let is_risky = self.mode != IsolationMode::None
            && self.unix_sockets == Some(UnixSockets::Allowed)
            && !Enforcement::of_this_kernel().mediates_unix_sockets();
        if is_risky && let Some(path) = control_sockets().next() {
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
        said
    }

    /// What is enforced for each agent.
    #[must_use]
    pub fn enforced(&self) -> contract::Isolation {
        if self.mode == IsolationMode::None {
            return contract::Isolation::default();
        }
        let Enforcement { landlock, scopes, seccomp } = Enforcement::of_this_kernel();
        contract::Isolation { landlock, scopes, seccomp, uid: false }
    }

    /// Refuses a job if its agent must be confined and cannot be.
    pub(crate) fn check(&self) -> Result<(), Refusal> {
        self.check_on(Enforcement::of_this_kernel())
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
                || control_sockets().next().is_none()
        };
        self.unix_sockets
            .unwrap_or_else(|| if is_safe() { UnixSockets::Allowed } else { UnixSockets::Refused })
    }

    /// The confinement of one agent; `None` if agents are not confined. Blocking.
    ///
    /// # Errors
    /// If a directory that contains the workspace cannot be listed.
    pub(crate) fn confinement(&self, places: &Places<'_>) -> io::Result<Option<Confinement>> {
        if self.mode == IsolationMode::None {
            return Ok(None);
        }
        // No path of the system, and none that an operator adds, uncovers the workspace that may lie below it.
        let both = [places.workspace, places.temporary];
        let system = Confinement::SYSTEM.map(PathBuf::from);
        let mut confinement = Confinement::default();
        for path in system.iter().chain(places.programs) {
            for path in without(path, &both)? {
                confinement = confinement.read(path);
            }
        }
        for path in &self.read {
            for path in without(path, &both[..1])? {
                confinement = confinement.read(path);
            }
        }
        for path in &self.write {
            for path in without(path, &both[..1])? {
                confinement = confinement.write(path);
            }
        }
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

/// Sockets that would give an agent the machine or its user's other programs, if this process may connect to them.
pub fn control_sockets() -> impl Iterator<Item = PathBuf> {
    const OF_SYSTEM: [&str; 5] = [
        "/run/docker.sock",
        "/run/podman/podman.sock",
        "/run/containerd/containerd.sock",
        "/run/crio/crio.sock",
        "/run/systemd/private",
    ];
    const OF_USER: [&str; 4] = ["bus", "systemd/private", "docker.sock", "podman/podman.sock"];
    let runtime = Path::new("/run/user").join(nix::unistd::geteuid().to_string());
    let of_user = OF_USER.into_iter().map(move |name| runtime.join(name));
    let is_usable =
        |path: &PathBuf| nix::unistd::access(path, nix::unistd::AccessFlags::W_OK).is_ok();
    OF_SYSTEM.into_iter().map(PathBuf::from).chain(of_user).filter(is_usable)
}

/// What is at and below `path`, without what is at and below any of `excluded`: `path` itself, or else the entries
/// beside the way to what is excluded.
fn without(path: &Path, excluded: &[&Path]) -> io::Result<Vec<PathBuf>> {
    // Links, such as /bin, are resolved, because what they lead to decides.
    let Ok(real) = path.canonicalize() else { return Ok(Vec::new()) };
    let mut found = Vec::new();
    let mut left = vec![real];
    while let Some(path) = left.pop() {
        if excluded.contains(&&*path) {
            continue;
        }
        if !excluded.iter().any(|excluded| excluded.starts_with(&path)) {
            found.push(path);
            continue;
        }
        for entry in fs::read_dir(&path)? {
            let entry = entry?;
            // What a link leads to has a path of its own.
            if !entry.file_type()?.is_symlink() {
                left.push(entry.path());
            }
        }
    }
    Ok(found)
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
    const SECRETS: [&str; 4] =
        ["ADMIN_TOKEN_SECRET", "GITHUB_TOKEN", "GITHUB_TOKEN_SECRET", "SSH_KEY_FILE"];
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
