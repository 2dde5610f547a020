//! How a program starts: settings from the environment, secrets that are never printed, logs, and exit codes.

mod arguments;
mod env;
mod exit;
mod healthcheck;
mod limits;
mod log_writer;
mod logging;
mod policy;
mod secret;
mod user;

pub use arguments::answer_arguments;
pub use env::{Env, InvalidSettings, ProcessEnv, SentSettings, Settings, receive_settings};
pub use exit::Exit;
pub use healthcheck::{Closed, Probe};
pub use limits::{keep_files_private, raise_file_limit};
pub use log_writer::LogGuard;
pub use logging::{LogFormat, Logging};
pub use policy::read_policy;
pub use secret::Secret;
pub use user::{
    AgentUser, Capability, SystemUser, leave_root, read_agent_user, read_owner_of_leftovers,
};
