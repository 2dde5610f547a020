//! What is deleted because it is old, or because the volume has a limit.
//!
//! Nothing that a waiting or running job uses is deleted, and no job with the label `keep`. A checkout lives at least as long as the sessions in it, and
//! the jobs that a workflow started are deleted with the workflow. Each deletion takes the lock that a user of the thing
//! would take, and begins with a rename to the staging directory.

mod candidates;

use std::{collections::HashSet, time::Duration};

use contract::{JobId, Timestamp};
use serde::Serialize;

use self::candidates::{Candidate, Places, Thing};
use crate::{
    DeletedJob, Error, FileLock, Job, Result, Session, Workspace,
    doomed::{Doomed, size},
    in_use::{InUse, own_directory},
    session::Deleted,
};

const DAY: u64 = 24 * 60 * 60;

/// The label of a job that is kept with its checkout and its session until somebody deletes it.
const KEEP: &str = "keep";

/// How long to keep what is no longer in use, and how large the volume may become. `None` means without a limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Retention {
    /// A job's own checkout after the job has ended.
    pub checkouts: Option<Duration>,
    /// The record and the journal of a job after it has ended.
    pub jobs: Option<Duration>,
    /// A session after its last use.
    pub sessions: Option<Duration>,
    /// A mirror after its last use.
    pub mirrors: Option<Duration>,
    /// The size of the volume, in bytes. If it is larger, what was used longest ago is deleted first.
    pub limit: Option<u64>,
}

impl Default for Retention {
    fn default() -> Self {
        let days = |days| Some(Duration::from_secs(days * DAY));
        Self {
            checkouts: days(7),
            jobs: days(30),
            sessions: days(7),
            mirrors: days(30),
            limit: None,
        }
    }
}

/// Whether things are deleted or only found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Collect {
    /// They are deleted.
    Delete,
    /// They are found, and their sizes are measured.
    Find,
}

/// What kind of thing is deleted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// A job's own directory.
    Checkout,
    /// A job's record and journal, and those of the jobs it started.
    Job,
    /// A session.
    Session,
    /// A mirror of a repository.
    Mirror,
}

/// A thing that is or would be deleted.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Collected {
    /// Its kind.
    pub kind: Kind,
    /// Its ID; for a mirror, the name of its directory.
    pub name: String,
    /// When it was last used, or its job ended.
    pub last_used: Timestamp,
    /// Its size, if it was measured.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bytes: Option<u64>,
}

impl Workspace {
    /// Deletes what `retention` does not keep, and returns it, oldest first; `None` if another process is doing this.
    /// What cannot be deleted is logged and left. `now` is the current time. Blocking, for as long as it takes.
    ///
    /// # Errors
    /// If the volume cannot be read. It is then not known what is in use.
    pub fn collect(
        &self,
        retention: &Retention,
        now: Timestamp,
        collect: Collect,
    ) -> Result<Option<Vec<Collected>>> {
        // A process that only looks excludes nobody.
        let _lock = if collect == Collect::Delete {
            let Some(lock) = FileLock::try_acquire(&self.stack().join("gc.lock"))? else {
                return Ok(None);
            };
            // A job that has just ended and is not to be kept is found there. If the volume is full, the others make room.
            if let Err(error) = self.index_ended() {
                tracing::warn!(
                    error = &error as &dyn std::error::Error,
                    "cannot index the jobs that have ended"
                );
            }
            Some(lock)
        } else {
            None
        };
        let in_use = InUse::look(self, &[])?;
        let ages = Ages::new(retention, now);
        let mut pass = Pass {
            in_use,
            places: self.places_of_sessions()?,
            collect,
            done: Vec::new(),
            gone: HashSet::new(),
            jobs: Vec::new(),
        };
        for found in ages.select(self.candidates(&pass.in_use, ages.jobs)?) {
            self.collect_one(&found, &mut pass);
        }
        if let Some(limit) = retention.limit {
            self.make_room(limit, now, &mut pass)?;
        }
        // All at once: this writes the index anew. If the process is killed before, the lines are found the next time.
        self.forget_ended(&pass.jobs)?;
        Ok(Some(pass.done))
    }

