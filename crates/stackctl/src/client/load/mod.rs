//! `stackctl load`: many callers at once, and what became of each.

mod caller;
mod chart;
mod options;
mod progress;
mod report;
mod sample;

use std::{
    collections::HashMap,
    fs::File,
    io::{self, Write as _},
    path::Path,
    sync::Arc,
    sync::atomic::{AtomicU32, Ordering},
    time::{Duration, Instant},
};

use contract::Timestamp;
use tokio::{sync::mpsc, task::JoinSet};

use caller::{Caller, News};
pub(crate) use options::LoadOptions;
use progress::Progress;
use report::{Left, Run};
use sample::Results;

use super::{
    api::Api,
    error::{ClientError, exit},
    interrupt::Interrupts,
};

/// How often progress is shown, at most.
const TICK: Duration = Duration::from_millis(200);

/// Runs the load and reports; returns what the command exits with.
pub(crate) async fn load(options: LoadOptions) -> anyhow::Result<u8> {
    options.check()?;
    boot::raise_file_limit();
    let api = Api::new(options.address()?);
    // Nothing is measured of a stack that is not there, or is none.
    let status = api.status().await?;
    // Opened before, so that nobody loses an hour's numbers to a slip of the pen.
    let mut json = options.json.as_deref().map(Sink::open).transpose()?;
    let mut svg = options.svg.as_deref().map(Sink::open).transpose()?;
    let mut interrupts = Interrupts::listen()?;

    let mut progress = Progress::start(&options, &api, &status);
    let began = Timestamp::now();
    let epoch = Instant::now();
    let (results, left) = run(&options, &api, epoch, &mut progress, &mut interrupts).await;
    let run = Run {
        service: options.service(),
        url: api.url.to_string(),
        jobs: options.jobs,
        concurrency: options.concurrency,
        began,
        took: epoch.elapsed(),
        results,
        left,
    };
    progress.finish();

    let text = report::text(&run);
    let to_stdout = json.as_ref().is_some_and(|sink| matches!(sink.to, To::Stdout));
    // Whatever the numbers' reader does, a person sees them too.
    if to_stdout {
        print(&mut anstream::stderr(), &text)
    } else {
        print(&mut anstream::stdout(), &text)
    }
    .map_err(ClientError::Output)?;
    if let Some(sink) = &mut json {
        sink.write(|out| report::json(&run, out))?;
    }
    if let Some(sink) = &mut svg {
        sink.write(|out| out.write_all(chart::svg(&run).as_bytes()))?;
    }
    Ok(exit_code(&run, &options))
}

fn exit_code(run: &Run, options: &LoadOptions) -> u8 {
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

/// Lets the callers call, until all are done or somebody has seen enough.
async fn run(
    options: &LoadOptions,
    api: &Api,
    epoch: Instant,
    progress: &mut Progress,
    interrupts: &mut Interrupts,
) -> (Results, Option<Left>) {
    let (sender, mut news) = mpsc::channel(1000);
    let next = Arc::new(AtomicU32::new(1));
    let options = Arc::new(options.clone());
    let mut callers = JoinSet::new();
    for number in 1..=options.concurrency.min(options.jobs) {
        let caller = Caller {
            number,
            api: api.clone(),
            service: options.service(),
            patience: options.patience(),
            epoch,
            news: sender.clone(),
        };
        let (next, options) = (Arc::clone(&next), Arc::clone(&options));
        callers.spawn(async move {
            loop {
                // Never beyond the last but by one a caller, so it does not turn over.
                let job = next.fetch_add(1, Ordering::Relaxed);
                if job > options.jobs {
                    return;
                }
                tokio::time::sleep(jitter(options.jitter_ms)).await;
                caller.call(&options.request(job)).await;
            }
        });
    }
    drop(sender);

    let mut results = Results::default();
    // Who is in the middle of a job, and whether it runs.
    let mut busy: HashMap<u32, bool> = HashMap::new();
    let mut tick = tokio::time::interval(TICK);
    loop {
        tokio::select! {
            told = news.recv() => match told {
                None => return (results, None),
                Some((caller, News::Asked)) => { busy.insert(caller, false); }
                Some((caller, News::Runs)) => { busy.insert(caller, true); }
                Some((caller, News::Done(sample))) => {
                    busy.remove(&caller);
                    progress.told(&sample);
                    results.add(*sample);
                }
            },
            _ = tick.tick() => progress.show(&results, busy.values().filter(|runs| **runs).count(), busy.len()),
            _ = interrupts.next() => {
                let running = busy.values().filter(|runs| **runs).count();
                return (results, Some(Left { running, waiting: busy.len() - running }));
            }
        }
    }
}

/// A random time up to `most` milliseconds.
fn jitter(most: u64) -> Duration {
    // A random id has more than enough chance in it for this, and is here already.
    let (random, _) = uuid::Uuid::new_v4().as_u64_pair();
    Duration::from_millis(random.rotate_left(16) % (most + 1))
}

/// Where numbers are written.
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
            Err(source) => Err(ClientError::File { file: name, source }),
        }
    }

    fn write(
        &mut self,
        content: impl FnOnce(&mut dyn io::Write) -> io::Result<()>,
    ) -> Result<(), ClientError> {
        let written = match &mut self.to {
            To::Stdout => {
                let mut out = io::BufWriter::new(io::stdout().lock());
                content(&mut out).and_then(|()| out.flush())
            }
            To::File(file) => {
                let mut out = io::BufWriter::new(file);
                content(&mut out).and_then(|()| out.flush())
            }
        };
        written.map_err(|source| ClientError::File { file: self.name.clone(), source })
    }
}

fn print(out: &mut impl io::Write, text: &str) -> io::Result<()> {
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        printed => printed,
    }
}
