//! Records that prove who wrote them.
//!
//! A record is a file with one JSON object. A process that knows the stack's secret puts the field `proof` first: an HMAC over
//! what the record is about and over every byte after that field. So a newer version can add fields, and one that knows no
//! proofs reads the object as before. What a record is about ([`About`]) follows from where it lies, so a copy proves nothing
//! in another place. Without the secret, records are written without a proof, and all are believed.

use std::{
    fmt, fs,
    path::{Path, PathBuf},
};

use contract::{DirectoryName, JobId, SessionId, Timestamp, TokenId};
use serde::{Deserialize, Serialize};

use crate::{
    Error, Result, StackSecret, Workspace, hex,
    write::{read_at_most, write_synced},
};

/// What stands before the digits of a proof, and after them.
const BEFORE: &[u8] = b"{\"proof\":\"";
const AFTER: &[u8] = b"\",";
/// The hexadecimal digits of a proof.
const DIGITS: usize = 64;
/// The longest `signed` that is read, in bytes.
const MAX_FILE: u64 = 1024;

/// What a record is about. None can be taken for one of another kind, job, life or name.
#[derive(Clone, Copy, Debug)]
pub(crate) enum About<'a> {
    /// `.stack/signed`.
    Since,
    /// `job.json`.
    Job(JobId),
    /// `claim`.
    Claim(JobId, &'a Life),
    /// `outcome`.
    Outcome(JobId, &'a Life),
    /// `control/cancel`.
    Cancel(JobId, &'a Life),
    /// A file in `admitted/`, by its name.
    Admitted(JobId, &'a Life, &'a str),
    /// `owners/<directory>`.
    Owner(&'a DirectoryName),
    /// `meta.json` of a session.
    Session(SessionId),
    /// `tokens/<id>.json`.
    Token(&'a TokenId),
}

impl fmt::Display for About<'_> {
    /// Begins like no [`Statement`](crate::Statement), and has no line break.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Since => write!(f, "record since"),
            Self::Job(id) => write!(f, "record job {id}"),
            Self::Claim(id, life) => write!(f, "record claim {id} {life}"),
            Self::Outcome(id, life) => write!(f, "record outcome {id} {life}"),
            Self::Cancel(id, life) => write!(f, "record cancel {id} {life}"),
            Self::Admitted(id, life, name) => write!(f, "record admitted {id} {life} {name}"),
            Self::Owner(name) => write!(f, "record owner {}", name.as_str()),
            Self::Session(id) => write!(f, "record session {id}"),
            Self::Token(id) => write!(f, "record token {id}"),
        }
    }
}

/// The life of a job. Its other records belong to the record that it was created with: an ID can be used again after its job
/// was deleted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Life {
    /// Its record has this proof.
    Proven(String),
    /// Its record has none, because an earlier version wrote it.
    Earlier,
    /// Its record is not to be believed, or this process cannot tell.
    Unknown,
}

impl fmt::Display for Life {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Proven(proof) => f.write_str(proof),
            Self::Earlier | Self::Unknown => f.write_str("-"),
        }
    }
}

/// The content of a record, not checked yet.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct RawRecord {
    /// The object without its proof.
    content: Vec<u8>,
    proof: Option<String>,
}

/// What a record proves.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Proof {
    /// That this stack wrote it.
    Valid(String),
    /// Nothing, because it has no proof.
    Missing,
    /// It was not checked, because this process does not know the secret.
    Unchecked,
}

impl RawRecord {
    /// Reads a file of at most `limit` bytes; `None` if there is none.
    ///
    /// # Errors
    /// If it cannot be read, or is no file of ours.
    pub(crate) fn read(path: &Path, limit: u64) -> Result<Option<Self>> {
        Ok(read_at_most(path, limit)?.map(Self::parse))
    }

    /// What it says, whoever wrote it.
    pub(crate) fn unchecked(&self) -> &[u8] {
        &self.content
    }

