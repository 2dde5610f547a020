//! The user that agents run as.
//!
//! Whether agents get a user of their own is decided once, when a replica starts: a child of that user tries to reach what
//! every agent needs. If it cannot, agents run as the user of the stack, as they always do where users cannot be changed.

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
use tokio::io::AsyncReadExt as _;
use tracing::warn;
use workspace::{UserIds, Workspace, hand_over, let_through, take_back};

use super::{Isolation, Places, READ, WRITE};
use crate::Config;

/// How long the child may take. It is only this slow if a file system does not answer.
const PATIENCE: Duration = Duration::from_secs(10);

/// Prints the number of the first argument that is not as it should be. Each is `test`'s letter for a right, and a path.
const SCRIPT: &str = "n=0; for it; do path=${it#?}; test \"-${it%\"$path\"}\" \"$path\" || break; n=$((n + 1)); done; echo $n";

/// What agents need of a path.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Need {
    right: Right,
    path: PathBuf,
    /// Whose path it is, for people.
    of: String,
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
        Self { why, fix: format!("{fix}, or set AGENT_USER=none") }
    }
}

impl Config {
    /// Decides which user agents run as, and opens the way to what will be theirs. If it cannot be one of their own, the
    /// setting becomes [`AgentUser::Unavailable`].
    pub(crate) async fn settle_user(&mut self, workspace: &Workspace) {
        let Some(user) = self.isolation.user.user().cloned() else { return };
        let obstacle = match self.obstacle_to_user(&user, workspace.root()).await {
            None => {
                let (workspace, ids) = (workspace.clone(), ids(&user));
                workspace::blocking(move || open(&workspace, ids)).await.err()
            }
            obstacle => obstacle,
        };
        if let Some(Obstacle { why, fix }) = obstacle {
            self.isolation.user = AgentUser::Unavailable { why, fix };
        }
    }

    /// What keeps `user` from running agents here; `None` if nothing does. Changes nothing. For `doctor`, `workspace` need
    /// not exist.
    pub async fn obstacle_to_user(&self, user: &SystemUser, workspace: &Path) -> Option<Obstacle> {
        let needs = self.needs(workspace);
        let tried = tokio::time::timeout(PATIENCE, first_refused(user, &needs)).await;
        let found = match tried {
            Ok(Ok(found)) => found,
            Ok(Err(error)) => {
                let why = format!("a child of the user {user} cannot be started: {error}");
                return Some(Obstacle::new(why, "name a user that this system permits"));
            }
            Err(_) => {
                let seconds = PATIENCE.as_secs();
                let why = format!("a child of the user {user} did not answer within {seconds} s");
                return Some(Obstacle::new(why, "look for a file system that does not answer"));
            }
        };
        let Need { right, path, of } = needs.get(found)?;
        let (verb, letter, path) = (right.verb(), right.letter(), path.display());
        let way = if *right == Right::Enter { ", on the way to " } else { ": it is " };
        Some(Obstacle::new(
            format!("the user {user} may not {verb} {path}{way}{of}"),
            &format!("permit it (chmod o+{letter} {path}), use another place"),
        ))
    }

    /// What every agent must reach.
    fn needs(&self, workspace: &Path) -> Vec<Need> {
        let mut needs = Vec::new();
        let mut add = |right, path: &Path, of: &str| {
            let mut way: Vec<_> = path.ancestors().skip(1).collect();
            way.reverse();
            let way = way.into_iter().map(|path| (Right::Enter, path));
            for (right, path) in way.chain([(right, path)]) {
                let need = Need { right, path: path.to_owned(), of: of.to_owned() };
                if !needs.iter().any(|it: &Need| it.right == right && it.path == need.path) {
                    needs.push(need);
                }
            }
        };
        if let Some(program) = &self.claude_bin {
            for path in [Some(program.clone()), program.canonicalize().ok()].into_iter().flatten() {
                add(Right::Execute, &path, "the agent's program");
            }
        }
        add(Right::Enter, &self.temporary, "its private directory (TMPDIR)");
        add(Right::Enter, &way_to(workspace), "the workspace");
        let Isolation { read, write, .. } = &self.isolation;
        for (right, paths, name) in [(Right::Read, read, READ), (Right::Write, write, WRITE)] {
            // One that is missing is reported elsewhere.
            for path in paths.iter().filter(|path| path.exists()) {
                add(right, path, name);
            }
        }
        needs
    }
}