    /// Deletes what was used longest ago until the volume is as small as it should be.
    fn make_room(&self, limit: u64, now: Timestamp, pass: &mut Pass) -> Result<()> {
        // Not the audit log: what others have caused to be written there must not displace anything.
        let mut total = size(self.root()).saturating_sub(size(&self.audit()));
        if pass.collect == Collect::Find {
            let found: u64 = pass.done.iter().filter_map(|it| it.bytes).sum();
            total = total.saturating_sub(found);
        }
        if total <= limit {
            return Ok(());
        }
        let mut all = self.candidates(&pass.in_use, Some(now))?;
        all.sort_by_key(|it| (it.last_used, it.thing.kind()));
        for found in all {
            if total <= limit {
                break;
            }
            if pass.gone.contains(&found.thing) {
                continue;
            }
            // The sessions in a checkout go with it: they cannot be continued without it.
            let sessions = found.sessions.iter().map(|(id, last_used)| Candidate {
                thing: Thing::Session(*id),
                last_used: *last_used,
                sessions: Vec::new(),
            });
            let sessions: Vec<_> = sessions.filter(|it| !pass.gone.contains(&it.thing)).collect();
            for it in sessions.iter().chain([&found]) {
                let bytes = self.size_of(&it.thing);
                if self.collect_one(it, pass) {
                    total = total.saturating_sub(bytes);
                }
            }
        }
        if total > limit {
            tracing::warn!(
                bytes = total,
                limit,
                "the workspace is larger than WORKSPACE_LIMIT_GIB, and everything that is left is in use"
            );
        }
        Ok(())
    }

    /// Deletes one thing. Returns whether it is gone.
    fn collect_one(&self, found: &Candidate, pass: &mut Pass) -> bool {
        match self.is_pinned(&found.thing) {
            Ok(false) => {}
            Ok(true) => return false,
            // It may be.
            Err(error) => {
                self.report_once(&self.path_of(&found.thing), &error);
                return false;
            }
        }
        // Measured only for people who want to know: it takes longer than the deletion.
        let bytes = (pass.collect == Collect::Find).then(|| self.size_of(&found.thing));
        let removed = match (pass.collect, &found.thing) {
            // Its line may have outlived it.
            (Collect::Find, Thing::Job(id)) => Job::open(self, *id).map(|job| job.is_some()),
            (Collect::Find, _) => Ok(true),
            (Collect::Delete, _) => self.remove(&found.thing, pass),
        };
        match removed {
            Ok(false) => return false,
            Ok(true) => {}
            Err(error) => {
                self.report_once(&self.path_of(&found.thing), &error);
                return false;
            }
        }
        pass.done.push(Collected {
            kind: found.thing.kind(),
            name: found.thing.name(),
            last_used: found.last_used,
            bytes,
        });
        pass.gone.insert(found.thing.clone());
        true
    }

