//! Who owns what an agent works with.
//!
//! An agent may run as a user of its own. Then its checkout, and whatever else it writes, is [handed over](hand_over) before
//! it starts and [taken back](take_back) after its end. An agent whose processes could not all be killed may still change
//! the tree meanwhile. So nothing is found by its path: each entry is opened beneath the handle of its directory, is looked
//! at through what was opened, and only that changes its owner. Links are not followed.
//!
//! A file with several names changes its owner only if all of them are in the tree: one that is outside, such as in a shared
//! cache, is neither the agent's nor the checkout's. Directories above a checkout [let the agent's group
//! through](let_through), but show it nothing.

#[cfg(target_os = "linux")]
mod change;

use std::{
    fs, io,
    os::unix::fs::{MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _},
    path::Path,
};

use nix::{
    fcntl::OFlag,
    sys::stat::{Mode, fchmod},
    unistd::{Gid, fchown, getegid, geteuid},
};

#[cfg(target_os = "linux")]
use self::change::{Change, Order, change};
use crate::{Error, Result, Workspace};

/// The user that owns a file, and its group.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UserIds {
    /// The ID of the user.
    pub uid: u32,
    /// The ID of its group.
    pub gid: u32,
}

impl UserIds {
    /// Whom this process runs as.
    #[must_use]
    pub fn current() -> Self {
        Self { uid: geteuid().as_raw(), gid: getegid().as_raw() }
    }
}

/// Fails if a walk is to end early.
pub type Check<'a> = &'a dyn Fn() -> io::Result<()>;

/// The mode of a directory that lets a group through.
const WAY: u32 = 0o710;

/// Gives `agent` what belongs to this process's user in the tree at `top`; nothing if there is no such tree. What belongs to
/// others stays theirs. Blocking: it looks at every file, and ends early if `check` fails, which is asked now and then.
///
/// The top is the first to change, so that what a killed process has begun to hand over can be told by its top.
///
/// # Errors
/// The first one, if this process may not change owners here, or a part of the tree cannot be read. The rest is handed over
/// all the same.
pub fn hand_over(top: &Path, agent: UserIds, check: Check<'_>) -> io::Result<()> {
    change(Change { from: UserIds::current(), to: agent, order: Order::TopFirst }, top, check)
}

/// The opposite of [`hand_over`]. The top is the last to change, and only if everything else has. Blocking.
///
/// # Errors
/// As for [`hand_over`].
pub fn take_back(top: &Path, agent: UserIds, check: Check<'_>) -> io::Result<()> {
    change(Change { from: agent, to: UserIds::current(), order: Order::TopLast }, top, check)
}

