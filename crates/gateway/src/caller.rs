//! Who sends a request, and what it may do.

use std::{collections::BTreeSet, net::IpAddr};

use contract::{CallerName, Code, JobId, RequestError, Scope, TokenId};

/// The sender of a request. The layer `authenticate` adds it to the extensions of every request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Caller {
    pub(crate) name: CallerName,
    /// `None`: it has none, or is a workflow.
    pub(crate) token: Option<TokenId>,
    scopes: BTreeSet<Scope>,
    /// The running workflow that sends the request for one of its own jobs, which it has proved.
    pub(crate) workflow: Option<JobId>,
    /// Whether there are no other callers, because the stack never had a token. What is nobody's belongs to such a caller.
    is_alone: bool,
    /// Where the request comes from.
    pub(crate) address: Option<IpAddr>,
}

/// What a request does with something that has an owner.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Act {
    Read,
    /// Cancel it, delete it, or work in it.
    Change,
}

/// Whether a caller may do something.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Access {
    Granted,
    /// It may see the thing, but not change it.
    Forbidden,
    /// The answer must be the same as if the thing did not exist.
    Hidden,
}

impl Caller {
    pub(crate) fn new(name: CallerName, token: Option<TokenId>, scopes: BTreeSet<Scope>) -> Self {
        Self { name, token, scopes, workflow: None, is_alone: false, address: None }
    }

    /// A caller without a token, on a stack that has none. An agent can be such a caller too, so protected paths are not
    /// delivered for it.
    pub(crate) fn anonymous() -> Self {
        let scopes = BTreeSet::from([Scope::Submit, Scope::Read, Scope::ReadAll, Scope::Deliver]);
        Self { is_alone: true, ..Self::new(CallerName::anonymous(), None, scopes) }
    }

    /// A caller without a token, beside others that have one: what is theirs is not there for it.
    pub(crate) fn anonymous_among_others() -> Self {
        let scopes = BTreeSet::from([Scope::Submit, Scope::Read]);
        Self::new(CallerName::anonymous(), None, scopes)
    }

    /// The workflow `id`, which belongs to `owner`. If an administrator started it, it may work in what belongs to others.
    /// `is_alone`: whether the stack never had a token.
    pub(crate) fn workflow(
        id: JobId,
        owner: CallerName,
        works_anywhere: bool,
        is_alone: bool,
    ) -> Self {
        let scope = if works_anywhere { Scope::Admin } else { Scope::Submit };
        let caller = Self::new(owner, None, BTreeSet::from([scope]));
        Self { workflow: Some(id), is_alone, ..caller }
    }

    /// Whether it has this scope, or one that includes it.
    pub(crate) fn has(&self, scope: Scope) -> bool {
        let scopes = &self.scopes;
        scopes.contains(&scope)
            || scopes.contains(&Scope::Admin)
            || (scope == Scope::Read && scopes.contains(&Scope::ReadAll))
            || (scope == Scope::Deliver && scopes.contains(&Scope::DeliverProtected))
    }

    /// # Errors
    /// If it has not.
    pub(crate) fn check(&self, scope: Scope) -> Result<(), RequestError> {
        if self.has(scope) {
            return Ok(());
        }
        let sentence = match (scope, self.token.is_some()) {
            (Scope::Admin, false) => {
                "this needs a token with the scope 'admin': create the first one with `stackctl token create --admin` on \
                 the machine of the workspace, without STACK_URL and --url"
                    .to_owned()
            }
            (Scope::DeliverProtected, false) => format!(
                "'allowProtected' needs a token with the scope '{scope}': create one with `stackctl token create`, which \
                 closes the stack to callers without a token"
            ),
            _ => format!("this needs a token with the scope '{scope}': ask an administrator for one"),
        };
        Err(RequestError::new(Code::Forbidden, sentence))
    }

    /// Whether it may do something with everything, so that nobody has to look whose it is.
    pub(crate) fn may_all(&self, act: Act) -> bool {
        match act {
            Act::Read => self.has(Scope::ReadAll),
            Act::Change => self.has(Scope::Admin),
        }
    }

    /// What it may do with a thing of `owner`; `None`: of nobody, as far as can be proven. Whether its scope allows the request
    /// at all was checked before.
    pub(crate) fn access(&self, owner: Option<&CallerName>, act: Act) -> Access {
        if owner.map_or(self.is_alone, |owner| *owner == self.name) || self.may_all(act) {
            Access::Granted
        } else if self.may_all(Act::Read) {
            Access::Forbidden
        } else {
            Access::Hidden
        }
    }
}

/// The error for a thing that a caller may see, but not change.
pub(crate) fn not_yours(what: &str) -> RequestError {
    let sentence = format!(
        "{what} belongs to another caller: only that caller or an administrator may do this"
    );
    RequestError::new(Code::Forbidden, sentence)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn caller(name: &str, scopes: &[Scope]) -> Caller {
        Caller::new(name.parse().unwrap(), None, scopes.iter().copied().collect())
    }

    #[test]
    fn what_scopes_include() {
        use Scope::{Admin, Deliver, DeliverProtected, Read, ReadAll, Submit};
        let granted = |scopes: &[Scope]| {
            let caller = caller("a", scopes);
            Scope::ALL.into_iter().filter(|scope| caller.has(*scope)).collect::<Vec<_>>()
        };
        assert_eq!(granted(&[]), []);
        assert_eq!(granted(&[Submit]), [Submit]);
        assert_eq!(granted(&[Read]), [Read]);
        assert_eq!(granted(&[ReadAll]), [Read, ReadAll]);
        assert_eq!(granted(&[Deliver]), [Deliver]);
        assert_eq!(granted(&[DeliverProtected]), [Deliver, DeliverProtected]);
        assert_eq!(granted(&[Admin]), Scope::ALL);
        assert!(![Admin, DeliverProtected].into_iter().any(|it| Caller::anonymous().has(it)));
    }

    #[test]
    fn the_things_of_others() {
        use Access::{Forbidden, Granted, Hidden};
        let access = |scopes: &[Scope], owner: &str| {
            let (caller, owner) = (caller("a", scopes), owner.parse().unwrap());
            (caller.access(Some(&owner), Act::Read), caller.access(Some(&owner), Act::Change))
        };
        let plain = [Scope::Submit, Scope::Read];
        assert_eq!(access(&plain, "a"), (Granted, Granted));
        assert_eq!(access(&plain, "b"), (Hidden, Hidden));
        assert_eq!(access(&plain, "anonymous"), (Hidden, Hidden));
        assert_eq!(access(&[Scope::Submit, Scope::ReadAll], "b"), (Granted, Forbidden));
        assert_eq!(access(&[Scope::Admin], "b"), (Granted, Granted));
        let of_nobody = |caller: Caller| caller.access(None, Act::Change);
        assert_eq!(of_nobody(Caller::anonymous()), Granted);
        assert_eq!(of_nobody(Caller::anonymous_among_others()), Hidden);
        assert_eq!(of_nobody(caller("a", &plain)), Hidden);
        assert_eq!(of_nobody(caller("a", &[Scope::Admin])), Granted);
        let workflow =
            |is_alone| Caller::workflow(JobId::new(), CallerName::anonymous(), false, is_alone);
        assert_eq!([true, false].map(|it| of_nobody(workflow(it))), [Granted, Hidden]);
    }
}
