//! The job that looks at what another job has left, and keeps the answer beside that job's record.

use std::{
    fs::{self, File},
    io::{self, Write as _},
    path::Path,
    sync::Arc,
};

use contract::{
    AgentCommit, Changes, ChangesEvent, ChangesRequest, Code, Ending, FileChange, FileRepositories,
    JobId, JobRequest as _, Policy, PullRequest, SkippedFile, Timestamp,
};
use futures_util::Stream;
use oneshot::{JobContext, Step};
use percent_encoding::{NON_ALPHANUMERIC, percent_encode};
use serde::Serialize;
use workspace::{Job, ResolveError};

use super::{MOST_FILES, Source, Taken, take};
use crate::{
    Config,
    drive::{self, Site},
    failure::{Failure, Result},
    remote::{Extent, ObjectId},
};

/// The longest list of a summary, in bytes of JSON.
const LONGEST_LIST: usize = 32 << 20;
/// The longest first line of a commit's message, in characters.
const LONGEST_SUBJECT: usize = 200;

/// Looks at what the job of `request` has left, as a stream that ends with [`Step::End`].
pub fn changes(
    config: Arc<Config>,
    context: JobContext,
    request: ChangesRequest,
) -> impl Stream<Item = Step> + Send + 'static {
    let id = context.id;
    let work = move |site: &Site<'_>| look(site, request.job);
    let ending = move |found: Changes| {
        Ending::success(&ChangesEvent::Completed {
            job_id: id,
            changes_of: request.job,
            files: found.files.len(),
            additions: found.additions,
            deletions: found.deletions,
            truncated: found.truncated,
            timestamp: Timestamp::now(),
        })
    };
    drive::drive(config, context, work, ending)
}

fn look(site: &Site<'_>, id: JobId) -> Result<Changes> {
    let workspace = site.workspace();
    let job = Job::open(workspace, id).map_err(volume)?.ok_or_else(deleted)?;
    let work = job.work().map_err(volume)?;
    let Some((work, base, pull)) = work.and_then(|work| {
        let base = ObjectId::parse(work.base.as_deref()?.as_bytes())?;
        let pull = work.pull.clone()?;
        Some((work, base, pull))
    }) else {
        let sentence = "there is nothing to compare with: the job's pull did not succeed, or is no longer known";
        return Err(Failure::told(Code::NoBase, sentence));
    };
    if job.is_superseded(&work).map_err(volume)? {
        let sentence = "a later job has worked in this checkout since, so what this job has changed is not known any \
                        more: ask for the diff of the later job, or before the next one starts";
        return Err(Failure::told(Code::Superseded, sentence));
    }
    // It was accepted once, whatever is accepted now.
    let policy = Policy { file_repositories: FileRepositories::Allowed, ..Policy::default() };
    let pull = PullRequest::parse(pull.as_bytes(), workspace.root_text(), &policy)
        .map_err(|error| Failure::told(Code::NoBase, error.message))?;
    let real = match workspace.resolve(&work.checkout) {
        Ok(real) => real,
        Err(ResolveError::Refused(why)) => {
            let sentence = format!("the checkout of this job is gone: {why}");
            return Err(Failure::told(Code::WorkspaceGone, sentence));
        }
        Err(ResolveError::Volume(error)) => return Err(volume(error)),
    };
    let options = &pull.options;
    let staging = site.staging()?;
    let git = site.git(&staging)?;
    let source = Source {
        workspace,
        repo: &pull.repo_url,
        extent: Extent { depth: options.depth, filter: options.filter, lfs: options.lfs },
        checkout: &workspace.root().join(real.as_str()),
        base: &base,
    };
    site.monitor.message("Comparing the files with the commit that was pulled");
    let mut taken = take(&git, &staging, &source)?;
    let directory = staging.directory("changes")?;
    let is_whole = taken.write_patch(&directory.join("patch"))?;
    let summary = summary(&taken, !is_whole);
    let json = serde_json::to_vec(&summary).map_err(|error| Failure::Git(error.to_string()))?;
    place(&directory, &json, &job.changes())?;
    Ok(summary)
}

/// Puts patch and summary in place, together. If another look was faster, its answer stays.
fn place(directory: &Path, summary: &[u8], target: &Path) -> Result<()> {
    let path = directory.join("summary.json");
    let written = File::create_new(&path).and_then(|mut file| {
        file.write_all(summary)?;
        file.sync_all()?;
        File::open(directory.join("patch"))?.sync_all()
    });
    written.map_err(Failure::io("write", &path))?;
    match fs::rename(directory, target) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Err(deleted()),
        Err(error)
            if !matches!(
                error.kind(),
                io::ErrorKind::DirectoryNotEmpty | io::ErrorKind::AlreadyExists
            ) =>
        {
            Err(Failure::io("put in place", target)(error))
        }
        _ => Ok(()),
    }
}

fn summary(taken: &Taken<'_>, is_cut: bool) -> Changes {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let (additions, deletions) = taken.files.lines();
    let all = taken.files.0.iter().map(|file| FileChange {
        path: text(&file.path),
        encoded_path: std::str::from_utf8(&file.path)
            .is_err()
            .then(|| percent_encode(&file.path, NON_ALPHANUMERIC).to_string()),
        from: file.from.as_deref().map(text),
        status: file.status,
        additions: file.additions,
        deletions: file.deletions,
        binary: file.is_binary,
        lfs: file.is_in_lfs,
        hidden: file.is_hiding,
    });
    let files = fitting(all);
    let skipped = taken.skipped.iter();
    let skipped =
        fitting(skipped.map(|it| SkippedFile { path: text(&it.path), reason: it.reason }));
    let subject = |message: &str| {
        let line = message.lines().next().unwrap_or_default();
        line.chars().take(LONGEST_SUBJECT).collect()
    };
    let commits = taken.commits.iter().map(|commit| AgentCommit {
        commit: commit.id.to_string(),
        subject: subject(&commit.message),
    });
    Changes {
        base: taken.base.to_string(),
        additions,
        deletions,
        truncated: is_cut || files.len() < taken.files.0.len(),
        files,
        skipped,
        commits: commits.collect(),
    }
}

/// As many entries of a list as it may have, and as are not too long together.
fn fitting<T: Serialize>(entries: impl Iterator<Item = T>) -> Vec<T> {
    let mut left = LONGEST_LIST;
    let fits = entries.take(MOST_FILES).take_while(|entry| {
        let length = serde_json::to_vec(entry).map_or(usize::MAX, |json| json.len());
        let rest = left.checked_sub(length);
        left = rest.unwrap_or_default();
        rest.is_some()
    });
    fits.collect()
}

fn deleted() -> Failure {
    Failure::told(Code::NotFound, "the job was deleted: there is nothing to compare any more")
}

fn volume(error: workspace::Error) -> Failure {
    tracing::error!(error = &error as &dyn std::error::Error, "cannot read a job");
    let refusal = error.refusal();
    Failure::told(refusal.code, refusal.message)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_is_cut_by_number_and_by_length() {
        let many = fitting(std::iter::repeat_n("x", MOST_FILES + 1));
        assert_eq!(many.len(), MOST_FILES);
        // A control character is six in JSON.
        let long = "\u{1}".repeat(1 << 20);
        assert_eq!(fitting(std::iter::repeat_n(long.as_str(), 10)).len(), 5);
    }
}
