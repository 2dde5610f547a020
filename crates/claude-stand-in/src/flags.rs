//! The part of the CLI's command line that a stand-in needs. All other flags are accepted and ignored.

use std::ffi::OsString;

use uuid::Uuid;

/// The command line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Flags {
    /// The session's ID.
    pub session_id: String,
    /// Whether the session is new.
    pub session: Session,
    /// `--model`.
    pub model: Option<String>,
    /// `--tools`.
    pub tools: Option<Vec<String>>,
    /// `--permission-mode`, or the mode that `--dangerously-skip-permissions` implies.
    pub permission_mode: String,
    /// Whether `--include-partial-messages` is set.
    pub partial_messages: bool,
    /// Whether `--version` is set: print it and exit.
    pub version: bool,
}

/// Where the session comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Session {
    /// It starts with this run.
    New,
    /// `--resume`: it must exist.
    Resumed,
}

impl Flags {
    /// Parses the arguments, without the program's name.
    #[must_use]
    pub fn parse(args: impl IntoIterator<Item = OsString>) -> Self {
        let mut flags = Self {
            session_id: Uuid::new_v4().to_string(),
            session: Session::New,
            model: None,
            tools: None,
            permission_mode: "default".to_owned(),
            partial_messages: false,
            version: false,
        };
        let mut args = args.into_iter().map(|arg| arg.to_string_lossy().into_owned());
        while let Some(arg) = args.next() {
            let mut value = || args.next().unwrap_or_default();
            match arg.as_str() {
                "--version" | "-v" => flags.version = true,
                "--session-id" => flags.session_id = value(),
                "--resume" | "-r" => {
                    (flags.session_id, flags.session) = (value(), Session::Resumed);
                }
                "--model" => flags.model = Some(value()),
                "--tools" => {
                    let names = value();
                    let names = names.split(',').map(str::trim).filter(|name| !name.is_empty());
                    flags.tools = Some(names.map(str::to_owned).collect());
                }
                "--permission-mode" => flags.permission_mode = value(),
                "--dangerously-skip-permissions" => {
                    "bypassPermissions".clone_into(&mut flags.permission_mode);
                }
                "--include-partial-messages" => flags.partial_messages = true,
                // Skipped with their values, which may look like other flags.
                "--append-system-prompt"
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

    /// Whether the agent may change files, by the CLI's rules for a run without a user to ask.
    #[must_use]
    pub fn may_write(&self) -> bool {
        ["bypassPermissions", "acceptEdits"].contains(&self.permission_mode.as_str())
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
        let expected = Flags {
            session_id: "abc".into(),
            session: Session::New,
            model: Some("--resume".into()),
            tools: Some(vec!["Write".into(), "Bash".into()]),
            permission_mode: "bypassPermissions".into(),
            partial_messages: false,
            version: false,
        };
        assert_eq!(flags, expected);
        assert!(flags.may_write());
    }

    #[test]
    fn other_flags() {
        assert!(!parse("-p").may_write());
        assert!(parse("--permission-mode acceptEdits").may_write());
        assert!(parse("--dangerously-skip-permissions").may_write());
        assert_eq!(parse("--resume abc").session, Session::Resumed);
        assert!(parse("--version").version && parse("--include-partial-messages").partial_messages);
        assert_eq!(parse("--tools").tools, Some(vec![]));
    }
}
