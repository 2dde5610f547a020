//! The sample repository.

use std::path::Path;

use git2::{
    FileMode, Repository, RepositoryInitOptions, Signature, Time, build::TreeUpdateBuilder,
};

/// One commit: its message, and the files it adds.
struct Step {
    message: &'static str,
    files: &'static [(&'static str, &'static str)],
}

const HISTORY: [Step; COMMITS] = [
    Step { message: "Say how long tea takes\n", files: &[("README.md", README), ("tea.py", TEA)] },
    Step { message: "Test it\n", files: &[("tests/test_tea.py", TEST)] },
    Step { message: "Let everybody use it\n", files: &[("LICENSE", LICENSE)] },
];

/// How many commits it has.
const COMMITS: usize = 3;

const README: &str = "\
# tea

How long each kind of tea takes.

    $ python3 tea.py green
    2 minutes
";

const TEA: &str = "\
import sys

MINUTES = {\"green\": 2, \"black\": 4, \"herbal\": 8}


def minutes(kind):
    return MINUTES[kind]


if __name__ == \"__main__\":
    print(minutes(sys.argv[1]), \"minutes\")
";

const TEST: &str = "\
from tea import minutes


def test_green_is_quick():
    assert minutes(\"green\") == 2
";

const LICENSE: &str = "Do with it whatever you like.\n";

/// The time of the first commit, in seconds since 1970. Each later one follows after an hour.
const FIRST_COMMIT_AT: i64 = 1_750_000_000;

/// Creates a bare repository with a branch `main` at `path`.
pub(super) fn create(path: &Path) -> Result<(), git2::Error> {
    let repository = Repository::init_opts(
        path,
        RepositoryInitOptions::new().bare(true).initial_head("main").external_template(false),
    )?;
    let mut tree = repository.find_tree(repository.treebuilder(None)?.write()?)?;
    let mut parent = None;
    for (at, step) in (FIRST_COMMIT_AT..).step_by(3600).zip(HISTORY) {
        let mut update = TreeUpdateBuilder::new();
        for (name, content) in step.files {
            update.upsert(*name, repository.blob(content.as_bytes())?, FileMode::Blob);
        }
        tree = repository.find_tree(update.create_updated(&repository, &tree)?)?;
        let who = Signature::new("stackctl demo", "demo@localhost", &Time::new(at, 0))?;
        let parents: Vec<_> = parent.iter().collect();
        let id = repository.commit(
            Some("refs/heads/main"),
            &who,
            &who,
            step.message,
            &tree,
            &parents,
        )?;
        parent = Some(repository.find_commit(id)?);
    }
    Ok(())
}
