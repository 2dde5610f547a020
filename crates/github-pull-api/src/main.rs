//! One replica of the pull service.

use std::process::ExitCode;

fn main() -> ExitCode {
    github_pull_api::main().into()
}
