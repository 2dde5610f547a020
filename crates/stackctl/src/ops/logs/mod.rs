//! `stackctl logs`.

mod line;
mod swarm;

use std::{
    collections::BTreeSet,
    io::{self, Write as _},
    time::Duration,
};

use contract::{JobId, Timestamp};
use supervisor::{Ask, Connection, ConnectionError, Reply};

use super::{
    error::OpsError,
    options::{LogsOptions, Since, Tail},
    ps::addresses_on_swarm,
    target::Target,
};
use crate::client::{Api, Interrupts, exit, ids, note};
use line::{Filter, Line};

/// How many lines of each service are shown if nobody says.
const TAIL: u32 = 100;

/// Shows logs, to their end or until somebody has seen enough.
pub(super) async fn logs(options: LogsOptions) -> anyhow::Result<u8> {
    let target = Target::find(&options.target).await?;
    let filter = Filter {
        jobs: match &options.job {
            Some(given) => Some(jobs(&target, &options, given).await?),
            None => None,
        },
        since: options.since.map(|since| since.from(Timestamp::now())),
    };
    let mut interrupts = Interrupts::listen()?;
    let showing = async {
        match &target {
            Target::Swarm(engine) => swarm::show(engine, &options, &filter).await,
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
    /// How many lines to look at; a filter wants to see all.
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

/// The job that is meant, and those it asked for.
async fn jobs(
    target: &Target,
    options: &LogsOptions,
    given: &str,
) -> anyhow::Result<BTreeSet<JobId>> {
    let url = match (&options.target.url, target) {
        (Some(url), _) => Some(url.clone()),
        (None, Target::Local(local)) => first(local.status().await?.addresses()),
        (None, Target::Swarm(engine)) => {
            first(addresses_on_swarm(engine, &engine.services().await?, None))
        }
    };
    let whole: Option<JobId> = given.parse().ok();
    let found = match url {
        Some(url) => related(&Api::new(url), given).await.map_err(anyhow::Error::from),
        None => Err(OpsError::Usage(
            "name the gateway's address with --url, or give the whole id".into(),
        )
        .into()),
    };
    match (found, whole) {
        (Ok(jobs), _) => Ok(jobs),
        // Its log may be all that is left of it.
        (Err(error), Some(id)) => {
            note(&format!(
                "showing only lines with this id, not those of the jobs it asked for: {error:#}"
            ));
            Ok(BTreeSet::from([id]))
        }
        (Err(error), None) => Err(error),
    }
}

fn first<A, B>(addresses: Vec<(A, B)>) -> Option<B> {
    addresses.into_iter().next().map(|(_, address)| address)
}

async fn related(api: &Api, given: &str) -> Result<BTreeSet<JobId>, crate::client::ClientError> {
    let job = ids::resolve(api, given).await?;
    // Whoever asked was created before.
    let (younger, _) = api.jobs_since(job.created, usize::MAX).await?;
    let children =
        younger.into_iter().filter(|it| it.parent == Some(job.job_id)).map(|it| it.job_id);
    Ok(children.chain([job.job_id]).collect())
}

async fn show_local(
    local: &Connection,
    options: &LogsOptions,
    filter: &Filter,
) -> Result<(), OpsError> {
    let tail = match options.tail() {
        Tail::All => u32::MAX,
        Tail::Last(lines) => lines,
    };
    let part = options.service.map(|part| part.name().to_owned());
    let mut replies = local.ask(&Ask::Logs { part, tail, follow: options.follow }).await?;
    while let Some(reply) = replies.next().await? {
        let line = match reply {
            Reply::Line { part, number, at, text } => {
                Line { part, slot: u64::from(number), at: Some(at), text }
            }
            Reply::Missed(lines) => {
                note(&format!("{lines} lines were logged faster than they could be shown"));
                continue;
            }
            other => return Err(ConnectionError::unexpected(Some(other)).into()),
        };
        if filter.takes(&line) && !print(&line)? {
            return Ok(());
        }
    }
    Ok(())
}

/// Prints a line; returns whether somebody reads.
fn print(line: &Line) -> Result<bool, OpsError> {
    let mut out = anstream::stdout();
    match writeln!(out, "{}", line::draw(line)).and_then(|()| out.flush()) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(false),
        Err(error) => Err(OpsError::Output(error)),
    }
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
