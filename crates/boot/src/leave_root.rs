//! How a program in an image becomes the user of the stack, and the rights of root that it keeps.

use std::{ffi::OsStr, fmt};

use nix::unistd::{Gid, Uid, geteuid};

use crate::{Exit, SystemUser};

const STACK_USER: &str = "STACK_USER";

/// A right of root that a program in an image keeps, capabilities(7).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Capability {
    /// To change the owner of files.
    Chown,
    /// To read and write files of others.
    DacOverride,
    /// To change the mode of files of others.
    Fowner,
    /// To become another user.
    Setuid,
    /// To become a member of other groups.
    Setgid,
    /// To send signals to processes of others.
    Kill,
}

impl Capability {
    /// To run agents as a user of their own.
    pub const AGENTS: &[Self] =
        &[Self::Chown, Self::DacOverride, Self::Fowner, Self::Setuid, Self::Setgid, Self::Kill];
    /// To take back what an agent had.
    pub const TAKE_BACK: &[Self] = &[Self::Chown, Self::DacOverride];
    /// To remove what an agent has left.
    pub const REMOVE: &[Self] = &[Self::DacOverride, Self::Fowner];

    /// Those that this process lacks.
    #[cfg(target_os = "linux")]
    pub(crate) fn missing(wanted: &[Self]) -> Vec<Self> {
        wanted.iter().copied().filter(|it| !capabilities::has(*it)).collect()
    }

    /// No other system has them.
    #[cfg(not(target_os = "linux"))]
    pub(crate) fn missing(wanted: &[Self]) -> Vec<Self> {
        wanted.to_vec()
    }
}

/// As in capabilities(7), without the prefix.
impl fmt::Display for Capability {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Chown => "CHOWN",
            Self::DacOverride => "DAC_OVERRIDE",
            Self::Fowner => "FOWNER",
            Self::Setuid => "SETUID",
            Self::Setgid => "SETGID",
            Self::Kill => "KILL",
        })
    }
}

/// How a program in an image starts: if it runs as root and `STACK_USER` names another user, it becomes that user, and
/// keeps those capabilities of `keep` that its container has. Nothing that it starts inherits them or gains others. Call it
/// first: other threads would stay root.
///
/// # Errors
/// The exit code, if there is no such user, it is root too, or the container does not allow it. What to do is printed, after
/// `program`.
pub fn leave_root(program: &str, keep: &[Capability]) -> Result<(), Exit> {
    let text = std::env::var_os(STACK_USER);
    let Some(text) = text.filter(|_| geteuid().is_root()) else { return Ok(()) };
    let user = parse(&text).map_err(|why| {
        eprintln!("{program}: {STACK_USER} {why}");
        Exit::Usage.delayed_in_container()
    })?;
    become_user(&user, keep).map_err(|error| {
        let SystemUser { uid, gid, .. } = user;
        eprintln!(
            "{program}: cannot become the user {user}: {error}; start the container as this user ({uid}:{gid}), or with \
             the capabilities SETUID and SETGID"
        );
        Exit::Failed.delayed_in_container()
    })
}

fn parse(text: &OsStr) -> Result<SystemUser, String> {
    let text = text.to_str().ok_or("must be a user of this system, or uid:gid: it is not UTF-8")?;
    let user = SystemUser::parse(text)?;
    if user.uid == 0 || user.gid == 0 {
        return Err("must be another user and group than root".to_owned());
    }
    Ok(user)
}

#[cfg(target_os = "linux")]
fn become_user(user: &SystemUser, keep: &[Capability]) -> std::io::Result<()> {
    use nix::unistd::{setgroups, setresgid, setresuid};
    let (uid, gid) = (Uid::from_raw(user.uid), Gid::from_raw(user.gid));
    capabilities::keep_across_change_of_user()?;
    setgroups(&[gid])?;
    setresgid(gid, gid, gid)?;
    setresuid(uid, uid, uid)?;
    capabilities::keep_only(keep)?;
    // The programs it starts have none of them: what a child of an ordinary user may do comes from its file alone, and this
    // rules that out.
    Ok(nix::sys::prctl::set_no_new_privs()?)
}

#[cfg(not(target_os = "linux"))]
fn become_user(_: &SystemUser, _: &[Capability]) -> std::io::Result<()> {
    Err(std::io::ErrorKind::Unsupported.into())
}

#[cfg(target_os = "linux")]
mod capabilities {
    use std::io;

    use rustix::thread::{
        CapabilitySet, CapabilitySets, capabilities, set_capabilities, set_keep_capabilities,
    };

    use super::Capability;

    fn of(capability: Capability) -> CapabilitySet {
        match capability {
            Capability::Chown => CapabilitySet::CHOWN,
            Capability::DacOverride => CapabilitySet::DAC_OVERRIDE,
            Capability::Fowner => CapabilitySet::FOWNER,
            Capability::Setuid => CapabilitySet::SETUID,
            Capability::Setgid => CapabilitySet::SETGID,
            Capability::Kill => CapabilitySet::KILL,
        }
    }

    /// Whether this thread has it.
    pub(super) fn has(wanted: Capability) -> bool {
        capabilities(None).is_ok_and(|sets| sets.effective.contains(of(wanted)))
    }

    pub(super) fn keep_across_change_of_user() -> io::Result<()> {
        Ok(set_keep_capabilities(true)?)
    }

    /// Gives up all but those of `keep` that it has.
    pub(super) fn keep_only(keep: &[Capability]) -> io::Result<()> {
        let kept = capabilities(None)?.permitted & keep.iter().copied().map(of).collect();
        let inheritable = CapabilitySet::empty();
        set_capabilities(None, CapabilitySets { effective: kept, permitted: kept, inheritable })?;
        Ok(set_keep_capabilities(false)?)
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::ffi::OsStrExt as _;

    use super::*;

    #[test]
    fn the_stack_becomes_a_user_that_is_not_root() {
        let ids = |text: &str| parse(OsStr::new(text)).map(|user| (user.uid, user.gid));
        assert_eq!(ids("4294960001:7"), Ok((4_294_960_001, 7)));
        for bad in ["", "root", "0:7", "7:0", "no such user"] {
            assert!(ids(bad).unwrap_err().starts_with("must be"), "{bad}");
        }
        assert!(parse(OsStr::from_bytes(b"\xff")).is_err());
    }
}
