//! Identifiers.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use uuid::Uuid;

use crate::Timestamp;

/// 9999-12-30T00:00:00Z, before the last time that every time zone can write.
const LAST_MILLISECOND: i64 = 253_402_128_000_000;

macro_rules! id {
    ($(#[doc = $doc:literal])+ $name:ident, $new:expr, $check:expr, $what:literal) => {
        $(#[doc = $doc])+
        #[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub struct $name(Uuid);

        impl $name {
            /// A new ID.
            #[must_use]
            #[expect(clippy::new_without_default, reason = "two calls give two values")]
            pub fn new() -> Self {
                Self($new)
            }
        }

        impl FromStr for $name {
            type Err = InvalidId;

            /// Accepts the hyphenated form in either case. It is always written in lower case.
            fn from_str(text: &str) -> Result<Self, InvalidId> {
                let id = Uuid::try_parse(text).map_err(|_| InvalidId($what))?;
                let check: fn(&Uuid) -> bool = $check;
                // `Uuid` also parses forms without hyphens, in braces and as a URN.
                let written = id.hyphenated();
                let is_hyphenated = written
                    .encode_lower(&mut Uuid::encode_buffer())
                    .eq_ignore_ascii_case(text);
                if !is_hyphenated || !check(&id) {
                    return Err(InvalidId($what));
                }
                Ok(Self(id))
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(&self.0.hyphenated(), f)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(&self.0.hyphenated(), f)
            }
        }

        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
            }
        }
    };
}

/// The text is not an ID of the expected kind.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("is not {0}")]
pub struct InvalidId(&'static str);

id!(
    /// A job. `UUIDv7`, so that sorting by name sorts by time.
    JobId, Uuid::now_v7(), |id| id.get_version_num() == 7, "a job id (a UUIDv7)"
);
impl JobId {
    /// When it was made, according to the ID itself: its maker may have chosen another time. Later times than a
    /// [`Timestamp`] can have count as the latest, so that the order of the times is that of the IDs.
    #[must_use]
    pub fn created(self) -> Timestamp {
        let [a, b, c, d, e, f, ..] = *self.0.as_bytes();
        let milliseconds = i64::from_be_bytes([0, 0, a, b, c, d, e, f]);
        Timestamp::from_millisecond(milliseconds.min(LAST_MILLISECOND))
    }
}

id!(
    /// One run of a replica: after a restart, it has a new ID.
    ReplicaId, Uuid::now_v7(), |_| true, "a replica id (a UUID)"
);
id!(
    /// One run of a gateway.
    GatewayId, Uuid::now_v7(), |_| true, "a gateway id (a UUID)"
);
id!(
    /// What has a directory of its own in `jobs`: a job, or a session that was created without a workspace.
    OwnId, Uuid::now_v7(), |_| true, "the id of a job or a session"
);
impl From<JobId> for OwnId {
    fn from(id: JobId) -> Self {
        Self(id.0)
    }
}

id!(
    /// A Claude session. `UUIDv4`, like those of the CLI.
    SessionId, Uuid::new_v4(), |_| true, "a session id (a UUID)"
);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_hyphenated_form_is_read_in_either_case() {
        let id = JobId::new();
        assert_eq!(id.to_string().parse(), Ok(id));
        assert_eq!(id.to_string().to_uppercase().parse(), Ok(id));
        for bad in [
            String::new(),
            id.to_string().replace('-', ""),
            format!("{{{id}}}"),
            "../../etc/passwd".into(),
            Uuid::new_v4().to_string(),
        ] {
            assert!(bad.parse::<JobId>().is_err(), "{bad}");
        }
    }

    #[test]
    fn an_id_says_when_it_was_made() {
        let created = |id: &str| id.parse::<JobId>().unwrap().created().to_string();
        assert_eq!(created("019c13ec-9e78-7000-8000-000000000000"), "2026-01-31T12:00:00.120Z");
        assert_eq!(created("00000000-0000-7000-8000-000000000000"), "1970-01-01T00:00:00.000Z");
        assert_eq!(created("ffffffff-ffff-7fff-bfff-ffffffffffff"), "9999-12-30T00:00:00.000Z");
        let age = Timestamp::now().as_millisecond() - JobId::new().created().as_millisecond();
        assert!((0..10_000).contains(&age), "{age}");
    }

    #[test]
    fn ids_sort_by_time() {
        let ids: Vec<_> = (0..1000).map(|_| JobId::new().to_string()).collect();
        assert!(ids.is_sorted());
    }
}
