//! How a program starts: settings from the environment, secrets that are never printed, logs, and exit codes.

mod arguments;
mod env;
mod exit;
mod healthcheck;
mod leave_root;
mod limits;
mod log_writer;
mod logging;
mod policy;
mod secret;
mod signals;
mod user;

pub use arguments::answer_arguments;
pub use env::{Env, InvalidSettings, ProcessEnv, SentSettings, Settings, receive_settings};
pub use exit::Exit;
pub use healthcheck::{Closed, Probe};
pub use leave_root::{Capability, leave_root};
pub use limits::{keep_files_private, raise_file_limit};
pub use log_writer::LogGuard;
pub use logging::{LogFormat, Logging};
pub use nix::sys::signal::Signal;
pub use policy::read_policy;
pub use secret::Secret;
pub use signals::SignalListener;
pub use user::{AgentUser, ChosenBy, SystemUser, read_agent_user, read_owner_of_leftovers};
