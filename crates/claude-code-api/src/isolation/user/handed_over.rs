//! What an agent with a user of its own has got for its job.

use std::{
    fs, io,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
};

use boot::SystemUser;
use contract::Code;
use oneshot::{Settling, Stop};
use tracing::warn;
use workspace::{UserIds, Workspace, close_way, hand_over, let_through, take_back};

use super::ids;
use crate::{isolation::Places, refusal::Refusal};

/// What an agent has got. Dropping it takes it back, so all processes of the agent must have ended. Blocking.
#[derive(Debug)]
pub(crate) struct HandedOver {
    trees: [PathBuf; 2],
    /// The directories above them that nobody else works in.
    ways: Vec<PathBuf>,
    agent: UserIds,
    /// Until everything is taken back, the job keeps its turns.
    _settling: Settling,
}

impl HandedOver {
    /// Hands over the places that an agent writes to, and opens the ways to them. Blocking.
    ///
    /// # Errors
    /// If an owner cannot be changed, a place belongs to somebody else, or the job is to stop. Then everything is as it was.
    pub(crate) fn new(
        user: &SystemUser,
        places: &Places<'_>,
        workspace: &Workspace,
        stop: &Stop,
    ) -> Result<Self, Refusal> {
        let stopped = || {
            let reason = stop.reason().unwrap_or(oneshot::StopReason::Terminated);
            Refusal::new(reason.code(), reason.sentence())
        };
        let check = || match stop.reason() {
            Some(_) => Err(io::ErrorKind::Interrupted.into()),
            None => Ok(()),
        };
        let failed = |error: io::Error| match error.kind() {
            io::ErrorKind::Interrupted => stopped(),
            _ => Refusal::io("hand the checkout over to the agents' user", &error),
        };
        let agent = ids(user);
        // Another version, or a replica with another user, may have closed them since this replica started.
        workspace.open_ways(agent.gid).map_err(|error| Refusal::volume(&error))?;
        let trees = [places.checkout.to_owned(), places.session.to_owned()];
        let root = workspace.root();
        let ways = trees.iter().filter_map(|tree| way_to(tree, root)).map(Path::to_owned).collect();
        let settling = stop.settle().ok_or_else(stopped)?;
        // Its private directories are removed, and not taken back.
        let handed = Self { trees, ways, agent, _settling: settling };
        let private = places.private.iter().map(PathBuf::as_path);
        for tree in handed.trees.iter().map(PathBuf::as_path).chain(private) {
            if let Some(way) = way_to(tree, root) {
                let_through(way, agent.gid).map_err(failed)?;
            }
            hand_over(tree, agent, &check).map_err(failed)?;
            let owner = fs::symlink_metadata(tree).map_err(failed)?.uid();
            if owner != agent.uid {
                return Err(of_another(tree, root, owner));
            }
        }
        Ok(handed)
    }
}

/// The directory above a tree, unless all jobs share it.
fn way_to<'a>(tree: &'a Path, root: &Path) -> Option<&'a Path> {
    tree.parent().filter(|it| *it != root && *it != root.join("jobs"))
}

/// What belongs to others stays theirs. An agent that cannot write there would not find out why.
fn of_another(tree: &Path, root: &Path, owner: u32) -> Refusal {
    let UserIds { uid, gid } = UserIds::current();
    let path = tree.strip_prefix(root).unwrap_or(tree).display();
    Refusal::new(
        Code::IsolationUnavailable,
        format!(
            "'{path}' in the workspace belongs to another user (uid {owner}), so it cannot be given to the agents' user: give \
             it to the user of the stack (chown -R {uid}:{gid})"
        ),
    )
}

impl Drop for HandedOver {
    fn drop(&mut self) {
        let failed = |directory: &Path, error: io::Error| {
            warn!(directory = %directory.display(), %error, "failed to take back what the agent had");
        };
        for tree in &self.trees {
            // Not to be interrupted: if the process must end, it ends, and the next job or pull takes over.
            take_back(tree, self.agent, &|| Ok(())).unwrap_or_else(|error| failed(tree, error));
        }
        for way in &self.ways {
            close_way(way).unwrap_or_else(|error| failed(way, error));
        }
    }
}
