//! What keeps agents from everything that is not their own.

use std::path::PathBuf;

use boot::AgentUser;
use child_process::{Enforcement, UnixSockets};
use claude_code_api::{Isolation, IsolationMode};

use super::finding::{Finding, State};

/// Whether this kernel can confine agents as the operator wants it.
pub(super) fn isolation(mode: IsolationMode, kernel: Enforcement) -> Finding {
    const NAME: &str = "isolation";
    let Enforcement { landlock, scopes, seccomp } = kernel;
    if mode == IsolationMode::None {
        return Finding::advice(
            NAME,
            "agents are not confined (AGENT_ISOLATION=none): they can reach whatever this user can",
            "unset AGENT_ISOLATION",
        );
    }
    // With `require`, every job would be refused.
    let unconfined = |found: &str, fix: &str| match mode {
        IsolationMode::Require => Finding::missing(NAME, found, fix),
        IsolationMode::BestEffort | IsolationMode::None => Finding::advice(NAME, found, fix),
    };
    if landlock == 0 {
        unconfined(
            "the kernel has no Landlock, so agents can reach whatever this user can",
            "update to Linux 5.13 or newer, or add landlock to lsm= on the kernel's command line, and restart the \
             machine",
        )
    } else if !seccomp {
        unconfined(
            "the kernel does not filter system calls (seccomp)",
            "run on a kernel with CONFIG_SECCOMP_FILTER",
        )
    } else if !scopes {
        Finding::advice(
            NAME,
            format!(
                "Landlock {landlock} and seccomp; agents can send signals to other processes of this user"
            ),
            "update to Linux 6.12 or newer",
        )
    } else {
        Finding::ok(NAME, format!("Landlock {landlock} with scopes, and seccomp"))
    }
}

/// Whether agents are refused without a user of their own, or run as that of the stack.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Without {
    Refused,
    OfStack,
}

/// Whether an agent that runs as the user of the stack is root.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stack {
    Root,
    Ordinary,
}

/// Who agents run as. `tried` is why that could not be found out.
pub(super) fn user(
    user: &AgentUser,
    tried: Result<(), &str>,
    stack: Stack,
    without: Without,
) -> Finding {
    const NAME: &str = "agents' user";
    if let Err(why) = tried {
        return Finding::missing(NAME, why, "try again when the machine is less busy or full");
    }
    match user {
        AgentUser::Own if stack == Stack::Root => Finding::advice(
            NAME,
            "root, because AGENT_USER or AGENT_ISOLATION is none",
            "unset AGENT_USER and AGENT_ISOLATION",
        ),
        AgentUser::Own => Finding::ok(NAME, "that of the stack"),
        AgentUser::Unavailable { why, fix, .. } if without == Without::Refused => {
            Finding::missing(NAME, format!("they must have one of their own, but {why}"), fix)
        }
        AgentUser::Unavailable { why, fix, .. } => {
            let who = if stack == Stack::Root { "root (IS_SANDBOX)" } else { "that of the stack" };
            Finding::advice(NAME, format!("{who}, because {why}"), fix)
        }
        AgentUser::Default(user) if user.name == "nobody" => Finding::advice(
            NAME,
            format!("{user}, who may also run other services of this machine"),
            "useradd --system --no-create-home --shell /usr/sbin/nologin workflow-agent",
        ),
        AgentUser::Default(user) | AgentUser::Named(user) => {
            Finding::ok(NAME, format!("{user}, one of their own"))
        }
    }
}

/// What agents may not use although a setting names it.
pub(super) fn closed(isolation: &Isolation) -> Option<Finding> {
    let found = isolation.seen.closed.join("; ");
    let fix = "chmod or chown it, or put it where the agents' user has the right to it";
    (!found.is_empty()).then(|| Finding::advice("agents' paths", found, fix))
}

