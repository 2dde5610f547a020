//! `stackctl bench`: what the crate `bench` measures, as a table or as JSON.

mod table;

use std::{
    env, fs,
    io::{self, IsTerminal as _, Write as _},
    path::{Path, PathBuf},
    thread,
    time::Instant,
};

use anyhow::Context as _;
use bench::{Bench, Checked, Report, Row, Scale, Section, Size};
use clap::{Args, builder::PossibleValuesParser, builder::TypedValueParser as _};

use crate::{client::Interrupts, command::exit};

/// Measure what the stack costs, each figure beside the same work without it
///
/// Starts stacks of its own in a temporary directory, with an agent that calls no model, and removes everything at the
/// end. Needs git, but no key and no network. docs/PERFORMANCE.md explains each figure.
#[derive(Clone, Debug, Args)]
#[command(after_help = "\
Examples:
  stackctl bench --json > before.json
  stackctl bench --against before.json
  stackctl bench --only relay,latency

Exit codes: 0 all goals that count are met, 1 some are not or something failed, 130 interrupted.")]
pub(crate) struct BenchOptions {
    /// Print the figures as JSON
    #[arg(long)]
    json: bool,
    /// Compare with a run that was saved with --json
    #[arg(long, value_name = "FILE")]
    against: Option<PathBuf>,
    /// Measure only these sections
    #[arg(long, value_name = "SECTION", value_delimiter = ',', value_parser = section())]
    only: Vec<Section>,
    /// Measure less, in half a minute, with goals that a slow machine meets too
    #[arg(long)]
    small: bool,
    /// Let the goals count that depend on the machine, such as those in milliseconds
    #[arg(long)]
    absolute: bool,
    /// How many ended jobs a long listing has [default: 10000, or 2000 with --small]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    jobs: Option<u32>,
    /// How many agents run at once [default: 200, or 20 with --small]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=1000))]
    sessions: Option<u16>,
}

impl BenchOptions {
    fn size(&self) -> Size {
        let (scale, jobs, sessions) =
            if self.small { (Scale::Small, 2000, 20) } else { (Scale::Full, 10_000, 200) };
        let (jobs, sessions) = (self.jobs.unwrap_or(jobs), self.sessions.unwrap_or(sessions));
        Size { scale, jobs, sessions }
    }

    fn sections(&self) -> Vec<Section> {
        let is_wanted = |section: &Section| self.only.is_empty() || self.only.contains(section);
        Section::ALL.into_iter().filter(is_wanted).collect()
    }

    /// The goals that count.
    fn checked(&self) -> Checked {
        if self.absolute { Checked::OnRequest } else { Checked::Always }
    }
}

pub(crate) async fn bench(options: BenchOptions) -> anyhow::Result<u8> {
    let before = options.against.as_deref().map(saved).transpose()?;
    let mut interrupts = Interrupts::listen()?;
    let program = env::current_exe().context("cannot find the path of this program")?;
    child_process::become_subreaper().context("cannot adopt the processes of the stack")?;
    let began = Instant::now();
    let sections = options.sections();
    let bench = Bench::new(program, options.size())?;
    let rows = tokio::select! {
        biased;
        _ = interrupts.next() => None,
        rows = measure(&bench, &sections) => Some(rows),
    };
    let removed = bench.remove().await;
    let Some(rows) = rows else {
        removed?;
        return Ok(exit::CANCELLED);
    };
    let rows = rows?;
    removed?;
    let met = Report::meets(&rows, options.checked());
    let report = Report {
        scale: options.size().scale,
        optimised: !cfg!(debug_assertions),
        processors: thread::available_parallelism().map_or(1, usize::from),
        seconds: began.elapsed().as_secs_f64(),
        met,
        rows,
    };
    let mut out = anstream::stdout().lock();
    if options.json {
        serde_json::to_writer_pretty(&mut out, &report)?;
        writeln!(out)?;
    } else {
        let lines = table::lines(&report, before.as_ref());
        lines.iter().try_for_each(|line| writeln!(out, "{line}"))?;
    }
    Ok(if met { exit::COMPLETE } else { exit::FAILED })
}

/// Measures one section after another, and says on a terminal what it is doing.
async fn measure(bench: &Bench, sections: &[Section]) -> bench::Result<Vec<Row>> {
    let mut rows = Vec::new();
    for (at, section) in sections.iter().enumerate() {
        if io::stderr().is_terminal() {
            let (at, all) = (at + 1, sections.len());
            anstream::eprintln!("measuring {} ({at} of {all}) …", section.name());
        }
        rows.extend(bench.run(*section).await?);
    }
    Ok(rows)
}

fn saved(path: &Path) -> anyhow::Result<Report> {
    let content = fs::read(path).with_context(|| format!("cannot read {}", path.display()))?;
    serde_json::from_slice(&content)
        .with_context(|| format!("{} was not written by `bench --json`", path.display()))
}

fn section() -> impl clap::builder::TypedValueParser<Value = Section> {
    PossibleValuesParser::new(Section::ALL.map(Section::name))
        .try_map(|name| Section::from_name(&name).ok_or("there is no such section"))
}
