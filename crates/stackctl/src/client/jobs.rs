//! `stackctl jobs`, `show` and `cancel`.

use std::io::{self, Write as _};

use anstyle::{AnsiColor, Style};
use contract::{JobList, JobState, JobView, Timestamp};
use serde::Serialize;
use serde_json::json;

use super::{
    api::{Api, Children, Listing},
    draw::{duration, one_line},
    error::ClientError,
    ids,
    options::{CancelOptions, JobsOptions, ShowOptions},
};

/// The longest text in a listing, in characters.
const TEXT: usize = 100;

/// Lists jobs.
pub(crate) async fn jobs(options: &JobsOptions) -> anyhow::Result<()> {
    let children = if options.all { Children::Listed } else { Children::Omitted };
    let listing = Listing { limit: Some(options.limit), state: options.state, children };
    let jobs = Api::new(options.stack.url.clone()).jobs(listing).await?;
    if options.stack.json {
        return Ok(print_json(&JobList { count: jobs.len(), jobs, next: None })?);
    }
    if jobs.is_empty() {
        return Ok(print("no such jobs; `stackctl run --help` shows how to start one\n")?);
    }
    Ok(print(&table(&jobs, Timestamp::now()))?)
}

/// Shows one job.
pub(crate) async fn show(options: &ShowOptions) -> anyhow::Result<()> {
    let api = Api::new(options.stack.url.clone());
    let job = ids::resolve(&api, &options.job.id).await?;
    if options.stack.json {
        return Ok(print_json(&job)?);
    }
    Ok(print(&description(&api, &job, Timestamp::now()))?)
}

/// Cancels a job.
pub(crate) async fn cancel(options: &CancelOptions) -> anyhow::Result<()> {
    let api = Api::new(options.stack.url.clone());
    let job = ids::resolve(&api, &options.job.id).await?;
    let cancelled = api.cancel(job.job_id).await?;
    let state = cancelled.state.as_str();
    if options.stack.json {
        return Ok(print_json(&json!({"jobId": job.job_id, "state": state}))?);
    }
    let id = job.job_id;
    Ok(print(&match (cancelled.too_late, cancelled.state) {
        (true, _) => format!("{id} had ended before: {state}\n"),
        (false, JobState::Queued | JobState::Running) => {
            format!("{id} is being cancelled: `{}` shows its end\n", api.command("attach", id))
        }
        (false, _) => format!("{id} is {state}\n"),
    })?)
}

fn table(jobs: &[JobView], now: Timestamp) -> String {
    let ids = ids::shorten(&jobs.iter().map(|job| job.job_id).collect::<Vec<_>>());
    let width = ids.iter().map(String::len).max().unwrap_or_default();
    let header = Style::new().bold();
    let mut text = format!(
        "{header}{:width$}  {:9}  {:>12}  {:>12}  {:15}  WHAT{header:#}\n",
        "ID", "STATE", "AGE", "TOOK", "SERVICE"
    );
    for (job, id) in jobs.iter().zip(ids) {
        let style = style(job.state);
        let what = [job.repo_url.as_deref(), job.error.as_deref()];
        let what = what.into_iter().flatten().map(|text| one_line(text, TEXT)).collect::<Vec<_>>();
        let line = format!(
            "{id:width$}  {style}{:9}{style:#}  {:>12}  {:>12}  {:15}  {}",
            job.state.as_str(),
            between(job.created, now),
            took(job, now).unwrap_or_default(),
            job.service.name(),
            what.join(": "),
        );
        text.push_str(line.trim_end());
        text.push('\n');
    }
    text
}

fn description(api: &Api, job: &JobView, now: Timestamp) -> String {
    let style = style(job.state);
    let state = format!("{style}{}{style:#}", job.state.as_str());
    let at = |time: Timestamp| format!("{time} ({} ago)", between(time, now));
    let fields = [
        ("job", Some(job.job_id.to_string())),
        ("state", Some(state)),
        ("service", Some(job.service.to_string())),
        ("parent", job.parent.map(|id| id.to_string())),
        ("repository", job.repo_url.as_ref().map(|url| one_line(url, 2000))),
        ("created", Some(at(job.created))),
        ("started", job.started.map(at)),
        ("ended", job.ended.map(at)),
        ("took", took(job, now)),
        ("code", job.code.map(|code| code.to_string())),
        ("error", job.error.as_ref().map(|error| one_line(error, 2000))),
    ];
    let mut text = String::new();
    for (name, value) in fields {
        if let Some(value) = value {
            text.push_str(&format!("{name:12}{value}\n"));
        }
    }
    let attach = api.command("attach", job.job_id);
    text.push_str(&if job.state.has_ended() {
        format!("\n`{attach}` shows what happened\n")
    } else {
        let cancel = api.command("cancel", job.job_id);
        format!("\n`{attach}` watches it, `{cancel}` ends it\n")
    });
    text
}

/// How long it has run, if it has begun.
fn took(job: &JobView, now: Timestamp) -> Option<String> {
    Some(between(job.started?, job.ended.unwrap_or(now)))
}

/// How long that is, for people.
pub(crate) fn between(from: Timestamp, to: Timestamp) -> String {
    let ms = to.as_millisecond().saturating_sub(from.as_millisecond()).max(0).cast_unsigned();
    match ms / (24 * 3600 * 1000) {
        0 => duration(ms),
        days => format!("{days} d"),
    }
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

fn print_json<T: Serialize>(value: &T) -> Result<(), ClientError> {
    let mut json = serde_json::to_string_pretty(value).map_err(ClientError::Answer)?;
    json.push('\n');
    print(&json)
}

fn print(text: &str) -> Result<(), ClientError> {
    let mut out = anstream::stdout();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        // Whoever reads has seen enough.
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        printed => printed.map_err(ClientError::Output),
    }
}

#[cfg(test)]
mod tests {
    use contract::{Code, JobId, Service};

    use super::*;

    fn job(id: &str, state: JobState) -> JobView {
        JobView {
            job_id: id.parse::<JobId>().unwrap(),
            service: Service::Workflow,
            state,
            parent: None,
            repo_url: Some("https://github.com/user/repo.git".into()),
            created: Timestamp::from_millisecond(1_000_000),
            started: None,
            ended: None,
            code: None,
            error: None,
        }
    }

    #[test]
    fn a_listing_and_a_job() {
        let mut failed = job("019aa001-0000-7000-8000-0123456789ab", JobState::Failed);
        failed.started = Some(Timestamp::from_millisecond(1_002_000));
        failed.ended = Some(Timestamp::from_millisecond(1_044_500));
        failed.code = Some(Code::Diverged);
        failed.error = Some("both have\nmoved \x1b[31mon".into());
        let queued = job("019aa002-0000-7000-8000-fedcba987654", JobState::Queued);
        let now = Timestamp::from_millisecond(1_200_000);
        let api = Api::new("http://127.0.0.1:5000".parse().unwrap());
        let plain = |text: &str| anstream::adapter::strip_str(text).to_string();
        insta::assert_snapshot!(plain(&table(&[queued, failed.clone()], now)));
        insta::assert_snapshot!(plain(&description(&api, &failed, now)));
    }
}
