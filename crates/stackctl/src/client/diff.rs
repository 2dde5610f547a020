//! `stackctl diff`, `apply` and `checkout`: what a job has changed, and how it gets into one's own clone.

use std::{
    io::{self, IsTerminal as _, Write as _},
    path::Path,
    process::{Command, Stdio},
};

use boot::{Signal, SignalListener};
use contract::{Changes, JobId};
use stack_client::Api;
use transcript::one_line;

use super::{
    diffstat::{coloured, diffstat},
    error::ClientError,
    facts, ids,
    local_git::LocalGit,
    options::{ApplyOptions, CheckoutCommand, DiffOptions},
    render::{note, print},
};
use crate::command::exit;

/// How long to look for the prompt of a job, for the message of a commit.
const PROMPT_TIME: std::time::Duration = std::time::Duration::from_secs(10);

/// `stackctl diff`.
pub(crate) async fn diff(options: DiffOptions) -> anyhow::Result<u8> {
    let api = options.stack.api()?;
    let id = ids::resolve(&api, &options.job.id).await?.job_id;
    if options.stack.json || options.stat {
        let changes = api.changes(id).await.map_err(ClientError::from)?;
        print(&if options.stack.json {
            serde_json::to_string_pretty(&changes)? + "\n"
        } else {
            diffstat(&changes, usize::MAX)
        })?;
        return Ok(exit::COMPLETE);
    }
    let patch = api.patch(id).await.map_err(ClientError::from)?;
    if io::stdout().is_terminal() {
        show(&coloured(&patch))?;
    } else {
        // Unchanged, for `git apply`.
        let mut out = io::stdout().lock();
        match out.write_all(&patch).and_then(|()| out.flush()) {
            Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
                return Err(ClientError::Output(error).into());
            }
            _ => {}
        }
    }
    Ok(exit::COMPLETE)
}

/// Shows text on a terminal, in the user's pager if there is one, as git does.
#[expect(clippy::disallowed_methods, reason = "a pager is the user's, and shares the terminal")]
fn show(text: &str) -> Result<(), ClientError> {
    let pager = std::env::var("PAGER").ok().filter(|pager| !pager.trim().is_empty());
    let mut command = match &pager {
        // It may have arguments.
        Some(pager) => {
            let mut shell = Command::new("sh");
            shell.args(["-c", pager]);
            shell
        }
        None => {
            let mut less = Command::new("less");
            less.arg("-FRX");
            less
        }
    };
    let plain = || anstream::adapter::strip_str(text).to_string();
    let is_coloured = anstream::stdout().current_choice() != anstream::ColorChoice::Never;
    let shown = if is_coloured { text.to_owned() } else { plain() };
    // Colours, unless the user has said otherwise.
    for (name, value) in [("LESS", "FRX"), ("LV", "-c")] {
        if std::env::var_os(name).is_none() {
            command.env(name, value);
        }
    }
    // What Ctrl-C means is for the pager to say: without this process, it would share the terminal with a shell.
    let _handled = SignalListener::new(Signal::SIGINT).map_err(ClientError::Signals)?;
    let Ok(mut child) = command.stdin(Stdio::piped()).spawn() else {
        return print(text).map(drop);
    };
    if let Some(mut stdin) = child.stdin.take() {
        // Whoever leaves the pager has seen enough.
        let _ = stdin.write_all(shown.as_bytes());
    }
    let status = child.wait().map_err(ClientError::Output)?;
    // What a shell says of a program that it cannot start.
    if matches!(status.code(), Some(126 | 127)) {
        return print(text).map(drop);
    }
    Ok(())
}

/// `stackctl apply`.
pub(crate) async fn apply(options: ApplyOptions) -> anyhow::Result<u8> {
    let api = options.stack.api()?;
    let git = LocalGit::here()?;
    let job = ids::resolve(&api, &options.job.id).await?;
    let changes = apply_to(&git, &api, job.job_id, job.repo_url.as_deref()).await?;
    print(&if options.stack.json {
        serde_json::to_string_pretty(&changes)? + "\n"
    } else {
        diffstat(&changes, usize::MAX)
    })?;
    Ok(exit::COMPLETE)
}

/// Applies what the job has changed to the files and the index of a repository, or changes nothing there. `repo` is the URL that
/// the job worked on.
///
/// # Errors
/// If the stack does not give it, the repository is another one, or it does not apply.
pub(super) async fn apply_to(
    git: &LocalGit,
    api: &Api,
    id: JobId,
    repo: Option<&str>,
) -> Result<Changes, ClientError> {
    let Some((changes, patch)) = fetch(api, id).await? else {
        note("The job has changed nothing.");
        return Ok(Changes::default());
    };
    check_base(git, &changes, repo)?;
    let git = &for_lfs(git, &changes);
    let directory = tempfile::tempdir().map_err(ClientError::Temporary)?;
    let (file, index) = (directory.path().join("patch"), directory.path().join("index"));
    std::fs::write(&file, patch).map_err(ClientError::Temporary)?;
    let file = file.to_string_lossy();
    // On a copy of the index first: with conflicts, git would leave them in the files.
    let theirs = git.git("git has no index here", &["rev-parse", "--git-path", "index"])?;
    let theirs = git.top().join(theirs);
    if theirs.exists() {
        std::fs::copy(&theirs, &index).map_err(ClientError::Temporary)?;
    }
    let rehearse = ["apply", "--cached", "--3way", "--whitespace=nowarn", &file];
    let environment = [("GIT_INDEX_FILE", index.as_os_str())];
    let why = "the change does not apply here, and nothing was touched: `stackctl checkout` makes a branch of it at the \
               commit that the job was given; git says";
    git.git_with(why, &rehearse, &environment)?;
    let why = "the change does not apply here, and nothing was touched: commit or stash your own changes first; git says";
    git.git(why, &["apply", "--3way", "--whitespace=nowarn", &file])?;
    Ok(changes)
}

