//! Users of the system: the one that agents run as.

use std::fmt;

use nix::{
    errno::Errno,
    unistd::{Gid, Group, Uid, User, getegid, geteuid, getgroups},
};

use crate::{Capability, Settings};

const AGENT_USER: &str = "AGENT_USER";

/// Who agents run as if the operator names nobody and this process may change users. The images have the first.
const DEFAULT_AGENTS: [&str; 2] = ["workflow-agent", "nobody"];

/// The group that those which a user namespace does not map appear as.
const OVERFLOW_GROUP: Gid = Gid::from_raw(65534);

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
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        let (user, group) = match text.split_once(':') {
            Some((user, group)) => (user, Some(group)),
            None => (text, None),
        };
        let found = match user.parse() {
            Ok(uid) => looked_up(User::from_uid(Uid::from_raw(uid)))?.map_or_else(
                || Self { name: text.to_owned(), uid, gid: uid },
                |user| Self { name: user.name, uid, gid: user.gid.as_raw() },
            ),
            Err(_) => Self::named(user)?.ok_or_else(|| {
                format!("must be a user of this system, or uid:gid: there is no user '{user}'")
            })?,
        };
        let found = match group {
            None => found,
            Some(group) => {
                let gid = match group.parse() {
                    Ok(gid) => Some(gid),
                    Err(_) => looked_up(Group::from_name(group))?.map(|group| group.gid.as_raw()),
                };
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

    fn named(name: &str) -> Result<Option<Self>, String> {
        let found = looked_up(User::from_name(name))?;
        Ok(found.map(|user| Self {
            name: user.name,
            uid: user.uid.as_raw(),
            gid: user.gid.as_raw(),
        }))
    }

    /// Why agents may not run as this user.
    fn refusal_for_agents(&self) -> Option<&'static str> {
        let is_of_stack = |gid: &Gid| gid.as_raw() == self.gid && *gid != OVERFLOW_GROUP;
        if self.uid == 0 || self.gid == 0 {
            Some(
                "must be another user and group than root, because agents are not trusted; or none",
            )
        } else if self.uid == geteuid().as_raw()
            || self.gid == getegid().as_raw()
            || getgroups().is_ok_and(|groups| groups.iter().any(is_of_stack))
        {
            Some("must be another user and group than those that the stack runs as; or none")
        } else {
            None
        }
    }
}

/// What the system says about a user or a group.
fn looked_up<T>(found: nix::Result<Option<T>>) -> Result<Option<T>, String> {
    match found {
        Ok(found) => Ok(found),
        // In some systems, this means that there is none, getpwnam(3).
        Err(Errno::ENOENT | Errno::ESRCH | Errno::EBADF | Errno::EPERM) => Ok(None),
        Err(error) => Err(format!("cannot be looked up among the users of this system: {error}")),
    }
}

/// Who has chosen the user that agents are to run as.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ChosenBy {
    /// The operator has named it.
    Operator,
    /// It is the default.
    Stack,
}

/// The user that agents are to run as.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum AgentUser {
    /// That of the stack: the operator wants it, or has started the stack as an ordinary user.
    #[default]
    Own,
    /// They are to have one of their own, and cannot.
    Unavailable {
        /// Who wants it.
        by: ChosenBy,
        /// Why they cannot, as a clause.
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

    /// Whether the operator has named it.
    #[must_use]
    pub fn chosen_by(&self) -> ChosenBy {
        match self {
            Self::Named(_) => ChosenBy::Operator,
            Self::Unavailable { by, .. } => *by,
            Self::Own | Self::Default(_) => ChosenBy::Stack,
        }
    }

    /// The same, if agents cannot have the user that they are to have.
    #[must_use]
    pub fn unavailable(&self, why: impl Into<String>, fix: impl Into<String>) -> Self {
        Self::Unavailable { by: self.chosen_by(), why: why.into(), fix: fix.into() }
    }
}

/// Reads `AGENT_USER`: who agents run as, as far as this process may change users.
pub fn read_agent_user(settings: &mut Settings<'_>) -> AgentUser {
    let wanted = wanted(settings);
    let lacks = Capability::missing(Capability::AGENTS);
    // Whoever has only some of the rights was to have all.
    let is_ordinary = lacks.len() == Capability::AGENTS.len() && !is_privileged();
    match &wanted {
        AgentUser::Default(_) | AgentUser::Unavailable { .. } if is_ordinary => AgentUser::Own,
        AgentUser::Default(_) | AgentUser::Named(_) if !lacks.is_empty() => {
            let lacks: Vec<_> = lacks.iter().map(ToString::to_string).collect();
            let fix = "start it as root, or its container as root with these capabilities";
            let or = if is_ordinary { ", or unset AGENT_USER" } else { "" };
            wanted.unavailable(
                format!("the stack lacks the capabilities {}", lacks.join(", ")),
                format!("{fix}{or}"),
            )
        }
        _ => wanted,
    }
}

