//! What may be deleted, and when it was last used.

use std::{
    collections::HashMap,
    fs,
    path::{Path, PathBuf},
};

use contract::{JobId, SessionId, Timestamp, WorkspacePath};

use super::Kind;
use crate::{
    Error, Job, Result, Session, Workspace,
    doomed::size,
    in_use::{InUse, own_directory},
    layout::parsed_names,
    write::modified,
};

/// A thing that may be deleted.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) enum Thing {
    /// A directory in `jobs/`.
    Checkout(String),
    /// A job without a parent.
    Job(JobId),
    Session(SessionId),
    /// The name of its directory, without `.git`.
    Mirror(String),
}

impl Thing {
    pub(super) fn kind(&self) -> Kind {
        match self {
            Self::Checkout(_) => Kind::Checkout,
            Self::Job(_) => Kind::Job,
            Self::Session(_) => Kind::Session,
            Self::Mirror(_) => Kind::Mirror,
        }
    }

    pub(super) fn name(&self) -> String {
        match self {
            Self::Checkout(name) | Self::Mirror(name) => name.clone(),
            Self::Job(id) => id.to_string(),
            Self::Session(id) => id.to_string(),
        }
    }
}

/// A thing that no job uses.
#[derive(Clone, Debug)]
pub(super) struct Candidate {
    pub(super) thing: Thing,
    pub(super) last_used: Timestamp,
    /// For a checkout, the sessions that live in it, and when they were last used.
    pub(super) sessions: Vec<(SessionId, Timestamp)>,
}

impl Candidate {
    fn new(thing: Thing, last_used: Timestamp) -> Self {
        Self { thing, last_used, sessions: Vec::new() }
    }
}

/// For each directory in `jobs/`, the sessions that live in it.
pub(super) type Places = HashMap<String, Vec<(SessionId, Timestamp)>>;

impl Workspace {
    /// All things that may be deleted; of jobs, only those that ended before `jobs`.
    pub(super) fn candidates(
        &self,
        in_use: &InUse,
        jobs: Option<Timestamp>,
    ) -> Result<Vec<Candidate>> {
        let mut found = Vec::new();
        for (id, _, last_used) in self.uses_of_sessions()? {
            if !in_use.sessions.contains(&id) {
                found.push(Candidate::new(Thing::Session(id), last_used));
            }
        }
        let mut places = self.places_of_sessions()?;
        let own = self.root().join("jobs");
        for name in names(&own)?.into_iter().filter(|name| !in_use.directories.contains(name)) {
            if let Some(last_used) = self.end_of_use(&name, &own.join(&name))? {
                let sessions = places.remove(&name).unwrap_or_default();
                let last_used = sessions.iter().map(|(_, it)| *it).fold(last_used, Ord::max);
                found.push(Candidate { thing: Thing::Checkout(name), last_used, sessions });
            }
        }
        if let Some(before) = jobs {
            for ended in self.ended_jobs(|job| job.ended <= before)? {
                // One whose parent is gone is deleted by itself.
                let parent = ended.parent.map(|id| Job::open(self, id)).transpose()?.flatten();
                if parent.is_none() {
                    found.push(Candidate::new(Thing::Job(ended.id), ended.ended));
                }
            }
        }
        for name in names(&self.mirrors())? {
            if let Some(name) = name.strip_suffix(".git") {
                let last_used = self.use_of_mirror(name);
                found.push(Candidate::new(Thing::Mirror(name.to_owned()), last_used));
            }
        }
        Ok(found)
    }

    /// Since when nobody needs a directory in `jobs/`, apart from the sessions in it; `None` if somebody does, or if it
    /// is not one of ours.
    fn end_of_use(&self, name: &str, path: &Path) -> Result<Option<Timestamp>> {
        if let Ok(id) = name.parse::<JobId>() {
            return match Job::open(self, id)? {
                Some(job) => match job.outcome() {
                    Ok(outcome) => Ok(outcome.map(|outcome| outcome.ended)),
                    // Whoever looks at the job next replaces the outcome.
                    Err(error) if error.is_damage() => Ok(None),
                    Err(error) => Err(error),
                },
                // Its record was deleted before.
                None => Ok(Some(id.created().max(modified(path)))),
            };
        }
        Ok(name.parse::<SessionId>().is_ok().then(|| modified(path)))
    }

    /// All sessions, damaged ones too: where each works, if that is known, and when it was last used. Records that prove nothing
    /// count as well: what they say can only keep a checkout, and those of an earlier version may still be adopted.
    fn uses_of_sessions(&self) -> Result<Vec<(SessionId, Option<WorkspacePath>, Timestamp)>> {
        let mut found = Vec::new();
        for id in parsed_names::<SessionId>(&self.sessions())? {
            let last_use = Session::last_use(self, id)?;
            found.extend(last_use.map(|(place, last_used)| (id, place, last_used)));
        }
        Ok(found)
    }

    /// Where the sessions live.
    pub(super) fn places_of_sessions(&self) -> Result<Places> {
        let mut places = Places::new();
        for (id, place, last_used) in self.uses_of_sessions()? {
            if let Some(name) = place.as_ref().and_then(|place| own_directory(place.as_str())) {
                places.entry(name.to_owned()).or_default().push((id, last_used));
            }
        }
        Ok(places)
    }

    /// A pull marks the lock of a mirror that it uses. Earlier versions did not: then the newest of its parts counts.
    fn use_of_mirror(&self, name: &str) -> Timestamp {
        let mirror = self.mirrors().join(format!("{name}.git"));
        let lock = self.mirrors().join(format!("{name}.lock"));
        let parts = [lock, mirror.join("objects/pack"), mirror.join("packed-refs"), mirror];
        parts.iter().map(|path| modified(path)).fold(Timestamp::from_millisecond(0), Ord::max)
    }

    pub(super) fn path_of(&self, thing: &Thing) -> PathBuf {
        match thing {
            Thing::Checkout(name) => self.root().join("jobs").join(name),
            Thing::Job(id) => self.jobs().join(id.to_string()),
            Thing::Session(id) => self.session(*id),
            Thing::Mirror(name) => self.mirrors().join(format!("{name}.git")),
        }
    }

    pub(super) fn size_of(&self, thing: &Thing) -> u64 {
        let own = size(&self.path_of(thing));
        let children = match thing {
            Thing::Job(id) => Job { workspace: self.clone(), id: *id }.children(),
            _ => return own,
        };
        let children = children.unwrap_or_default().into_iter();
        children.map(|id| size(&self.jobs().join(id.to_string()))).fold(own, u64::saturating_add)
    }
}

fn names(directory: &Path) -> Result<Vec<String>> {
    let error = || Error::io("list", directory);
    let mut names = Vec::new();
    for entry in fs::read_dir(directory).map_err(error())? {
        names.extend(entry.map_err(error())?.file_name().into_string());
    }
    Ok(names)
}
