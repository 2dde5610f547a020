//! One replica of the workflow service.

use std::process::ExitCode;

fn main() -> ExitCode {
    workflow_api::main().into()
}
