//! The agent's credential for the Messages API.

use std::time::SystemTime;

use boot::{Secret, Settings};
use serde::Deserialize;

/// A credential for the Messages API. The CLI gets it through a file descriptor. It is in no environment, which the
/// agent's shell would inherit, and in no file, which the agent could read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Credential {
    /// An API key, sent as `x-api-key`.
    ApiKey(Secret),
    /// An OAuth access token, sent as `Authorization: Bearer`. It is never refreshed: refresh tokens are single-use,
    /// so replicas that share one would log each other out.
    OAuthToken {
        /// The token.
        token: Secret,
        /// When it expires, in milliseconds since 1970. Unknown for long-lived tokens.
        expires_at: Option<u64>,
    },
}

const FORM: &str = "must be {\"apiKey\": \"…\"} or {\"claudeAiOauth\": {\"accessToken\": \"…\"}}";

impl Credential {
    /// Reads `CLAUDE_CODE_CREDENTIALS_SECRET` (the path of a file), else `CLAUDE_CODE_CREDENTIALS_JSON`,
    /// else `ANTHROPIC_API_KEY` or `CLAUDE_CODE_OAUTH_TOKEN`, which hold the bare secret.
    pub(crate) fn read(settings: &mut Settings<'_>) -> Option<Self> {
        const FILE: &str = "CLAUDE_CODE_CREDENTIALS_SECRET";
        const JSON: &str = "CLAUDE_CODE_CREDENTIALS_JSON";
        if settings.text(FILE).is_some() || settings.text(JSON).is_some() {
            let name = if settings.text(FILE).is_some() { FILE } else { JSON };
            // If it is unreadable, `secret` has already reported the problem.
            let secret = settings.secret(FILE, JSON)?;
            let parsed = Self::parse(secret.expose());
            if parsed.is_none() {
                settings.problem(name, FORM);
            }
            return parsed;
        }
        for (name, make) in [
            ("ANTHROPIC_API_KEY", Self::ApiKey as fn(Secret) -> Self),
            ("CLAUDE_CODE_OAUTH_TOKEN", |token| Self::OAuthToken { token, expires_at: None }),
        ] {
            if let Some(text) = settings.text(name) {
                let secret = header_value(&text);
                if secret.is_none() {
                    settings
                        .problem(name, "must be one line of printable characters without spaces");
                }
                return secret.map(make);
            }
        }
        None
    }

    /// Returns no reason for a failure, because the parser's message may quote the secret.
    fn parse(json: &str) -> Option<Self> {
        #[derive(Deserialize)]
        #[serde(rename_all = "camelCase")]
        struct Document {
            api_key: Option<String>,
            claude_ai_oauth: Option<Oauth>,
        }
        #[derive(Deserialize)]
        #[serde(rename_all = "camelCase")]
        struct Oauth {
            access_token: String,
            expires_at: Option<u64>,
        }
        match serde_json::from_str(json).ok()? {
            // In the CLI's order of precedence.
            Document { api_key: Some(key), .. } => header_value(&key).map(Self::ApiKey),
            Document { claude_ai_oauth: Some(oauth), .. } => Some(Self::OAuthToken {
                token: header_value(&oauth.access_token)?,
                expires_at: oauth.expires_at,
            }),
            Document { .. } => None,
        }
    }

    /// The variable that tells the CLI the number of the file descriptor.
    pub(crate) fn variable(&self) -> &'static str {
        match self {
            Self::ApiKey(_) => "CLAUDE_CODE_API_KEY_FILE_DESCRIPTOR",
            Self::OAuthToken { .. } => "CLAUDE_CODE_OAUTH_TOKEN_FILE_DESCRIPTOR",
        }
    }

    /// The secret itself.
    pub(crate) fn secret(&self) -> &Secret {
        match self {
            Self::ApiKey(secret) | Self::OAuthToken { token: secret, .. } => secret,
        }
    }

    /// Whether it has expired.
    pub(crate) fn is_expired(&self) -> bool {
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        matches!(self, Self::OAuthToken { expires_at: Some(at), .. } if u128::from(*at) <= now.as_millis())
    }
}

