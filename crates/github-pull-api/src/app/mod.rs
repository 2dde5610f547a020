//! A GitHub App: instead of a token that lasts, the stack has a private key, and makes a token for one job and one repository.
//!
//! `jwt` signs what proves that the stack is the App, and `token` is the conversation with GitHub. Which job gets a token, and
//! that it is revoked, is up to [`Access`](crate::remote::Access).

mod jwt;
mod token;

use std::{fmt, sync::Arc};

use boot::{Secret, Settings};
use tokio_rustls::rustls::sign::SigningKey;

pub(crate) use self::token::{AppRepository, HEADERS, Need, make, revoke};

const ID: &str = "GITHUB_APP_ID";
const KEY: &str = "GITHUB_APP_PRIVATE_KEY_SECRET";
/// The longest ID, in characters. That of an App is a number, and its client ID has 20 characters.
const LONGEST_ID: usize = 64;

/// A GitHub App, with its private key.
#[derive(Clone)]
pub struct GitHubApp {
    id: String,
    pem: Secret,
    key: Arc<dyn SigningKey>,
}

impl fmt::Debug for GitHubApp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("GitHubApp").field("id", &self.id).finish_non_exhaustive()
    }
}

impl GitHubApp {
    /// The App with the ID, or client ID, `id` and the private key `pem`, as GitHub hands it out: RSA, in PEM.
    ///
    /// # Errors
    /// What is wrong with the key, without the key.
    pub fn new(id: &str, pem: &str) -> Result<Self, String> {
        let key = jwt::read_key(pem)?;
        Ok(Self { id: id.to_owned(), pem: Secret::new(pem.to_owned()), key })
    }

    /// Reads the settings; what is wrong with them is noted in `settings`.
    pub(crate) fn read(settings: &mut Settings<'_>) -> Option<Self> {
        let id = settings.text(ID).map(|id| id.trim().to_owned());
        let is_id = |id: &String| {
            let is_plain = id.chars().all(|c| c.is_ascii_alphanumeric() || c == '.');
            !id.is_empty() && id.len() <= LONGEST_ID && is_plain
        };
        if id.as_ref().is_some_and(|id| !is_id(id)) {
            settings.problem(ID, "must be the ID or the client ID of a GitHub App, such as 123456");
        }
        let has_key = settings.text(KEY).is_some();
        let pem = settings.secret_file(KEY);
        match (&id, has_key) {
            (Some(_), false) => {
                settings.problem(
                    KEY,
                    &format!("is missing: {ID} needs the file of the App's private key"),
                );
            }
            (None, true) => {
                settings.problem(ID, &format!("is missing: {KEY} needs the ID of the App"))
            }
            _ => {}
        }
        match Self::new(&id?, pem?.expose()) {
            Ok(app) => Some(app),
            Err(why) => {
                settings.problem(KEY, &why);
                None
            }
        }
    }

    /// The lines of the key, which are to appear nowhere.
    pub(crate) fn key(&self) -> &str {
        self.pem.expose()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use super::*;

    fn problems(variables: &[(&str, &str)]) -> (Option<GitHubApp>, Vec<String>) {
        let env: HashMap<String, String> =
            variables.iter().map(|&(name, value)| (name.to_owned(), value.to_owned())).collect();
        let mut settings = Settings::new(&env);
        let app = GitHubApp::read(&mut settings);
        (app, settings.finish().err().map(|it| it.problems).unwrap_or_default())
    }

    #[test]
    fn both_settings_or_neither_and_a_key_that_can_sign() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let path = file.path().to_str().unwrap();
        std::fs::write(file.path(), "no s3cret key").unwrap();
        assert!(matches!(problems(&[]), (None, problems) if problems.is_empty()));
        for (variables, expected) in [
            (vec![(ID, "1")], "GITHUB_APP_PRIVATE_KEY_SECRET: is missing"),
            (vec![(KEY, path)], "GITHUB_APP_ID: is missing"),
            (vec![(ID, "an app"), (KEY, path)], "GITHUB_APP_ID: must be"),
            (vec![(ID, "1"), (KEY, path)], "GITHUB_APP_PRIVATE_KEY_SECRET: is no private key"),
            (vec![(ID, "1"), (KEY, "/nonexistent")], "GITHUB_APP_PRIVATE_KEY_SECRET: cannot read"),
        ] {
            let (app, problems) = problems(&variables);
            assert!(app.is_none());
            assert!(problems.iter().any(|it| it.starts_with(expected)), "{problems:?}");
            assert!(!problems.concat().contains("s3cret"), "{problems:?}");
        }
    }
}