    fn parse(mut content: Vec<u8>) -> Self {
        // Space that was reserved for it is filled up with spaces.
        content.truncate(content.trim_ascii_end().len());
        let rest = content.strip_prefix(BEFORE).and_then(|rest| rest.split_at_checked(DIGITS));
        let proof = rest.and_then(|(digits, rest)| {
            let is_digit = |byte: &u8| matches!(byte, b'0'..=b'9' | b'a'..=b'f');
            let is_proof = digits.iter().all(is_digit) && rest.starts_with(AFTER);
            is_proof.then(|| String::from_utf8_lossy(digits).into_owned())
        });
        if proof.is_some() {
            content.drain(1..BEFORE.len() + DIGITS + AFTER.len());
        }
        Self { content, proof }
    }
}

impl StackSecret {
    /// Puts a proof in front of the fields of a record, which is a JSON object that is not empty. `about` says what it is about.
    #[must_use]
    pub fn seal(&self, about: impl fmt::Display, record: &[u8]) -> Vec<u8> {
        let proof = hex::encode(&self.mac_of(&message(about, record)));
        let fields = record.get(1..).unwrap_or_default();
        [BEFORE, proof.as_bytes(), AFTER, fields].concat()
    }

    fn check(&self, about: About<'_>, path: &Path, record: &RawRecord) -> Result<Proof> {
        let Some(proof) = &record.proof else { return Ok(Proof::Missing) };
        if self.is_mac_of(proof, &message(about, &record.content)) {
            Ok(Proof::Valid(proof.clone()))
        } else {
            Err(Error::forged(path, "another stack wrote it, or it was changed or moved"))
        }
    }
}

fn message(about: impl fmt::Display, record: &[u8]) -> Vec<u8> {
    [format!("{about}\n").as_bytes(), record].concat()
}

/// How a process signs.
#[derive(Debug)]
pub(crate) struct Signing {
    secret: StackSecret,
    /// When the stack began to sign. `None`: what says so is not to be believed.
    since: Option<Timestamp>,
}

/// `.stack/signed`.
#[derive(Serialize, Deserialize)]
struct Signed {
    since: Timestamp,
}

/// A record without a proof, which an earlier version may have written.
#[derive(Debug)]
pub struct UnprovenRecord {
    /// What it is, for an operator.
    pub what: String,
    path: PathBuf,
    sealed: Vec<u8>,
}

impl Workspace {
    pub(crate) fn signed_since(&self) -> PathBuf {
        self.stack().join("signed")
    }

    /// From now on, this process signs what it writes to the volume, and believes only what the stack has signed. Blocking.
    ///
    /// # Errors
    /// If the volume cannot be read or written.
    pub fn sign_with(&self, secret: &StackSecret) -> Result<()> {
        let path = self.signed_since();
        let read = || RawRecord::read(&path, MAX_FILE);
        let mut found = read()?;
        if found.is_none() {
            let signed = serde_json::to_vec(&Signed { since: Timestamp::now() });
            let signed = signed.map_err(Error::malformed(&path))?;
            self.put_once(&path, &secret.seal(About::Since, &signed))?;
            found = read()?;
        }
        let since =
            found.ok_or_else(|| Error::forged(&path, "it is gone")).and_then(|record| match secret
                .check(
                About::Since,
                &path,
                &record,
            )? {
                Proof::Valid(_) => serde_json::from_slice::<Signed>(&record.content)
                    .map_err(Error::malformed(&path)),
                Proof::Missing | Proof::Unchecked => Err(Error::forged(&path, "it has no proof")),
            });
        let since = match since {
            Ok(signed) => Some(signed.since),
            Err(error) => {
                self.report_once(&path, &error);
                None
            }
        };
        self.set_signing(Signing { secret: secret.clone(), since });
        Ok(())
    }

    /// Signs as the stack does that uses this volume, if it does: for the commands of an operator. `file` is where its secret
    /// is; `None`: where it is by default. Blocking.
    ///
    /// # Errors
    /// If the secret cannot be read, or is not the one that the stack signs with.
    pub fn sign_like_the_stack(&self, file: Option<&Path>) -> Result<()> {
        let signed = self.signed_since();
        let secret = match file {
            Some(file) => self.stack_secret_at(file)?,
            None if signed.try_exists().map_err(Error::io("check", &signed))? => {
                StackSecret::read(&self.stack_secret_file())?
            }
            None => return Ok(()),
        };
        self.sign_with(&secret)?;
        match self.signing() {
            Some(Signing { since: None, .. }) => Err(Error::forged(
                &signed,
                "the stack signs with another secret: set STACK_SECRET_FILE as for the stack",
            )),
            _ => Ok(()),
        }
    }

