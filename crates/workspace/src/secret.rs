//! The secret that the parts of a stack share, and the capabilities made with it.

use std::{
    fmt, io,
    net::SocketAddr,
    path::{Path, PathBuf},
};

use contract::{JobId, ReplicaId, Service};
use hmac::{Hmac, KeyInit as _, Mac as _};
use sha2::Sha256;

use crate::{Error, Result, Workspace, hex, proof::LOST_SECRET, write::read_at_most};

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

    /// Proves `statement`. Nobody without the secret can make this.
    #[must_use]
    pub fn prove(&self, statement: Statement) -> String {
        hex::encode(&self.mac_of(statement.to_string().as_bytes()))
    }

    /// Whether `proof` proves `statement`. Takes the same time wherever it differs.
    #[must_use]
    pub fn is_proof(&self, proof: &str, statement: Statement) -> bool {
        self.is_mac_of(proof, statement.to_string().as_bytes())
    }

    pub(crate) fn mac_of(&self, message: &[u8]) -> [u8; 32] {
        self.mac(message).finalize().into_bytes().into()
    }

    /// Takes the same time wherever it differs.
    pub(crate) fn is_mac_of(&self, digits: &str, message: &[u8]) -> bool {
        hex::decode(digits).is_some_and(|tag| self.mac(message).verify_slice(&tag).is_ok())
    }

    fn mac(&self, message: &[u8]) -> Hmac<Sha256> {
        #[expect(clippy::expect_used, reason = "a key of any length is valid")]
        let mut mac = Hmac::<Sha256>::new_from_slice(&self.0).expect("a key of 32 bytes");
        mac.update(message);
        mac
    }
}

/// What one part of a stack can prove to another. None of these is valid for another job, replica or kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Statement {
    /// Who sends this may ask for the jobs of this workflow.
    JobsOf(JobId),
    /// A replica of the stack accepts its job at this address.
    Replica {
        /// Its service.
        service: Service,
        /// Its ID.
        id: ReplicaId,
        /// Its address.
        address: SocketAddr,
    },
    /// Who answers this challenge is the replica.
    Challenged {
        /// The replica.
        replica: ReplicaId,
        /// The challenge.
        challenge: Challenge,
    },
    /// A gateway of the stack gives this job to this replica.
    Dispatch {
        /// The replica.
        replica: ReplicaId,
        /// The job.
        job: JobId,
    },
}

/// 32 random bytes, as 64 hexadecimal digits. A proof that contains them was made after they were.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Challenge([u8; 32]);

impl Challenge {
    /// A new one.
    ///
    /// # Errors
    /// If the machine has no random bytes.
    pub fn random() -> io::Result<Self> {
        let mut bytes = [0; 32];
        getrandom::fill(&mut bytes).map_err(io::Error::other)?;
        Ok(Self(bytes))
    }

    /// Reads one; `None` if the text is none.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        hex::decode(text).map(Self)
    }
}

impl fmt::Display for Challenge {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex::encode(&self.0))
    }
}

impl fmt::Display for Statement {
    /// The kind comes first, so that no statement can be taken for one of another kind. Those between gateway and replicas have
    /// a version: parts that sign their records do not work with parts that know the secret, but do not sign yet.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::JobsOf(job) => write!(f, "jobs-of-workflow {job}"),
            Self::Replica { service, id, address } => {
                write!(f, "replica-2 {service} {id} {address}")
            }
            Self::Challenged { replica, challenge } => {
                write!(f, "challenged {replica} {challenge}")
            }
            Self::Dispatch { replica, job } => write!(f, "dispatch-2 {replica} {job}"),
        }
    }
}

impl Workspace {
    /// Where the secret of a stack is by default.
    #[must_use]
    pub fn stack_secret_file(&self) -> PathBuf {
        self.stack().join("secret")
    }

    /// Reads the secret of a stack. If it is the one on this volume, the first caller creates it.
    pub(crate) fn stack_secret_at(&self, file: &Path) -> Result<StackSecret> {
        if file == self.stack_secret_file() { self.stack_secret() } else { StackSecret::read(file) }
    }

    /// The secret of the stack on this volume, `.stack/secret`, which the first caller creates. Blocking.
    ///
    /// # Errors
    /// If it can neither be read nor created, is damaged, or is gone and the stack has signed with it.
    pub fn stack_secret(&self) -> Result<StackSecret> {
        let path = self.stack_secret_file();
        if let Some(secret) = StackSecret::find(&path)? {
            return Ok(secret);
        }
        if self.has_signed()? {
            // Another gateway may have just made it, and signed with it.
            return StackSecret::find(&path)?.ok_or_else(|| self.cannot_sign(LOST_SECRET));
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
    fn a_proof_is_of_one_statement_and_one_secret() {
        let (secret, other) = (StackSecret([1; 32]), StackSecret([2; 32]));
        let (job, replica) = (JobId::new(), ReplicaId::new());
        let address: SocketAddr = "10.0.0.1:3000".parse().unwrap();
        let at = |service, id, address| Statement::Replica { service, id, address };
        let statements = [
            Statement::JobsOf(job),
            Statement::JobsOf(JobId::new()),
            Statement::Dispatch { replica, job },
            Statement::Dispatch { replica: ReplicaId::new(), job },
            Statement::Dispatch { replica, job: JobId::new() },
            Statement::Challenged { replica, challenge: Challenge([1; 32]) },
            Statement::Challenged { replica, challenge: Challenge([2; 32]) },
            Statement::Challenged { replica: ReplicaId::new(), challenge: Challenge([1; 32]) },
            at(Service::Pull, replica, address),
            at(Service::Claude, replica, address),
            at(Service::Pull, ReplicaId::new(), address),
            at(Service::Pull, replica, "10.0.0.2:3000".parse().unwrap()),
        ];
        for statement in statements {
            let proof = secret.prove(statement);
            for claimed in statements {
                assert_eq!(secret.is_proof(&proof, claimed), claimed == statement);
            }
            assert!(!other.is_proof(&proof, statement));
            for bad in ["", "x", &"0".repeat(64), &proof[..62]] {
                assert!(!secret.is_proof(bad, statement), "{bad}");
            }
        }
    }
}
