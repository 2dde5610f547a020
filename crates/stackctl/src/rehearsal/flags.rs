//! What the rehearsal agent takes from the CLI's command line. Flags it has no use for are passed over.

use std::ffi::OsString;

use uuid::Uuid;

/// The tools the rehearsal agent has.
const TOOLS: [&str; 3] = ["Edit", "Glob", "Write"];

#[derive(Debug, PartialEq, Eq)]
pub(super) struct Flags {
    pub(super) session: String,
    pub(super) start: Start,
    pub(super) permission_mode: String,
    /// Those of its tools that it may use.
    pub(super) tools: Vec<String>,
    pub(super) asks: Asks,
}

/// Whether the session is a new one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Start {
    Fresh,
    Resumed,
}

/// What the command line is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Asks {
    Run,
    Version,
}

impl Flags {
    pub(super) fn parse(args: impl IntoIterator<Item = OsString>) -> Self {
        let mut flags = Self {
            session: Uuid::new_v4().to_string(),
            start: Start::Fresh,
            permission_mode: "default".to_owned(),
            tools: TOOLS.map(str::to_owned).into(),
            asks: Asks::Run,
        };
        let mut args = args.into_iter().map(|arg| arg.to_string_lossy().into_owned());
        while let Some(arg) = args.next() {
            let mut value = || args.next().unwrap_or_default();
            match arg.as_str() {
                "--version" | "-v" => flags.asks = Asks::Version,
                "--session-id" => flags.session = value(),
                "--resume" => (flags.session, flags.start) = (value(), Start::Resumed),
                "--permission-mode" => flags.permission_mode = value(),
                "--dangerously-skip-permissions" => {
                    "bypassPermissions".clone_into(&mut flags.permission_mode)
                }
                "--tools" => {
                    let given = value();
                    flags.tools.retain(|tool| given.split(',').any(|name| name.trim() == tool));
                }
                // Values of these could look like one of the above.
                "--append-system-prompt"
                | "--model"
                | "--setting-sources"
                | "--input-format"
                | "--output-format"
                | "--max-turns"
                | "--max-budget-usd" => drop(value()),
                _ => {}
            }
        }
        flags
    }

    /// Whether it may change files, as the CLI decides it where nobody can be asked.
    pub(super) fn may_write(&self, tool: &str) -> bool {
        let granted = ["bypassPermissions", "acceptEdits"].contains(&self.permission_mode.as_str());
        granted && self.tools.iter().any(|name| name == tool)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(line: &str) -> Flags {
        Flags::parse(line.split(' ').map(OsString::from))
    }

    #[test]
    fn the_command_line_of_a_replica() {
        let flags = parse(
            "-p --input-format stream-json --output-format stream-json --permission-mode bypassPermissions \
             --setting-sources  --tools Write,Bash --model --resume --append-system-prompt --version \
             --session-id abc --verbose --strict-mcp-config",
        );
        assert_eq!(
            flags,
            Flags {
                session: "abc".into(),
                start: Start::Fresh,
                permission_mode: "bypassPermissions".into(),
                tools: vec!["Write".into()],
                asks: Asks::Run,
            }
        );
        assert!(flags.may_write("Write") && !flags.may_write("Edit"));
    }

    #[test]
    fn without_permission_nothing_is_written() {
        assert!(!parse("-p").may_write("Write"));
        assert!(parse("--permission-mode acceptEdits").may_write("Edit"));
        assert_eq!(parse("--resume abc").start, Start::Resumed);
        assert_eq!(parse("--version").asks, Asks::Version);
        assert_eq!(parse("--tools").tools, [""; 0]);
    }
}
