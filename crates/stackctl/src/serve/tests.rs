//! Two lists of the same variables, which must not drift apart: what the parts read, and what the README tells of.

use std::{cell::RefCell, collections::BTreeSet, ffi::OsString};

use boot::Env;
use clap::CommandFactory as _;

use super::*;

const README: &str = include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/../../README.md"));

type Names = BTreeSet<String>;

/// Nothing is set in it, and it remembers what was asked for.
#[derive(Default)]
struct Recorder(RefCell<Names>);

impl Env for Recorder {
    fn get(&self, name: &str) -> Option<OsString> {
        self.0.borrow_mut().insert(name.to_owned());
        None
    }
}

#[test]
fn the_readme_names_the_variables_that_are_read() {
    let recorder = Recorder::default();
    for part in Part::all() {
        read_settings(part, &mut Settings::new(&recorder));
    }
    let mut read = recorder.0.into_inner();
    // Between `up` and its parts alone.
    for name in ["REPLICA_ID", "DRAIN"] {
        assert!(read.remove(name), "{name}");
    }
    // Read by libraries, and by those that draw.
    read.extend(["SSL_CERT_FILE", "SSL_CERT_DIR", "NO_COLOR"].map(str::to_owned));
    // No option shows it, since a token on a command line could be seen by others.
    read.insert("STACK_TOKEN".to_owned());
    // Read before the settings, by the programs in the images.
    read.insert("STACK_USER".to_owned());
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
