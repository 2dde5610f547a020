//! The command line of a service, which has no more than help and a version: its settings are in the
//! environment.

use crate::Exit;

/// Answers `--help` and `--version`, and refuses everything else. `None`: there is nothing on the command
/// line, and the service may start.
#[must_use]
pub fn answer_arguments(name: &str, about: &str, version: &str) -> Option<Exit> {
    let first = std::env::args().nth(1)?;
    match first.as_str() {
        "-h" | "--help" => {
            println!(
                "{name} {version}\n{about}.\n\nIts settings come from the environment: WORKSPACE_DIR, PORT, BIND_ADDRESS, \
                 LOG_LEVEL and more; the README has the table.\n\nExample:\n  WORKSPACE_DIR=./workspace LOG_LEVEL=debug {name}\n\n\
                 Exit codes: 0 done, 64 wrong settings, 69 no port or no workspace, 70 a fault of its own, 143 killed."
            );
            Some(Exit::Ok)
        }
        "-V" | "--version" => {
            println!("{name} {version}");
            Some(Exit::Ok)
        }
        _ => {
            eprintln!(
                "{name}: no such argument: {first}\nSettings come from the environment; see {name} --help."
            );
            Some(Exit::Usage)
        }
    }
}
