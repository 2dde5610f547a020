//! `stackctl logs`.

mod line;

use std::{collections::BTreeSet, pin::pin, time::Duration};

use contract::{JobId, Timestamp};
use futures_util::StreamExt as _;
use stack_client::Api;
use supervisor::{Connection, ConnectionError, ControlRequest, Reply};
use swarm::{LogItem, LogLine, LogQuery, Stack, Tail};

use super::{
    OpsError,
    options::{Gateway, LogsOptions, Since},
    target::Target,
};
use crate::{
    client::{ClientError, Interrupts, ids, note, print},
    command::exit,
};
use line::Filter;

/// How many lines of each service are shown by default.
const TAIL: u32 = 100;

/// Shows logs, to their end or until somebody has seen enough.
pub(crate) async fn logs(options: LogsOptions) -> anyhow::Result<u8> {
    let gateway = options.gateway.clone().parse()?;
    let target = Target::find(&options.target).await?;
    let filter = Filter {
        jobs: match &options.job {
            Some(given) => Some(jobs(&target, &gateway, given).await?),
            None => None,
        },
        since: options.since.map(|since| since.from(Timestamp::now())),
    };
    let mut interrupts = Interrupts::listen()?;
    let showing = async {
        match &target {
            Target::Swarm(stack) => show_swarm(stack, &options, &filter).await,
            Target::Local(local) => show_local(local, &options, &filter).await,
        }
    };
    tokio::select! {
        shown = showing => shown?,
        _ = interrupts.next() => {}
    }
    Ok(exit::COMPLETE)
}

impl LogsOptions {
    /// How many lines to read. To filter by job or time, all of them.
    fn tail(&self) -> Tail {
        let all = self.job.is_some() || self.since.is_some();
        self.tail.unwrap_or(if all { Tail::All } else { Tail::Last(TAIL) })
    }
}

impl Since {
    fn from(self, now: Timestamp) -> Timestamp {
        match self {
            Self::At(at) => at,
            Self::Ago(ago) => {
                let ago = i64::try_from(ago.as_millis()).unwrap_or(i64::MAX);
                Timestamp::from_millisecond(now.as_millisecond().saturating_sub(ago).max(0))
            }
        }
    }
}

/// A duration with its unit, or a time.
pub(super) fn since(text: &str) -> Result<Since, String> {
    if let Ok(at) = serde_json::from_value(text.into()) {
        return Ok(Since::At(at));
    }
    let wrong = || "use a time like 2026-01-31T12:00:00Z, or 90s, 10m, 2h or 1d".to_owned();
    let at = text.find(|c: char| !c.is_ascii_digit()).ok_or_else(wrong)?;
    let (number, unit) = text.split_at(at);
    let unit = match unit {
        "s" => 1,
        "m" => 60,
        "h" => 3600,
        "d" => 86_400,
        _ => return Err(wrong()),
    };
    let number: u32 = number.parse().map_err(|_| wrong())?;
    Ok(Since::Ago(Duration::from_secs(u64::from(number) * unit)))
}

/// The job that is meant, and those it started.
async fn jobs(target: &Target, gateway: &Gateway, given: &str) -> anyhow::Result<BTreeSet<JobId>> {
    let found = match gateway.apis(target).await?.first() {
        Some((_, api)) => related(api, given).await.map_err(anyhow::Error::from),
        None => Err(OpsError::Usage(
            "name the gateway's address with --url, or give the whole ID".to_owned(),
        )
        .into()),
    };
    match (found, given.parse()) {
        // Its log may be all that is left of it.
        (Err(error), Ok(id)) => {
            note(&format!(
                "showing only lines with this ID, not those of the jobs that it started: {error:#}"
            ));
            Ok(BTreeSet::from([id]))
        }
        (found, _) => found,
    }
}

async fn related(api: &Api, given: &str) -> Result<BTreeSet<JobId>, ClientError> {
    let job = ids::resolve(api, given).await?;
    // A job starts others after its own creation.
    let (younger, _) = api.jobs_since(job.created, usize::MAX).await?;
    let children =
        younger.into_iter().filter(|it| it.parent == Some(job.job_id)).map(|it| it.job_id);
    Ok(children.chain([job.job_id]).collect())
}

async fn show_swarm(stack: &Stack, options: &LogsOptions, filter: &Filter) -> anyhow::Result<()> {
    let query = LogQuery {
        service: options.service.map(|part| part.name().to_owned()),
        tail: options.tail(),
        since: filter.since,
        follow: options.follow,
    };
    let mut items = pin!(stack.logs(query, |line| filter.takes(line)));
    while let Some(item) = items.next().await {
        match item.map_err(OpsError::from)? {
            LogItem::Line(line) if !show(&line)? => return Ok(()),
            LogItem::Line(_) => {}
            LogItem::Incomplete(why) => note(&format!("some lines may be missing: {why}")),
        }
    }
    Ok(())
}

async fn show_local(
    local: &Connection,
    options: &LogsOptions,
    filter: &Filter,
) -> anyhow::Result<()> {
    let tail = match options.tail() {
        Tail::All => u32::MAX,
        Tail::Last(lines) => lines,
    };
    let part = options.service.map(|part| part.name().to_owned());
    let ask = ControlRequest::Logs { part, tail, follow: options.follow };
    let mut replies = local.ask(&ask).await.map_err(OpsError::from)?;
    while let Some(reply) = replies.next().await.map_err(OpsError::from)? {
        match reply {
            Reply::Line { part, number, at, text } => {
                let line = LogLine { service: part, slot: number.into(), at: Some(at), text };
                if filter.takes(&line) && !show(&line)? {
                    return Ok(());
                }
            }
            Reply::Missed(lines) => {
                note(&format!("{lines} lines were logged faster than they could be shown"));
            }
            other => return Err(OpsError::from(ConnectionError::unexpected(Some(other))).into()),
        }
    }
    Ok(())
}

/// Prints a line. Returns whether anybody reads it.
fn show(line: &LogLine) -> Result<bool, ClientError> {
    print(&(line::styled(line) + "\n"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn from_when_on() {
        let ago = |seconds| Since::Ago(Duration::from_secs(seconds));
        for (text, expected) in
            [("90s", ago(90)), ("10m", ago(600)), ("2h", ago(7200)), ("1d", ago(86_400))]
        {
            assert_eq!(since(text), Ok(expected), "{text}");
        }
        let at = since("1970-01-01T00:00:05Z").unwrap();
        assert_eq!(at, Since::At(Timestamp::from_millisecond(5000)));
        for text in ["", "5", "m", "10 m", "-5m", "10w", "99999999999s", "yesterday", "5é"] {
            assert!(since(text).is_err(), "{text}");
        }
        let now = Timestamp::from_millisecond(100_000);
        assert_eq!(ago(40).from(now), Timestamp::from_millisecond(60_000));
        assert_eq!(ago(4000).from(now), Timestamp::from_millisecond(0));
    }
}
