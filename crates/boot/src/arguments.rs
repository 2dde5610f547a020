//! The command line of a service. Settings come from the environment, so it only has `--help`, `--version` and
//! `healthcheck`.

use crate::{
    Exit, Probe,
    healthcheck::{Pace, healthcheck},
};

/// Answers `--help`, `--version` and `healthcheck`, and refuses everything else. `None`: the command line is empty,
/// and the service may start.
#[must_use]
pub fn answer_arguments(name: &str, about: &str, version: &str, probe: Probe) -> Option<Exit> {
    let mut arguments = std::env::args().skip(1);
    let first = arguments.next()?;
    let second = arguments.next();
    match first.as_str() {
        "healthcheck" => match second.as_deref() {
            None => Some(healthcheck(probe, Pace::AtOnce)),
            Some("--hold") => Some(healthcheck(probe, Pace::Held)),
            Some(other) => {
                eprintln!(
                    "{name}: healthcheck has no argument {other}: use --hold, or leave it out"
                );
                Some(Exit::Usage)
            }
        },
        "-h" | "--help" => {
            println!(
                "{name} {version}\n{about}.\n\nIts settings come from the environment: WORKSPACE_DIR, PORT, BIND_ADDRESS, \
                 LOG_LEVEL and more; the README has the table.\n\nExample:\n  WORKSPACE_DIR=./workspace LOG_LEVEL=debug {name}\n\n\
                 `{name} healthcheck` asks the one that runs in this container whether it is well; with --hold, a probe that \
                 finds it so takes its time, which is for container engines.\n\n\
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
                "{name}: there is no argument {first}\nSettings come from the environment: see {name} --help"
            );
            Some(Exit::Usage)
        }
    }
}
