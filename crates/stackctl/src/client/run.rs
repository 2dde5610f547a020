//! `stackctl run` and `stackctl attach`.

use std::{
    fs,
    io::{self, Read as _},
    path::Path,
    time::Duration,
};

use contract::{JobId, JobState, JobView, Service};
use serde::Serialize;
use serde_json::{Map, Value};
use stack_client::{Api, JobSource, StackUrl};
use transcript::chain;

use super::{
    command_on, deliver,
    diff::apply_to,
    diffstat::diffstat,
    error::{ClientError, url_argument},
    facts, ids,
    interrupt::{Interrupt, Interrupts},
    local_git::LocalGit,
    options::{AgentOptions, AttachOptions, CheckoutOptions, RunOptions},
    render::{note, print},
    watch::{End, Watch, WatchResult, watch},
};
use crate::{command::exit, program};

/// How long to look for the session of a job.
const SESSION_TIME: Duration = Duration::from_secs(60);

/// How long the end of a run waits until it is known what was changed.
const CHANGES_TIME: Duration = Duration::from_secs(15);

/// For how many files the end of a run has a line.
const MOST_FILES: usize = 20;

/// A workflow to run, once its parts have been read and found.
#[derive(Default)]
pub(crate) struct Work {
    pub(crate) repo: String,
    pub(crate) prompt: String,
    pub(crate) branch: Option<String>,
    pub(crate) directory: Option<String>,
    pub(crate) resume: Option<String>,
    pub(crate) checkout: CheckoutOptions,
    pub(crate) agent: AgentOptions,
    /// The field `deliver`.
    pub(crate) deliver: Option<Value>,
}

/// `stackctl run`.
pub(crate) async fn run(options: RunOptions) -> anyhow::Result<u8> {
    let api = options.stack.api()?;
    let url = api.url.clone();
    let prompt = prompt(&options.prompt)?;
    let repo = options.repo.as_deref().map(repository).transpose()?;
    let (resume, repo) = match &options.resume {
        None => (None, repo),
        Some(given) => resume(&api, given, repo).await?,
    };
    let repo = repo.ok_or_else(|| {
        ClientError::Usage("name with --repo the repository that the session is about".to_owned())
    })?;
    let (branch, directory) = (options.branch.clone(), options.directory.clone());
    let (checkout, agent) = (options.checkout.clone(), options.agent.clone());
    let deliver = deliver::field(&options.result)?;
    let work = Work { repo, prompt, branch, directory, resume, checkout, agent, deliver };
    let patience = Duration::from_secs(options.retry.retry_seconds);
    let json = options.stack.json;
    // Before the job costs anything.
    let here = if options.apply { Some(LocalGit::here()?) } else { None };
    let mut interrupts = Interrupts::listen()?;
    let outcome = run_workflow(api.clone(), &work, patience, json, &mut interrupts).await?;
    if outcome.end != End::Complete {
        return Ok(outcome.exit_code());
    }
    let mut interrupt = None;
    if !json {
        interrupt = show_changes(&api, outcome.job, &mut interrupts).await?;
        next_step(&url, &outcome, here.is_some())?;
    }
    match here {
        // Somebody wants this to end.
        Some(_) if interrupt.is_some() => not_applied(&api, outcome.job),
        Some(here) => apply_now(&here, &api, (outcome.job, &work.repo), interrupts).await,
        None => Ok(outcome.exit_code()),
    }
}

/// Shows which files a job has changed, if that is soon known. Returns the signal that ended it, if one did.
async fn show_changes(
    api: &Api,
    job: JobId,
    interrupts: &mut Interrupts,
) -> Result<Option<Interrupt>, ClientError> {
    let unknown = |why: &str| {
        note(&format!("What was changed is not known{why}"));
        Ok(None)
    };
    tokio::select! {
        changes = tokio::time::timeout(CHANGES_TIME, api.changes(job)) => match changes {
            Ok(Ok(changes)) => print(&diffstat(&changes, MOST_FILES)).map(|_| None),
            // The job is done all the same.
            Ok(Err(error)) => unknown(&format!(": {}", chain(&error))),
            Err(_) => unknown(" yet, because replicas are busy or there is much to compare: ask again"),
        },
        interrupt = interrupts.next() => Ok(Some(interrupt)),
    }
}

