//! How a pull fails: the code and the sentence for the caller, the rest for the log.

use std::{io, path::Path};

use contract::Code;

/// Shorthand.
pub(crate) type Result<T> = std::result::Result<T, Failure>;

/// Why a pull ends without a checkout.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Failure {
    /// The job was asked to end; whoever asked knows why.
    #[error("stopped")]
    Stopped,
    /// Something the caller is told.
    #[error("{code}: {sentence}")]
    Told {
        /// What kind.
        code: Code,
        /// What to do about it. Without credentials.
        sentence: String,
    },
    /// The mirror, or what was taken from it, does not hold together.
    #[error("damaged: {0}")]
    Damaged(String),
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

    /// A git operation on files of ours that failed.
    pub(crate) fn local(error: &git2::Error) -> Self {
        if says_disk_full(error.message()) {
            return Self::disk_full();
        }
        let (class, code) = (error.class(), error.code());
        Self::Damaged(format!("{} ({class:?}, {code:?})", error.message()))
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

/// The same, from the words libgit2 passes on (`strerror` of ENOSPC and EDQUOT).
pub(crate) fn says_disk_full(message: &str) -> bool {
    message.contains("No space left on device") || message.contains("Disk quota exceeded")
}

/// Text from elsewhere, made fit for a sentence: one line, not long, no secret in it.
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
        let error = git2::Error::from_str("failed to write: No space left on device");
        let failure = Failure::local(&error);
        assert!(matches!(failure, Failure::Told { code: Code::DiskFull, .. }), "{failure}");
    }
}
