//! Whose the branch is that is to be pushed. The mirror is asked, right after it was brought up to date: it has every branch.

use contract::{JobId, SessionId};

use super::{
    commit::{JOB, SESSION},
    settings::Identity,
    source::Source,
};
use crate::{
    failure::Result,
    remote::{Mirror, ObjectId},
};

/// How many commits of a branch are looked at.
const MOST: &str = "--max-count=1000";

/// Whose a branch is that is already there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Owner {
    /// It has the result of this job already, as this commit.
    Delivered {
        /// The commit.
        commit: ObjectId,
        /// Whether the base has it too.
        is_merged: bool,
    },
    /// Deliveries of the same session made its last commits. This is the commit before them, if it is known.
    Session { fork: Option<ObjectId> },
    /// The same, but the base has all of them.
    Merged,
    /// It is not ours.
    Other,
}

/// Finds out whose the branch is that ends at `tip`. `base` is the last commit of the branch that it is to be based on.
///
/// # Errors
/// If git cannot read it.
pub(super) fn owner(
    mirror: &Mirror<'_>,
    tip: &ObjectId,
    base: Option<&ObjectId>,
    source: &Source,
    author: &Identity,
) -> Result<Owner> {
    let is_merged = match base {
        Some(base) => {
            let ask = ["merge-base", "--is-ancestor", tip.as_str(), base.as_str()];
            let answer = mirror.command(ask).run()?;
            match answer.status.code() {
                Some(0) => true,
                Some(1) => false,
                _ => return Err(answer.failure()),
            }
        }
        None => false,
    };
    let not = base.filter(|_| !is_merged).map(|id| format!("^{id}"));
    // The ID, the parents, the committer, and the message.
    let format = "--format=%H%n%P%n%cn <%ce>%n%B";
    let log =
        ["log", "-z", "--encoding=UTF-8", "--no-show-signature", "--no-mailmap", MOST, format];
    let log = log.into_iter().chain([tip.as_str()]).chain(not.as_deref());
    let listed = mirror.command(log).output()?;
    let ours = listed.split(|byte| *byte == 0).filter_map(Found::parse);
    let ours: Vec<_> = ours.filter(|it| it.committer == author.to_string()).collect();
    Ok(owner_among(&ours, tip, is_merged, source.job, source.session))
}

fn owner_among(
    ours: &[Found],
    tip: &ObjectId,
    is_merged: bool,
    job: JobId,
    session: Option<SessionId>,
) -> Owner {
    if let Some(found) = ours.iter().find(|it| it.job == Some(job)) {
        return Owner::Delivered { commit: found.id.clone(), is_merged };
    }
    let of_session = |id: &ObjectId| {
        ours.iter().find(|it| it.id == *id && session.is_some() && it.session == session)
    };
    let Some(mut oldest) = of_session(tip) else { return Owner::Other };
    if is_merged {
        return Owner::Merged;
    }
    while let Some(before) = oldest.parent.as_ref().and_then(of_session) {
        oldest = before;
    }
    Owner::Session { fork: oldest.parent.clone() }
}

/// What a commit says about its origin. Anybody can write that, so it only decides what is added to.
struct Found {
    id: ObjectId,
    /// The first one; `None` if there is none, or a shallow mirror ends here.
    parent: Option<ObjectId>,
    committer: String,
    job: Option<JobId>,
    session: Option<SessionId>,
}

impl Found {
    fn parse(entry: &[u8]) -> Option<Self> {
        let text = String::from_utf8_lossy(entry);
        let mut lines = text.splitn(4, '\n');
        let id = ObjectId::parse(lines.next()?.as_bytes())?;
        let parent = lines.next()?.split(' ').next().and_then(|it| ObjectId::parse(it.as_bytes()));
        let committer = lines.next()?.to_owned();
        let last = lines.next()?.trim_end().rsplit("\n\n").next()?.to_owned();
        let value = |key: &str| last.lines().find_map(|line| line.strip_prefix(key));
        let (job, session) = (value(JOB), value(SESSION));
        Some(Self {
            id,
            parent,
            committer,
            job: job.and_then(|it| it.parse().ok()),
            session: session.and_then(|it| it.parse().ok()),
        })
    }
}