/// The end of `run --apply`, after its job is complete.
async fn apply_now(
    here: &LocalGit,
    api: &Api,
    (job, repo): (JobId, &str),
    mut interrupts: Interrupts,
) -> anyhow::Result<u8> {
    let applied = tokio::select! {
        applied = apply_to(here, api, job, Some(repo)) => applied,
        _ = interrupts.next() => return not_applied(api, job),
    };
    match applied {
        Ok(changes) => {
            if !changes.files.is_empty() {
                note("Applied to the repository you are in.");
            }
            Ok(exit::COMPLETE)
        }
        Err(error) => {
            let (error, again) = (chain(&error), command_on(&api.url, "apply", job));
            note(&format!("error: {error}; the job is complete, and `{again}` tries it again"));
            Ok(exit::USAGE)
        }
    }
}

fn not_applied(api: &Api, job: JobId) -> anyhow::Result<u8> {
    note(&format!("Nothing was applied: `{}` does it", command_on(&api.url, "apply", job)));
    Ok(exit::CANCELLED)
}

/// Posts a workflow and shows it to its end.
///
/// # Errors
/// If the stack refuses the workflow or cannot be reached; a failed workflow is an [`WatchResult`].
pub(crate) async fn run_workflow(
    api: Api,
    work: &Work,
    patience: Duration,
    json: bool,
    interrupts: &mut Interrupts,
) -> anyhow::Result<WatchResult> {
    let start = JobSource::Post(body(work)?.to_string().into());
    let service = Service::Workflow;
    Ok(watch(Watch { api, service, start, patience, json, interrupts }).await?)
}

/// Shows a job of any service from its beginning to its end.
pub(crate) async fn attach(options: AttachOptions) -> anyhow::Result<u8> {
    let api = options.stack.api()?;
    let url = api.url.clone();
    let job = ids::resolve(&api, &options.job.id).await?;
    let mut interrupts = Interrupts::listen()?;
    let outcome = watch(Watch {
        api: api.clone(),
        service: job.service,
        start: JobSource::Known(job.job_id),
        patience: Duration::from_secs(options.retry.retry_seconds),
        json: options.stack.json,
        interrupts: &mut interrupts,
    })
    .await?;
    if !options.stack.json && outcome.end == End::Complete {
        if job.service == Service::Workflow {
            show_changes(&api, outcome.job, &mut interrupts).await?;
        }
        next_step(&url, &outcome, false)?;
    }
    Ok(outcome.exit_code())
}

/// Says what to do after a job that has succeeded.
fn next_step(url: &StackUrl, outcome: &WatchResult, applies: bool) -> Result<(), ClientError> {
    let mut steps = vec![command_on(url, "diff", outcome.job)];
    if !applies {
        steps.push(command_on(url, "apply", outcome.job));
    }
    if outcome.has_session {
        steps.push(format!(
            "{} run --resume {} --prompt '…'{}",
            program::name(),
            ids::short(outcome.job),
            url_argument(url)
        ));
    }
    print(&format!("Next: {}\n", steps.join("\n      "))).map(drop)
}

/// The prompt itself, from a file or from standard input. It is read before anything else runs.
pub(super) fn prompt(given: &str) -> Result<String, ClientError> {
    if let Some(file) = given.strip_prefix('@') {
        return fs::read_to_string(file)
            .map_err(|error| ClientError::PromptFile(file.into(), error));
    }
    if given != "-" {
        return Ok(given.to_owned());
    }
    let mut prompt = String::new();
    io::stdin().read_to_string(&mut prompt).map_err(ClientError::Prompt)?;
    Ok(prompt)
}

