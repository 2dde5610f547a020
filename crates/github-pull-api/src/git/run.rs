//! Running a command to its end, or ending it.

use std::{
    fs::File,
    io::{self, Write as _},
    process::ExitStatus,
    time::{Duration, Instant},
};

use child_process::{Child, Signal};
use contract::Code;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWriteExt as _};

use super::{Command, Output};
use crate::{
    connector::{Connector, stall::StallWatch},
    failure::{Failure, Result, is_volume_full, says_disk_full},
    progress::Lines,
};

/// The most that is read of what git prints: a list of a million references.
const MOST_OUTPUT: usize = 128 << 20;
/// How often a command is looked at: whether it is to stop, or has stalled.
const WATCH: Duration = Duration::from_millis(50);

impl Command<'_> {
    /// Runs the command.
    ///
    /// # Errors
    /// If git cannot be started, is ended for want of progress, or exceeds its bounds; not if it fails.
    pub(crate) fn run(self) -> Result<Output> {
        self.git.monitor.check_stop()?;
        self.git.runtime.clone().block_on(self.drive())
    }

    /// Runs a command that is to succeed, and returns what it printed.
    ///
    /// # Errors
    /// As [`run`](Self::run); [`Failure::Git`] if git fails.
    pub(crate) fn output(self) -> Result<Vec<u8>> {
        let output = self.run()?;
        if output.status.success() { Ok(output.stdout) } else { Err(output.failure()) }
    }

    /// Runs a command that is to succeed, and writes what it prints into `file`, but no more than `most` bytes.
    /// Whether that was all: it is not if there is more, or git would need more memory for it than it is given.
    ///
    /// # Errors
    /// As [`output`](Self::output), or if `file` cannot be written.
    pub(crate) fn output_to(mut self, file: File, most: u64) -> Result<bool> {
        self.git.monitor.check_stop()?;
        self.sink = Some((file, most));
        let output = match self.git.runtime.clone().block_on(self.drive()) {
            Err(Failure::Exceeded(why)) => {
                tracing::info!(why, "what git prints is cut");
                return Ok(false);
            }
            output => output?,
        };
        if output.is_cut || output.status.success() {
            Ok(!output.is_cut)
        } else {
            Err(output.failure())
        }
    }

    async fn drive(self) -> Result<Output> {
        let (git, host) = (self.git, self.host);
        let guest = self.guest().map_err(cannot_start)?;
        let mut child = guest.spawn().await.map_err(cannot_start)?;
        let pipes = (child.take_stdin(), child.take_stdout(), child.take_stderr());
        let (Some(mut stdin), Some(stdout), Some(stderr)) = pipes else {
            return Err(cannot_start(io::Error::other("a pipe is missing")));
        };
        let mut lines = Lines::new(&git.monitor.reporter);
        let mut patience = Patience::new(host, git.local_patience);
        let (input, sink) = (self.input, self.sink);
        let has_sink = sink.is_some();
        let (signs, mut signs_seen) = tokio::sync::mpsc::unbounded_channel();
        let talk = async {
            let write = async {
                // A git that does not read to the end says why on its standard error.
                let _ = stdin.write_all(&input).await;
                drop(stdin);
            };
            let read = async {
                match sink {
                    None => read_all(stdout, MOST_OUTPUT).await,
                    // It gets on as long as it prints.
                    Some((file, most)) => {
                        let printed = || {
                            let _ = signs.send(Work::Local);
                        };
                        write_all(stdout, file, most, printed).await
                    }
                }
            };
            let watch = async {
                let mut stderr = stderr;
                let mut buffer = vec![0; 8192];
                loop {
                    let read = stderr.read(&mut buffer).await?;
                    let Some(bytes) = buffer.get(..read).filter(|bytes| !bytes.is_empty()) else {
                        return io::Result::Ok(lines.finish());
                    };
                    let _ = signs.send(lines.push(bytes));
                }
            };
            tokio::join!(write, read, watch)
        };
        let mut talk = std::pin::pin!(talk);
        let mut tick = tokio::time::interval(WATCH);
        let ((), stdout, stderr) = loop {
            tokio::select! {
                biased;
                said = &mut talk => break said,
                Some(work) = signs_seen.recv() => patience.progressed(work),
                _ = tick.tick() => {
                    let why = if git.monitor.should_stop() {
                        Failure::Stopped
                    } else if let Some(why) = patience.is_over() {
                        why
                    } else {
                        continue;
                    };
                    end(&mut child).await;
                    return Err(why);
                }
            }
        };
        let Some(stdout) = stdout.map_err(cannot_read)? else {
            end(&mut child).await;
            if has_sink {
                let (stdout, stderr) = (Vec::new(), String::new());
                let status = ExitStatus::default();
                return Ok(Output { status, stdout, stderr, is_disk_full: false, is_cut: true });
            }
            let most = MOST_OUTPUT >> 20;
            let sentence = format!("git was stopped: its answer is longer than {most} MiB");
            return Err(Failure::told(Code::RepositoryInvalid, sentence));
        };
        let status = child.wait().await.map_err(cannot_read)?;
        git.monitor.reporter.end_stage();
        let stderr = stderr.map_err(cannot_read)?;
        let is_disk_full =
            !status.success() && (says_disk_full(&stderr) || is_volume_full(&git.configuration));
        let output = Output { status, stdout, stderr, is_disk_full, is_cut: false };
        tracing::debug!(?status, stderr = output.stderr, "git ended");
        match output.exceeded(git) {
            Some(failure) => Err(failure),
            None => Ok(output),
        }
    }
}