/// The last directory on the way to the workspace that must let agents through as it is. The workspace itself is opened by
/// the replica if only this user can enter it, and made by `up` if it is missing.
fn way_to(workspace: &Path) -> PathBuf {
    let real = workspace.canonicalize();
    let root = real.as_deref().unwrap_or(workspace);
    let is_opened = root.metadata().map_or(true, |found| {
        found.permissions().mode() & 0o077 == 0 && found.uid() == UserIds::current().uid
    });
    let mut way = root.ancestors().skip(usize::from(is_opened));
    way.find(|path| path.exists()).unwrap_or(root).to_owned()
}

/// The number of the first need that is not met for `user`; that of all if there is none.
async fn first_refused(user: &SystemUser, needs: &[Need]) -> io::Result<usize> {
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
        stdout.take(100).read_to_string(&mut said).await?;
    }
    child.wait().await?;
    said.trim().parse().map_err(|_| io::Error::other("/bin/sh does not work for it"))
}

fn open(workspace: &Workspace, agent: UserIds) -> Result<(), Obstacle> {
    workspace.open_ways(agent.gid).map_err(|error| {
        let cause = std::error::Error::source(&error).map(|cause| format!(": {cause}"));
        let why = format!("failed to {error}{}", cause.unwrap_or_default());
        Obstacle::new(why, "give the workspace to the user of the stack")
    })?;
    workspace.try_owner(agent).map_err(|error| {
        let why = format!("files in the workspace cannot be given to another user: {error}");
        Obstacle::new(why, "use a file system that keeps owners")
    })
}

fn ids(user: &SystemUser) -> UserIds {
    UserIds { uid: user.uid, gid: user.gid }
}

/// Runs a guest as this user.
pub(crate) fn as_user(guest: Guest, user: &SystemUser) -> Guest {
    guest.user(Uid::from_raw(user.uid), Gid::from_raw(user.gid))
}

/// What an agent with a user of its own has got for its job. Dropping it takes it back, so all processes of the agent must
/// have ended.
#[derive(Debug)]
pub(crate) struct HandedOver {
    trees: [PathBuf; 2],
    agent: UserIds,
}

impl HandedOver {
    /// Hands over the places that an agent writes to, and opens the ways to them. Blocking.
    ///
    /// # Errors
    /// If an owner cannot be changed. Then everything is as it was.
    pub(crate) fn new(user: &SystemUser, places: &Places<'_>) -> io::Result<Self> {
        let agent = ids(user);
        let trees = [places.checkout.to_owned(), places.session.to_owned()];
        let private = places.private.iter().map(PathBuf::as_path);
        // Its private directories are removed, and not taken back.
        let handed = Self { trees, agent };
        for tree in handed.trees.iter().map(PathBuf::as_path).chain(private) {
            // The workspace itself was opened when this replica started.
            if let Some(above) = tree.parent().filter(|above| *above != places.workspace) {
                let_through(above, agent.gid)?;
            }
            hand_over(tree, agent)?;
        }
        Ok(handed)
    }
}

impl Drop for HandedOver {
    fn drop(&mut self) {
        for tree in &self.trees {
            if let Err(error) = take_back(tree, self.agent) {
                warn!(directory = %tree.display(), %error, "failed to take back what the agent had");
            }
        }
    }
}

#[cfg(test)]
mod tests;
