//! A child process before it is spawned.

use std::{
    ffi::OsStr,
    fmt,
    io::{self, Write as _},
    os::fd::{AsFd as _, AsRawFd as _, BorrowedFd, OwnedFd, RawFd},
    path::Path,
    process::Stdio,
};

use command_fds::CommandFdExt as _;
use nix::{
    fcntl::{FcntlArg, OFlag, fcntl},
    sys::{
        resource::{Resource, getrlimit, setrlimit},
        signal::Signal,
        stat::{Mode, SFlag, fstat, umask},
    },
    unistd::{Gid, Uid, fchown, setgroups, setresgid, setresuid},
};
use tokio::process::Command;

use crate::{Child, Confinement, JobBounds, confinement, spawner};

/// A child process before it is spawned. By default its environment is empty, its working directory is `/`, and its
/// standard input, output and error are `/dev/null`.
pub struct Guest {
    command: Command,
    fds: Vec<OwnedFd>,
    user: Option<(Uid, Gid)>,
    dies_with_parent: Option<Signal>,
}

impl fmt::Debug for Guest {
    /// Shows only the program, because arguments and environment may contain secrets.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Guest").field(&self.command.as_std().get_program()).finish()
    }
}

impl Guest {
    /// `program` is a path, or a name that is looked up in the `PATH` set with [`env`](Self::env).
    #[must_use]
    pub fn new(program: impl AsRef<OsStr>) -> Self {
        #[expect(clippy::disallowed_methods, reason = "this is the only place that spawns")]
        let mut command = Command::new(program);
        command
            .env_clear()
            .current_dir("/")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        lead_a_session(&mut command);
        // Must come before the steps of `spawn`, which make some descriptors inheritable again.
        close_others_on_exec(&mut command);
        Self { command, fds: Vec::new(), user: None, dies_with_parent: None }
    }

    /// Adds arguments.
    #[must_use]
    pub fn args(mut self, args: impl IntoIterator<Item = impl AsRef<OsStr>>) -> Self {
        self.command.args(args);
        self
    }

    /// Adds a variable to the environment. The child gets no other variables.
    #[must_use]
    pub fn env(mut self, name: impl AsRef<OsStr>, value: impl AsRef<OsStr>) -> Self {
        self.command.env(name, value);
        self
    }

    /// Sets the working directory.
    #[must_use]
    pub fn cwd(mut self, path: impl AsRef<Path>) -> Self {
        self.command.current_dir(path);
        self
    }

    /// Sets standard input.
    #[must_use]
    pub fn stdin(mut self, stdin: impl Into<Stdio>) -> Self {
        self.command.stdin(stdin);
        self
    }

    /// Sets standard output.
    #[must_use]
    pub fn stdout(mut self, stdout: impl Into<Stdio>) -> Self {
        self.command.stdout(stdout);
        self
    }

    /// Sets standard error.
    #[must_use]
    pub fn stderr(mut self, stderr: impl Into<Stdio>) -> Self {
        self.command.stderr(stderr);
        self
    }

    /// Passes `fd` to the child. The variable `name` contains its number.
    ///
    /// The number is the same as in this process: another number might collide with the pipe that reports a failed
    /// `exec`.
    #[must_use]
    pub fn pass_fd(mut self, name: impl AsRef<OsStr>, fd: OwnedFd) -> Self {
        self.command.env(name, fd.as_raw_fd().to_string());
        self.fds.push(fd);
        self
    }

    /// Passes `secret` to the child through a pipe, whose descriptor number is in the variable `name`. The pipe
    /// already contains the secret and has no writer, so it can be read to its end once. The secret is in no
    /// environment or argument, and so not in `/proc`.
    ///
    /// # Errors
    /// If no file descriptors are left, or `secret` does not fit into a pipe (64 KiB on Linux).
    pub fn secret(self, name: impl AsRef<OsStr>, secret: &[u8]) -> io::Result<Self> {
        let (reader, mut writer) = io::pipe()?;
        // Non-blocking, so that a pipe that is too small causes an error instead of a hang.
        fcntl(writer.as_fd(), FcntlArg::F_SETFL(OFlag::O_NONBLOCK))?;
        writer.write_all(secret)?;
        Ok(self.pass_fd(name, reader.into()))
    }

    /// Makes the kernel send `signal` to the child when this process ends for any reason. Linux only.
    ///
    /// The child can disable this, and its own children do not inherit it.
    #[must_use]
    pub fn die_with_parent(mut self, signal: Signal) -> Self {
        self.dies_with_parent = Some(signal);
        self
    }

    /// Runs the child as another user, in no group but `gid`, and without any capability of this process. Nothing it
    /// starts gains rights. It owns the pipes that it gets, so that it can also open them by their names in `/proc`.
    ///
    /// It enters its working directory and the bounds of its job before, with the rights of this process.
    #[must_use]
    pub fn user(mut self, uid: Uid, gid: Gid) -> Self {
        self.user = Some((uid, gid));
        self
    }

    /// Runs the child and its descendants within the bounds of a job.
    #[must_use]
    pub fn bounded(mut self, bounds: &JobBounds) -> Self {
        bounds.apply(&mut self.command);
        self
    }

    /// [`before_exec`] as a builder method.
    pub(crate) fn step(
        mut self,
        step: impl FnMut() -> io::Result<()> + Send + Sync + 'static,
    ) -> Self {
        before_exec(&mut self.command, step);
        self
    }

    /// Limits the use of `resource` by the child and each of its descendants, as with `setrlimit(2)`.
    #[must_use]
    pub fn limit(mut self, resource: Resource, most: u64) -> Self {
        limit(&mut self.command, resource, most);
        self
    }

