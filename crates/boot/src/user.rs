//! Users of the system: the one that agents run as, and the one that a program in an image becomes.

use std::fmt;

use nix::unistd::{Gid, Group, Uid, User, getegid, geteuid};

use crate::{Exit, Settings};

const AGENT_USER: &str = "AGENT_USER";

/// Who agents run as if the operator names nobody and this process may change users. The images have the first.
const DEFAULT_AGENTS: [&str; 2] = ["workflow-agent", "nobody"];

/// A user of the system, by numbers: the name may mean another user, or none, in another container.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SystemUser {
    /// How the operator or the system calls it.
    pub name: String,
    /// Its ID.
    pub uid: u32,
    /// The ID of its group.
    pub gid: u32,
}

impl fmt::Display for SystemUser {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} (uid {}, gid {})", self.name, self.uid, self.gid)
    }
}

impl SystemUser {
    /// Parses a name, or `uid[:gid]`. Without a group, it is that of the user, or the one with the same number.
    fn parse(text: &str) -> Result<Self, String> {
        let (user, group) = match text.split_once(':') {
            Some((user, group)) => (user, Some(group)),
            None => (text, None),
        };
        let found = match user.parse() {
            Ok(uid) => User::from_uid(Uid::from_raw(uid)).ok().flatten().map_or_else(
                || Self { name: text.to_owned(), uid, gid: uid },
                |user| Self { name: user.name, uid, gid: user.gid.as_raw() },
            ),
            Err(_) => Self::named(user).ok_or_else(|| {
                format!("must be a user of this system, or uid:gid: there is no user '{user}'")
            })?,
        };
        let found = match group {
            None => found,
            Some(group) => {
                let by_name =
                    || Group::from_name(group).ok().flatten().map(|group| group.gid.as_raw());
                let gid = group.parse().ok().or_else(by_name);
                let gid = gid.ok_or_else(|| {
                    format!("must be a user, or uid:gid: there is no group '{group}'")
                })?;
                Self { gid, ..found }
            }
        };
        // To the system calls, this number means that nothing is to change.
        if found.uid == u32::MAX || found.gid == u32::MAX {
            return Err(format!("must be a user, or uid:gid: there is no {}", u32::MAX));
        }
        Ok(found)
    }

    fn named(name: &str) -> Option<Self> {
        let user = User::from_name(name).ok().flatten()?;
        Some(Self { name: user.name, uid: user.uid.as_raw(), gid: user.gid.as_raw() })
    }

    /// Why agents may not run as this user.
    fn refusal_for_agents(&self) -> Option<&'static str> {
        if self.uid == 0 || self.gid == 0 {
            Some(
                "must be another user and group than root, because agents are not trusted; or none",
            )
        } else if self.uid == geteuid().as_raw() || self.gid == getegid().as_raw() {
            Some("must be another user and group than those that the stack runs as; or none")
        } else {
            None
        }
    }
}

/// The user that agents are to run as.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum AgentUser {
    /// That of the stack: the operator wants it, or this process may not change users.
    #[default]
    Own,
    /// That of the stack, although they were to have another one.
    Unavailable {
        /// Why, as a clause.
        why: String,
        /// What to do about it, as a clause.
        fix: String,
    },
    /// One of its own, whom the operator has named.
    Named(SystemUser),
    /// One of its own, whom this stack has chosen.
    Default(SystemUser),
}

impl AgentUser {
    /// The user, if it is one of its own.
    #[must_use]
    pub fn user(&self) -> Option<&SystemUser> {
        match self {
            Self::Named(user) | Self::Default(user) => Some(user),
            Self::Own | Self::Unavailable { .. } => None,
        }
    }
}

/// Reads `AGENT_USER`: who agents run as, as far as this process may change users.
pub fn read_agent_user(settings: &mut Settings<'_>) -> AgentUser {
    match wanted(settings) {
        AgentUser::Default(_) if !may_change_users() => AgentUser::Own,
        AgentUser::Named(_) if !may_change_users() => AgentUser::Unavailable {
            why: "the stack may not change users".to_owned(),
            fix: "start it as root (in a container, with the capabilities CHOWN, DAC_OVERRIDE, FOWNER, SETUID, SETGID and \
                  KILL), or unset AGENT_USER"
                .to_owned(),
        },
        wanted => wanted,
    }
}

/// Reads `AGENT_USER` for a service that starts no agents, but works with what they have left: whom its owner may be.
pub fn read_owner_of_leftovers(settings: &mut Settings<'_>) -> Option<SystemUser> {
    wanted(settings).user().cloned()
}

fn wanted(settings: &mut Settings<'_>) -> AgentUser {
    let text = match settings.text(AGENT_USER).as_deref().map(str::trim) {
        Some("none") => return AgentUser::Own,
        Some(text) => text.to_owned(),
        None => {
            let usable = |user: &SystemUser| user.refusal_for_agents().is_none();
            let mut found = DEFAULT_AGENTS.into_iter().filter_map(SystemUser::named).filter(usable);
            return found.next().map_or(AgentUser::Own, AgentUser::Default);
        }
    };
    let user = SystemUser::parse(&text).and_then(|user| match user.refusal_for_agents() {
        Some(why) => Err(why.to_owned()),
        None => Ok(user),
    });
    match user {
        Ok(user) => AgentUser::Named(user),
        Err(why) => {
            settings.problem(AGENT_USER, &why);
            AgentUser::Own
        }
    }
}