/// Whether an agent could use the sockets of other programs. `control` are those that would give it the machine.
pub(super) fn sockets(isolation: &Isolation, control: &[PathBuf]) -> Finding {
    const NAME: &str = "Unix sockets";
    let kernel = Enforcement::of_this_kernel();
    let Some(first) = control.first().map(|path| path.display()) else {
        return Finding::ok(NAME, "agents may connect to none that would give them the machine");
    };
    if isolation.mode == IsolationMode::None {
        Finding::advice(
            NAME,
            format!("agents can use {first}, and with it this machine"),
            "unset AGENT_ISOLATION, or run the stack as a user who may not use it",
        )
    } else if kernel.mediates_unix_sockets() {
        Finding::ok(NAME, format!("the kernel keeps agents from {first}"))
    } else if isolation.unix_sockets() == UnixSockets::Refused {
        Finding::judge(
            NAME,
            format!("agents get none, because they could use {first}; some programs need one"),
            isolation.unix_sockets.is_some(),
            State::Advice,
            "run the stack as a user who may not use it",
        )
    } else {
        Finding::advice(
            NAME,
            format!("agents can use {first}, and with it this machine (AGENT_UNIX_SOCKETS=allow)"),
            "unset AGENT_UNIX_SOCKETS, or run the stack as a user who may not use it",
        )
    }
}

#[cfg(test)]
mod tests {
    use boot::{ChosenBy, SystemUser};

    use super::{
        super::finding::State::{Advice, Missing, Ok as Fine},
        *,
    };

    #[test]
    fn what_the_kernel_enforces_as_it_is_wanted() {
        let whole = Enforcement { landlock: 7, scopes: true, seccomp: true };
        let old = Enforcement { landlock: 3, scopes: false, ..whole };
        let none = Enforcement { landlock: 0, scopes: false, ..whole };
        let unfiltered = Enforcement { seccomp: false, ..whole };
        let of = |mode| [whole, old, none, unfiltered].map(|kernel| isolation(mode, kernel).state);
        assert_eq!(of(IsolationMode::BestEffort), [Fine, Advice, Advice, Advice]);
        assert_eq!(of(IsolationMode::Require), [Fine, Advice, Missing, Missing]);
        assert_eq!(of(IsolationMode::None), [Advice; 4]);
    }

    #[test]
    fn agents_have_a_user_of_their_own_or_not() {
        let of = |name: &str| SystemUser { name: name.into(), uid: 7, gid: 7 };
        let unavailable = AgentUser::Unavailable {
            by: ChosenBy::Stack,
            why: "it may not".into(),
            fix: "let it".into(),
        };
        let user = |it: &AgentUser, stack, without| user(it, Ok(()), stack, without).state;
        let refused = user(&unavailable, Stack::Root, Without::Refused);
        assert_eq!(
            (refused, user(&AgentUser::Own, Stack::Root, Without::OfStack)),
            (Missing, Advice)
        );
        let all = [
            AgentUser::Own,
            unavailable,
            AgentUser::Default(of("nobody")),
            AgentUser::Default(of("workflow-agent")),
            AgentUser::Named(of("nobody")),
        ];
        let states = all.map(|it| user(&it, Stack::Ordinary, Without::OfStack));
        assert_eq!(states, [Fine, Advice, Advice, Fine, Fine]);
    }

    #[test]
    fn sockets_that_would_give_an_agent_the_machine() {
        let docker = [PathBuf::from("/run/docker.sock")];
        let of = |mode, unix_sockets, control: &[PathBuf]| {
            let isolation = Isolation { mode, unix_sockets, ..Isolation::default() };
            sockets(&isolation, control).state
        };
        let best = IsolationMode::BestEffort;
        assert_eq!(of(best, None, &[]), Fine);
        assert_eq!(of(IsolationMode::None, None, &docker), Advice);
        assert_eq!(of(best, Some(UnixSockets::Refused), &docker), Fine);
        let kernel = Enforcement::of_this_kernel();
        let expected = if kernel.mediates_unix_sockets() { Fine } else { Advice };
        assert_eq!(of(best, Some(UnixSockets::Allowed), &docker), expected);
    }
}
