//! `stackctl jobs`, `show`, `cancel` and `delete`.

use std::time::Duration;

use anstyle::{AnsiColor, Style};
use contract::{JobList, JobState, JobView, Timestamp};
use futures_util::{StreamExt as _, stream};
use serde::Serialize;
use serde_json::json;
use stack_client::{Api, Children, Listing};
use transcript::{Facts, between, one_line};

use super::{
    command_on,
    error::ClientError,
    facts, ids,
    options::{CancelOptions, DeleteOptions, JobsOptions, ShowOptions},
    render::print,
    table::{Column, lines, terminal_width},
};
use crate::{command::exit, program};

/// The longest text in a listing, in characters. A terminal may cut it shorter.
const TEXT: usize = 100;
/// How long a listing waits for prompts and costs, which are in the events of each job.
const LISTING_TIME: Duration = Duration::from_secs(3);
/// For how many jobs a listing reads them, and for how many at once.
const LISTED_FACTS: usize = 100;
const AT_ONCE: usize = 8;
/// How long `show` waits for the events of a job.
const SHOW_TIME: Duration = Duration::from_secs(20);
/// For a job that runs: it gets no terminal event to wait for.
const GLANCE: Duration = Duration::from_millis(500);

/// Lists jobs.
pub(crate) async fn jobs(options: JobsOptions) -> anyhow::Result<u8> {
    let children = if options.all { Children::Listed } else { Children::Omitted };
    let listing = Listing { limit: Some(options.limit), state: options.state, id: None, children };
    let api = options.stack.api()?;
    let jobs = api.jobs(listing).await.map_err(ClientError::from)?;
    print(&if options.stack.json {
        json_of(&JobList { count: jobs.len(), jobs, next: None })?
    } else if jobs.is_empty() {
        format!("there are no such jobs; `{} run --help` shows how to start one\n", program::name())
    } else {
        table(&jobs, &all_facts(&api, &jobs).await, Timestamp::now(), terminal_width())
    })?;
    Ok(exit::COMPLETE)
}

/// The facts of each of these jobs. They are empty for those that come too late.
async fn all_facts(api: &Api, jobs: &[JobView]) -> Vec<Facts> {
    let mut all = vec![Facts::default(); jobs.len()];
    let mut reads =
        stream::iter(jobs.iter().enumerate().take(LISTED_FACTS))
            .map(|(at, job)| async move {
                (at, facts::read(api, job, time_for(job, LISTING_TIME)).await)
            })
            .buffer_unordered(AT_ONCE);
    let read_all = async {
        while let Some((at, facts)) = reads.next().await {
            if let Some(place) = all.get_mut(at) {
                *place = facts;
            }
        }
    };
    let _late = tokio::time::timeout(LISTING_TIME, read_all).await;
    drop(reads);
    all
}

fn time_for(job: &JobView, ended: Duration) -> Duration {
    if job.state.has_ended() { ended } else { GLANCE }
}

/// Shows one job.
pub(crate) async fn show(options: ShowOptions) -> anyhow::Result<u8> {
    let api = options.stack.api()?;
    let job = ids::resolve(&api, &options.job.id).await?;
    print(&if options.stack.json {
        json_of(&job)?
    } else {
        let facts = facts::read(&api, &job, time_for(&job, SHOW_TIME)).await;
        description(&api, &job, &facts, Timestamp::now())
    })?;
    Ok(exit::COMPLETE)
}

/// Cancels a job.
pub(crate) async fn cancel(options: CancelOptions) -> anyhow::Result<u8> {
    let api = options.stack.api()?;
    let id = ids::resolve(&api, &options.job.id).await?.job_id;
    let cancelled = api.cancel(id).await.map_err(ClientError::from)?;
    let state = cancelled.state.as_str();
    print(&match (cancelled.too_late, cancelled.state) {
        _ if options.stack.json => json_of(&json!({"jobId": id, "state": state}))?,
        (true, _) => format!("{id} has already ended: {state}\n"),
        (false, JobState::Queued | JobState::Running) => {
            let attach = command_on(&api.url, "attach", id);
            format!("{id} is being cancelled: `{attach}` shows its end\n")
        }
        (false, _) => format!("{id} is {state}\n"),
    })?;
    Ok(exit::COMPLETE)
}