/// The repository as the stack takes it: a directory of this machine becomes an absolute path.
fn repository(given: &str) -> Result<String, ClientError> {
    let is_relative =
        given == "." || given == ".." || ["./", "../"].iter().any(|it| given.starts_with(it));
    if !is_relative && !given.starts_with('/') {
        return Ok(given.to_owned());
    }
    let wrong = |why: &str| ClientError::Usage(format!("--repo {given}: {why}"));
    let path = Path::new(given)
        .canonicalize()
        .map_err(|error| wrong(&format!("there is no such directory ({error})")))?;
    if !path.join(".git").exists() && !path.join("HEAD").is_file() {
        return Err(wrong("this directory is not a git repository; name its top directory"));
    }
    path.into_os_string().into_string().map_err(|_| wrong("the path is not valid UTF-8"))
}

/// The session to continue, and the repository it is about if the caller does not name one.
async fn resume(
    api: &Api,
    given: &str,
    repo: Option<String>,
) -> anyhow::Result<(Option<String>, Option<String>)> {
    let given = given.trim().to_ascii_lowercase();
    // A whole id that is not a job's is a session's.
    if given.len() == JobId::new().to_string().len() && given.parse::<JobId>().is_err() {
        return Ok((Some(given), repo));
    }
    let job: JobView = ids::resolve(api, &given).await?;
    let facts = facts::read(api, &job, SESSION_TIME).await;
    let usage = |why: &str| ClientError::Usage(format!("cannot resume job {}: {why}", job.job_id));
    let session = match (facts.session, job.state) {
        (Some(session), state) if state.has_ended() => session,
        (_, JobState::Queued | JobState::Running) => return Err(usage("it has not ended").into()),
        _ => return Err(usage("its agent never started, so it has no session").into()),
    };
    Ok((Some(session), repo.or(job.repo_url)))
}

/// The request. The stack checks it: it knows its own limits.
fn body(work: &Work) -> serde_json::Result<Value> {
    let mut body = Map::new();
    body.extend(fields(&work.checkout)?);
    body.extend(fields(&work.agent)?);
    body.insert("prompt".to_owned(), work.prompt.clone().into());
    body.insert("repoUrl".to_owned(), work.repo.clone().into());
    let optional = [
        ("branch", &work.branch),
        ("directory", &work.directory),
        ("resumeSessionId", &work.resume),
    ];
    for (name, value) in optional {
        if let Some(value) = value {
            body.insert(name.to_owned(), value.clone().into());
        }
    }
    let AgentOptions { verify, verify_attempts, .. } = &work.agent;
    if !verify.is_empty() {
        let mut checks = Map::from_iter([("run".to_owned(), verify.clone().into())]);
        checks.extend(verify_attempts.map(|attempts| ("attempts".to_owned(), attempts.into())));
        body.insert("verify".to_owned(), checks.into());
    }
    if let Some(deliver) = &work.deliver {
        body.insert("deliver".to_owned(), deliver.clone());
    }
    Ok(body.into())
}