/// Whether this process is root where root may change users.
fn is_privileged() -> bool {
    cfg!(target_os = "linux") && geteuid().is_root()
}

/// Reads `AGENT_USER` for a service that starts no agents, but works with what they have left: whom its owner may be, if this
/// process may take it back.
pub fn read_owner_of_leftovers(settings: &mut Settings<'_>) -> Option<SystemUser> {
    let wanted = wanted(settings);
    let may_take_back = Capability::missing(Capability::TAKE_BACK).is_empty();
    wanted.user().filter(|_| may_take_back).cloned()
}

fn wanted(settings: &mut Settings<'_>) -> AgentUser {
    let found = match settings.text(AGENT_USER).as_deref().map(str::trim) {
        Some("none") => return AgentUser::Own,
        Some(text) => SystemUser::parse(text).and_then(|user| match user.refusal_for_agents() {
            Some(why) => Err(why.to_owned()),
            None => Ok(AgentUser::Named(user)),
        }),
        None => default_user(),
    };
    found.unwrap_or_else(|why| {
        settings.problem(AGENT_USER, &why);
        AgentUser::Own
    })
}

fn default_user() -> Result<AgentUser, String> {
    for name in DEFAULT_AGENTS {
        let found = SystemUser::named(name)?;
        if let Some(user) = found.filter(|user| user.refusal_for_agents().is_none()) {
            return Ok(AgentUser::Default(user));
        }
    }
    Ok(AgentUser::Unavailable {
        by: ChosenBy::Stack,
        why: format!(
            "this system has no user '{}' or '{}' for them",
            DEFAULT_AGENTS[0], DEFAULT_AGENTS[1]
        ),
        fix: "name one in AGENT_USER, such as 1002:1002".to_owned(),
    })
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
        let may = |wanted| Capability::missing(wanted).is_empty();
        let expected = may(Capability::TAKE_BACK).then_some(4_294_960_000);
        assert_eq!(left.map(|user| user.uid), expected);
        if may(Capability::AGENTS) {
            let is_default = matches!(&default, AgentUser::Default(user) if DEFAULT_AGENTS.contains(&&*user.name));
            assert!(is_default, "{default:?}");
            assert!(
                matches!(&named, AgentUser::Named(user) if user.gid == 4_294_960_000),
                "{named:?}"
            );
        } else {
            let is_root = geteuid().is_root();
            assert_eq!(matches!(default, AgentUser::Unavailable { .. }), is_root, "{default:?}");
            let AgentUser::Unavailable { by: ChosenBy::Operator, why, .. } = &named else {
                panic!("{named:?}");
            };
            assert!(why.contains("capabilities CHOWN"), "{why}");
        }
    }

    /// It once gave agents the user of the stack, root, without a word.
    #[test]
    #[expect(
        clippy::disallowed_methods,
        reason = "this test again, in a process with fewer rights"
    )]
    fn one_missing_right_is_not_taken_for_an_ordinary_user() {
        const TEST: &str = "user::tests::one_missing_right_is_not_taken_for_an_ordinary_user";
        const AGAIN: &str = "WITHOUT_KILL";
        if std::env::var_os(AGAIN).is_some() {
            let AgentUser::Unavailable { by: ChosenBy::Stack, why, .. } = read(None).0 else {
                panic!("{:?}", read(None).0);
            };
            assert_eq!(why, "the stack lacks the capabilities KILL");
        } else if Capability::missing(Capability::AGENTS).is_empty() {
            // This test again, in a process without the right.
            let program = std::env::current_exe().unwrap();
            let line =
                format!("exec setpriv --bounding-set=-kill {} --exact {TEST}", program.display());
            let output =
                std::process::Command::new("sh").args(["-c", &line]).env(AGAIN, "1").output();
            let output = output.unwrap();
            assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
        }
    }

    #[test]
    fn an_error_is_not_an_absence() {
        assert_eq!(looked_up::<()>(Err(Errno::ESRCH)), Ok(None));
        assert!(looked_up::<()>(Err(Errno::EMFILE)).unwrap_err().contains("EMFILE"));
    }
}
