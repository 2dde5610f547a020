//! Callers: who they are, what they may do, and the tokens by which they are known.

use std::{collections::BTreeSet, fmt, str::FromStr};

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::{RequestError, Timestamp, UnknownFields, Usd, fields::Fields};

/// The length of a token's ID.
const ID_LENGTH: usize = 8;
/// The lengths of a token's secret. The shortest has the information of 32 random bytes in base62; the longest is 32 bytes
/// in hexadecimal, so that operators can make a token with any tool.
const SECRET_LENGTHS: std::ops::RangeInclusive<usize> = 43..=64;
/// What every token begins with. Scanners for leaked secrets look for such a prefix.
const PREFIX: &str = "wfs_";

/// The text is not of the expected kind.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("is not {0}")]
pub struct NotA(&'static str);

macro_rules! text_type {
    ($name:ident) => {
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.serialize_str(&self.0)
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
            }
        }
    };
}

/// The name of a caller. Jobs, sessions and named checkouts belong to a name, and not to a token, so a token can be
/// replaced by another one of the same name.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct CallerName(String);
text_type!(CallerName);

impl CallerName {
    /// The name of [`anonymous`](Self::anonymous).
    pub const ANONYMOUS: &str = "anonymous";

    /// The caller of everything that needs no token. It owns what was made before the stack had tokens.
    #[must_use]
    pub fn anonymous() -> Self {
        Self(Self::ANONYMOUS.to_owned())
    }

    /// Whether this is the caller without a token.
    #[must_use]
    pub fn is_anonymous(&self) -> bool {
        self.0 == Self::ANONYMOUS
    }

    /// The name as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl Default for CallerName {
    fn default() -> Self {
        Self::anonymous()
    }
}

impl FromStr for CallerName {
    type Err = NotA;

    fn from_str(text: &str) -> Result<Self, NotA> {
        let is_plain =
            |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-');
        let begins_well = text.as_bytes().first().is_some_and(u8::is_ascii_alphanumeric);
        if begins_well && text.len() <= 64 && text.bytes().all(is_plain) {
            Ok(Self(text.to_owned()))
        } else {
            Err(NotA(
                "the name of a caller: at most 64 letters, digits, '.', '_' and '-', beginning with a letter or a digit",
            ))
        }
    }
}

/// The public part of a token.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TokenId(String);
text_type!(TokenId);

impl FromStr for TokenId {
    type Err = NotA;

    fn from_str(text: &str) -> Result<Self, NotA> {
        if text.len() == ID_LENGTH && is_base62(text) {
            Ok(Self(text.to_owned()))
        } else {
            Err(NotA("the ID of a token (8 letters and digits)"))
        }
    }
}

fn is_base62(text: &str) -> bool {
    text.bytes().all(|byte| byte.is_ascii_alphanumeric())
}

/// A whole token, `wfs_<id>_<secret>`. Its secret is never printed; only JSON contains it.
#[derive(Clone, PartialEq, Eq)]
pub struct BearerToken {
    id: TokenId,
    secret: String,
}

impl BearerToken {
    /// The number of base62 characters of a new token's ID and of its secret.
    pub const LENGTHS: (usize, usize) = (ID_LENGTH, *SECRET_LENGTHS.start());

    /// The part by which it is found.
    #[must_use]
    pub fn id(&self) -> &TokenId {
        &self.id
    }

    /// The part that proves it.
    #[must_use]
    pub fn secret(&self) -> &str {
        &self.secret
    }

    /// The whole token, for the one place that shows it.
    #[must_use]
    pub fn expose(&self) -> String {
        format!("{PREFIX}{}_{}", self.id, self.secret)
    }
}

impl fmt::Debug for BearerToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{PREFIX}{}_***", self.id)
    }
}

impl FromStr for BearerToken {
    type Err = NotA;

    fn from_str(text: &str) -> Result<Self, NotA> {
        let parse = || {
            let (id, secret) = text.strip_prefix(PREFIX)?.split_once('_')?;
            let is_secret = SECRET_LENGTHS.contains(&secret.len()) && is_base62(secret);
            is_secret.then_some(Self { id: id.parse().ok()?, secret: secret.to_owned() })
        };
        parse().ok_or(NotA("a token (wfs_<id>_<secret>)"))
    }
}

