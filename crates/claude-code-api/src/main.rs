//! One replica of the Claude service.

use std::process::ExitCode;

fn main() -> ExitCode {
    let (name, version) = (env!("CARGO_PKG_NAME"), env!("CARGO_PKG_VERSION"));
    let about = env!("CARGO_PKG_DESCRIPTION");
    boot::answer_arguments(name, about, version).unwrap_or_else(claude_code_api::main).into()
}
