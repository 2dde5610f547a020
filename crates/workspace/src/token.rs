//! The tokens of callers: `.stack/tokens/<id>.json`, one file each, readable by the stack's own user only.
//!
//! A file is put in place complete, never changed, and removed when its token is revoked. It contains the digest of the
//! secret, not the secret. `.stack/tokens/closed` is there from before the first token and stays: neither the revocation nor
//! the damage of the last token opens the stack to everybody again. `.stack/tokens/used/<id>` is an empty file whose time
//! says when the token was last used.
//!
//! A file that cannot be read or understood is not a valid token, and stays where it is: a newer version may have written
//! it.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs, io,
    os::unix::fs::{DirBuilderExt as _, MetadataExt as _},
    path::{Path, PathBuf},
};

use contract::{
    BearerToken, CallerLimits, CallerName, Scope, Timestamp, TokenId, TokenList, TokenRequest,
    TokenView, Usd,
};
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use subtle::ConstantTimeEq as _;

use crate::{
    Error, Result, Spending, UnprovenRecord, Workspace,
    layout::parsed_names,
    proof::About,
    watch::Watch,
    write::{Once, sync_directory},
};

/// The longest token file that is read, in bytes: many times the longest that is written.
const MAX_FILE: u64 = 64 * 1024;
/// The characters of tokens.
const BASE62: &[u8; 62] = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";
/// A random byte below this picks one of the characters, each with the same probability.
const UNBIASED: u8 = 248;

/// The digest by which a secret is recognized.
#[derive(Clone, PartialEq, Eq)]
struct SecretDigest([u8; 32]);

impl SecretDigest {
    fn of(token: &BearerToken) -> Self {
        Self(Sha256::digest(token.secret()).into())
    }
}

/// A token as the stack keeps it, without its secret.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct TokenRecord {
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
    sha256: SecretDigest,
}

impl TokenRecord {
    /// The record of a token that somebody else has made.
    #[must_use]
    pub fn of(token: &BearerToken, request: TokenRequest) -> Self {
        let TokenRequest { name, scopes, limits, expires } = request;
        let (id, sha256) = (token.id().clone(), SecretDigest::of(token));
        Self { id, name, scopes, limits, expires, created: Timestamp::now(), sha256 }
    }

    /// Whether this is the record of `token`. Takes the same time wherever the secrets differ.
    #[must_use]
    pub fn is_of(&self, token: &BearerToken) -> bool {
        self.id == *token.id() && self.sha256.0.ct_eq(&SecretDigest::of(token).0).into()
    }

    /// Whether it is no longer valid at `now`.
    #[must_use]
    pub fn has_expired(&self, now: Timestamp) -> bool {
        self.expires.is_some_and(|expires| expires <= now)
    }

    /// The view of an administrator.
    #[must_use]
    pub fn view(&self, last_used: Option<Timestamp>) -> TokenView {
        let Self { id, name, scopes, limits, expires, created, .. } = self.clone();
        TokenView {
            id,
            name,
            scopes,
            limits,
            expires,
            created,
            last_used,
            spent_today_usd: None,
            token: None,
        }
    }
}

/// All tokens of a volume, as one process knows them. A look that finds no change costs one listing and a system call for each
/// file.
#[derive(Clone, Debug, Default)]
pub struct Tokens {
    /// By file name without its ending, with what tells whether the file is still the same.
    known: BTreeMap<TokenId, (FileVersion, TokenRecord)>,
    /// Tokens whose files were removed, on a stack that signs. A file that somebody puts back is still signed.
    revoked: BTreeSet<TokenId>,
    is_closed: bool,
}

/// Tells two files of the same name apart.
type FileVersion = (u64, i64, i64, u64);

impl Tokens {
    /// The token with this ID.
    #[must_use]
    pub fn get(&self, id: &TokenId) -> Option<&TokenRecord> {
        self.known.get(id).map(|(_, record)| record)
    }

