//! A child process before it is spawned.

use std::{
    ffi::OsStr,
    fmt,
    io::{self, Write as _},
    os::fd::{AsFd as _, AsRawFd as _, OwnedFd},
    path::Path,
    process::Stdio,
};

use command_fds::CommandFdExt as _;
use nix::{
    fcntl::{FcntlArg, OFlag, fcntl},
    sys::{
        resource::{Resource, getrlimit, setrlimit},
        signal::Signal,
    },
};
use tokio::process::Command;

use crate::{Child, Confinement, JobBounds, confinement, spawner};

/// A child process before it is spawned. Unless told otherwise it has an empty environment, `/` as its working
/// directory and `/dev/null` as its standard input, output and error.
pub struct Guest {
    command: Command,
    fds: Vec<OwnedFd>,
}

impl fmt::Debug for Guest {
    /// Shows the program alone: arguments and environment may hold what is not for a log.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Guest").field(&self.command.as_std().get_program()).finish()
    }
}

impl Guest {
    /// `program` is a path, or a name to be found on the `PATH` given with [`env`](Self::env).
    #[must_use]
    pub fn new(program: impl AsRef<OsStr>) -> Self {
        #[expect(clippy::disallowed_methods, reason = "this is the one place")]
        let mut command = Command::new(program);
        command
            .env_clear()
            .current_dir("/")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        lead_a_session(&mut command);
        // Before the steps of `spawn`, which open again what the child is to have.
        close_others_on_exec(&mut command);
        Self { command, fds: Vec::new() }
    }

    /// Adds arguments.
    #[must_use]
    pub fn args(mut self, args: impl IntoIterator<Item = impl AsRef<OsStr>>) -> Self {
        self.command.args(args);
        self
    }

    /// Adds one variable to the environment, which holds no other than those added.
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

    /// Hands `fd` to the child, which finds its number in the variable `name`.
    ///
    /// The child has it under the number it has here: a number chosen otherwise might be that of the
    /// pipe through which a failed `exec` is reported.
    #[must_use]
    pub fn pass_fd(mut self, name: impl AsRef<OsStr>, fd: OwnedFd) -> Self {
        self.command.env(name, fd.as_raw_fd().to_string());
        self.fds.push(fd);
        self
    }

    /// Hands `secret` to the child as the number of a file descriptor in the variable `name`: a pipe
    /// that holds the secret already and has no writer, so it can be read to its end once. In no
    /// environment and no argument, the secret is not in `/proc` either.
    ///
    /// # Errors
    /// If there are no file descriptors left, or `secret` does not fit a pipe (64 KiB on Linux).
    pub fn secret(self, name: impl AsRef<OsStr>, secret: &[u8]) -> io::Result<Self> {
        let (reader, mut writer) = io::pipe()?;
        // A pipe that is too small is an error, not a wait without end.
        fcntl(writer.as_fd(), FcntlArg::F_SETFL(OFlag::O_NONBLOCK))?;
        writer.write_all(secret)?;
        Ok(self.pass_fd(name, reader.into()))
    }

    /// Has the kernel send the child `signal` when this process ends, however it ends. Linux only.
    ///
    /// The child may set this aside, and its own children do not inherit it.
    #[must_use]
    pub fn die_with_parent(mut self, signal: Signal) -> Self {
        arm_parent_death(&mut self.command, signal);
        self
    }

    /// Keeps it and whatever it starts within the bounds of a job.
    #[must_use]
    pub fn bounded(mut self, bounds: &JobBounds) -> Self {
        bounds.apply(&mut self.command);
        self
    }

    /// [`before_exec`], as a step of building.
    pub(crate) fn step(
        mut self,
        step: impl FnMut() -> io::Result<()> + Send + Sync + 'static,
    ) -> Self {
        before_exec(&mut self.command, step);
        self
    }

    /// Bounds what the child, and every process it starts, may use of `resource`, as `setrlimit(2)` has it.
    #[must_use]
    pub fn limit(mut self, resource: Resource, most: u64) -> Self {
        limit(&mut self.command, resource, most);
        self
    }

    /// Confines the child, and every process it starts, to some files.
    ///
    /// Where the kernel has no Landlock (before Linux 5.13, or switched off) this does nothing.
    ///
    /// # Errors
    /// If there are no file descriptors left.
    pub fn confine(mut self, confinement: &Confinement) -> io::Result<Self> {
        confinement::apply(&mut self.command, confinement)?;
        Ok(self)
    }

    /// Spawns it. May be called from any task of a runtime that drives I/O.
    ///
    /// # Errors
    /// As `fork(2)`, `chdir(2)` and `execve(2)` have it: the program is missing or not executable, the
    /// working directory is missing, there are too many processes.
    pub async fn spawn(mut self) -> io::Result<Child> {
        self.command.preserved_fds(self.fds);
        spawner::spawn(self.command).await
    }
}

fn limit(command: &mut Command, resource: Resource, most: u64) {
    before_exec(command, move || {
        // A limit that is lower already stays.
        let (_, hard) = getrlimit(resource)?;
        let most = most.min(hard);
        Ok(setrlimit(resource, most, most)?)
    });
}

/// Adds a step that the child makes before it becomes the program. It must be a single system call that is
/// async-signal-safe, and allocate nothing.
#[expect(unsafe_code, reason = "between fork and exec there is no safe interface")]
pub(crate) fn before_exec(
    command: &mut Command,
    step: impl FnMut() -> io::Result<()> + Send + Sync + 'static,
) {
    // SAFETY: this crate's steps, and there are no others, are system calls that may be made in a forked child
    // of a process with several threads; their errors are bare numbers.
    unsafe { command.pre_exec(step) };
}

/// A session of its own holds nobody but the child and what it starts, so that all of a group can be signalled;
/// and it has no terminal, which the child could otherwise open and read from.
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
        // The parent may have ended before the signal was armed: then it will never be sent.
        if nix::unistd::getppid() == parent { Ok(()) } else { Err(nix::errno::Errno::ESRCH.into()) }
    });
}

/// What this process opens is closed on exec anyway; this is for what it has inherited.
#[cfg(target_os = "linux")]
#[expect(unsafe_code, reason = "no crate at hand has this system call")]
fn close_others_on_exec(command: &mut Command) {
    use nix::libc::{CLOSE_RANGE_CLOEXEC, SYS_close_range, c_long, c_uint, syscall};
    before_exec(command, || {
        let (first, last, flags) = (3, c_uint::MAX, CLOSE_RANGE_CLOEXEC);
        // SAFETY: it changes a flag of file descriptors, and neither closes one nor touches memory. A kernel
        // without it (before Linux 5.11) leaves inherited ones open, as was usual then.
        let _: c_long = unsafe { syscall(SYS_close_range, first, last, flags) };
        Ok(())
    });
}

#[cfg(not(target_os = "linux"))]
fn close_others_on_exec(_command: &mut Command) {}

#[cfg(not(target_os = "linux"))]
fn arm_parent_death(_command: &mut Command, _signal: Signal) {}
