//! What git has said when it has ended.

use std::process::ExitStatus;

use child_process::Signal;
use contract::Code;

use super::Git;
use crate::failure::Failure;

/// What a git command that ended by itself has said.
#[derive(Debug)]
pub(crate) struct Output {
    pub(crate) status: ExitStatus,
    pub(crate) stdout: Vec<u8>,
    /// The last lines on standard error, without progress.
    pub(crate) stderr: String,
    /// Whether the volume has no room left.
    pub(crate) is_disk_full: bool,
    /// Whether it printed more than was wanted, and was ended for that.
    pub(crate) is_cut: bool,
}

impl Output {
    /// The failure that a git which did not succeed is.
    pub(crate) fn failure(&self) -> Failure {
        if self.is_disk_full {
            return Failure::disk_full();
        }
        let said = self.stderr.trim();
        Failure::Git(if said.is_empty() { self.status.to_string() } else { said.to_owned() })
    }

    /// What git says when it exceeds one of its bounds.
    pub(super) fn exceeded(&self, git: &Git) -> Option<Failure> {
        use std::os::unix::process::ExitStatusExt as _;
        let signal =
            self.status.signal().or(self.status.code().and_then(|code| code.checked_sub(128)));
        let is = |it: Signal| signal == Some(it as i32);
        let mib = |bytes: u64| bytes >> 20;
        let sentence = if is(Signal::SIGXFSZ) || self.stderr.contains("File too large") {
            let most = mib(git.file_size);
            format!("git was stopped: a file grew over {most} MiB; raise GIT_CHECKOUT_LIMIT_MIB")
        } else if is(Signal::SIGXCPU) {
            let most = git.processor_time;
            format!("git was stopped: it computed for {most} s; raise JOB_TIMEOUT_SECONDS")
        } else if is(Signal::SIGKILL) {
            let sentence = "git was killed, perhaps because the machine has no memory left: see the kernel's log, then send the job again";
            return Some(Failure::told(Code::GitFailed, sentence));
        } else if !self.status.success()
            && ["Out of memory", "out of memory", "Cannot allocate memory", "mmap failed"]
                .iter()
                .any(|words| self.stderr.contains(words))
        {
            let most = mib(git.memory);
            format!("git was stopped: it needs more memory than {most} MiB; raise GIT_MEMORY_MIB")
        } else {
            return None;
        };
        Some(Failure::Exceeded(sentence))
    }
}
