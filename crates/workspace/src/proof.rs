//! Records that prove who wrote them.
//!
//! A record is a file with one JSON object. A process that knows the stack's secret puts the field `proof` first: an HMAC over
//! what the record is about and over every byte after that field. So a newer version can add fields, and one that knows no
//! proofs reads the object as before. What a record is about ([`About`]) follows from where it lies, so a copy proves nothing
//! in another place. Without the secret, records are written without a proof, and all are believed.

use std::{
    fmt, fs, io,
    path::{Path, PathBuf},
};

use contract::{DirectoryName, JobId, SessionId, Timestamp, TokenId};
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use crate::{Error, Result, StackSecret, Turn, TurnUse, Workspace, hex, write::read_at_most};

/// What stands before the digits of a proof, and after them.
const BEFORE: &[u8] = b"{\"proof\":\"";
const AFTER: &[u8] = b"\",";
/// The hexadecimal digits of a proof.
const DIGITS: usize = 64;
/// The longest `signed` that is read, in bytes.
const MAX_FILE: u64 = 1024;
/// The longest record that is adopted, in bytes.
const MAX_ADOPTED: u64 = 64 * 1024;
/// Why a process cannot sign as the stack of a volume does.
const OTHER_SECRET: &str = "it signs with another secret, or `.stack/signed` is damaged: set STACK_SECRET_FILE as for all its parts";
const NO_SECRET: &str = "set STACK_SECRET_FILE as for all its parts; without another setting, its secret is in `.stack/secret`";
pub(crate) const LOST_SECRET: &str = "its secret, `.stack/secret`, is gone: put it back from a backup, or begin with a new one as in docs/SECURITY.md";

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
    /// Its record is not to be believed, or this process cannot tell. Such a job does not run, but it ends.
    Unknown,
}

impl fmt::Display for Life {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Proven(proof) => f.write_str(proof),
            Self::Earlier => f.write_str("-"),
            Self::Unknown => f.write_str("?"),
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
    /// Puts a proof in front of the fields of a record, which is a JSON object that is not empty.
    fn seal(&self, about: About<'_>, record: &[u8]) -> Vec<u8> {
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

fn message(about: About<'_>, record: &[u8]) -> Vec<u8> {
    [format!("{about}\n").as_bytes(), record].concat()
}

/// How a process signs.
#[derive(Debug)]
pub(crate) struct Signing {
    secret: StackSecret,
    /// When the stack began to sign.
    since: Timestamp,
}

/// `.stack/signed`.
#[derive(Serialize, Deserialize)]
struct Signed {
    since: Timestamp,
}

/// A record that does not prove that this stack wrote it, but may be what an earlier version wrote.
#[derive(Debug)]
pub struct UnprovenRecord {
    /// What it is, for an operator: what it says, which may be chosen by whoever wrote it.
    pub what: String,
    path: PathBuf,
    /// What was found.
    found: RawRecord,
    /// The same with a proof.
    sealed: Vec<u8>,
    /// What to hold while it is replaced.
    turn: Option<Turn>,
}

impl UnprovenRecord {
    /// The same for the record of something that jobs work in.
    pub(crate) fn in_turn(self, turn: Turn) -> Self {
        Self { turn: Some(turn), ..self }
    }
}

/// What became of a record that an operator wants to be believed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Adopted {
    /// It has a proof now.
    Signed,
    /// It is not what was found any more, or is gone.
    Changed,
    /// A job uses it.
    Busy,
}

impl Workspace {
    fn signed_path(&self) -> PathBuf {
        self.stack().join("signed")
    }

    /// Whether the stack of this volume signs its records.
    pub(crate) fn has_signed(&self) -> Result<bool> {
        let path = self.signed_path();
        path.try_exists().map_err(Error::io("check", path))
    }

    /// From now on, this process signs what it writes to the volume with the secret in `file`, and believes only what the
    /// stack has signed. Without a file it does neither. Returns the secret. Blocking.
    ///
    /// # Errors
    /// If the stack of this volume signs with another secret, or signs and there is no `file`: such a process would take
    /// everything for forged, or write what the others take for forged. Also if the secret cannot be read, or the volume
    /// cannot be used. Nothing is changed then.
    pub fn sign_with(&self, file: Option<&Path>) -> Result<Option<StackSecret>> {
        let Some(file) = file else {
            return if self.has_signed()? { Err(self.cannot_sign(NO_SECRET)) } else { Ok(None) };
        };
        let secret = self.stack_secret_at(file)?;
        if !self.has_signed()? {
            let path = self.signed_path();
            let signed = serde_json::to_vec(&Signed { since: Timestamp::now() });
            let signed = signed.map_err(Error::malformed(&path))?;
            // Another part of the stack may be faster.
            self.put_once(&path, &secret.seal(About::Since, &signed))?;
        }
        self.begin_to_sign(&secret)?;
        Ok(Some(secret))
    }

