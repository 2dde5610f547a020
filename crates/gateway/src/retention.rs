//! Deleting what is old, in the background.

use std::{sync::Arc, time::Duration};

use boot::Settings;
use contract::Timestamp;
use workspace::{Collect, Retention, blocking};

use crate::{lifecycle::Lifecycle, shared::Shared};

/// How often to look for what is too old.
const EVERY: Duration = Duration::from_secs(600);
const DAY: f64 = 24.0 * 60.0 * 60.0;
const GIB: f64 = (1_u64 << 30) as f64;

/// Reads how long things are kept: `KEEP_CHECKOUTS_DAYS`, `KEEP_JOBS_DAYS`, `KEEP_SESSIONS_DAYS`, `KEEP_MIRRORS_DAYS`
/// and `WORKSPACE_LIMIT_GIB`.
pub fn read_retention(settings: &mut Settings<'_>) -> Retention {
    let default = Retention::default();
    Retention {
        checkouts: days(settings, "KEEP_CHECKOUTS_DAYS", default.checkouts),
        jobs: days(settings, "KEEP_JOBS_DAYS", default.jobs),
        sessions: days(settings, "KEEP_SESSIONS_DAYS", default.sessions),
        mirrors: days(settings, "KEEP_MIRRORS_DAYS", default.mirrors),
        limit: limit(settings),
    }
}

fn days(settings: &mut Settings<'_>, name: &str, default: Option<Duration>) -> Option<Duration> {
    let Some(text) = settings.text(name) else { return default };
    if text == "never" {
        return None;
    }
    let days = text.parse::<f64>().ok().filter(|days| *days >= 0.0);
    let kept = days.and_then(|days| Duration::try_from_secs_f64(days * DAY).ok());
    if kept.is_none() {
        settings.problem(name, "must be a number of days, such as 7 or 0.5, or `never`");
    }
    kept
}

fn limit(settings: &mut Settings<'_>) -> Option<u64> {
    const NAME: &str = "WORKSPACE_LIMIT_GIB";
    let text = settings.text(NAME)?;
    // A rounded number of bytes is exact enough.
    let bytes = text.parse::<f64>().ok().map(|gib| gib * GIB).filter(|bytes| *bytes >= 1.0);
    let bytes = bytes.and_then(|bytes| format!("{bytes:.0}").parse().ok());
    if bytes.is_none() {
        settings.problem(NAME, "must be a number of GiB, such as 100");
    }
    bytes
}

/// Deletes what is too old, now and every few minutes. If several gateways share a volume, one of them does it at a
/// time. Never returns.
pub(crate) async fn run(shared: Arc<Shared>) {
    loop {
        if shared.lifecycle.get() != Lifecycle::Stopping {
            let (workspace, retention) = (shared.workspace.clone(), shared.config.retention);
            let collected =
                blocking(move || workspace.collect(&retention, Timestamp::now(), Collect::Delete));
            match collected.await {
                Ok(Some(deleted)) if !deleted.is_empty() => {
                    tracing::info!(things = deleted.len(), "deleted what was too old");
                }
                Ok(_) => {}
                Err(error) => tracing::error!(
                    error = &error as &dyn std::error::Error,
                    "cannot delete what is too old"
                ),
            }
        }
        tokio::time::sleep(EVERY).await;
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use super::*;

    fn read(pairs: &[(&str, &str)]) -> Result<Retention, Vec<String>> {
        let env: HashMap<_, _> =
            pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        let mut settings = Settings::new(&env);
        let retention = read_retention(&mut settings);
        settings.finish().map(|()| retention).map_err(|invalid| invalid.problems)
    }

    #[test]
    fn days_fractions_and_never() {
        assert_eq!(read(&[]), Ok(Retention::default()));
        let hours = |hours: u64| Some(Duration::from_secs(hours * 3600));
        let retention = read(&[
            ("KEEP_CHECKOUTS_DAYS", "0"),
            ("KEEP_JOBS_DAYS", "never"),
            ("KEEP_SESSIONS_DAYS", "0.5"),
            ("KEEP_MIRRORS_DAYS", "365"),
            ("WORKSPACE_LIMIT_GIB", "1.5"),
        ]);
        let expected = Retention {
            checkouts: hours(0),
            jobs: None,
            sessions: hours(12),
            mirrors: hours(365 * 24),
            limit: Some(3 << 29),
        };
        assert_eq!(retention, Ok(expected));
    }

    #[test]
    fn each_invalid_setting_is_named() {
        for bad in ["-1", "x", "NaN", "inf", "1e300"] {
            let problems = read(&[("KEEP_JOBS_DAYS", bad), ("WORKSPACE_LIMIT_GIB", bad)]);
            assert_eq!(problems.map_err(|all| all.len()), Err(2), "{bad}");
        }
        assert!(read(&[("WORKSPACE_LIMIT_GIB", "0")]).is_err());
    }
}
