//! Logs on standard error.

use std::{fmt, io::IsTerminal, str::FromStr};

use contract::Timestamp;
use tracing_subscriber::{
    EnvFilter,
    fmt::{format::Writer, time::FormatTime},
    layer::SubscriberExt,
    util::SubscriberInitExt,
};

use crate::Settings;

/// How log lines look.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogFormat {
    /// For people.
    Text,
    /// For programs: one JSON object a line.
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

/// Times in logs look as they do in events, so that one can be held against the other.
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
            "a level such as info, or levels by part such as gateway=debug,info",
        );
        Self { filter, format: settings.or("LOG_FORMAT", LogFormat::Text, "text or json") }
    }

    /// Sends the logs of this process to standard error. A second call changes nothing.
    pub fn init(self) {
        let registry = tracing_subscriber::registry().with(self.filter);
        // Fails only if logging is set up already, as in a test that boots two services.
        let _ = match self.format {
            LogFormat::Json => registry
                .with(
                    tracing_subscriber::fmt::layer()
                        .json()
                        .with_timer(Clock)
                        .flatten_event(true)
                        .with_writer(std::io::stderr),
                )
                .try_init(),
            LogFormat::Text => registry
                .with(
                    tracing_subscriber::fmt::layer()
                        .with_timer(Clock)
                        .with_ansi(
                            std::io::stderr().is_terminal()
                                && std::env::var_os("NO_COLOR").is_none(),
                        )
                        .with_writer(std::io::stderr),
                )
                .try_init(),
        };
    }
}