    /// Signs as the stack does that uses this volume, if it does: for the commands of an operator, which change nothing by
    /// that. `file` is where its secret is; `None`: where it is by default. Blocking.
    ///
    /// # Errors
    /// If the secret cannot be read, or is not the one that the stack signs with.
    pub fn sign_like_the_stack(&self, file: Option<&Path>) -> Result<()> {
        if !self.has_signed()? {
            return Ok(());
        }
        let default = self.stack_secret_file();
        self.begin_to_sign(&StackSecret::read(file.unwrap_or(&default))?)
    }

    fn begin_to_sign(&self, secret: &StackSecret) -> Result<()> {
        let path = self.signed_path();
        let found = RawRecord::read(&path, MAX_FILE)?;
        let checked = found.map(|found| Ok((secret.check(About::Since, &path, &found)?, found)));
        let since = match checked {
            Some(Ok((Proof::Valid(_), found))) => {
                serde_json::from_slice::<Signed>(&found.content)
                    .map_err(Error::malformed(&path))?
                    .since
            }
            Some(Ok(_) | Err(Error::Forged { .. })) => {
                return Err(self.cannot_sign(OTHER_SECRET));
            }
            Some(Err(error)) => return Err(error),
            None => return Err(Error::io("read", path)(io::ErrorKind::NotFound.into())),
        };
        self.set_signing(Signing { secret: secret.clone(), since });
        Ok(())
    }

    pub(crate) fn cannot_sign(&self, why: &'static str) -> Error {
        Error::CannotSign { path: self.root().to_owned(), why }
    }

    /// Whether this process signs what it writes, and believes only what is signed.
    #[must_use]
    pub fn signs(&self) -> bool {
        self.signing().is_some()
    }

    /// Whether a job may have been created before the stack began to sign.
    pub(crate) fn may_be_unsigned(&self, id: JobId) -> bool {
        self.signing().is_some_and(|signing| id.created() < signing.since)
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

    /// A record that has no valid proof, if that is so, with a sentence about it that `describe` makes of its content.
    pub(crate) fn unproven(
        &self,
        about: About<'_>,
        path: &Path,
        limit: u64,
        describe: impl FnOnce(&[u8]) -> Option<String>,
    ) -> Result<Option<UnprovenRecord>> {
        let (Some(Signing { secret, .. }), Some(found)) =
            (self.signing(), RawRecord::read(path, limit)?)
        else {
            return Ok(None);
        };
        let note = match secret.check(about, path, &found) {
            Ok(Proof::Valid(_)) => return Ok(None),
            Err(_) => ", with a wrong proof",
            Ok(Proof::Missing | Proof::Unchecked) => "",
        };
        // What cannot be understood stays as it is.
        Ok(describe(&found.content).map(|what| UnprovenRecord {
            what: what + note,
            path: path.to_owned(),
            sealed: secret.seal(about, &found.content),
            found,
            turn: None,
        }))
    }

    /// The tokens, owners and sessions that have no valid proof. Nobody believes them until an operator [adopts](Self::adopt)
    /// them. Empty if this process does not know the secret. Blocking.
    ///
    /// # Errors
    /// If the volume cannot be read.
    pub fn unproven_records(&self) -> Result<Vec<UnprovenRecord>> {
        let mut found = self.unproven_tokens()?;
        found.extend(self.unproven_owners()?);
        found.extend(self.unproven_sessions()?);
        found.sort_by(|a, b| a.path.cmp(&b.path));
        Ok(found)
    }

    /// Signs a record, if it is as it was when it was found. Blocking.
    ///
    /// # Errors
    /// If the volume cannot be written, or this process has another user than the stack.
    pub fn adopt(&self, record: &UnprovenRecord) -> Result<Adopted> {
        self.check_user(nix::unistd::geteuid().as_raw())?;
        let UnprovenRecord { path, found, sealed, turn, .. } = record;
        // A job that has its turn writes it.
        let held = turn.as_ref().map(|turn| self.take_turn(turn, TurnUse::Work)).transpose()?;
        if held.is_some_and(|held| held.is_none()) {
            return Ok(Adopted::Busy);
        }
        let mode = fs::metadata(path).map(|found| found.permissions());
        match RawRecord::read(path, MAX_ADOPTED)? {
            Some(now) if now == *found => {}
            _ => return Ok(Adopted::Changed),
        }
        self.replace(path, sealed, Some(mode.map_err(Error::io("check", path))?))?;
        Ok(Adopted::Signed)
    }
}

/// Tells one list of unproven records from every other: what was listed is what is signed.
#[must_use]
pub fn fingerprint(records: &[UnprovenRecord]) -> String {
    let mut all = Sha256::new();
    for record in records {
        // The length tells where each begins.
        all.update((record.sealed.len() as u64).to_be_bytes());
        all.update(&record.sealed);
    }
    hex::encode(all.finalize().get(..16).unwrap_or_default())
}

#[cfg(test)]
mod tests;
