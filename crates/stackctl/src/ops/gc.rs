//! `stackctl gc`.

use std::collections::BTreeMap;

use anstyle::Style;
use boot::{ProcessEnv, Settings};
use clap::Args;
use contract::Timestamp;
use indicatif::BinaryBytes;
use serde_json::json;
use transcript::between;
use workspace::{Collect, Collected, Kind, blocking};

use super::{OpsError, volume::VolumeOptions};
use crate::{
    client::{
        print,
        table::{Column, lines, terminal_width},
    },
    command::exit,
    program,
};

/// Delete what is old: checkouts and records of ended jobs, sessions and mirrors
///
/// The gateway does the same every ten minutes. How long things are kept comes from the environment, as it does for
/// the gateway: KEEP_CHECKOUTS_DAYS, KEEP_JOBS_DAYS, KEEP_SESSIONS_DAYS, KEEP_MIRRORS_DAYS and WORKSPACE_LIMIT_GIB.
/// Nothing that a waiting or running job uses is deleted, and no named checkout.
#[derive(Clone, Debug, Args)]
#[command(after_help = "\
Examples:
  stackctl gc --dry-run                        show what is too old, and its size
  KEEP_CHECKOUTS_DAYS=0 stackctl gc            delete the checkouts of all jobs that have ended

Exit codes: 0 success, 1 failed, 2 wrong usage, 3 no such workspace.")]
pub(crate) struct GcOptions {
    /// Delete nothing; show what would be deleted
    #[arg(short = 'n', long)]
    dry_run: bool,
    /// Print JSON, for programs
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    volume: VolumeOptions,
}

/// Deletes what is too old, or shows it.
pub(crate) async fn gc(options: GcOptions) -> anyhow::Result<u8> {
    let env = ProcessEnv;
    let mut settings = Settings::new(&env);
    let retention = gateway::read_retention(&mut settings);
    settings.finish().map_err(|invalid| OpsError::Usage(invalid.to_string()))?;
    let workspace = options.volume.open().await?;
    let collect = if options.dry_run { Collect::Find } else { Collect::Delete };
    let now = Timestamp::now();
    let (found, free) = blocking(move || {
        let measured = match collect {
            // What is deleted is measured before.
            Collect::Delete => workspace.collect(&retention, now, Collect::Find)?,
            Collect::Find => None,
        };
        let found = workspace.collect(&retention, now, collect)?;
        let found = found.map(|found| with_sizes(found, measured.unwrap_or_default()));
        Ok::<_, workspace::Error>((found, workspace.free_bytes()?))
    })
    .await?;
    let found = found.ok_or_else(|| {
        OpsError::NotYet("another process is deleting what is old: try again later".to_owned())
    })?;
    let text = if options.json {
        let report = json!({"dryRun": options.dry_run, "freeBytes": free, "items": found});
        serde_json::to_string_pretty(&report)? + "\n"
    } else {
        table(&found, collect, free, now, terminal_width())
    };
    print(&text)?;
    Ok(exit::COMPLETE)
}

fn with_sizes(mut found: Vec<Collected>, measured: Vec<Collected>) -> Vec<Collected> {
    let sizes: BTreeMap<_, _> =
        measured.into_iter().map(|it| ((it.kind, it.name), it.bytes)).collect();
    for it in &mut found {
        let size = sizes.get(&(it.kind, it.name.clone())).copied().flatten();
        it.bytes = it.bytes.or(size);
    }
    found
}

fn table(
    found: &[Collected],
    collect: Collect,
    free: u64,
    now: Timestamp,
    width: Option<u16>,
) -> String {
    let mut kinds: BTreeMap<Kind, (usize, u64, Timestamp)> = BTreeMap::new();
    for it in found {
        let (count, bytes, oldest) = kinds.entry(it.kind).or_insert((0, 0, it.last_used));
        *count += 1;
        *bytes = bytes.saturating_add(it.bytes.unwrap_or_default());
        *oldest = it.last_used.min(*oldest);
    }
    let columns = [
        ("WHAT", Column::Text),
        ("COUNT", Column::Number),
        ("SIZE", Column::Number),
        ("OLDEST", Column::Number),
    ];
    let rows = kinds.iter().map(|(kind, (count, bytes, oldest))| {
        (
            Style::new(),
            vec![
                plural(*kind).to_owned(),
                count.to_string(),
                BinaryBytes(*bytes).to_string(),
                between(*oldest, now),
            ],
        )
    });
    let total = kinds.values().map(|(_, bytes, _)| *bytes).fold(0, u64::saturating_add);
    let summary = match (found.is_empty(), collect) {
        (true, _) => "nothing is too old".to_owned(),
        (false, Collect::Delete) => format!("deleted {}", BinaryBytes(total)),
        (false, Collect::Find) => {
            format!("`{} gc` would delete {}", program::name(), BinaryBytes(total))
        }
    };
    let mut text = if found.is_empty() {
        String::new()
    } else {
        lines(&columns, rows, width).join("\n") + "\n\n"
    };
    text.push_str(&format!("{summary}; {} are free\n", BinaryBytes(free)));
    text
}

fn plural(kind: Kind) -> &'static str {
    match kind {
        Kind::Checkout => "checkouts",
        Kind::Job => "jobs",
        Kind::Session => "sessions",
        Kind::Mirror => "mirrors",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_report() {
        let now = Timestamp::from_millisecond(9 * 86_400_000);
        let item = |kind, days: i64, bytes| Collected {
            kind,
            name: "x".to_owned(),
            last_used: Timestamp::from_millisecond(days * 86_400_000),
            bytes: Some(bytes),
        };
        let found = [
            item(Kind::Session, 1, 2048),
            item(Kind::Checkout, 2, 3 << 29),
            item(Kind::Checkout, 1, 1 << 20),
        ];
        let plain = |text: &str| anstream::adapter::strip_str(text).to_string();
        let dry = plain(&table(&found, Collect::Find, 5 << 30, now, None));
        insta::assert_snapshot!("gc", dry);
        let deleted = table(&found, Collect::Delete, 0, now, None);
        assert!(deleted.ends_with("deleted 1.50 GiB; 0 B are free\n"), "{deleted}");
        let none = table(&[], Collect::Find, 1023, now, None);
        assert_eq!(none, "nothing is too old; 1023 B are free\n");
    }

    #[test]
    fn sizes_are_those_measured_before() {
        let item = |kind, bytes| Collected {
            kind,
            name: "x".to_owned(),
            last_used: Timestamp::from_millisecond(0),
            bytes,
        };
        let measured = vec![item(Kind::Job, Some(7)), item(Kind::Mirror, Some(8))];
        let found = with_sizes(vec![item(Kind::Mirror, None), item(Kind::Session, None)], measured);
        assert_eq!(found, [item(Kind::Mirror, Some(8)), item(Kind::Session, None)]);
    }
}