/// What an agent's user needs of the process that starts and ends it, and that works with its files.
#[cfg(target_os = "linux")]
fn may_change_users() -> bool {
    capabilities::has(Capability::AGENTS)
}

#[cfg(not(target_os = "linux"))]
fn may_change_users() -> bool {
    false
}

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
}

/// How a program in an image starts: if it runs as root and `STACK_USER` names another user, it becomes that user, and
/// keeps those capabilities of `keep` that its container has. Nothing that it starts inherits them or gains others. Call it
/// first: other threads would stay root.
///
/// # Errors
/// The exit code, if there is no such user, or the container does not allow it. What to do is printed, after `program`.
pub fn leave_root(program: &str, keep: &[Capability]) -> Result<(), Exit> {
    const STACK_USER: &str = "STACK_USER";
    let text = std::env::var(STACK_USER).unwrap_or_default();
    if text.is_empty() || !geteuid().is_root() {
        return Ok(());
    }
    let user = SystemUser::parse(&text).map_err(|why| {
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

    fn set(of: &[Capability]) -> CapabilitySet {
        let one = |capability: &Capability| match capability {
            Capability::Chown => CapabilitySet::CHOWN,
            Capability::DacOverride => CapabilitySet::DAC_OVERRIDE,
            Capability::Fowner => CapabilitySet::FOWNER,
            Capability::Setuid => CapabilitySet::SETUID,
            Capability::Setgid => CapabilitySet::SETGID,
            Capability::Kill => CapabilitySet::KILL,
        };
        of.iter().map(one).collect()
    }

    /// Whether this thread has all of them.
    pub(super) fn has(wanted: &[Capability]) -> bool {
        capabilities(None).is_ok_and(|sets| sets.effective.contains(set(wanted)))
    }

    pub(super) fn keep_across_change_of_user() -> io::Result<()> {
        Ok(set_keep_capabilities(true)?)
    }

    /// Gives up all but those of `keep` that it has.
    pub(super) fn keep_only(keep: &[Capability]) -> io::Result<()> {
        let kept = capabilities(None)?.permitted & set(keep);
        let inheritable = CapabilitySet::empty();
        set_capabilities(None, CapabilitySets { effective: kept, permitted: kept, inheritable })?;
        Ok(set_keep_capabilities(false)?)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use super::*;

    fn read(value: Option<&str>) -> (AgentUser, Vec<String>) {
        let env: HashMap<_, _> =
            value.into_iter().map(|value| (AGENT_USER.to_owned(), value.to_owned())).collect();
        let mut settings = Settings::new(&env);
        let user = read_agent_user(&mut settings);
        (user, settings.finish().err().map(|error| error.problems).unwrap_or_default())
    }

    #[test]
    fn a_user_is_a_name_or_numbers() {
        let of = |text| SystemUser::parse(text).map(|user| (user.uid, user.gid));
        assert_eq!(of("root"), Ok((0, 0)));
        assert_eq!(of("0:12"), Ok((0, 12)));
        assert_eq!(of("root:root"), Ok((0, 0)));
        assert_eq!(of("4294960000"), Ok((4_294_960_000, 4_294_960_000)), "it has no entry");
        assert_eq!(of("4294960000:7"), Ok((4_294_960_000, 7)));
        for bad in [
            "",
            "no such user",
            "root:no such group",
            "-1",
            "1:",
            "1:2:3",
            "root:-1",
            "4294967295",
            "7:4294967295",
        ] {
            let why = of(bad).unwrap_err();
            assert!(why.contains("there is no"), "{bad}: {why}");
        }
    }

    #[test]
    fn agents_are_neither_root_nor_the_stack() {
        assert_eq!(read(Some("none")), (AgentUser::Own, Vec::new()));
        let own = format!("{}:7", geteuid());
        for bad in ["root", "0", "7:0", &own, "no such user"] {
            let (user, problems) = read(Some(bad));
            assert_eq!(user, AgentUser::Own, "{bad}");
            let [problem] = &*problems else { panic!("{bad}: {problems:?}") };
            assert!(problem.starts_with("AGENT_USER: must be"), "{problem}");
        }
    }

    #[test]
    fn only_a_process_that_may_change_users_gives_agents_another_one() {
        let (default, problems) = read(None);
        let (named, more) = read(Some("4294960000:4294960000"));
        assert_eq!((problems.len(), more.len()), (0, 0));
        // Who works with what agents have left need not be able to start them.
        let env = HashMap::from([(AGENT_USER.to_owned(), "4294960000".to_owned())]);
        let left = read_owner_of_leftovers(&mut Settings::new(&env));
        assert_eq!(left.map(|user| user.uid), Some(4_294_960_000));
        if may_change_users() {
            let is_default = matches!(&default, AgentUser::Default(user) if DEFAULT_AGENTS.contains(&&*user.name));
            assert!(is_default, "{default:?}");
            assert!(
                matches!(&named, AgentUser::Named(user) if user.gid == 4_294_960_000),
                "{named:?}"
            );
        } else {
            assert_eq!(default, AgentUser::Own);
            assert!(matches!(&named, AgentUser::Unavailable { .. }), "{named:?}");
        }
    }
}
