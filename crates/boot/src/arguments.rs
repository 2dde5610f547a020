//! The command line of a service. Settings come from the environment, so it only has `--help`, `--version` and
//! `healthcheck`.

use crate::{
    Exit, Probe,
    healthcheck::{Pace, healthcheck},
};

/// Answers `--help`, `--version` and `healthcheck`, and rejects everything else. Returns `None` if there are no
/// arguments, so the service may start.
#[must_use]
pub fn answer_arguments(name: &str, about: &str, version: &str, probe: Probe) -> Option<Exit> {
    let mut arguments = std::env::args().skip(1);
    let first = arguments.next()?;
    let second = arguments.next();
    match first.as_str() {
        "healthcheck" => match second.as_deref() {
            None => Some(healthcheck(probe, Pace::Immediate)),
            Some("--hold") => Some(healthcheck(probe, Pace::Held)),
            Some(other) => {
                eprintln!("{name}: unknown argument {other}: healthcheck accepts only --hold");
                Some(Exit::Usage)
            }
        },
        "-h" | "--help" => {
            println!(
                "{name} {version}\n{about}.\n\nSettings come from the environment: WORKSPACE_DIR, PORT, BIND_ADDRESS, \
                 LOG_LEVEL and more; the README has the table.\n\nExample:\n  WORKSPACE_DIR=./workspace LOG_LEVEL=debug {name}\n\n\
                 `{name} healthcheck` checks the service in this container. With --hold, a successful check takes \
                 longer, so that a container engine checks less often.\n\n\
                 Exit codes: 0 done, 64 invalid settings, 69 port or workspace unavailable, 70 internal error, 143 killed."
            );
            Some(Exit::Ok)
        }
        "-V" | "--version" => {
            println!("{name} {version}");
            Some(Exit::Ok)
        }
        _ => {
            eprintln!(
                "{name}: unknown argument {first}\nSettings come from the environment: see {name} --help"
            );
            Some(Exit::Usage)
        }
    }
}