/// For how long git may go on without getting anywhere.
struct Patience<'a> {
    host: Option<(&'a Connector, Duration, StallWatch)>,
    local: Duration,
    since: Instant,
}

impl<'a> Patience<'a> {
    fn new(host: Option<(&'a Connector, Duration)>, local: Duration) -> Self {
        let since = Instant::now();
        let host = host.map(|(connector, stall)| {
            (connector, stall, StallWatch::new(stall, connector.transferred(), since))
        });
        Self { host, local, since }
    }

    fn progressed(&mut self, work: Work) {
        self.since = Instant::now();
        if work == Work::Local {
            // The host has sent everything; the rest is this machine's.
            self.host = None;
        }
    }

    fn is_over(&mut self) -> Option<Failure> {
        let now = Instant::now();
        if let Some((connector, stall, watch)) = &mut self.host {
            return watch
                .is_stalled(connector.transferred(), now)
                .then_some(Failure::Stalled(*stall));
        }
        let local = self.local;
        (now.duration_since(self.since) >= local).then(|| {
            let seconds = local.as_secs();
            Failure::told(
                Code::GitFailed,
                format!(
                    "git was stopped: it got nowhere for {seconds} s; look for pipes and devices in the \
                     directory and for a slow volume, or raise GIT_LOCAL_SECONDS"
                ),
            )
        })
    }
}

/// Whose work a line of git's is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Work {
    /// The git host's.
    Host,
    /// This machine's.
    Local,
}

/// Kills git and everything it started.
async fn end(child: &mut Child) {
    // An error means that it has ended.
    let _ = child.signal_group(Signal::SIGKILL);
    let _ = child.wait().await;
}

/// Everything `from` holds; `None` if that is more than `most` bytes.
async fn read_all(from: impl AsyncRead + Unpin, most: usize) -> io::Result<Option<Vec<u8>>> {
    let mut bytes = Vec::new();
    from.take(most as u64 + 1).read_to_end(&mut bytes).await?;
    Ok((bytes.len() <= most).then_some(bytes))
}

/// Writes everything `from` holds into `file`, and calls `printed` for each part; `None` if that is more than `most` bytes.
async fn write_all(
    mut from: impl AsyncRead + Unpin,
    mut file: File,
    most: u64,
    printed: impl Fn(),
) -> io::Result<Option<Vec<u8>>> {
    let (mut left, mut buffer) = (most, vec![0; 1 << 16]);
    loop {
        let read = from.read(&mut buffer).await?;
        printed();
        let bytes = buffer.get(..read).unwrap_or_default();
        let fits = usize::try_from(left).map_or(bytes, |left| bytes.get(..left).unwrap_or(bytes));
        // This thread may block.
        file.write_all(fits)?;
        match read {
            0 => return Ok(Some(Vec::new())),
            _ if fits.len() < read => return Ok(None),
            _ => left -= read as u64,
        }
    }
}

fn cannot_start(error: io::Error) -> Failure {
    let why = match error.kind() {
        io::ErrorKind::NotFound => "there is no git on the PATH: install it".to_owned(),
        _ => format!("{error}"),
    };
    Failure::told(Code::GitFailed, format!("git cannot be started: {why}"))
}

fn cannot_read(error: io::Error) -> Failure {
    Failure::told(Code::GitFailed, format!("git's answer cannot be read: {error}"))
}

#[cfg(test)]
mod tests {
    use oneshot::Stop;

    use super::*;
    use crate::{Config, git::Git, monitor::Monitor, report::Reporter, staging::Staging};

    /// It prints for longer than it may go on without progress.
    #[tokio::test(flavor = "multi_thread")]
    async fn what_prints_gets_on() {
        let printed = tokio::task::spawn_blocking(|| {
            let root = tempfile::tempdir().unwrap();
            let monitor = Monitor { reporter: Reporter::default(), stop: Stop::default() };
            let staging = Staging::create(&monitor, root.path().join("job")).unwrap();
            let config = Config { local_patience: Duration::from_secs(2), ..Config::default() };
            let git = Git::new(&config, monitor, &staging, Duration::from_secs(60)).unwrap();
            let slow = "!for i in 1 2 3 4 5 6; do echo $i; sleep 0.5; done";
            let command = || git.command(["slow"]).config("alias.slow", slow);
            let path = staging.join("printed");
            let whole = command().output_to(File::create(&path).unwrap(), 100).unwrap();
            // The control: what is only looked at in the end has to end in time.
            let failure = command().output().unwrap_err();
            (whole, std::fs::read_to_string(path).unwrap(), failure)
        });
        let (whole, text, failure) = printed.await.unwrap();
        assert_eq!((whole, text.as_str()), (true, "1\n2\n3\n4\n5\n6\n"));
        assert!(failure.to_string().contains("GIT_LOCAL_SECONDS"), "{failure}");
    }
}
