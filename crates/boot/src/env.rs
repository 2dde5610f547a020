//! Settings from the environment. All problems are reported at once.

use std::{
    collections::HashMap,
    ffi::{OsStr, OsString},
    io::{self, Read as _, Write as _},
    net::IpAddr,
    num::NonZeroU32,
    os::{fd::AsFd as _, unix::ffi::OsStrExt as _},
    str::FromStr,
    sync::OnceLock,
    time::Duration,
};

use nix::fcntl::{FcntlArg, OFlag, fcntl};

use crate::Secret;

/// The source of settings: the process's environment, or a map in a test.
pub trait Env {
    /// The value of `name`, if it is set.
    fn get(&self, name: &str) -> Option<OsString>;
}

/// The variables that this process has received, and else its environment.
#[derive(Clone, Copy, Debug, Default)]
pub struct ProcessEnv;

impl Env for ProcessEnv {
    fn get(&self, name: &str) -> Option<OsString> {
        let received = RECEIVED.get().and_then(|received| received.get(name));
        received.or_else(|| std::env::var_os(name))
    }
}

/// Set for a process that gets its settings on standard input. So no secret is ever in its environment, which other
/// processes of its user can read until it has made itself undumpable.
const ON_STDIN: &str = "SETTINGS_ON_STDIN";

static RECEIVED: OnceLock<SentSettings> = OnceLock::new();

/// Settings on their way to another process.
#[derive(Clone, Default)]
pub struct SentSettings(HashMap<String, OsString>);

impl std::fmt::Debug for SentSettings {
    /// Shows only the names.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_set().entries(self.0.keys()).finish()
    }
}

impl Env for SentSettings {
    fn get(&self, name: &str) -> Option<OsString> {
        self.0.get(name).cloned()
    }
}

impl SentSettings {
    /// Adds a variable. As in any environment, a name has no `=`, and neither it nor the value contains NUL.
    pub fn add(&mut self, name: &str, value: impl Into<OsString>) {
        self.0.insert(name.to_owned(), value.into());
    }

    /// The variable for the other process's environment, and its standard input.
    ///
    /// # Errors
    /// If no file descriptors are left, or the settings do not fit into a pipe (64 KiB on Linux).
    pub fn send(&self) -> io::Result<((&'static str, &'static str), io::PipeReader)> {
        let (reader, mut writer) = io::pipe()?;
        // Otherwise, settings that are too long would block.
        fcntl(writer.as_fd(), FcntlArg::F_SETFL(OFlag::O_NONBLOCK))?;
        writer.write_all(&self.encode())?;
        Ok(((ON_STDIN, "1"), reader))
    }

    /// In the form of `/proc/<pid>/environ`, proc(5).
    fn encode(&self) -> Vec<u8> {
        let encode = |(name, value): (&String, &OsString)| {
            [name.as_bytes(), b"=", value.as_bytes(), b"\0"].concat()
        };
        self.0.iter().flat_map(encode).collect()
    }

    fn parse(bytes: &[u8]) -> Option<Self> {
        let variables = bytes.split_inclusive(|byte| *byte == 0).map(|variable| {
            let mut parts = variable.strip_suffix(b"\0")?.splitn(2, |byte| *byte == b'=');
            let name = std::str::from_utf8(parts.next()?).ok()?.to_owned();
            Some((name, OsStr::from_bytes(parts.next()?).to_owned()))
        });
        variables.collect::<Option<_>>().map(Self)
    }
}

/// Reads the settings that another process has [sent](SentSettings::send) to this one, if any. Call it first.
///
/// # Errors
/// If they cannot be read or are incomplete.
pub fn receive_settings() -> io::Result<()> {
    if std::env::var_os(ON_STDIN).is_none() {
        return Ok(());
    }
    let mut bytes = Vec::new();
    io::stdin().read_to_end(&mut bytes)?;
    let received = SentSettings::parse(&bytes);
    let _ = RECEIVED.set(received.ok_or(io::ErrorKind::InvalidData)?);
    Ok(())
}

impl<V: AsRef<OsStr>> Env for HashMap<String, V> {
    fn get(&self, name: &str) -> Option<OsString> {
        Self::get(self, name).map(|value| value.as_ref().to_owned())
    }
}

/// Reads settings and collects the problems, so that all of them are reported at once.
///
/// An empty value counts as absent, because a compose file passes unset variables as empty.
pub struct Settings<'a> {
    env: &'a dyn Env,
    problems: Vec<String>,
}

