//! How a pull fails: the code and the sentence for the caller, the rest for the log.

use std::{io, path::Path, time::Duration};

use contract::Code;

/// Shorthand.
pub(crate) type Result<T> = std::result::Result<T, Failure>;

/// Why a pull ends without a checkout.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Failure {
    /// The job was asked to end, for a reason that whoever asked knows.
    #[error("stopped")]
    Stopped,
    /// Something the caller is told.
    #[error("{code}: {sentence}")]
    Told {
        /// The kind, for programs.
        code: Code,
        /// What happened, why, and what to do next. Without credentials.
        sentence: String,
    },
    /// The git host sent nothing for so long.
    #[error("the git host sent nothing for {0:?}")]
    Stalled(Duration),
    /// git needed more memory, time or space than it is given. The caller is told so.
    #[error("{0}")]
    Exceeded(String),
    /// git failed, with these words; whoever started it knows what for.
    #[error("git: {0}")]
    Git(String),
}

impl Failure {
    pub(crate) fn told(code: Code, sentence: impl Into<String>) -> Self {
        Self::Told { code, sentence: sentence.into() }
    }

    /// A file operation of ours that failed. `operation` fits "failed to …".
    pub(crate) fn io(operation: &str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        move |error| {
            if is_disk_full(&error) {
                return Self::disk_full();
            }
            Self::told(
                Code::Internal,
                format!(
                    "failed to {operation} {}: {error}; check the volume and its permissions",
                    path.display()
                ),
            )
        }
    }

    pub(crate) fn disk_full() -> Self {
        Self::told(
            Code::DiskFull,
            "the volume is full: remove checkouts that are not needed any more, then send the job again",
        )
    }
}

/// Whether the volume, or a quota on it, is full.
pub(crate) fn is_disk_full(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
}

/// The same, by the words that git passes on (`strerror` of ENOSPC and EDQUOT).
pub(crate) fn says_disk_full(message: &str) -> bool {
    message.contains("No space left on device") || message.contains("Disk quota exceeded")
}

/// Whether the volume of `path` has no room left that counts: git does not always say why it cannot write.
pub(crate) fn is_volume_full(path: &Path) -> bool {
    const LEAST: u64 = 64 * 1024;
    nix::sys::statvfs::statvfs(path).is_ok_and(|volume| {
        volume.blocks_available().saturating_mul(volume.fragment_size()) < LEAST
    })
}

/// Text from elsewhere as part of a sentence: one line, short, without secrets.
pub(crate) fn quote(text: &str, secrets: &[String]) -> String {
    const LONGEST: usize = 300;
    let mut text = text.replace(|c: char| c.is_control(), " ");
    for secret in secrets {
        text = text.replace(secret, "***");
    }
    if text.chars().count() > LONGEST {
        text = text.chars().take(LONGEST).collect::<String>() + "…";
    }
    text.trim().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quotes_are_short_and_hold_no_secret() {
        let secrets = ["s3cret".to_owned()];
        assert_eq!(quote(" a\nb s3cret\u{7} ", &secrets), "a b ***");
        assert_eq!(quote(&"x".repeat(1000), &secrets).chars().count(), 301);
    }

    #[test]
    fn a_full_volume_is_known_by_number_and_by_word() {
        const ENOSPC: i32 = 28;
        let error = io::Error::from_raw_os_error(ENOSPC);
        assert!(says_disk_full(&error.to_string()));
        let failure = Failure::io("write", Path::new("/x"))(error);
        assert!(matches!(failure, Failure::Told { code: Code::DiskFull, .. }), "{failure}");
    }
}
