//! Settings from the environment. All problems are reported at once.

use std::{
    collections::HashMap,
    ffi::{OsStr, OsString},
    net::IpAddr,
    num::NonZeroU32,
    str::FromStr,
    time::Duration,
};

use crate::Secret;

/// The source of settings: the process's environment, or a map in a test.
pub trait Env {
    /// The value of `name`, if it is set.
    fn get(&self, name: &str) -> Option<OsString>;
}

/// The environment of this process.
#[derive(Clone, Copy, Debug, Default)]
pub struct ProcessEnv;

impl Env for ProcessEnv {
    fn get(&self, name: &str) -> Option<OsString> {
        std::env::var_os(name)
    }
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
        if let Some(path) = self.text(file) {
            return match std::fs::read_to_string(&path) {
                Ok(text) if !text.trim().is_empty() => Some(Secret::new(text.trim().to_owned())),
                Ok(_) => {
                    self.problem(file, &format!("{path} is empty"));
                    None
                }
                Err(error) => {
                    self.problem(file, &format!("cannot read {path}: {error}"));
                    None
                }
            };
        }
        self.text(value).map(|text| Secret::new(text.trim().to_owned()))
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
