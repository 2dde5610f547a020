//! One replica of the pull service.

use std::process::ExitCode;

use boot::{Capability, Probe};
use contract::Service;

fn main() -> ExitCode {
    if let Some(exit) = github_pull_api::connect_for_git() {
        return exit;
    }
    let (name, version) = (env!("CARGO_PKG_NAME"), env!("CARGO_PKG_VERSION"));
    if let Err(exit) = boot::leave_root(name, Capability::TAKE_BACK) {
        return exit.into();
    }
    let about = env!("CARGO_PKG_DESCRIPTION");
    let probe = Probe::of_replica(Service::Pull.default_port());
    boot::answer_arguments(name, about, version, probe).unwrap_or_else(github_pull_api::main).into()
}
