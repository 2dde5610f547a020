//! The gateway.

use std::process::ExitCode;

use boot::{Capability, Closed, Probe};
use contract::Service;

fn main() -> ExitCode {
    let (name, version) = (env!("CARGO_PKG_NAME"), env!("CARGO_PKG_VERSION"));
    if let Err(exit) = boot::leave_root(name, Capability::REMOVE) {
        return exit.into();
    }
    let about = env!("CARGO_PKG_DESCRIPTION");
    let probe = Probe {
        port_variable: Service::Workflow.spec().port_variable,
        default_port: Service::Workflow.default_port(),
        closed: Closed::Unhealthy,
    };
    boot::answer_arguments(name, about, version, probe).unwrap_or_else(gateway::main).into()
}
