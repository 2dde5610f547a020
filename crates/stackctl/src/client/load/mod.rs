//! `stackctl load`: many callers at once, and how each job ended.

mod chart;
mod options;
mod progress;
mod report;

use std::{
    fs::File,
    io::{self, Write as _},
    path::Path,
    sync::Arc,
    time::{Duration, Instant},
};

use contract::Timestamp;
use stack_client::load::{Load, LoadEvent, RunningLoad};

pub(crate) use options::LoadOptions;
use progress::ProgressDisplay;
use report::{Left, LoadReport};

use super::{ClientError, Interrupts, print, render::print_on};
use crate::command::exit;

/// How often progress is shown at most.
const TICK: Duration = Duration::from_millis(200);

/// Runs the load and reports. Returns what the command exits with.
pub(crate) async fn load(options: LoadOptions) -> anyhow::Result<u8> {
    options.check()?;
    boot::raise_file_limit();
    let api = options.api()?;
    // Without a stack there is nothing to measure.
    let status = api.status().await.map_err(ClientError::from)?;
    // Opened first, so that a typing error does not cost an hour's numbers.
    let mut json = options.json.as_deref().map(Sink::open).transpose()?;
    let mut svg = options.svg.as_deref().map(Sink::open).transpose()?;
    let mut interrupts = Interrupts::listen()?;

    let mut progress = ProgressDisplay::start(&options, &api, &status);
    let began = Timestamp::now();
    let epoch = Instant::now();
    let requests = options.clone();
    let mut running = RunningLoad::start(&Load {
        api: api.clone(),
        service: options.service,
        jobs: options.jobs,
        concurrency: options.concurrency,
        jitter: Duration::from_millis(options.jitter_ms),
        patience: Duration::from_secs(options.retry.retry_seconds),
        request: Arc::new(move |number| requests.request(number)),
    });
    let mut tick = tokio::time::interval(TICK);
    let left = loop {
        tokio::select! {
            event = running.next() => match event {
                None => break None,
                Some(LoadEvent::Done(sample)) => progress.done(&sample),
                Some(LoadEvent::Submitted | LoadEvent::Started) => {}
            },
            _ = tick.tick() => progress.show(running.results(), running.running(), running.waiting()),
            _ = interrupts.next() => {
                break Some(Left { running: running.running(), waiting: running.waiting() });
            }
        }
    };
    let run = LoadReport {
        service: options.service,
        url: api.url.to_string(),
        jobs: options.jobs,
        concurrency: options.concurrency,
        began,
        took: epoch.elapsed(),
        results: running.results().clone(),
        left,
    };
    drop(running);
    progress.finish();

    let text = report::text(&run);
    // If the numbers go to standard output, the report for people goes to standard error.
    if json.as_ref().is_some_and(|sink| matches!(sink.to, To::Stdout)) {
        print_on(&mut anstream::stderr(), &text)?;
    } else {
        print(&text)?;
    }
    if let Some(sink) = &mut json {
        sink.write(|out| report::json(&run, out))?;
    }
    if let Some(sink) = &mut svg {
        let chart =
            chart::svg(&run).map_err(|error| anyhow::anyhow!("cannot draw the chart: {error}"))?;
        sink.write(|out| out.write_all(chart.as_bytes()))?;
    }
    Ok(exit_code(&run, &options))
}

fn exit_code(run: &LoadReport, options: &LoadOptions) -> u8 {
    let results = &run.results;
    let failed = options.all_complete && results.complete() < results.kept.len();
    if results.lost + results.refused + results.faults > 0 || failed {
        exit::FAILED
    } else if run.left.is_some() {
        exit::CANCELLED
    } else {
        exit::COMPLETE
    }
}

/// Where the numbers go.
struct Sink {
    name: String,
    to: To,
}

enum To {
    Stdout,
    File(File),
}

impl Sink {
    fn open(path: &Path) -> Result<Self, ClientError> {
        let name = path.display().to_string();
        if name == "-" {
            return Ok(Self { name, to: To::Stdout });
        }
        match File::create(path) {
            Ok(file) => Ok(Self { name, to: To::File(file) }),
            Err(error) => Err(ClientError::File { file: name, error }),
        }
    }

    fn write(
        &mut self,
        content: impl FnOnce(&mut dyn io::Write) -> io::Result<()>,
    ) -> Result<(), ClientError> {
        let to: &mut dyn io::Write = match &mut self.to {
            To::Stdout => &mut io::stdout().lock(),
            To::File(file) => file,
        };
        let mut out = io::BufWriter::new(to);
        content(&mut out)
            .and_then(|()| out.flush())
            .map_err(|error| ClientError::File { file: self.name.clone(), error })
    }
}