fn fields(options: &impl Serialize) -> serde_json::Result<Map<String, Value>> {
    serde_json::from_value(serde_json::to_value(options)?)
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;
    use serde_json::json;

    use super::*;
    use crate::cli::{Cli, Command};

    fn parse(arguments: &[&str]) -> Result<RunOptions, clap::Error> {
        let program = ["stackctl", "run"].iter().chain(arguments);
        match Cli::try_parse_from(program)?.command {
            Command::Run(options) => Ok(*options),
            other => panic!("{other:?}"),
        }
    }

    fn work(options: RunOptions, prompt: &str) -> Work {
        let RunOptions { repo, branch, directory, checkout, agent, resume, result, .. } = options;
        let (repo, deliver) = (repo.unwrap_or_default(), deliver::field(&result).unwrap());
        Work { repo, prompt: prompt.into(), branch, directory, resume, checkout, agent, deliver }
    }

    #[test]
    fn flags_become_fields() {
        let options = parse(&["--repo", "u", "--prompt", "- do"]).unwrap();
        assert_eq!(body(&work(options, "do")).unwrap(), json!({"prompt": "do", "repoUrl": "u"}));
        let options = parse(&[
            "--repo=u",
            "--prompt=-",
            "--branch=b",
            "--directory=d",
            "--resume=s",
            "--model=m",
            "--max-turns=3",
            "--max-budget-usd=0.5",
            "--timeout-seconds=60",
            "--allowed-tools=Bash,Read",
            "--append-system-prompt=- be brief",
            "--verify=cargo test",
            "--verify=cargo clippy",
            "--verify-attempts=1",
            "--submodules",
            "--lfs",
            "--depth=1",
            "--filter=blob:none",
            "--reset",
            "--update",
            "--deliver=fix/it",
            "--title=Fix it",
        ])
        .unwrap();
        assert_eq!(
            body(&work(options, "p")).unwrap(),
            json!({"prompt": "p", "repoUrl": "u", "branch": "b", "directory": "d",
                "resumeSessionId": "s", "model": "m", "maxTurns": 3, "maxBudgetUsd": 0.5,
                "timeoutSeconds": 60, "allowedTools": ["Bash", "Read"],
                "verify": {"run": ["cargo test", "cargo clippy"], "attempts": 1},
                "appendSystemPrompt": "- be brief", "submodules": true, "lfs": true, "depth": 1,
                "filter": "blob:none", "reset": true, "update": true,
                "deliver": {"mode": "branch", "branch": "fix/it", "title": "Fix it"}})
        );
    }

    #[test]
    fn a_typing_error_is_answered_with_the_nearest_word() {
        let error = parse(&["--rep", "u", "--prompt", "p"]).unwrap_err();
        assert!(error.to_string().contains("--repo"), "{error}");
        assert_eq!(error.exit_code(), 2);
        // It is refused later, because clap would repeat it.
        let secret = "https://user:s3cret@stack";
        let options = parse(&["--repo=u", "--prompt=p", "--url", secret]).unwrap();
        assert!(!format!("{options:?}").contains("s3cret"));
        let error = options.stack.api().unwrap_err();
        assert_eq!(error.exit_code(), 2);
        let error = error.to_string();
        assert!(error.contains("STACK_TOKEN") && error.contains("--token-file"), "{error}");
        assert!(!error.contains("s3cret"), "{error}");
    }

    #[test]
    fn a_prompt_from_a_file() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("task.md");
        fs::write(&file, "do\nthis\n").unwrap();
        assert_eq!(prompt(&format!("@{}", file.display())).unwrap(), "do\nthis\n");
        assert_eq!(prompt("user@host").unwrap(), "user@host");
        let missing = prompt("@/nowhere/x").unwrap_err();
        assert!(missing.to_string().contains("--prompt -"), "{missing}");
        assert_eq!(missing.exit_code(), 2);
    }

    #[test]
    fn a_directory_becomes_an_absolute_path() {
        let directory = tempfile::tempdir().unwrap();
        let root = directory.path().canonicalize().unwrap();
        fs::create_dir_all(root.join("app/.git")).unwrap();
        fs::create_dir_all(root.join("other")).unwrap();
        let given = format!("{}/other/../app/.", root.display());
        assert_eq!(repository(&given).unwrap(), root.join("app").to_str().unwrap());
        // The tests run in the directory of their crate.
        assert!(repository(".").unwrap_err().to_string().contains("not a git repository"));
        assert!(repository("../..").unwrap().starts_with('/'));
        assert!(repository("./nowhere").unwrap_err().to_string().contains("no such directory"));
        for url in ["https://github.com/user/repo.git", "git@host:path", "file:///a"] {
            assert_eq!(repository(url).unwrap(), url);
        }
    }
}