/// Deletes a job.
pub(crate) async fn delete(options: DeleteOptions) -> anyhow::Result<u8> {
    let api = options.stack.api()?;
    let id = ids::resolve(&api, &options.job.id).await?.job_id;
    let deleted = api.delete(id).await.map_err(ClientError::from)?;
    print(&if options.stack.json { json_of(&deleted)? } else { format!("{id} is deleted\n") })?;
    Ok(exit::COMPLETE)
}

fn table(jobs: &[JobView], facts: &[Facts], now: Timestamp, width: Option<u16>) -> String {
    let ids = ids::shorten(&jobs.iter().map(|job| job.job_id).collect::<Vec<_>>());
    let columns = [
        ("ID", Column::Text),
        ("STATE", Column::Text),
        ("AGE", Column::Number),
        ("TOOK", Column::Number),
        ("COST", Column::Number),
        ("SERVICE", Column::Text),
        ("WHAT", Column::Elastic),
    ];
    let rows = jobs.iter().zip(facts).zip(ids).map(|((job, facts), id)| {
        let repo = job.repo_url.as_deref().map(short_repo);
        let what = [job.error.as_deref(), facts.prompt.as_deref(), repo];
        let what: Vec<_> = what.into_iter().flatten().map(|text| one_line(text, TEXT)).collect();
        vec![
            id,
            job.state.as_str().to_owned(),
            between(job.created, now),
            took(job, facts, now).unwrap_or_default(),
            facts.cost().unwrap_or_default(),
            job.service.spec().short_name.to_owned(),
            what.join(" · "),
        ]
    });
    let mut lines = lines(&columns, rows.map(|row| (Style::new(), row)), width);
    for (line, job) in lines.iter_mut().skip(1).zip(jobs) {
        let (style, name) = (style(job.state), job.state.as_str());
        // The first match is the state: an ID has hexadecimal digits only.
        *line = line.replacen(name, &format!("{style}{name}{style:#}"), 1);
    }
    lines.join("\n") + "\n"
}

/// The end of a repository's URL, which names it among others.
fn short_repo(url: &str) -> &str {
    let mut slashes = url.trim_end_matches('/').rmatch_indices('/');
    let second = slashes.nth(1).map_or(0, |(at, _)| at + 1);
    url.get(second..).unwrap_or(url)
}

fn description(api: &Api, job: &JobView, facts: &Facts, now: Timestamp) -> String {
    let style = style(job.state);
    let state = format!("{style}{}{style:#}", job.state.as_str());
    let at = |time: Timestamp| format!("{time} ({} ago)", between(time, now));
    let line = |text: &String| one_line(text, 2000);
    let waited = job.started.map(|started| between(job.created, started));
    let fields = [
        ("job", Some(job.job_id.to_string())),
        ("state", Some(state)),
        ("service", Some(job.service.to_string())),
        ("parent", job.parent.map(|id| id.to_string())),
        ("prompt", facts.prompt.clone()),
        ("repository", job.repo_url.as_ref().map(line)),
        ("branch", facts.branch.clone()),
        ("commit", facts.commit.clone()),
        ("checkout", facts.checkout.clone()),
        ("delivered", facts.delivered.clone()),
        ("verified", facts.verified.map(|it| if it { "yes" } else { "no" }.to_owned())),
        ("model", facts.model.clone()),
        ("session", facts.session.clone()),
        ("cost", facts.account()),
        ("created", Some(at(job.created))),
        ("started", job.started.map(at)),
        ("ended", job.ended.map(at)),
        ("waited", waited),
        ("took", took(job, facts, now)),
        ("code", job.code.map(|code| code.to_string())),
        ("error", job.error.as_ref().map(line)),
        ("result", facts.result.clone()),
    ];
    let mut text = String::new();
    for (name, value) in fields {
        if let Some(value) = value {
            text.push_str(&format!("{name:12}{value}\n"));
        }
    }
    let attach = command_on(&api.url, "attach", job.job_id);
    text.push_str(&if job.state.has_ended() {
        format!("\n`{attach}` shows what happened\n")
    } else {
        let cancel = command_on(&api.url, "cancel", job.job_id);
        format!("\n`{attach}` watches it, `{cancel}` cancels it\n")
    });
    text
}