/// Invalid settings.
#[derive(Debug, PartialEq, Eq)]
pub struct InvalidSettings {
    /// One line per problem, starting with the name of the variable.
    pub problems: Vec<String>,
}

impl std::fmt::Display for InvalidSettings {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "invalid settings:")?;
        self.problems.iter().try_for_each(|problem| write!(f, "\n  {problem}"))
    }
}

impl std::error::Error for InvalidSettings {}

impl std::fmt::Debug for Settings<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Settings").field("problems", &self.problems).finish_non_exhaustive()
    }
}

impl<'a> Settings<'a> {
    /// Reads from `env`.
    #[must_use]
    pub fn new(env: &'a dyn Env) -> Self {
        Self { env, problems: Vec::new() }
    }

    /// The text of `name`.
    pub fn text(&mut self, name: &str) -> Option<String> {
        match self.env.get(name)?.into_string() {
            Ok(text) => Some(text).filter(|text| !text.is_empty()),
            Err(_) => {
                self.problem(name, "must be UTF-8");
                None
            }
        }
    }

    /// The value of `name` as `T`. `expected` completes "must be …", with the unit and an example.
    pub fn optional<T: FromStr>(&mut self, name: &str, expected: &str) -> Option<T> {
        let text = self.text(name)?;
        let value = text.trim().parse().ok();
        if value.is_none() {
            self.problem(name, &format!("must be {expected}"));
        }
        value
    }

    /// The value of `name` as `T`, or `default`. `expected` is as in [`optional`](Self::optional).
    pub fn or<T: FromStr>(&mut self, name: &str, default: T, expected: &str) -> T {
        self.optional(name, expected).unwrap_or(default)
    }

    /// A whole number above 0 of `unit`, such as `example`.
    pub fn count(&mut self, name: &str, unit: &str, example: u32) -> Option<NonZeroU32> {
        self.optional(name, &format!("a whole number of {unit} above 0, such as {example}"))
    }

    /// A TCP port; 0 means any free port.
    pub fn port(&mut self, name: &str, default: u16) -> u16 {
        self.or(name, default, &format!("a port from 0 to 65535, such as {default}"))
    }

    /// An IP address.
    pub fn address(&mut self, name: &str) -> Option<IpAddr> {
        self.optional(name, "an IP address, such as 127.0.0.1")
    }

    /// Whether `name` is `1` or `true`. Absent, `0` and `false` mean no.
    pub fn flag(&mut self, name: &str) -> bool {
        match self.text(name).as_deref().map(str::trim) {
            None | Some("0" | "false" | "no" | "off") => false,
            Some("1" | "true" | "yes" | "on") => true,
            Some(_) => {
                self.problem(name, "must be 1 or 0");
                false
            }
        }
    }

    /// A time in whole seconds, from 1 to a year.
    pub fn seconds(&mut self, name: &str, default: u64) -> Duration {
        const YEAR: u64 = 365 * 24 * 3600;
        let expected = format!("whole seconds from 1 to {YEAR}, such as {default}");
        let seconds: u64 = self.or(name, default, &expected);
        if !(1..=YEAR).contains(&seconds) {
            self.problem(name, &format!("must be {expected}"));
        }
        Duration::from_secs(seconds.clamp(1, YEAR))
    }

    /// Names separated by commas; `None` if there are none.
    pub fn list(&mut self, name: &str) -> Option<Vec<String>> {
        let text = self.text(name)?;
        let list: Vec<_> = text
            .split(',')
            .map(str::trim)
            .filter(|item| !item.is_empty())
            .map(str::to_owned)
            .collect();
        (!list.is_empty()).then_some(list)
    }

    /// A secret: the content of the file that `file` names, or else the value of `value`.
    pub fn secret(&mut self, file: &str, value: &str) -> Option<Secret> {
        if self.text(file).is_some() {
            return self.secret_file(file);
        }
        self.text(value).map(|text| Secret::new(text.trim().to_owned()))
    }

    /// A secret: the content of the file that `name` names.
    pub fn secret_file(&mut self, name: &str) -> Option<Secret> {
        let path = self.text(name)?;
        match std::fs::read_to_string(&path) {
            Ok(text) if !text.trim().is_empty() => Some(Secret::new(text.trim().to_owned())),
            Ok(_) => {
                self.problem(name, &format!("{path} is empty"));
                None
            }
            Err(error) => {
                self.problem(name, &format!("cannot read {path}: {error}"));
                None
            }
        }
    }