    /// All of them.
    pub fn iter(&self) -> impl Iterator<Item = &TokenRecord> {
        self.known.values().map(|(_, record)| record)
    }

    /// Whether there is a token, or ever was one.
    #[must_use]
    pub fn is_closed(&self) -> bool {
        self.is_closed
    }

    /// Looks for changes, and returns whether there were any. A file that cannot be read or understood is logged once, and
    /// costs only its own token. Blocking.
    ///
    /// # Errors
    /// If the tokens cannot be listed. Then what is known stays as it is.
    pub fn look(&mut self, workspace: &Workspace) -> Result<bool> {
        let directory = workspace.tokens_directory();
        // Whoever can delete the files of a stack that signs does not open a gateway that runs.
        let stays_closed = self.is_closed && workspace.signs();
        let entries = match fs::read_dir(&directory) {
            Ok(entries) => entries,
            // Nobody has created a token.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                let changed = self.is_closed != stays_closed || !self.known.is_empty();
                let revoked = self.revoked_now(workspace, &BTreeSet::new());
                *self = Self { is_closed: stays_closed, revoked, ..Self::default() };
                return Ok(changed);
            }
            Err(error) => return Err(Error::io("list", &directory)(error)),
        };
        let closed = closed_path(&directory);
        let mut is_closed = closed.try_exists().unwrap_or_else(|error| {
            workspace.report_once(&closed, &Error::io("check", &closed)(error));
            true
        });
        is_closed |= stays_closed;
        let (mut found, mut has_changed) = (BTreeMap::new(), false);
        let mut listed = BTreeSet::new();
        for entry in entries {
            let path = entry.map_err(Error::io("list", &directory))?.path();
            let name = path.file_name().and_then(|name| name.to_str()?.strip_suffix(".json"));
            let Some(name) = name else { continue };
            // Whatever is in it: a stack with a token is closed.
            is_closed = true;
            let looked = name.parse().map_err(Error::malformed(&path)).and_then(|id: TokenId| {
                listed.insert(id.clone());
                self.look_at(workspace, &path, id)
            });
            match looked {
                Ok(Some((version, record, is_new))) => {
                    has_changed |= is_new;
                    found.insert(record.id.clone(), (version, record));
                }
                Ok(None) => {}
                Err(error) => workspace.report_once(&path, &error),
            }
        }
        has_changed |= is_closed != self.is_closed || found.len() != self.known.len();
        let revoked = self.revoked_now(workspace, &listed);
        *self = Self { known: found, revoked, is_closed };
        Ok(has_changed)
    }

    /// The tokens that are revoked, if these have a file.
    fn revoked_now(&self, workspace: &Workspace, listed: &BTreeSet<TokenId>) -> BTreeSet<TokenId> {
        let gone = self.known.keys().filter(|id| workspace.signs() && !listed.contains(id));
        self.revoked.iter().chain(gone).cloned().collect()
    }

    /// The token in a file, and whether the file is new; `None` if it has been removed.
    fn look_at(
        &self,
        workspace: &Workspace,
        path: &Path,
        id: TokenId,
    ) -> Result<Option<(FileVersion, TokenRecord, bool)>> {
        if self.revoked.contains(&id) {
            return Err(Error::forged(path, "the token was revoked, and its file put back"));
        }
        let metadata = match fs::symlink_metadata(path) {
            Ok(metadata) => metadata,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(Error::io("check", path)(error)),
        };
        let version = (metadata.ino(), metadata.mtime(), metadata.mtime_nsec(), metadata.len());
        if let Some((known, record)) = self.known.get(&id)
            && *known == version
        {
            return Ok(Some((version, record.clone(), false)));
        }
        let content = workspace.read_record(About::Token(&id), path, MAX_FILE)?;
        let Some(content) = content else { return Ok(None) };
        let record: TokenRecord =
            serde_json::from_slice(&content).map_err(Error::malformed(path))?;
        if record.id != id {
            return Err(Error::malformed(path)("it is the file of another token"));
        }
        Ok(Some((version, record, true)))
    }
}

