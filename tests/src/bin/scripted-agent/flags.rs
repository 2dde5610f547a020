//! The command line.

use std::{env, ffi::OsString, process};

use nix::unistd::geteuid;

/// The CLI's flags, as far as they matter here; unknown ones are taken and ignored.
#[derive(Debug, Default)]
pub(crate) struct Flags {
    names: Vec<String>,
    pub(crate) session: Option<String>,
    pub(crate) resume: Option<String>,
    pub(crate) model: Option<String>,
    pub(crate) tools: Option<String>,
    pub(crate) permission_mode: Option<String>,
}

impl Flags {
    pub(crate) fn parse(argv: &[OsString]) -> Self {
        let mut flags = Self::default();
        let mut arguments = argv.iter().skip(1).map(|argument| argument.to_string_lossy());
        while let Some(argument) = arguments.next() {
            flags.names.push(argument.clone().into_owned());
            let slot = match &*argument {
                "--session-id" => &mut flags.session,
                "--resume" | "-r" => &mut flags.resume,
                "--model" => &mut flags.model,
                "--tools" => &mut flags.tools,
                "--permission-mode" => &mut flags.permission_mode,
                _ => continue,
            };
            *slot = arguments.next().map(Into::into);
        }
        flags
    }

    /// Bypassing permissions as root is refused by the CLI too, outside a sandbox.
    pub(crate) fn refuse_root(&self) {
        let bypasses = self.permission_mode.as_deref() == Some("bypassPermissions")
            || self.has("--dangerously-skip-permissions");
        if bypasses && geteuid().is_root() && env::var_os("IS_SANDBOX").is_none_or(|it| it != "1") {
            eprintln!(
                "--dangerously-skip-permissions cannot be used with root/sudo privileges for \
                 security reasons"
            );
            process::exit(1);
        }
    }

    /// Whether this flag is there.
    pub(crate) fn has(&self, flag: &str) -> bool {
        self.names.iter().any(|name| name == flag)
    }
}