/// A secret that is valid in a header. Surrounding white space is ignored, because files often end with a line break.
fn header_value(text: &str) -> Option<Secret> {
    let text = text.trim();
    let is_good = !text.is_empty() && text.chars().all(|c| c.is_ascii_graphic());
    is_good.then(|| Secret::new(text.to_owned()))
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use super::*;

    fn read(pairs: &[(&str, &str)]) -> (Option<Credential>, String) {
        let env: HashMap<_, _> =
            pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
        let mut settings = Settings::new(&env);
        let credential = Credential::read(&mut settings);
        (credential, settings.finish().err().map(|e| e.to_string()).unwrap_or_default())
    }

    fn key(text: &str) -> Option<Credential> {
        Some(Credential::ApiKey(Secret::new(text.to_owned())))
    }

    fn token(text: &str, expires_at: Option<u64>) -> Option<Credential> {
        Some(Credential::OAuthToken { token: Secret::new(text.to_owned()), expires_at })
    }

    #[test]
    fn every_form_is_read_in_order_of_precedence() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), "{\"apiKey\": \"sk-ant-file\"}\n").unwrap();
        let path = file.path().to_str().unwrap();
        let oauth = r#"{"claudeAiOauth": {"accessToken": "t", "refreshToken": "r", "expiresAt": 5, "scopes": ["user:inference"]}}"#;
        let json = ("CLAUDE_CODE_CREDENTIALS_JSON", oauth);
        for (env, expected) in [
            (&[("CLAUDE_CODE_CREDENTIALS_SECRET", path), json][..], key("sk-ant-file")),
            (&[json, ("ANTHROPIC_API_KEY", "k")], token("t", Some(5))),
            (
                &[(
                    "CLAUDE_CODE_CREDENTIALS_JSON",
                    r#"{"claudeAiOauth": {"accessToken": "t"}, "apiKey": null}"#,
                )],
                token("t", None),
            ),
            (&[("ANTHROPIC_API_KEY", " k\n"), ("CLAUDE_CODE_OAUTH_TOKEN", "o")], key("k")),
            (&[("CLAUDE_CODE_OAUTH_TOKEN", "o")], token("o", None)),
            (&[("ANTHROPIC_API_KEY", "")], None),
            (&[], None),
        ] {
            assert_eq!(read(env), (expected, String::new()), "{env:?}");
        }
    }

    #[test]
    fn an_invalid_credential_is_reported_without_quoting_it() {
        for value in [
            "sk-ant-s3cret",
            r#"{"apiKey": ["s3cret"]}"#,
            r#"{"apiKey": "s3cret\nx"}"#,
            r#"{"apiKey": ""}"#,
            r#"{"claudeAiOauth": "s3cret"}"#,
            r#"{"claudeAiOauth": {"refreshToken": "s3cret"}}"#,
            r#"{"key": "s3cret"}"#,
            "{",
        ] {
            let (credential, problems) = read(&[("CLAUDE_CODE_CREDENTIALS_JSON", value)]);
            assert_eq!(credential, None, "{value}");
            assert!(problems.contains("CLAUDE_CODE_CREDENTIALS_JSON: must be"), "{problems}");
            assert!(!problems.contains("s3cret"), "{problems}");
        }
        let (credential, problems) = read(&[("CLAUDE_CODE_CREDENTIALS_SECRET", "/nonexistent")]);
        assert_eq!(credential, None);
        assert!(problems.contains("CLAUDE_CODE_CREDENTIALS_SECRET: cannot read"), "{problems}");
    }

    #[test]
    fn the_secret_is_never_printed() {
        let (credential, _) = read(&[("CLAUDE_CODE_OAUTH_TOKEN", "s3cret")]);
        assert!(!format!("{credential:?}").contains("s3cret"));
    }

    #[test]
    fn an_expired_token_is_noticed() {
        assert!(token("t", Some(1)).unwrap().is_expired());
        assert!(!token("t", Some(u64::MAX)).unwrap().is_expired());
        assert!(!token("t", None).unwrap().is_expired());
        assert!(!key("k").unwrap().is_expired());
    }
}
