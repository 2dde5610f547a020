//! One replica of the echo service.

use std::process::ExitCode;

use boot::Probe;
use contract::Service;

fn main() -> ExitCode {
    let (name, version) = (env!("CARGO_PKG_NAME"), env!("CARGO_PKG_VERSION"));
    let about = env!("CARGO_PKG_DESCRIPTION");
    let probe = Probe::of_replica(Service::Echo.default_port());
    boot::answer_arguments(name, about, version, probe).unwrap_or_else(echo_api::main).into()
}
