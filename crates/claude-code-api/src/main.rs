//! One replica of the Claude service.

use std::process::ExitCode;

fn main() -> ExitCode {
    claude_code_api::main().into()
}