impl Workspace {
    /// All tokens as an administrator sees them, oldest first, with what `spending` says about their callers. Blocking.
    ///
    /// # Errors
    /// If the volume cannot be read.
    pub fn list_tokens(&self, spending: &Spending) -> Result<TokenList> {
        let mut known = Tokens::default();
        known.look(self)?;
        let view = |record: &TokenRecord| {
            let spent = Some(spending.of(&record.name)).filter(|spent| *spent > Usd::default());
            let view = record.view(self.token_last_used(&record.id)?);
            Ok(TokenView { spent_today_usd: spent, ..view })
        };
        let mut tokens = known.iter().map(view).collect::<Result<Vec<_>>>()?;
        tokens.sort_by(|a, b| (a.created, &a.id).cmp(&(b.created, &b.id)));
        Ok(TokenList { count: tokens.len(), tokens })
    }

    fn tokens_directory(&self) -> PathBuf {
        self.stack().join("tokens")
    }

    /// The tokens that have no proof.
    pub(crate) fn unproven_tokens(&self) -> Result<Vec<UnprovenRecord>> {
        let directory = self.tokens_directory();
        let mut found = Vec::new();
        if !directory.try_exists().map_err(Error::io("check", &directory))? {
            return Ok(found);
        }
        for name in parsed_names::<String>(&directory)? {
            let id = name.strip_suffix(".json").and_then(|id| id.parse::<TokenId>().ok());
            let Some(id) = id else { continue };
            let describe = |content: &[u8]| {
                let record: TokenRecord = serde_json::from_slice(content).ok()?;
                let scopes: Vec<_> = record.scopes.iter().map(|scope| scope.as_str()).collect();
                if record.id != id {
                    return None;
                }
                let TokenRecord { name, limits, expires, created, .. } = &record;
                let expires = expires.map_or_else(|| "never".to_owned(), |time| time.to_string());
                let limits = serde_json::to_string(limits).ok()?;
                Some(format!(
                    "token {id} of '{name}' ({}), limits {limits}, created {created}, expires {expires}",
                    scopes.join(",")
                ))
            };
            let path = directory.join(&name);
            found.extend(self.unproven(About::Token(&id), &path, MAX_FILE, describe)?);
        }
        Ok(found)
    }

    fn used_path(&self, id: &TokenId) -> PathBuf {
        self.tokens_directory().join("used").join(id.to_string())
    }

    /// Creates the directory of the tokens, which only the stack's own user can read.
    fn make_tokens_directory(&self) -> Result<PathBuf> {
        let directory = self.tokens_directory();
        let used = directory.join("used");
        let make = |path: &Path| fs::DirBuilder::new().recursive(true).mode(0o700).create(path);
        make(&directory).and_then(|()| make(&used)).map_err(Error::io("create", &directory))?;
        Ok(directory)
    }

    /// Closes the stack to callers without a token, for as long as this directory exists, and returns the directory.
    ///
    /// # Errors
    /// If the volume cannot be written.
    pub fn close_to_strangers(&self) -> Result<PathBuf> {
        let directory = self.make_tokens_directory()?;
        let closed = closed_path(&directory);
        // Usually it is: then this also works on a full volume.
        if !closed.try_exists().map_err(Error::io("check", &closed))? {
            self.put_once_private(&closed, b"")?;
        }
        Ok(directory)
    }

    /// Refuses to create files that the stack could not read. They are for their owner only, and the stack's own user is
    /// the owner of `.stack`.
    pub(crate) fn check_user(&self, user: u32) -> Result<()> {
        let path = self.stack();
        let owner = fs::metadata(&path).map_err(Error::io("check", &path))?.uid();
        if owner == user { Ok(()) } else { Err(Error::WrongUser { path, owner, user }) }
    }