/// How long the job has run, if it has begun. `attach` counts from and to the same events.
fn took(job: &JobView, facts: &Facts, now: Timestamp) -> Option<String> {
    let began = facts.began.or(job.started)?;
    let ended = facts.ended.or(job.ended).unwrap_or(now);
    Some(between(began, ended))
}

fn style(state: JobState) -> Style {
    match state {
        JobState::Queued => AnsiColor::Yellow.on_default(),
        JobState::Running => AnsiColor::Cyan.on_default(),
        JobState::Succeeded => AnsiColor::Green.on_default(),
        JobState::Failed => AnsiColor::Red.on_default(),
        JobState::Cancelled => Style::new().dimmed(),
    }
}

fn json_of<T: Serialize>(value: &T) -> Result<String, ClientError> {
    let json = serde_json::to_string_pretty(value).map_err(stack_client::Error::Answer)?;
    Ok(json + "\n")
}

#[cfg(test)]
mod tests {
    use contract::Code;

    use super::*;
    use crate::fixtures::workflow;

    fn job(id: &str, state: JobState) -> JobView {
        let repo_url = Some("https://github.com/user/repo.git".into());
        let created = Timestamp::from_millisecond(1_000_000);
        JobView { repo_url, created, ..workflow(id, state) }
    }

    #[test]
    fn a_listing_and_a_job() {
        let mut failed = job("019aa001-0000-7000-8000-0123456789ab", JobState::Failed);
        failed.started = Some(Timestamp::from_millisecond(1_002_000));
        failed.ended = Some(Timestamp::from_millisecond(1_044_500));
        failed.code = Some(Code::Diverged);
        failed.error = Some("both have\nmoved \x1b[31mon".into());
        let queued = job("019aa002-0000-7000-8000-fedcba987654", JobState::Queued);
        let done = job("019aa003-0000-7000-8000-00000000000a", JobState::Succeeded);
        let facts = Facts {
            prompt: Some(
                "修复构建 🚀 and write down, at some length, what was wrong with it".into(),
            ),
            checkout: Some("/workspace/jobs/019aa003/repo".into()),
            branch: Some("main".into()),
            commit: Some("0123456789abcdef0123456789abcdef01234567".into()),
            delivered: None,
            model: Some("opus".into()),
            session: Some("5ccfa640-c6db-4838-93a9-c1d8e2383074".into()),
            result: Some("Done.".into()),
            cost_usd: Some(1.5),
            turns: Some(12),
            verified: None,
            began: Some(Timestamp::from_millisecond(1_100_000)),
            ended: Some(Timestamp::from_millisecond(1_160_000)),
        };
        let now = Timestamp::from_millisecond(1_200_000);
        let api =
            Api::new("http://127.0.0.1:5000".parse::<stack_client::StackUrl>().unwrap()).unwrap();
        let plain = |text: &str| anstream::adapter::strip_str(text).to_string();
        let jobs = [done.clone(), queued, failed.clone()];
        let all = [facts.clone(), Facts::default(), Facts::default()];
        insta::assert_snapshot!("listing", plain(&table(&jobs, &all, now, None)));
        insta::assert_snapshot!("narrow_listing", plain(&table(&jobs, &all, now, Some(80))));
        insta::assert_snapshot!(
            "failed_job",
            plain(&description(&api, &failed, &Facts::default(), now))
        );
        insta::assert_snapshot!("done_job", plain(&description(&api, &done, &facts, now)));
    }

    #[test]
    fn the_end_of_a_repository() {
        for (url, short) in [
            ("https://github.com/user/repo.git", "user/repo.git"),
            ("/srv/git/app/", "git/app/"),
            ("git@host:repo.git", "git@host:repo.git"),
        ] {
            assert_eq!(short_repo(url), short);
        }
    }
}