    /// Whether this process signs what it writes, and believes only what is signed.
    #[must_use]
    pub fn signs(&self) -> bool {
        self.signing().is_some()
    }

    /// Whether a job may have been created before the stack began to sign.
    pub(crate) fn may_be_unsigned(&self, id: JobId) -> bool {
        self.signing().and_then(|it| it.since).is_some_and(|since| id.created() < since)
    }

    /// The bytes of a record to be written, with a proof if this process knows the secret.
    pub(crate) fn seal(
        &self,
        about: About<'_>,
        record: &impl Serialize,
    ) -> Result<Vec<u8>, serde_json::Error> {
        let content = serde_json::to_vec(record)?;
        Ok(match self.signing() {
            Some(Signing { secret, .. }) => secret.seal(about, &content),
            None => content,
        })
    }

    /// What a record proves.
    ///
    /// # Errors
    /// [`Error::Forged`] if its proof is not valid.
    pub(crate) fn check(
        &self,
        about: About<'_>,
        path: &Path,
        record: RawRecord,
    ) -> Result<(Vec<u8>, Proof)> {
        let proof = match self.signing() {
            Some(Signing { secret, .. }) => secret.check(about, path, &record)?,
            None => Proof::Unchecked,
        };
        Ok((record.content, proof))
    }

    /// Reads a record of at most `limit` bytes; `None` if there is none.
    ///
    /// # Errors
    /// [`Error::Forged`] if this process knows the secret and the record has no valid proof; another if it cannot be read.
    pub(crate) fn read_record(
        &self,
        about: About<'_>,
        path: &Path,
        limit: u64,
    ) -> Result<Option<Vec<u8>>> {
        let Some(record) = RawRecord::read(path, limit)? else { return Ok(None) };
        match self.check(about, path, record)? {
            (_, Proof::Missing) => Err(Error::unproven(path)),
            (content, _) => Ok(Some(content)),
        }
    }

    /// A record that has no proof, if that is so, with a sentence about it that `describe` makes of its content.
    pub(crate) fn unproven(
        &self,
        about: About<'_>,
        path: &Path,
        limit: u64,
        describe: impl FnOnce(&[u8]) -> Option<String>,
    ) -> Result<Option<UnprovenRecord>> {
        let (Some(Signing { secret, .. }), Some(record)) =
            (self.signing(), RawRecord::read(path, limit)?)
        else {
            return Ok(None);
        };
        if record.proof.is_some() {
            return Ok(None);
        }
        // What cannot be understood stays as it is.
        Ok(describe(&record.content).map(|what| UnprovenRecord {
            what,
            path: path.to_owned(),
            sealed: secret.seal(about, &record.content),
        }))
    }

    /// The tokens, owners and sessions that have no proof. Nobody believes them until an operator [adopts](Self::adopt) them.
    /// Empty if this process does not know the secret. Blocking.
    ///
    /// # Errors
    /// If the volume cannot be read.
    pub fn unproven_records(&self) -> Result<Vec<UnprovenRecord>> {
        let mut found = self.unproven_tokens()?;
        found.extend(self.unproven_owners()?);
        found.extend(self.unproven_sessions()?);
        Ok(found)
    }

    /// Signs a record as it was when it was found. Blocking.
    ///
    /// # Errors
    /// If the volume cannot be written.
    pub fn adopt(&self, record: &UnprovenRecord) -> Result<()> {
        let scratch = self.scratch();
        let written = write_synced(&scratch, &record.sealed)
            .and_then(|()| fs::set_permissions(&scratch, fs::metadata(&record.path)?.permissions()))
            .and_then(|()| fs::rename(&scratch, &record.path));
        if written.is_err() {
            let _ = fs::remove_file(&scratch);
        }
        written.map_err(Error::io("sign", &record.path))
    }
}

#[cfg(test)]
mod tests;