    /// Watches for tokens that are created or revoked.
    ///
    /// # Errors
    /// If their directory cannot be created.
    pub fn watch_tokens(&self) -> Result<Watch> {
        Ok(self.watcher().watch(&self.make_tokens_directory()?))
    }

    /// Creates a token. It is then on the volume, and survives a power failure. From now on, the stack is closed to callers
    /// without a token.
    ///
    /// # Errors
    /// If this process has another user than the stack, the volume cannot be written, or the system has no random numbers.
    pub fn create_token(&self, request: &TokenRequest) -> Result<(TokenRecord, BearerToken)> {
        self.check_user(nix::unistd::geteuid().as_raw())?;
        let directory = self.close_to_strangers()?;
        loop {
            let token = random_token().map_err(Error::io("make a token in", &directory))?;
            let record = TokenRecord::of(&token, request.clone());
            let path = directory.join(format!("{}.json", record.id));
            let content = self.seal(About::Token(&record.id), &record);
            let content = content.map_err(Error::malformed(&path))?;
            // Another token may have the same ID, if rarely.
            if self.put_once_private(&path, &content)? == Once::Ours {
                self.watcher().wake(&directory);
                return Ok((record, token));
            }
        }
    }

    /// Revokes a token, and returns whether there was one.
    ///
    /// # Errors
    /// If the volume cannot be written.
    pub fn revoke_token(&self, id: &TokenId) -> Result<bool> {
        let directory = self.tokens_directory();
        let path = directory.join(format!("{id}.json"));
        match fs::remove_file(&path) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
            Err(error) => return Err(Error::io("remove", path)(error)),
        }
        // Flushed: a revoked token must not come back after a power failure.
        sync_directory(&directory)?;
        // It says nothing any more.
        let _ = fs::remove_file(self.used_path(id));
        self.watcher().wake(&directory);
        Ok(true)
    }

    /// Notes that a token is used now.
    ///
    /// # Errors
    /// If the volume cannot be written.
    pub fn note_token_use(&self, id: &TokenId) -> Result<()> {
        let path = self.used_path(id);
        let note = || {
            let file = fs::File::create(&path)?;
            file.set_modified(std::time::SystemTime::now())
        };
        note().map_err(Error::io("write", path))
    }

    /// When a token was last used, if it ever was.
    ///
    /// # Errors
    /// If the volume cannot be read.
    pub fn token_last_used(&self, id: &TokenId) -> Result<Option<Timestamp>> {
        let path = self.used_path(id);
        match fs::metadata(&path).and_then(|metadata| metadata.modified()) {
            Ok(time) => Ok(Some(time.into())),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(Error::io("check", path)(error)),
        }
    }
}

fn closed_path(directory: &Path) -> PathBuf {
    directory.join("closed")
}

fn random_token() -> io::Result<BearerToken> {
    let (id, secret) = BearerToken::LENGTHS;
    let text = format!("wfs_{}_{}", random_text(id)?, random_text(secret)?);
    text.parse().map_err(io::Error::other)
}

fn random_text(length: usize) -> io::Result<String> {
    let mut text = String::with_capacity(length);
    let mut bytes = [0; 64];
    while text.len() < length {
        getrandom::fill(&mut bytes).map_err(io::Error::other)?;
        let picked = bytes.iter().filter(|byte| **byte < UNBIASED);
        let characters = picked.filter_map(|byte| BASE62.get(usize::from(byte % 62)));
        text.extend(characters.map(|byte| char::from(*byte)).take(length - text.len()));
    }
    Ok(text)
}

impl std::fmt::Debug for SecretDigest {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("***")
    }
}

impl Serialize for SecretDigest {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&crate::hex::encode(&self.0))
    }
}

impl<'de> Deserialize<'de> for SecretDigest {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        let digest = crate::hex::decode(&text).map(Self);
        digest.ok_or_else(|| serde::de::Error::custom("is not 64 hexadecimal digits"))
    }
}

#[cfg(test)]
mod tests;
