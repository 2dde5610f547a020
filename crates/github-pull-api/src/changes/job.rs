//! The job that looks at what another job has left, and keeps the answer beside that job's record.

use std::{
    fs::{self, File},
    io::{self, Write as _},
    path::Path,
    sync::Arc,
};

use contract::{
    AgentCommit, Changes, ChangesEvent, ChangesRequest, Code, Ending, FileChange, FileRepositories,
    JobId, JobRequest as _, Policy, PullRequest, RequestError, SkippedFile, Timestamp,
};
use futures_util::Stream;
use oneshot::{JobContext, Step};
use percent_encoding::{NON_ALPHANUMERIC, percent_encode};
use serde::Serialize;
use workspace::{Comparable, Job};

use super::{MOST_FILES, Source, Taken, take};
use crate::{
    Config,
    app::Need,
    drive::{self, Site},
    failure::{Failure, Result},
    remote::{Extent, ObjectId},
    staging::Staging,
};

/// The file that is written last.
const SUMMARY: &str = "summary.json";
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
    drive::drive(config, context, Need::Read, work, ending)
}

fn look(site: &Site<'_>, id: JobId) -> Result<Changes> {
    let workspace = site.workspace();
    let job = Job::open(workspace, id).map_err(volume)?.ok_or_else(deleted)?;
    let Comparable { base, pull, checkout } = job.comparable().map_err(refused)?;
    let base = ObjectId::parse(base.as_bytes()).ok_or_else(|| {
        Failure::told(Code::NoBase, "the job's pull names no commit that can be compared with")
    })?;
    // It was accepted once, whatever is accepted now.
    let policy = Policy { file_repositories: FileRepositories::Allowed, ..Policy::default() };
    let pull = PullRequest::parse(pull.as_bytes(), workspace.root_text(), &policy)
        .map_err(|error| Failure::told(Code::NoBase, error.message))?;
    let options = &pull.options;
    let staging = site.staging()?;
    let git = site.git(&staging)?;
    let source = Source {
        workspace,
        repo: &pull.repo_url,
        extent: Extent { depth: options.depth, filter: options.filter, lfs: options.lfs },
        uses_lfs: options.lfs,
        checkout: &workspace.root().join(checkout.as_str()),
        base: &base,
    };
    site.monitor.message("Comparing the files with the commit that was pulled");
    let mut taken = take(&git, &staging, &source)?;
    let directory = staging.directory("changes")?;
    let is_whole = taken.write_patch(&directory.join("patch"))?;
    let summary = summary(&taken, !is_whole);
    let json = serde_json::to_vec(&summary).map_err(|error| Failure::Git(error.to_string()))?;
    place(&staging, &directory, &json, &job.changes())?;
    Ok(summary)
}

/// Puts patch and summary in place, together. If another look was faster, its answer stays.
fn place(staging: &Staging, directory: &Path, summary: &[u8], target: &Path) -> Result<()> {
    let path = directory.join(SUMMARY);
    let written = File::create_new(&path).and_then(|mut file| {
        file.write_all(summary)?;
        file.sync_all()?;
        File::open(directory.join("patch"))?.sync_all()?;
        File::open(directory)?.sync_all()
    });
    written.map_err(Failure::io("write", &path))?;
    let failed = Failure::io("put in place", target);
    match fs::rename(directory, target) {
        Ok(()) => {}
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Err(deleted()),
        Err(error) if !is_taken(&error) => return Err(failed(error)),
        Err(_) if target.join(SUMMARY).is_file() => return Ok(()),
        // What a loss of power has left of an answer.
        Err(_) => {
            let moved = fs::rename(target, staging.join("half"));
            moved.and_then(|()| fs::rename(directory, target)).map_err(failed)?;
        }
    }
    match target.parent().map(|parent| File::open(parent)?.sync_all()) {
        Some(Err(error)) => Err(Failure::io("write", target)(error)),
        _ => Ok(()),
    }
}

/// Whether something is in the place of a directory.
fn is_taken(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::DirectoryNotEmpty | io::ErrorKind::AlreadyExists)
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
    refused(error.refusal())
}

fn refused(refusal: RequestError) -> Failure {
    Failure::told(refusal.code, refusal.message)
}

#[cfg(test)]
mod tests {
    use oneshot::Stop;

    use super::*;
    use crate::{monitor::Monitor, report::Reporter};

    #[test]
    fn an_answer_takes_the_place_of_half_of_one() {
        let root = tempfile::tempdir().unwrap();
        let monitor = Monitor { reporter: Reporter::default(), stop: Stop::default() };
        let staging = Staging::create(&monitor, root.path().join("staging")).unwrap();
        let target = root.path().join("changes");
        let answer = |text: &str| {
            let directory = staging.directory("answer").unwrap();
            fs::write(directory.join("patch"), text).unwrap();
            place(&staging, &directory, b"{}", &target).unwrap();
            fs::read_to_string(target.join("patch")).unwrap()
        };
        fs::create_dir(&target).unwrap();
        fs::write(target.join("patch"), "half").unwrap();
        assert_eq!(answer("one"), "one");
        // Another one comes too late.
        assert_eq!(answer("two"), "one");
    }

    #[test]
    fn a_list_is_cut_by_number_and_by_length() {
        let many = fitting(std::iter::repeat_n("x", MOST_FILES + 1));
        assert_eq!(many.len(), MOST_FILES);
        // A control character is six in JSON.
        let long = "\u{1}".repeat(1 << 20);
        assert_eq!(fitting(std::iter::repeat_n(long.as_str(), 10)).len(), 5);
    }
}