/// [`take_back`] of a tree that a killed process may have left handed over. Otherwise it looks only at the top. Blocking.
///
/// # Errors
/// As for [`hand_over`].
pub fn take_back_if_left(top: &Path, agent: UserIds, check: Check<'_>) -> io::Result<()> {
    match fs::symlink_metadata(top) {
        Ok(found) if found.is_dir() && found.uid() == agent.uid => take_back(top, agent, check),
        Ok(_) => Ok(()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(error),
    }
}

#[cfg(not(target_os = "linux"))]
use self::elsewhere::{Change, Order, change};

/// No other system gives agents a user of their own.
#[cfg(not(target_os = "linux"))]
mod elsewhere {
    use super::{Check, Path, UserIds, io};

    pub(super) enum Order {
        TopFirst,
        TopLast,
    }

    pub(super) struct Change {
        pub(super) from: UserIds,
        pub(super) to: UserIds,
        pub(super) order: Order,
    }

    pub(super) fn change(it: Change, _: &Path, _: Check<'_>) -> io::Result<()> {
        let Change { from: _, to: _, order: Order::TopFirst | Order::TopLast } = it;
        Err(io::ErrorKind::Unsupported.into())
    }
}

/// Lets a group enter a directory of this process's user on its way to what is below: with the mode 0710, it can neither
/// list the directory nor change anything in it. A directory of another user stays as it is. Blocking.
///
/// # Errors
/// If it is no directory, or this process may not give it to the group.
pub fn let_through(directory: &Path, group: u32) -> io::Result<()> {
    let (directory, found) = open(directory)?;
    let is_way = found.mode() & 0o777 == WAY && found.gid() == group;
    if found.uid() != geteuid().as_raw() || is_way {
        return Ok(());
    }
    // Closed first: whatever the mode has allowed its group is not for the new one.
    fchmod(&directory, Mode::S_IRWXU)?;
    fchown(&directory, None, Some(Gid::from_raw(group)))?;
    Ok(fchmod(&directory, Mode::from_bits_truncate(WAY))?)
}

/// Closes a directory that [lets a group through](let_through). Blocking.
///
/// # Errors
/// As for [`let_through`].
pub fn close_way(directory: &Path) -> io::Result<()> {
    let (directory, found) = open(directory)?;
    let is_way = found.mode() & 0o777 == WAY && found.uid() == geteuid().as_raw();
    if is_way { Ok(fchmod(&directory, Mode::S_IRWXU)?) } else { Ok(()) }
}

fn open(directory: &Path) -> io::Result<(fs::File, fs::Metadata)> {
    let flags = OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW;
    let directory = fs::OpenOptions::new().read(true).custom_flags(flags.bits()).open(directory)?;
    let found = directory.metadata()?;
    Ok((directory, found))
}

/// Whether the file system of a directory keeps owners: some network file systems refuse them, or forget them. It tries with a
/// directory that it makes there and removes. Blocking.
///
/// # Errors
/// Why it does not; [`Unsupported`](io::ErrorKind::Unsupported) if it forgets them.
pub fn try_owner(directory: &Path, agent: UserIds) -> io::Result<()> {
    let directory = directory.join(uuid::Uuid::now_v7().to_string());
    fs::create_dir(&directory)?;
    let tried = hand_over(&directory, agent, &|| Ok(())).and_then(|()| {
        if fs::symlink_metadata(&directory)?.uid() == agent.uid {
            Ok(())
        } else {
            let forgets = "the file system of the workspace does not keep owners";
            Err(io::Error::new(io::ErrorKind::Unsupported, forgets))
        }
    });
    fs::remove_dir(&directory)?;
    tried
}

impl Workspace {
    /// Lets a group through to what is handed over: the workspace, if only this user can enter it, `jobs` and
    /// `.stack/sessions`. Blocking.
    ///
    /// # Errors
    /// If the modes cannot be changed.
    pub fn open_ways(&self, group: u32) -> Result<()> {
        let open = |directory: &Path| {
            let_through(directory, group).map_err(Error::io("open to agents", directory))
        };
        let root = self.root();
        let mode = fs::metadata(root).map_err(Error::io("open to agents", root))?.mode();
        if mode & 0o067 == 0 {
            open(root)?;
        }
        [self.stack(), self.sessions(), root.join("jobs")].iter().try_for_each(|it| open(it))
    }

    /// Closes to others what an earlier version, or a service with another umask, has made in `.stack`. Blocking.
    ///
    /// # Errors
    /// If the modes cannot be changed.
    pub fn close_stack(&self) -> Result<()> {
        self.close_entries().map_err(Error::io("close to agents", self.stack()))
    }

    fn close_entries(&self) -> io::Result<()> {
        for entry in fs::read_dir(self.stack())? {
            let entry = entry?;
            if entry.path() == self.sessions() {
                continue;
            }
            let closed = entry.metadata().and_then(|found| {
                let mode = found.permissions().mode();
                let is_open = mode & 0o077 != 0 && !found.is_symlink();
                if is_open && found.uid() == geteuid().as_raw() {
                    fs::set_permissions(entry.path(), fs::Permissions::from_mode(mode & 0o700))?;
                }
                Ok(())
            });
            match closed {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => {}
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