impl Serialize for BearerToken {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.expose())
    }
}

impl<'de> Deserialize<'de> for BearerToken {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

/// Something that a token allows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Scope {
    /// Start, cancel and delete jobs and sessions of its own.
    #[serde(rename = "submit")]
    Submit,
    /// Read jobs, sessions and checkouts of its own.
    #[serde(rename = "read")]
    Read,
    /// Read those of every caller.
    #[serde(rename = "read:all")]
    ReadAll,
    /// Have results of its own jobs pushed to their repositories, with the stack's credentials.
    #[serde(rename = "deliver")]
    Deliver,
    /// The same with changes of protected paths.
    #[serde(rename = "deliver:protected")]
    DeliverProtected,
    /// Everything, including tokens.
    #[serde(rename = "admin")]
    Admin,
}

impl Scope {
    /// All scopes.
    pub const ALL: [Self; 6] = [
        Self::Submit,
        Self::Read,
        Self::ReadAll,
        Self::Deliver,
        Self::DeliverProtected,
        Self::Admin,
    ];

    /// The name on the wire.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Submit => "submit",
            Self::Read => "read",
            Self::ReadAll => "read:all",
            Self::Deliver => "deliver",
            Self::DeliverProtected => "deliver:protected",
            Self::Admin => "admin",
        }
    }
}

impl fmt::Display for Scope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for Scope {
    type Err = NotA;

    fn from_str(text: &str) -> Result<Self, NotA> {
        let found = Self::ALL.into_iter().find(|scope| scope.as_str() == text);
        found.ok_or(NotA("a scope: submit, read, read:all, deliver, deliver:protected or admin"))
    }
}

/// What one caller may use. `None`: no limit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct CallerLimits {
    /// How many of its jobs may run at the same time. More wait in the queue.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub running: Option<u32>,
    /// How many of its jobs may wait in the queue. More are refused.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub queued: Option<u32>,
    /// How many requests it may send in a minute. More are refused.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub requests_per_minute: Option<u32>,
    /// What its jobs may cost in a day (UTC). As soon as those that have ended have cost as much, more are refused.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub budget_usd_per_day: Option<Usd>,
}

impl CallerLimits {
    /// Whether there are none.
    #[must_use]
    pub fn is_none(&self) -> bool {
        *self == Self::default()
    }

    /// The stricter of each of the limits.
    #[must_use]
    pub fn stricter(self, other: Self) -> Self {
        fn stricter<T: Ord>(one: Option<T>, two: Option<T>) -> Option<T> {
            one.into_iter().chain(two).min()
        }
        Self {
            running: stricter(self.running, other.running),
            queued: stricter(self.queued, other.queued),
            requests_per_minute: stricter(self.requests_per_minute, other.requests_per_minute),
            budget_usd_per_day: stricter(self.budget_usd_per_day, other.budget_usd_per_day),
        }
    }

    fn parse(fields: &Fields) -> Result<Self, RequestError> {
        let limit = |name: &'static str| match fields.unsigned(name)? {
            None => Ok(None),
            Some(limit) => match u32::try_from(limit) {
                Ok(limit) if limit > 0 => Ok(Some(limit)),
                _ => Err(RequestError::field(name, "must be a whole number above 0")),
            },
        };
        let budget = "budgetUsdPerDay";
        let budget_usd_per_day = match fields.number(budget)? {
            None => None,
            Some(dollars) => match Usd::from_dollars(dollars) {
                Some(amount) if amount > Usd::default() => Some(amount),
                _ => {
                    return Err(RequestError::field(budget, "must be a number of dollars above 0"));
                }
            },
        };
        Ok(Self {
            running: limit("running")?,
            queued: limit("queued")?,
            requests_per_minute: limit("requestsPerMinute")?,
            budget_usd_per_day,
        })
    }
}

