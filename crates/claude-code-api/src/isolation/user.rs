//! The user that agents run as.
//!
//! Whether agents can have a user of their own is decided once, when a replica starts: a child of that user tries to reach
//! what every agent needs. An answer decides; if there is none, because the machine is full or busy, the replica does not
//! start, since an agent could bring that about. For the same reason, nothing that agents can change takes part in the
//! decision.

use std::{
    ffi::OsString,
    io,
    os::unix::fs::{MetadataExt as _, PermissionsExt as _},
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};

use boot::{AgentUser, SystemUser};
use child_process::{Gid, Guest, Signal, Uid};
use nix::unistd::User;
use tokio::io::AsyncReadExt as _;
use tracing::warn;
use workspace::{UserIds, Workspace, try_owner};

use super::{Isolation, IsolationMode, READ, Seen, WRITE, sockets};
use crate::Config;

mod handed_over;

pub(crate) use handed_over::HandedOver;

/// How long the child may take. It is only this slow if a file system does not answer, or the machine is overloaded.
const PATIENCE: Duration = Duration::from_secs(10);

/// Prints the number of each argument that is not as it should be, and then a word. Each is `test`'s letter for a right, and a
/// path.
const SCRIPT: &str = "n=0; for it; do path=${it#?}; test \"-${it%\"$path\"}\" \"$path\" || echo $n; n=$((n + 1)); done; echo end";

/// What agents need of a path, or may do with it.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Need {
    right: Right,
    path: PathBuf,
    of: Of,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Right {
    Enter,
    Execute,
    Read,
    Write,
}

impl Right {
    fn letter(self) -> &'static str {
        match self {
            Self::Enter | Self::Execute => "x",
            Self::Read => "r",
            Self::Write => "w",
        }
    }

    fn verb(self) -> &'static str {
        match self {
            Self::Enter => "enter",
            Self::Execute => "execute",
            Self::Read => "read",
            Self::Write => "write to",
        }
    }
}

/// Whose path it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Of {
    Program,
    Temporary,
    Workspace,
    /// The setting that names it. Agents may be without it.
    Setting(&'static str),
    /// A socket that would give an agent the machine.
    Socket,
}

impl Of {
    /// How people call it.
    fn name(self) -> &'static str {
        match self {
            Self::Program => "the agent's program",
            Self::Temporary => "its private directory (TMPDIR)",
            Self::Workspace => "the workspace",
            Self::Setting(name) => name,
            Self::Socket => "a socket",
        }
    }

    /// What to do if `path` is closed, as a clause. Nothing in a home is opened to all users.
    fn fix(self, path: &Path, workspace: &Path) -> String {
        match self {
            Self::Program => {
                "install it where every user can execute it, such as in /usr/local (npm install -g --prefix /usr/local \
                 @anthropic-ai/claude-code), and set CLAUDE_BIN if it is not on the PATH"
                    .to_owned()
            }
            Self::Temporary => {
                "set TMPDIR to a directory that every user can write to, such as /var/tmp".to_owned()
            }
            // It may be a volume, which is where it is.
            Self::Workspace if path == workspace => {
                format!("let others pass through it, which shows them nothing: chmod o+x {}", path.display())
            }
            Self::Workspace => {
                "use a workspace to which every user can get, such as /srv/workspace".to_owned()
            }
            Self::Setting(_) | Self::Socket => {
                "give this user the right to it, or take it out of the setting".to_owned()
            }
        }
    }
}

/// Why agents cannot have a user of their own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Obstacle {
    /// The reason, as a clause.
    pub why: String,
    /// What to do about it, as a clause.
    pub fix: String,
}

impl Obstacle {
    fn new(why: String, fix: &str) -> Self {
        Self { why, fix: fix.to_owned() }
    }
}

/// What was found when a user was tried.
#[derive(Clone, Debug, Default)]
pub struct Trial {
    /// What keeps it from running agents.
    pub obstacle: Option<Obstacle>,
    /// What else was seen.
    pub seen: Seen,
}