/// `stackctl checkout`.
pub(crate) async fn checkout(options: CheckoutCommand) -> anyhow::Result<u8> {
    let api = options.stack.api()?;
    let git = LocalGit::here()?;
    let job = ids::resolve(&api, &options.job.id).await?;
    let id = job.job_id;
    let branch = options.branch.clone().unwrap_or_else(|| format!("agent/{}", ids::short(id)));
    let reference = format!("refs/heads/{branch}");
    git.git(&format!("'{branch}' cannot be a branch"), &["check-ref-format", &reference])?;
    if git.succeeds(&["rev-parse", "--verify", "--quiet", &reference], &[])? {
        let why = format!("there is a branch '{branch}' already: name another one");
        return Err(ClientError::Usage(why).into());
    }
    let Some((changes, patch)) = fetch(&api, id).await? else {
        note("The job has changed nothing, so there is no branch to make.");
        return Ok(exit::COMPLETE);
    };
    check_base(&git, &changes, job.repo_url.as_deref())?;
    let git = for_lfs(&git, &changes);
    let prompt = facts::read(&api, &job, PROMPT_TIME).await.prompt.unwrap_or_default();
    let subject = match one_line(&prompt, 72) {
        prompt if prompt.is_empty() => format!("Change of job {}", ids::short(id)),
        prompt => prompt,
    };
    let commit = commit(&git, &changes.base, &patch, &format!("{subject}\n\nJob: {id}\n"))?;
    let failed = format!("failed to create the branch '{branch}'; git says");
    git.git(&failed, &["branch", "--no-track", &branch, &commit])?;
    let why = "failed to switch to the branch, which was removed again: commit or stash your own changes first; git says";
    if let Err(error) = git.git(why, &["checkout", "--quiet", &branch, "--"]) {
        git.git("failed to remove the branch again", &["branch", "--quiet", "-D", &branch])?;
        return Err(error.into());
    }
    if options.stack.json {
        let made = serde_json::json!({"branch": branch, "commit": commit, "base": changes.base});
        print(&format!("{made:#}\n"))?;
    } else {
        print(&diffstat(&changes, usize::MAX))?;
        print(&format!("You are on the branch '{branch}', which has this as one commit.\n"))?;
    }
    Ok(exit::COMPLETE)
}

/// Makes a commit of `base` and a patch, without touching files or index.
fn commit(git: &LocalGit, base: &str, patch: &[u8], message: &str) -> Result<String, ClientError> {
    let directory = tempfile::tempdir().map_err(ClientError::Temporary)?;
    let path = |name: &str| directory.path().join(name);
    std::fs::write(path("patch"), patch).map_err(ClientError::Temporary)?;
    std::fs::write(path("message"), message).map_err(ClientError::Temporary)?;
    let text = |path: &Path| path.to_string_lossy().into_owned();
    let index = path("index");
    let environment = [("GIT_INDEX_FILE", index.as_os_str())];
    git.git_with("git cannot read the commit", &["read-tree", base], &environment)?;
    let apply = ["apply", "--cached", "--whitespace=nowarn", &text(&path("patch"))];
    git.git_with("the change does not apply to its own base", &apply, &environment)?;
    let tree = git.git_with("git cannot write the tree", &["write-tree"], &environment)?;
    let message = text(&path("message"));
    git.git("git cannot make a commit", &["commit-tree", &tree, "-p", base, "-F", &message])
}

/// The repository, for a change that may have files in LFS.
fn for_lfs(git: &LocalGit, changes: &Changes) -> LocalGit {
    if !changes.files.iter().any(|file| file.lfs) {
        return git.clone();
    }
    note(
        "Files in Git LFS become pointers here. Get the contents of new ones with GET /api/jobs/<id>/files/<path>; \
         `git lfs pull` gets the others.",
    );
    git.clone().keeping_pointers()
}

/// A change fits only a repository that has the commit that it was made on.
fn check_base(git: &LocalGit, changes: &Changes, repo: Option<&str>) -> Result<(), ClientError> {
    let base = format!("{}^{{commit}}", changes.base);
    if is_id(&changes.base) && git.succeeds(&["cat-file", "-e", &base], &[])? {
        return Ok(());
    }
    Err(ClientError::Usage(format!(
        "the commit {} that the job was given is not in this repository: run `git fetch`, or go to a clone of {}",
        one_line(&changes.base, 64),
        repo.map_or_else(|| "its repository".to_owned(), |url| one_line(url, 200)),
    )))
}

/// The whole change; `None` if there is none.
async fn fetch(api: &Api, id: JobId) -> Result<Option<(Changes, Vec<u8>)>, ClientError> {
    let changes = api.changes(id).await?;
    if changes.truncated {
        return Err(ClientError::Usage(
            "the change is too large for a diff, so it cannot be applied: get it from the checkout on the stack's machine".into(),
        ));
    }
    if changes.files.is_empty() {
        return Ok(None);
    }
    let patch = api.patch(id).await?;
    Ok(Some((changes, patch)))
}

fn is_id(text: &str) -> bool {
    matches!(text.len(), 40 | 64) && text.bytes().all(|byte| byte.is_ascii_hexdigit())
}
