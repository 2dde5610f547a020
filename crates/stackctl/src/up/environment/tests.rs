//! Three lists of the same variables, which must not drift apart: what the parts read, what `up` lets through to
//! them, and what the README tells of.

use std::{cell::RefCell, collections::BTreeSet};

use boot::{Env, Settings};
use clap::CommandFactory as _;

use super::*;

const README: &str = include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/../../README.md"));

type Names = BTreeSet<String>;

/// Nothing is set in it, and it remembers what was asked for.
#[derive(Default)]
struct Recorder(RefCell<Names>);

impl Env for Recorder {
    fn get(&self, name: &str) -> Option<String> {
        self.0.borrow_mut().insert(name.to_owned());
        None
    }
}

/// What a part reads when it starts.
fn read_by(part: Part) -> Names {
    let recorder = Recorder::default();
    let mut settings = Settings::new(&recorder);
    boot::Logging::read(&mut settings);
    if let Some(service) = part.service() {
        oneshot::ReplicaConfig::read(&mut settings, service);
    }
    match part {
        Part::Gateway => drop(gateway::Config::read(&mut settings)),
        Part::WorkflowApi => drop(workflow_api::Config::read(&mut settings)),
        Part::GithubPullApi => drop(github_pull_api::Config::read(&mut settings)),
        Part::ClaudeCodeApi => drop(claude_code_api::Config::read(&mut settings)),
    }
    recorder.0.into_inner()
}

fn names(names: &[&str]) -> Names {
    names.iter().map(|name| (*name).to_owned()).collect()
}

fn all_parts() -> impl Iterator<Item = Part> {
    <Part as clap::ValueEnum>::value_variants().iter().copied()
}

/// What `up` lets through to a part, or sets for it.
fn given_to(part: Part) -> Names {
    let own = match part {
        Part::Gateway => GATEWAY,
        Part::WorkflowApi => &[],
        Part::GithubPullApi => PULL,
        Part::ClaudeCodeApi => CLAUDE,
    };
    let directory = tempfile::tempdir().unwrap();
    let workspace = Workspace::open(directory.path()).unwrap();
    let arguments = ["stackctl", "up"];
    let command = <crate::cli::Cli as clap::Parser>::parse_from(arguments).command;
    let crate::cli::Command::Up(options) = command else { panic!("{command:?}") };
    let set = Environment::new(&options, &workspace).of(part, ReplicaId::new());
    names(&[COMMON, own].concat())
        .into_iter()
        .chain(set.into_iter().map(|(name, _)| name))
        .collect()
}

#[test]
fn a_part_gets_what_it_reads() {
    // Replicas of one machine are found on loopback; a gateway is told to drain by its slot.
    let without = names(&["ADVERTISE_ADDRESS", "DRAIN"]);
    for part in all_parts() {
        let given = given_to(part);
        let lacks: Vec<_> = read_by(part)
            .into_iter()
            .filter(|it| !given.contains(it) && !without.contains(it))
            .collect();
        assert!(lacks.is_empty(), "{}: {lacks:?}", part.name());
    }
}

/// Read by the libraries below: a backtrace, the language of messages, where OpenSSL finds certificates.
const OF_LIBRARIES: [&str; 4] = ["RUST_BACKTRACE", "LANG", "SSL_CERT_FILE", "SSL_CERT_DIR"];

#[test]
fn what_is_let_through_is_read_by_somebody() {
    let mut read: Names = all_parts().flat_map(read_by).collect();
    read.extend(names(&OF_LIBRARIES));
    let useless: Vec<_> = passed().into_iter().filter(|name| !read.contains(*name)).collect();
    assert!(useless.is_empty(), "{useless:?}");
}

#[test]
fn the_readme_names_the_variables_that_are_read() {
    let mut read: Names = all_parts().flat_map(read_by).collect();
    // Between `up` and its parts alone.
    for name in ["REPLICA_ID", "DRAIN"] {
        assert!(read.remove(name), "{name}");
    }
    // Read by libraries, and by those that draw.
    read.extend(names(&["SSL_CERT_FILE", "SSL_CERT_DIR", "NO_COLOR"]));
    read.extend(variables_of(&crate::cli::Cli::command()));
    assert_eq!(named_in_tables(README), read);
}

/// The variables that a command line stands in for.
fn variables_of(command: &clap::Command) -> Names {
    let own = command.get_arguments().filter_map(|argument| argument.get_env()?.to_str());
    let own: Names = own.map(str::to_owned).collect();
    command.get_subcommands().flat_map(variables_of).chain(own).collect()
}

/// The variables in the rows of tables, wherever in the row.
fn named_in_tables(page: &str) -> Names {
    let is_name = |span: &&str| {
        span.len() > 3
            && span.starts_with(|c: char| c.is_ascii_uppercase())
            && span.chars().all(|c| c.is_ascii_uppercase() || c.is_ascii_digit() || c == '_')
    };
    let rows = page.lines().skip_while(|line| !line.starts_with("| variable |"));
    let rows = rows.filter(|line| line.starts_with('|'));
    rows.flat_map(|row| row.split('`').skip(1).step_by(2))
        .filter(is_name)
        .map(str::to_owned)
        .collect()
}