    /// Records that `name` is invalid. `why` must not repeat the value of a secret.
    pub fn problem(&mut self, name: &str, why: &str) {
        self.problems.push(format!("{name}: {why}"));
    }

    /// Finishes reading.
    ///
    /// # Errors
    /// If any setting was invalid.
    pub fn finish(self) -> Result<(), InvalidSettings> {
        if self.problems.is_empty() {
            Ok(())
        } else {
            Err(InvalidSettings { problems: self.problems })
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_arrive_as_they_were_sent() {
        let mut sent = SentSettings::default();
        let odd = OsStr::from_bytes(b"\xff=\n");
        for (name, value) in [("KEY", OsStr::new("s3cret")), ("EMPTY", "".as_ref()), ("ODD", odd)] {
            sent.add(name, value);
        }
        assert!(!format!("{sent:?}").contains("s3cret"));
        let (_, mut reader) = sent.send().unwrap();
        let mut bytes = Vec::new();
        reader.read_to_end(&mut bytes).unwrap();
        let received = SentSettings::parse(&bytes).unwrap();
        assert_eq!(received.0, sent.0);
        for damaged in [&bytes[..bytes.len() - 1], b"NAME\0", b"\xff=1\0"] {
            assert!(SentSettings::parse(damaged).is_none());
        }
        sent.add("LONG", "x".repeat(70_000));
        assert!(sent.send().is_err());
    }

    #[test]
    fn all_problems_are_reported_at_once_without_secrets() {
        let env: HashMap<String, String> = [
            ("PORT", "x"),
            ("FLAG", "maybe"),
            ("WAIT", "0"),
            ("TOKEN_FILE", "/nonexistent"),
            ("TOKEN", "s3cret"),
            ("EMPTY", ""),
            ("LIST", " a, ,b "),
        ]
        .map(|(k, v)| (k.to_owned(), v.to_owned()))
        .into();
        let mut settings = Settings::new(&env);
        assert_eq!(settings.port("PORT", 5000), 5000);
        assert!(!settings.flag("FLAG"));
        settings.seconds("WAIT", 5);
        assert!(settings.secret("TOKEN_FILE", "TOKEN").is_none());
        assert_eq!(settings.or("EMPTY", 7, "a number"), 7);
        assert_eq!(settings.list("LIST").unwrap(), ["a", "b"]);
        assert_eq!(settings.list("EMPTY"), None);
        let error = settings.finish().unwrap_err();
        let names: Vec<_> = error.problems.iter().map(|p| p.split(':').next().unwrap()).collect();
        assert_eq!(names, ["PORT", "FLAG", "WAIT", "TOKEN_FILE"]);
        assert!(!error.to_string().contains("s3cret"));
    }

    #[test]
    fn a_problem_has_the_unit_and_an_example() {
        let mut env: HashMap<String, OsString> = [
            ("TIMEOUT_SECONDS", "1h"),
            ("TURNS", "lots"),
            ("NONE", "0"),
            ("PORT", "70000"),
            ("ADDRESS", "home"),
            ("FLAG", "maybe"),
        ]
        .map(|(name, value)| (name.to_owned(), value.into()))
        .into();
        env.insert("BYTES".to_owned(), std::os::unix::ffi::OsStringExt::from_vec(vec![0xff]));
        let mut settings = Settings::new(&env);
        settings.seconds("TIMEOUT_SECONDS", 3600);
        settings.count("TURNS", "turns", 20);
        settings.count("NONE", "turns", 20);
        settings.port("PORT", 5000);
        settings.address("ADDRESS");
        settings.flag("FLAG");
        settings.text("BYTES");
        assert_eq!(
            settings.finish().unwrap_err().problems,
            [
                "TIMEOUT_SECONDS: must be whole seconds from 1 to 31536000, such as 3600",
                "TURNS: must be a whole number of turns above 0, such as 20",
                "NONE: must be a whole number of turns above 0, such as 20",
                "PORT: must be a port from 0 to 65535, such as 5000",
                "ADDRESS: must be an IP address, such as 127.0.0.1",
                "FLAG: must be 1 or 0",
                "BYTES: must be UTF-8",
            ]
        );
    }

    #[test]
    fn a_secret_never_prints() {
        let env: HashMap<String, String> = [("T".to_owned(), "s3cret\n".to_owned())].into();
        let secret = Settings::new(&env).secret("F", "T").unwrap();
        assert_eq!(format!("{secret:?} {secret}"), "*** ***");
        assert_eq!(secret.expose(), "s3cret");
    }
}