/// `POST /api/tokens`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TokenRequest {
    /// The caller.
    pub name: CallerName,
    /// What it may do. Never empty.
    pub scopes: BTreeSet<Scope>,
    /// What it may use.
    pub limits: CallerLimits,
    /// When the token stops being valid.
    pub expires: Option<Timestamp>,
}

impl TokenRequest {
    /// Parses a body.
    ///
    /// # Errors
    /// If it is invalid; the error is for the caller.
    pub fn parse(body: &[u8], unknown: UnknownFields) -> Result<Self, RequestError> {
        let fields = Fields::parse(body)?;
        let name = fields.required("name", |text| {
            text.parse::<CallerName>().map_err(|error| error.to_string())
        })?;
        if name.is_anonymous() {
            let why = "is the name of callers without a token: choose another";
            return Err(RequestError::field("name", why));
        }
        let scopes = fields.strings("scopes")?.unwrap_or_default();
        let scopes: BTreeSet<Scope> = scopes
            .into_iter()
            .map(|text| {
                text.parse().map_err(|why| RequestError::field("scopes", format!("'{text}' {why}")))
            })
            .collect::<Result<_, _>>()?;
        if scopes.is_empty() {
            let why = "must name at least one of submit, read, read:all and admin";
            return Err(RequestError::field("scopes", why));
        }
        let limits = match fields.object("limits")? {
            None => CallerLimits::default(),
            Some(limits) => {
                let parsed = CallerLimits::parse(&limits)?;
                limits.finish(unknown)?;
                parsed
            }
        };
        let expires = fields.optional("expires", |text| {
            text.parse().map_err(|_| "must be a time such as 2026-12-31T00:00:00Z".to_owned())
        })?;
        fields.finish(unknown)?;
        Ok(Self { name, scopes, limits, expires })
    }
}

/// A token, as an administrator sees it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct TokenView {
    /// Its ID.
    pub id: TokenId,
    /// The caller.
    pub name: CallerName,
    /// What it allows.
    pub scopes: BTreeSet<Scope>,
    /// What the caller may use.
    #[serde(default, skip_serializing_if = "CallerLimits::is_none")]
    pub limits: CallerLimits,
    /// When it stops being valid.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires: Option<Timestamp>,
    /// When it was created.
    pub created: Timestamp,
    /// When it was last used, to the minute.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_used: Option<Timestamp>,
    /// What the caller's jobs that ended today (UTC) have cost. Only in listings, and only if it is something.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub spent_today_usd: Option<Usd>,
    /// The token itself. Only in the answer to its creation: nobody can read it later.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub token: Option<BearerToken>,
}

/// `GET /api/tokens`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TokenList {
    /// Oldest first.
    pub tokens: Vec<TokenView>,
    /// The number of `tokens`.
    pub count: usize,
}

/// `DELETE /api/tokens/:id`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TokenRevoked {
    /// A sentence for people.
    pub message: String,
    /// The token that was revoked.
    pub id: TokenId,
}

