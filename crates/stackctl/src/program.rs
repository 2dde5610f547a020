//! What hints call this program, so that a command which is copied from them works.

use std::{
    env, fs,
    path::{Path, PathBuf},
    sync::OnceLock,
};

use clap::{Command, builder::StyledStr};

/// The name in the help texts, and of an installed program.
pub(crate) const NAME: &str = "stackctl";

/// `stackctl` if a shell finds this program by that name, `cargo stack` in the checkout it was built from, and its
/// path anywhere else.
pub(crate) fn name() -> &'static str {
    static CALLED: OnceLock<String> = OnceLock::new();
    // Tests are programs of other names, and compare texts.
    if cfg!(test) { NAME } else { CALLED.get_or_init(find) }
}

/// The same command line, with this program's name in its usage and in its examples.
pub(crate) fn with_name(command: Command) -> Command {
    with_name_in_examples(command, name()).bin_name(name())
}

fn with_name_in_examples(command: Command, name: &str) -> Command {
    // A space before and after it, so that file names and other words stay.
    let named =
        |text: &StyledStr| text.to_string().replace(&format!(" {NAME} "), &format!(" {name} "));
    let help = command.get_after_help().map(named).unwrap_or_default();
    command.after_help(help).mut_subcommands(|command| with_name_in_examples(command, name))
}

fn find() -> String {
    let Ok(program) = env::current_exe() else { return NAME.to_owned() };
    let path = env::var_os("PATH").unwrap_or_default();
    let installed = env::split_paths(&path).map(|directory| directory.join(NAME));
    name_of(&program, installed, env::current_dir().ok().as_deref())
}

/// `installed` is what a shell would run for `stackctl`: the first that is there.
fn name_of(
    program: &Path,
    installed: impl IntoIterator<Item = PathBuf>,
    working_directory: Option<&Path>,
) -> String {
    let found = installed.into_iter().find_map(|path| fs::canonicalize(path).ok());
    if found.is_some() && found == fs::canonicalize(program).ok() {
        return NAME.to_owned();
    }
    // The alias is in the checkout's `.cargo`, and cargo builds into its `target` unless told otherwise.
    let is_checkout = |path: &&Path| path.join(".cargo/config.toml").is_file();
    let checkout = program.ancestors().find(is_checkout);
    if let (Some(checkout), Some(directory)) = (checkout, working_directory)
        && directory.starts_with(checkout)
    {
        return "cargo stack".to_owned();
    }
    quoted(&program.display().to_string())
}

/// The text, quoted as one word for a shell if it has to be.
pub(crate) fn quoted(text: &str) -> String {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "/._-+@%:,".contains(c);
    if !text.is_empty() && text.chars().all(is_plain) {
        text.to_owned()
    } else {
        format!("'{}'", text.replace('\'', r"'\''"))
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    #[test]
    fn words_for_a_shell() {
        assert_eq!(quoted("/tmp/a-b"), "/tmp/a-b");
        assert_eq!(quoted("a b"), "'a b'");
        assert_eq!(quoted("it's"), r"'it'\''s'");
        assert_eq!(quoted(""), "''");
    }

    #[test]
    fn examples_work_where_they_are_copied() {
        let command = with_name_in_examples(crate::cli::Cli::command(), "cargo stack");
        for command in command.get_subcommands().chain([&command]) {
            let help = command.get_after_help().map(ToString::to_string).unwrap_or_default();
            let examples = help.lines().filter(|line| line.starts_with("  "));
            let is_ours = |line: &&str| !line.contains("curl") && !line.starts_with("    ");
            for line in examples.filter(is_ours) {
                assert!(line.contains(" cargo stack ") && !line.contains(" stackctl "), "{line}");
            }
        }
    }

    #[test]
    fn a_hint_works_where_it_is_copied() {
        let directory = tempfile::tempdir().unwrap();
        let root = directory.path().canonicalize().unwrap();
        let checkout = root.join("checkout");
        let built = checkout.join("target/release/stackctl");
        for directory in [built.parent().unwrap(), &checkout.join(".cargo"), &root.join("bin")] {
            fs::create_dir_all(directory).unwrap();
        }
        fs::write(checkout.join(".cargo/config.toml"), "").unwrap();
        fs::write(&built, "").unwrap();
        let (bin, other) = (root.join("bin/stackctl"), root.join("other program"));
        let name = |program: &Path, working: &Path| {
            name_of(program, [root.join("none/stackctl"), bin.clone()], Some(working))
        };
        assert_eq!(name(&built, &checkout.join("crates")), "cargo stack");
        assert_eq!(name(&built, &root), built.display().to_string());
        // Installed, by copy or by link, whatever the directory.
        fs::write(&bin, "").unwrap();
        assert_eq!(name(&bin, &root), "stackctl");
        assert_eq!(name(&built, &checkout), "cargo stack", "another one is installed");
        fs::remove_file(&bin).unwrap();
        std::os::unix::fs::symlink(&built, &bin).unwrap();
        assert_eq!(name(&built, &root), "stackctl");
        fs::write(&other, "").unwrap();
        assert_eq!(name(&other, &root), format!("'{}'", other.display()));
    }
}