    /// Whether a job that is to be kept needs it.
    fn is_pinned(&self, thing: &Thing) -> Result<bool> {
        let id = match thing {
            Thing::Job(id) => Some(*id),
            Thing::Checkout(name) => name.parse().ok(),
            Thing::Session(id) => {
                let place = Session::last_use(self, *id)?.and_then(|(place, _)| place);
                place.and_then(|place| own_directory(place.as_str())?.parse().ok())
            }
            Thing::Mirror(_) => None,
        };
        let Some(id) = id else { return Ok(false) };
        match (Job { workspace: self.clone(), id }).unchecked_record() {
            Ok(record) => Ok(record.labels.contains_key(KEEP)),
            Err(error) if error.is_missing() || error.is_damage() => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Returns whether it was deleted; not, if somebody uses it.
    fn remove(&self, thing: &Thing, pass: &mut Pass) -> Result<bool> {
        match thing {
            Thing::Checkout(name) => match pass.in_use.take_directory(self, name)? {
                Some(taken) => taken.destroy().map(|()| true),
                None => Ok(false),
            },
            Thing::Session(id) => Ok(Session::delete(self, *id)? == Deleted::Done),
            Thing::Job(id) => {
                let Some(job) = Job::open(self, *id)? else {
                    // A crash came between its deletion and that of its line.
                    pass.jobs.push(*id);
                    return Ok(false);
                };
                // A checkout in which a session lives outlives the record.
                let deletes = |name: &str| {
                    let living = pass.places.get(name).into_iter().flatten();
                    living.copied().all(|(id, _)| pass.gone.contains(&Thing::Session(id)))
                };
                let deleted = job.delete_with(&pass.in_use, &deletes, &mut pass.jobs)?;
                Ok(deleted == DeletedJob::Done)
            }
            Thing::Mirror(name) => self.remove_mirror(name),
        }
    }

    fn remove_mirror(&self, name: &str) -> Result<bool> {
        // The lock stays: a pull may be waiting for it.
        let lock = self.mirrors().join(format!("{name}.lock"));
        let Some(_lock) = FileLock::try_acquire(&lock)? else { return Ok(false) };
        let path = format!(".stack/mirrors/{name}.git");
        let Some(taken) = self.take_away(path.as_ref())? else { return Ok(false) };
        drop(_lock);
        taken.destroy().map(|()| true)
    }

    /// Takes the own directory of a job away that has just ended and is not to keep it, unless another job uses it.
    pub(crate) fn take_own_directory(&self, job: JobId) -> Result<Option<Doomed>> {
        let name = job.to_string();
        if !self.root().join("jobs").join(&name).is_dir() {
            return Ok(None);
        }
        InUse::look(self, &[])?.take_directory(self, &name)
    }

    /// How much space is free for jobs on the file system of the volume, in bytes.
    ///
    /// # Errors
    /// If it is not known.
    pub fn free_bytes(&self) -> Result<u64> {
        let volume = nix::sys::statvfs::statvfs(self.root())
            .map_err(|error| Error::io("check", self.root())(std::io::Error::from(error)))?;
        Ok(volume.blocks_available().saturating_mul(volume.fragment_size()))
    }
}

/// One pass over what may be deleted.
#[derive(Debug)]
struct Pass {
    in_use: InUse,
    places: Places,
    collect: Collect,
    /// What was deleted, or would be.
    done: Vec<Collected>,
    gone: HashSet<Thing>,
    /// The jobs whose lines in the index are to be removed.
    jobs: Vec<JobId>,
}

/// The times before which things are too old. `None` keeps them.
#[derive(Clone, Copy, Debug)]
struct Ages {
    checkouts: Option<Timestamp>,
    jobs: Option<Timestamp>,
    sessions: Option<Timestamp>,
    mirrors: Option<Timestamp>,
}

impl Ages {
    fn new(retention: &Retention, now: Timestamp) -> Self {
        let before = |keep: Option<Duration>| {
            let keep = i64::try_from(keep?.as_millis()).unwrap_or(i64::MAX);
            Some(Timestamp::from_millisecond(now.as_millisecond().saturating_sub(keep).max(0)))
        };
        Self {
            checkouts: before(retention.checkouts),
            jobs: before(retention.jobs),
            sessions: before(retention.sessions),
            mirrors: before(retention.mirrors),
        }
    }

    /// Those that are too old, in the order in which they must be deleted.
    fn select(&self, mut all: Vec<Candidate>) -> Vec<Candidate> {
        let is_old = |last_used: Timestamp, kind: Kind| {
            let before = match kind {
                Kind::Checkout => self.checkouts,
                Kind::Job => self.jobs,
                Kind::Session => self.sessions,
                Kind::Mirror => self.mirrors,
            };
            before.is_some_and(|before| last_used <= before)
        };
        all.retain(|it| {
            is_old(it.last_used, it.thing.kind())
                && it.sessions.iter().all(|(_, last_used)| is_old(*last_used, Kind::Session))
        });
        // Sessions before the checkouts in which they live.
        all.sort_by_key(|it| (it.thing.kind() != Kind::Session, it.last_used));
        all
    }
}

#[cfg(test)]
mod tests;
