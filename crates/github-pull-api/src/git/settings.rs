//! What libgit2 keeps for the whole process.

use std::{sync::OnceLock, time::Duration};

use contract::Code;
use git2::{ConfigLevel, opts};

use crate::failure::{Failure, Result};

/// Sets libgit2 up for this process, on the first call.
///
/// # Errors
/// If libgit2 refuses.
pub(super) fn apply_once(stall: Duration) -> Result<()> {
    static APPLIED: OnceLock<std::result::Result<(), String>> = OnceLock::new();
    APPLIED
        .get_or_init(|| apply(stall).map_err(|error| error.message().to_owned()))
        .clone()
        .map_err(|why| Failure::told(Code::Internal, format!("libgit2 could not be set up: {why}")))
}

/// No configuration but that of the repositories we make; time limits on sockets.
#[expect(
    unsafe_code,
    reason = "the setters of libgit2's globals are unsafe, and there is no other way"
)]
fn apply(stall: Duration) -> std::result::Result<(), git2::Error> {
    let milliseconds = i32::try_from(stall.as_millis()).unwrap_or(i32::MAX);
    // SAFETY: these write globals of libgit2 without a lock. `apply_once` lets one thread in, and every
    // use of libgit2 in this process comes after it.
    unsafe {
        for level in
            [ConfigLevel::ProgramData, ConfigLevel::System, ConfigLevel::XDG, ConfigLevel::Global]
        {
            opts::set_search_path(level, "")?;
        }
        opts::set_server_timeout_in_milliseconds(milliseconds)?;
        opts::set_server_connect_timeout_in_milliseconds(milliseconds.min(30_000))?;
        // Who owns a checkout matters where its configuration is obeyed; here it is not, and the agent
        // may run as another user than the pull.
        opts::set_verify_owner_validation(false)
    }
}
