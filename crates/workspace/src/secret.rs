//! The secret that the parts of a stack share, and the capabilities made with it.

use std::{fmt, io, path::Path};

use contract::JobId;
use hmac::{Hmac, KeyInit as _, Mac as _};
use sha2::Sha256;

use crate::{Error, Result, Workspace, hex, write::read_at_most};

/// The longest file that is read, in bytes.
const MAX_FILE: u64 = 1024;

/// 32 random bytes that only the stack knows. Printed as `***`.
#[derive(Clone)]
pub struct StackSecret([u8; 32]);

impl fmt::Debug for StackSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

impl StackSecret {
    /// Reads a file that contains 32 bytes as 64 hexadecimal digits. Blocking.
    ///
    /// # Errors
    /// If there is no such file, or it contains something else.
    pub fn read(path: &Path) -> Result<Self> {
        Self::find(path)?.ok_or_else(|| Error::io("read", path)(io::ErrorKind::NotFound.into()))
    }

    fn find(path: &Path) -> Result<Option<Self>> {
        let Some(content) = read_at_most(path, MAX_FILE)? else { return Ok(None) };
        let text = std::str::from_utf8(&content).ok().map(str::trim);
        let why = "it must contain 64 hexadecimal digits, as `openssl rand -hex 32` prints them";
        let secret = text.and_then(hex::decode).ok_or_else(|| Error::malformed(path)(why))?;
        Ok(Some(Self(secret)))
    }

    /// The capability to ask for the jobs of the workflow `job`. Nobody without the secret can make it.
    #[must_use]
    pub fn capability(&self, job: JobId) -> String {
        hex::encode(&self.mac(job).finalize().into_bytes())
    }

    /// Whether `text` is the capability of the workflow `job`. Takes the same time wherever it differs.
    #[must_use]
    pub fn is_capability(&self, text: &str, job: JobId) -> bool {
        hex::decode(text).is_some_and(|tag| self.mac(job).verify_slice(&tag).is_ok())
    }

    fn mac(&self, job: JobId) -> Hmac<Sha256> {
        #[expect(clippy::expect_used, reason = "a key of any length is valid")]
        let mut mac = Hmac::<Sha256>::new_from_slice(&self.0).expect("a key of 32 bytes");
        // The kind comes first, so that whatever else is signed with this secret cannot be taken for this.
        mac.update(b"jobs-of-workflow\0");
        mac.update(job.to_string().as_bytes());
        mac
    }
}

impl Workspace {
    /// The secret of the stack on this volume, `.stack/secret`, which the first caller creates. Blocking.
    ///
    /// # Errors
    /// If it can neither be read nor created, or is damaged.
    pub fn stack_secret(&self) -> Result<StackSecret> {
        let path = self.stack().join("secret");
        if let Some(secret) = StackSecret::find(&path)? {
            return Ok(secret);
        }
        let mut bytes = [0; 32];
        let filled = getrandom::fill(&mut bytes).map_err(io::Error::other);
        filled.map_err(Error::io("make", &path))?;
        // Another gateway may be faster. Then its secret counts.
        self.put_once_private(&path, hex::encode(&bytes).as_bytes())?;
        StackSecret::read(&path)
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;
    use crate::fixtures::workspace;

    #[test]
    fn all_gateways_of_a_volume_have_one_secret() {
        let (dir, workspace) = workspace();
        let secrets: Vec<_> = std::thread::scope(|scope| {
            let threads: Vec<_> =
                (0..8).map(|_| scope.spawn(|| workspace.stack_secret().unwrap().0)).collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).collect()
        });
        assert!(secrets.iter().all(|secret| *secret == secrets[0]));
        let path = dir.path().join(".stack/secret");
        let mode = std::fs::metadata(&path).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        assert_eq!(StackSecret::read(&path).unwrap().0, secrets[0]);
        std::fs::write(&path, "short").unwrap();
        assert!(workspace.stack_secret().unwrap_err().is_damage(), "it is not replaced");
    }

    #[test]
    fn a_capability_is_of_one_job_and_one_secret() {
        let (secret, other) = (StackSecret([1; 32]), StackSecret([2; 32]));
        let (job, another) = (JobId::new(), JobId::new());
        let capability = secret.capability(job);
        assert!(secret.is_capability(&capability, job));
        assert!(!secret.is_capability(&capability, another));
        assert!(!other.is_capability(&capability, job));
        for bad in ["", "x", &"0".repeat(64), &capability[..62]] {
            assert!(!secret.is_capability(bad, job), "{bad}");
        }
    }
}