    /// Sets the permissions that new files of the child do not get, as with `umask(2)`. By default it has those of this
    /// process.
    #[must_use]
    pub fn umask(mut self, mask: Mode) -> Self {
        before_exec(&mut self.command, move || {
            umask(mask);
            Ok(())
        });
        self
    }

    /// Confines the child and its descendants. [`Enforcement`](crate::Enforcement) says what the kernel enforces; the
    /// rest is left out: files and processes before Linux 5.13 or if Landlock is disabled, and system calls where there
    /// is no seccomp.
    ///
    /// # Errors
    /// If no file descriptors are left.
    pub fn confine(mut self, confinement: &Confinement) -> io::Result<Self> {
        confinement::apply(&mut self.command, confinement)?;
        Ok(self)
    }

    /// Spawns the child. May be called from any task of a runtime that drives I/O.
    ///
    /// # Errors
    /// As for `fork(2)`, `chdir(2)` and `execve(2)`: the program is missing or not executable, the working directory
    /// is missing, or there are too many processes. `EPERM` if this process may not change users.
    pub async fn spawn(mut self) -> io::Result<Child> {
        // The last steps: those before need the rights of this process, and the kernel forgets the signal when the user
        // changes.
        if let Some((uid, gid)) = self.user {
            become_user(&mut self.command, uid, gid, &self.fds);
        }
        if let Some(signal) = self.dies_with_parent {
            arm_parent_death(&mut self.command, signal);
        }
        self.command.preserved_fds(self.fds);
        spawner::spawn(self.command).await
    }
}

/// Adds the steps that change the user. An ordinary user has no capabilities after `exec`, because this process passes
/// none on, and `no_new_privs` keeps files from giving it any.
fn become_user(command: &mut Command, uid: Uid, gid: Gid, fds: &[OwnedFd]) {
    let fds: Vec<RawFd> = (0..3).chain(fds.iter().map(|fd| fd.as_raw_fd())).collect();
    before_exec(command, move || {
        fds.iter().for_each(|fd| own_pipe(*fd, uid, gid));
        setgroups(&[])?;
        setresgid(gid, gid, gid)?;
        Ok(setresuid(uid, uid, uid)?)
    });
    #[cfg(target_os = "linux")]
    before_exec(command, || Ok(nix::sys::prctl::set_no_new_privs()?));
}

/// Gives a pipe to the child's user. Anything else, such as `/dev/null`, is not the child's.
#[expect(unsafe_code, reason = "the descriptors of the child are numbers here")]
fn own_pipe(fd: RawFd, uid: Uid, gid: Gid) {
    // SAFETY: the descriptor is one that this child is about to pass to its program, so it is open, and nothing closes it
    // meanwhile.
    let fd = unsafe { BorrowedFd::borrow_raw(fd) };
    let is_pipe =
        fstat(fd).is_ok_and(|it| it.st_mode & SFlag::S_IFMT.bits() == SFlag::S_IFIFO.bits());
    if is_pipe {
        // Without it, the child can still use the descriptor.
        let _ = fchown(fd, Some(uid), Some(gid));
    }
}

fn limit(command: &mut Command, resource: Resource, most: u64) {
    before_exec(command, move || {
        // Keeps a lower limit.
        let (_, hard) = getrlimit(resource)?;
        let most = most.min(hard);
        Ok(setrlimit(resource, most, most)?)
    });
}

/// Adds a step that the child performs before `exec`. It must be a single async-signal-safe system call and must not
/// allocate.
#[expect(unsafe_code, reason = "there is no safe interface between fork and exec")]
pub(crate) fn before_exec(
    command: &mut Command,
    step: impl FnMut() -> io::Result<()> + Send + Sync + 'static,
) {
    // SAFETY: the only steps are those of this crate. They are system calls that are allowed in a forked child of a
    // multithreaded process, and their errors are plain numbers.
    unsafe { command.pre_exec(step) };
}

/// In a session of its own, the child's groups contain only its own descendants, so whole groups can be signalled. It
/// also has no terminal that it could read from.
fn lead_a_session(command: &mut Command) {
    before_exec(command, || {
        nix::unistd::setsid()?;
        Ok(())
    });
}

#[cfg(target_os = "linux")]
fn arm_parent_death(command: &mut Command, signal: Signal) {
    let parent = nix::unistd::getpid();
    before_exec(command, move || {
        nix::sys::prctl::set_pdeathsig(signal)?;
        // If the parent ended before the signal was set up, the signal would never come.
        if nix::unistd::getppid() == parent { Ok(()) } else { Err(nix::errno::Errno::ESRCH.into()) }
    });
}

/// This process's own descriptors are close-on-exec. This handles those it inherited.
#[cfg(target_os = "linux")]
#[expect(unsafe_code, reason = "no dependency wraps this system call")]
fn close_others_on_exec(command: &mut Command) {
    use nix::libc::{CLOSE_RANGE_CLOEXEC, SYS_close_range, c_long, c_uint, syscall};
    before_exec(command, || {
        let (first, last, flags) = (3, c_uint::MAX, CLOSE_RANGE_CLOEXEC);
        // SAFETY: it only sets a flag of file descriptors. Kernels without it (before Linux 5.11) keep inherited
        // descriptors open, as was usual then.
        let _: c_long = unsafe { syscall(SYS_close_range, first, last, flags) };
        Ok(())
    });
}

#[cfg(not(target_os = "linux"))]
fn close_others_on_exec(_command: &mut Command) {}

#[cfg(not(target_os = "linux"))]
fn arm_parent_death(_command: &mut Command, _signal: Signal) {}