impl Config {
    /// Decides whether agents can have the user that they are to have, and opens the way to what will be theirs. If they
    /// cannot, the setting becomes [`AgentUser::Unavailable`].
    ///
    /// # Errors
    /// If that is not known. Trying again may help.
    pub(crate) async fn settle_user(&mut self, workspace: &Workspace) -> Result<(), String> {
        let Some(user) = self.isolation.user.user().cloned() else {
            if self.isolation.mode == IsolationMode::Require
                && self.isolation.user == AgentUser::Own
            {
                warn!(
                    "agents are confined, but run as the user of the stack: start it, or its container, as root"
                );
            }
            return Ok(());
        };
        let mut trial = self.try_user(&user, workspace.root()).await?;
        if trial.obstacle.is_none() {
            let (workspace, gid) = (workspace.clone(), user.gid);
            trial.obstacle = workspace::blocking(move || open(&workspace, gid)).await?;
        }
        self.settle(trial);
        Ok(())
    }

    /// Notes what was found.
    pub fn settle(&mut self, Trial { obstacle, seen }: Trial) {
        if let Some(Obstacle { why, fix }) = obstacle {
            self.isolation.user = self.isolation.user.unavailable(why, fix);
        } else {
            self.isolation.seen = seen;
        }
    }

    /// Tries whether `user` can run agents here. Leaves everything as it was. For `doctor`, `workspace` need not exist.
    ///
    /// # Errors
    /// If that is not known.
    pub async fn try_user(&self, user: &SystemUser, workspace: &Path) -> Result<Trial, String> {
        let needs = self.needs(user, workspace);
        let asked = tokio::time::timeout(PATIENCE, refused(user, &needs)).await;
        let refused = match asked {
            Ok(Ok(refused)) => refused,
            Ok(Err(error)) => {
                let why = format!("a child of the agents' user {user} cannot be started: {error}");
                if !is_for_good(&error) {
                    return Err(why);
                }
                let fix = "name a user in AGENT_USER that this system permits";
                return Ok(Trial { obstacle: Some(Obstacle::new(why, fix)), ..Trial::default() });
            }
            Err(_) => {
                let seconds = PATIENCE.as_secs();
                return Err(format!(
                    "a child of the agents' user {user} did not answer within {seconds} s"
                ));
            }
        };
        let root = workspace.canonicalize().unwrap_or_else(|_| workspace.to_owned());
        let mut trial = Trial::default();
        let mut usable = Vec::new();
        for (number, need) in needs.into_iter().enumerate() {
            let is_refused = refused.contains(&number);
            let why = || {
                let way = if need.right == Right::Enter { "on the way to " } else { "" };
                let (verb, path, name) = (need.right.verb(), need.path.display(), need.of.name());
                format!("the agents' user {user} may not {verb} {path} ({way}{name})")
            };
            let fix = || need.of.fix(&need.path, &root);
            match need.of {
                Of::Socket if is_refused => {}
                Of::Socket => usable.push(need.path),
                _ if !is_refused => {}
                Of::Setting(_) => trial.seen.closed.push(format!("{}: {}", why(), fix())),
                Of::Program | Of::Temporary | Of::Workspace => {
                    trial.obstacle.get_or_insert_with(|| Obstacle { why: why(), fix: fix() });
                }
            }
        }
        trial.seen.control_sockets = Some(usable);
        if trial.obstacle.is_none() {
            let (workspace, user) = (workspace.to_owned(), user.clone());
            trial.obstacle = workspace::blocking(move || keeps_owners(&workspace, &user)).await?;
        }
        Ok(trial)
    }

    /// What every agent must reach, and what it should.
    fn needs(&self, user: &SystemUser, workspace: &Path) -> Vec<Need> {
        let mut needs = Vec::new();
        let mut add = |right, path: &Path, of| {
            let mut way: Vec<_> = path.ancestors().skip(1).collect();
            way.reverse();
            let way = way.into_iter().map(|path| (Right::Enter, path));
            for (right, path) in way.chain([(right, path)]) {
                if !needs.iter().any(|it: &Need| it.right == right && it.path == path) {
                    needs.push(Need { right, path: path.to_owned(), of });
                }
            }
        };
        if let Some(program) = &self.claude_bin {
            for path in [Some(program.clone()), program.canonicalize().ok()].into_iter().flatten() {
                // One that is missing is reported elsewhere.
                if path.exists() {
                    add(Right::Execute, &path, Of::Program);
                }
            }
        }
        if self.temporary.exists() {
            add(Right::Enter, &self.temporary, Of::Temporary);
        }
        add(Right::Enter, &way_to(workspace), Of::Workspace);
        let Isolation { read, write, .. } = &self.isolation;
        for (right, paths, name) in [(Right::Read, read, READ), (Right::Write, write, WRITE)] {
            for path in paths.iter().filter(|path| path.exists()) {
                add(right, path, Of::Setting(name));
            }
        }
        let home = User::from_uid(nix::unistd::Uid::from_raw(user.uid)).ok().flatten();
        let homes: Vec<_> =
            self.isolation.homes().into_iter().chain(home.map(|user| user.dir)).collect();
        let docker_host = self.isolation.docker_host.as_deref();
        let sockets =
            sockets::candidates(nix::unistd::Uid::from_raw(user.uid), &homes, docker_host);
        needs.extend(sockets.into_iter().map(|path| Need {
            right: Right::Write,
            path,
            of: Of::Socket,
        }));
        needs
    }
}

