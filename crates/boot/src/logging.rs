//! Logs on standard error.

use std::{
    fmt,
    io::{self, IsTerminal},
    str::FromStr,
};

use contract::Timestamp;
use tracing_subscriber::{
    EnvFilter,
    fmt::{format::Writer, time::FormatTime},
    layer::SubscriberExt,
    util::SubscriberInitExt,
};

use crate::{LogGuard, Settings, log_writer::LogWriter};

/// The format of log lines.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogFormat {
    /// For people.
    Text,
    /// For programs: one JSON object per line.
    Json,
}

impl FromStr for LogFormat {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "text" | "pretty" => Ok(Self::Text),
            "json" => Ok(Self::Json),
            _ => Err("use text or json"),
        }
    }
}

/// Why lines were dropped.
const NOT_READ: &str = "standard error was not read";

/// Uses the time format of events, so that logs and events are easy to compare.
struct Clock;

impl FormatTime for Clock {
    fn format_time(&self, writer: &mut Writer<'_>) -> fmt::Result {
        write!(writer, "{}", Timestamp::now())
    }
}

/// `LOG_LEVEL` (a level, or tracing directives like `gateway=debug,info`) and `LOG_FORMAT`.
pub struct Logging {
    filter: EnvFilter,
    format: LogFormat,
}

impl fmt::Debug for Logging {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Logging({}, {:?})", self.filter, self.format)
    }
}

impl Logging {
    /// Reads the settings.
    pub fn read(settings: &mut Settings<'_>) -> Self {
        let filter = settings.or(
            "LOG_LEVEL",
            EnvFilter::new("info"),
            "a level such as info, or levels per crate such as gateway=debug,info",
        );
        Self { filter, format: settings.or("LOG_FORMAT", LogFormat::Text, "text or json") }
    }

    /// Sends this process's logs to standard error, through a separate thread. A second call has no effect.
    ///
    /// # Errors
    /// If no threads are left.
    pub fn init(self) -> io::Result<LogGuard> {
        let registry = tracing_subscriber::registry().with(self.filter);
        let note = match self.format {
            LogFormat::Json => dropped_as_json,
            LogFormat::Text => dropped_as_text,
        };
        let writer = LogWriter::start(io::stderr(), note)?;
        let guard = writer.guard();
        // Fails only if logging is already set up, as in a test that starts two services.
        let _ = match self.format {
            LogFormat::Json => registry
                .with(
                    tracing_subscriber::fmt::layer()
                        .json()
                        .with_timer(Clock)
                        .flatten_event(true)
                        .with_writer(writer),
                )
                .try_init(),
            LogFormat::Text => registry
                .with(
                    tracing_subscriber::fmt::layer()
                        .with_timer(Clock)
                        .with_ansi(
                            io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none(),
                        )
                        .with_writer(writer),
                )
                .try_init(),
        };
        Ok(guard)
    }
}

fn dropped_as_text(lines: u64) -> String {
    format!("{}  WARN boot: {lines} log lines were dropped: {NOT_READ}\n", Timestamp::now())
}

fn dropped_as_json(lines: u64) -> String {
    format!(
        "{{\"timestamp\":\"{}\",\"level\":\"WARN\",\"message\":\"{lines} log lines were dropped: \
         {NOT_READ}\",\"dropped\":{lines},\"target\":\"boot\"}}\n",
        Timestamp::now()
    )
}
