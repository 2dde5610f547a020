//! One replica of the Claude service.

use std::process::ExitCode;

use boot::{Capability, Probe};
use contract::Service;

fn main() -> ExitCode {
    let (name, version) = (env!("CARGO_PKG_NAME"), env!("CARGO_PKG_VERSION"));
    if let Err(exit) = boot::leave_root(name, Capability::AGENTS) {
        return exit.into();
    }
    let about = env!("CARGO_PKG_DESCRIPTION");
    let probe = Probe::of_replica(Service::Claude.default_port());
    boot::answer_arguments(name, about, version, probe).unwrap_or_else(claude_code_api::main).into()
}