impl TokenRevoked {
    /// The response to revoking `id`.
    #[must_use]
    pub fn new(id: TokenId) -> Self {
        Self { message: "Token revoked".into(), id }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Code;

    fn parse(body: &str) -> Result<TokenRequest, RequestError> {
        TokenRequest::parse(body.as_bytes(), UnknownFields::Refused)
    }

    #[test]
    fn a_token_is_its_parts_and_never_printed() {
        let secret = "s".repeat(43);
        let text = format!("wfs_abcDEF12_{secret}");
        let token: BearerToken = text.parse().unwrap();
        assert_eq!((token.id().to_string(), token.secret()), ("abcDEF12".to_owned(), &*secret));
        assert_eq!(token.expose(), text);
        assert!(!format!("{token:?}").contains(&secret));
        assert_eq!(serde_json::to_value(&token).unwrap(), text);
        assert!(format!("wfs_abcDEF12_{}", "0".repeat(64)).parse::<BearerToken>().is_ok());
        for bad in [
            String::new(),
            format!("wfs_abcDEF1_{secret}"),
            format!("wfs_abcDEF123_{secret}"),
            format!("wfs_../../12_{secret}"),
            format!("xyz_abcDEF12_{secret}"),
            format!("wfs_abcDEF12_{}", "s".repeat(42)),
            format!("wfs_abcDEF12_{}", "s".repeat(65)),
            format!("wfs_abcDEF12_{}é", "s".repeat(43)),
            format!(" {text}"),
            format!("{text}\n"),
        ] {
            assert!(bad.parse::<BearerToken>().is_err(), "{bad}");
        }
    }

    #[test]
    fn names_of_callers() {
        for good in ["a", "ci.team-2_x", &"x".repeat(64), "7"] {
            assert_eq!(good.parse::<CallerName>().unwrap().as_str(), good);
        }
        for bad in ["", ".", "-a", "a b", "a/b", "é", &"x".repeat(65), "a\n"] {
            assert!(bad.parse::<CallerName>().is_err(), "{bad}");
        }
    }

    #[test]
    fn a_request_for_a_token() {
        let full = parse(
            r#"{"name": "ci", "scopes": ["read", "submit"], "expires": "2030-01-01T00:00:00Z",
                "limits": {"running": 2, "requestsPerMinute": 60, "budgetUsdPerDay": 0.5}}"#,
        )
        .unwrap();
        assert_eq!(full.scopes, BTreeSet::from([Scope::Submit, Scope::Read]));
        let limits = CallerLimits {
            running: Some(2),
            queued: None,
            requests_per_minute: Some(60),
            budget_usd_per_day: Usd::from_dollars(0.5),
        };
        let again: CallerLimits =
            serde_json::from_value(serde_json::to_value(limits).unwrap()).unwrap();
        assert_eq!(again, limits);
        assert_eq!((full.limits, full.expires.is_some()), (limits, true));
        for (bad, field) in [
            (r#"{"scopes": ["read"]}"#, "name"),
            (r#"{"name": "anonymous", "scopes": ["read"]}"#, "name"),
            (r#"{"name": "../x", "scopes": ["read"]}"#, "name"),
            (r#"{"name": "a"}"#, "scopes"),
            (r#"{"name": "a", "scopes": []}"#, "scopes"),
            (r#"{"name": "a", "scopes": ["root"]}"#, "scopes"),
            (r#"{"name": "a", "scopes": ["read"], "limits": {"running": 0}}"#, "running"),
            (r#"{"name": "a", "scopes": ["read"], "limits": {"queued": 1e3}}"#, "queued"),
            (
                r#"{"name": "a", "scopes": ["read"], "limits": {"budgetUsdPerDay": 0}}"#,
                "budgetUsdPerDay",
            ),
            (r#"{"name": "a", "scopes": ["read"], "limits": 7}"#, "limits"),
            (r#"{"name": "a", "scopes": ["read"], "expires": "tomorrow"}"#, "expires"),
        ] {
            let error = parse(bad).unwrap_err();
            assert_eq!(
                (error.code, error.field.as_deref()),
                (Code::InvalidField, Some(field)),
                "{bad}"
            );
        }
        for unknown in [
            r#"{"name": "a", "scopes": ["read"], "limits": {"budgetUsdPerMonth": 5}}"#,
            r#"{"name": "a", "scopes": ["read"], "scope": "x"}"#,
        ] {
            assert_eq!(parse(unknown).unwrap_err().code, Code::UnknownField, "{unknown}");
        }
    }

    #[test]
    fn the_stricter_limit_counts() {
        let limits = |running, queued, requests, dollars: Option<f64>| CallerLimits {
            running: Some(running),
            queued,
            requests_per_minute: Some(requests),
            budget_usd_per_day: dollars.and_then(Usd::from_dollars),
        };
        let (one, two) = (limits(2, None, 9, Some(1.0)), limits(3, Some(4), 5, Some(0.5)));
        let both = limits(2, Some(4), 5, Some(0.5));
        assert_eq!(one.stricter(limits(2, None, 9, None)), one);
        assert_eq!(one.stricter(two), both);
    }
}
