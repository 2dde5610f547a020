//! Jobs from the newest to the oldest, without a look at those that nobody wants.

use std::{collections::VecDeque, iter::Peekable, vec};

use contract::{CallerName, JobId, JobState, Timestamp};

use super::ended::{EndedJob, caller_in};
use crate::{Job, Result, Workspace};

/// How many ended jobs are looked for at once: as many as the largest page has.
const AT_ONCE: usize = 1000;

/// Which jobs to look for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct JobFilter {
    /// Only jobs with a smaller ID.
    pub before: Option<JobId>,
    /// Only jobs in this state. It may change, so whoever shows a job checks it again.
    pub state: Option<JobState>,
    /// Only jobs whose ID begins or ends like this, in lower case.
    pub id: Option<String>,
    /// Only jobs of this caller. The index does not know the caller of all jobs, so whoever shows a job checks it again.
    pub caller: Option<CallerName>,
    /// Only jobs that ended later, and those of which the index does not know that they have ended.
    pub ended_after: Option<Timestamp>,
}

impl JobFilter {
    fn matches_id(&self, text: &str) -> bool {
        self.id.as_ref().is_none_or(|part| text.starts_with(part) || text.ends_with(part))
    }
}

/// The IDs of jobs, newest first. Some of them may have been deleted, or be in another state.
#[derive(Debug)]
pub struct NewestFirst {
    workspace: Workspace,
    filter: JobFilter,
    open: Peekable<vec::IntoIter<JobId>>,
    ended: VecDeque<JobId>,
    has_more_ended: bool,
}

impl NewestFirst {
    /// Looks for jobs. Blocking, as is the iterator.
    ///
    /// # Errors
    /// If the volume cannot be read.
    pub fn look(workspace: &Workspace, filter: JobFilter) -> Result<Self> {
        // First the open ones: a job that ends now is then in both, and not in neither.
        let mut open = workspace.open_jobs()?;
        open.reverse();
        open.retain(|id| {
            filter.before.is_none_or(|before| *id < before) && filter.matches_id(&id.to_string())
        });
        let has_more_ended = match filter.state {
            Some(state) if state.has_ended() => {
                // A whole queue may be open, and only few of its jobs have just ended.
                let mut ended = Vec::new();
                for id in open {
                    let job = Job { workspace: workspace.clone(), id };
                    match job.outcome() {
                        Ok(outcome) if outcome.as_ref().is_none_or(|it| it.state != state) => {}
                        // Whoever shows a job whose outcome cannot be read replaces or reports it.
                        _ => ended.push(id),
                    }
                }
                open = ended;
                true
            }
            Some(_) => false,
            None => true,
        };
        let open = open.into_iter().peekable();
        Ok(Self {
            workspace: workspace.clone(),
            filter,
            open,
            ended: VecDeque::new(),
            has_more_ended,
        })
    }

    fn find_more(&mut self) -> Result<()> {
        let filter = &self.filter;
        let state = filter.state.map(|state| state.as_str().as_bytes());
        let caller = filter.caller.as_ref().map(|caller| caller.as_str().as_bytes());
        let is_callers = |line: &[u8]| {
            caller.is_none_or(|caller| caller_in(line).is_none_or(|found| found == caller))
        };
        let is_late = |line: &[u8]| {
            filter
                .ended_after
                .is_none_or(|time| EndedJob::parse(line).is_none_or(|ended| ended.ended > time))
        };
        let wanted = |id: &str, found: &[u8], line: &[u8]| {
            state.is_none_or(|state| state == found)
                && filter.matches_id(id)
                && is_callers(line)
                && is_late(line)
        };
        // Whatever else is in a line that contains it, `wanted` tells.
        let needle = filter.id.as_deref().or(filter.state.map(JobState::as_str));
        let found = self.workspace.ended_index().newest(AT_ONCE, filter.before, needle, wanted)?;
        self.has_more_ended = found.len() == AT_ONCE;
        self.ended = found.into();
        self.filter.before = self.ended.back().copied().or(self.filter.before);
        Ok(())
    }
}

impl Iterator for NewestFirst {
    type Item = Result<JobId>;

    fn next(&mut self) -> Option<Result<JobId>> {
        if self.ended.is_empty()
            && self.has_more_ended
            && let Err(error) = self.find_more()
        {
            self.has_more_ended = false;
            return Some(Err(error));
        }
        match (self.open.peek(), self.ended.front()) {
            (Some(open), Some(ended)) if open <= ended => {
                // A job that has just ended is in both.
                if open == ended {
                    self.open.next();
                }
                self.ended.pop_front().map(Ok)
            }
            (Some(_), _) => self.open.next().map(Ok),
            (None, _) => self.ended.pop_front().map(Ok),
        }
    }
}