/// The last directory on the way to the workspace that must let agents through as it is. The workspace itself is opened by
/// the replica if only this user can enter it, and made by `up` if it is missing.
fn way_to(workspace: &Path) -> PathBuf {
    let real = workspace.canonicalize();
    let root = real.as_deref().unwrap_or(workspace);
    let is_opened = root.metadata().map_or(true, |found| {
        found.permissions().mode() & 0o067 == 0 && found.uid() == UserIds::current().uid
    });
    let mut way = root.ancestors().skip(usize::from(is_opened));
    way.find(|path| path.exists()).unwrap_or(root).to_owned()
}

/// The numbers of the needs that are not met for `user`.
async fn refused(user: &SystemUser, needs: &[Need]) -> io::Result<Vec<usize>> {
    let arguments = needs.iter().map(|need| {
        let mut argument = OsString::from(need.right.letter());
        argument.push(&need.path);
        argument
    });
    let mut child = as_user(Guest::new("/bin/sh").args(["-c", SCRIPT, "sh"]).args(arguments), user)
        .stdout(Stdio::piped())
        .die_with_parent(Signal::SIGKILL)
        .spawn()
        .await?;
    let mut said = String::new();
    if let Some(stdout) = child.take_stdout() {
        stdout.take(64 * 1024).read_to_string(&mut said).await?;
    }
    child.wait().await?;
    let unclear = || io::Error::other("it did not answer as it should");
    let numbers = said.strip_suffix("end\n").ok_or_else(unclear)?;
    numbers.lines().map(|line| line.parse().map_err(|_| unclear())).collect()
}

/// Opens the ways to what will be the agents'.
fn open(workspace: &Workspace, group: u32) -> Result<Option<Obstacle>, String> {
    let opened = workspace.close_stack().and_then(|()| workspace.open_ways(group));
    let Err(error) = opened else { return Ok(None) };
    let cause = std::error::Error::source(&error);
    let why = format!("failed to {error}{}", cause.map(|it| format!(": {it}")).unwrap_or_default());
    match cause.and_then(|cause| cause.downcast_ref()) {
        Some(cause) if is_for_good(cause) => {
            Ok(Some(Obstacle::new(why, "give the workspace to the user of the stack")))
        }
        _ => Err(why),
    }
}

/// Whether files on the volume can be given to the user.
fn keeps_owners(workspace: &Path, user: &SystemUser) -> Result<Option<Obstacle>, String> {
    let inside = workspace.join(".stack/tmp");
    let Some(directory) = inside.ancestors().find(|it| it.is_dir()) else { return Ok(None) };
    let Err(error) = try_owner(directory, ids(user)) else { return Ok(None) };
    let why = format!("files in the workspace cannot be given to the agents' user {user}: {error}");
    if is_for_good(&error) {
        let fix = if nix::unistd::geteuid().is_root() {
            "use a file system that keeps owners (with NFS, an export with no_root_squash)"
        } else {
            "use a local file system, or set AGENT_USER=none: an NFS server lets only root do this"
        };
        Ok(Some(Obstacle::new(why, fix)))
    } else {
        Err(why)
    }
}

/// Whether an error means that something is not permitted or not possible here, and not that it failed this time.
fn is_for_good(error: &io::Error) -> bool {
    use io::ErrorKind::{InvalidInput, PermissionDenied, Unsupported};
    // An ID that the user namespace does not map is `EINVAL` or `EOVERFLOW`.
    matches!(error.kind(), PermissionDenied | Unsupported | InvalidInput)
        || error.raw_os_error() == Some(nix::libc::EOVERFLOW)
}

fn ids(user: &SystemUser) -> UserIds {
    UserIds { uid: user.uid, gid: user.gid }
}

/// Runs a guest as this user.
pub(crate) fn as_user(guest: Guest, user: &SystemUser) -> Guest {
    guest.user(Uid::from_raw(user.uid), Gid::from_raw(user.gid))
}

#[cfg(test)]
mod tests;
