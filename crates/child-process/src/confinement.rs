//! What a child can reach, enforced by the kernel: files, ports and other processes (Landlock), and system calls
//! (seccomp).

use std::{
    io,
    path::{Path, PathBuf},
};

use tokio::process::Command;

use crate::system_calls;

/// The files a child can reach, and what else it may do. Everything else is denied, whatever its permissions.
///
/// A path that does not exist is skipped, so optional paths can be listed.
#[derive(Clone, Debug, Default)]
pub struct Confinement {
    read: Vec<PathBuf>,
    write: Vec<PathBuf>,
    devices: Vec<PathBuf>,
    sockets: Vec<PathBuf>,
    /// The TCP ports it may connect to; `None` allows all.
    connect: Option<Vec<u16>>,
    is_scoped: bool,
    calls: Option<UnixSockets>,
}

/// Whether a child may create Unix sockets. A pair of connected sockets that is no pair for datagrams, as programs use it
/// to talk to their children, is always possible.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum UnixSockets {
    /// It may. Before Linux 7.1, it can then connect to every socket in the file system that its user may connect to.
    Allowed,
    /// It may not.
    Refused,
}

/// What this kernel enforces for a confined child.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Enforcement {
    /// The version of Landlock's ABI; 0 if the kernel has no Landlock.
    pub landlock: u32,
    /// Whether a scoped child is kept from signals and abstract Unix sockets of processes outside (Linux 6.12).
    pub scopes: bool,
    /// Whether the kernel filters system calls (seccomp).
    pub seccomp: bool,
}

impl Enforcement {
    /// What this kernel enforces.
    #[must_use]
    pub fn of_this_kernel() -> Self {
        let landlock = linux::abi();
        Self { landlock, scopes: landlock >= 6, seccomp: system_calls::is_filter_available() }
    }

    /// Whether the kernel decides which sockets in the file system a confined child may connect to (Linux 7.1).
    #[must_use]
    pub fn mediates_unix_sockets(self) -> bool {
        self.landlock >= 9
    }
}

impl Confinement {
    /// The system's programs, libraries and configuration, and the devices every program expects: what is needed to
    /// run a program, and no user's files.
    #[must_use]
    pub fn system() -> Self {
        Self::SYSTEM
            .into_iter()
            .chain(["/sys/devices/system/cpu", "/dev/urandom"])
            .fold(Self::default(), Self::read)
            .device("/dev/null")
    }

    /// The directories of the system's programs, libraries and configuration.
    pub const SYSTEM: [&str; 9] =
        ["/usr", "/bin", "/sbin", "/lib", "/lib32", "/lib64", "/opt", "/nix", "/etc"];

    /// Lets the child read, list and execute everything at and below `path`.
    #[must_use]
    pub fn read(mut self, path: impl AsRef<Path>) -> Self {
        self.read.push(path.as_ref().to_owned());
        self
    }

    /// Gives the child full access to everything at and below `path`, except that it cannot create devices.
    #[must_use]
    pub fn write(mut self, path: impl AsRef<Path>) -> Self {
        self.write.push(path.as_ref().to_owned());
        self
    }

    /// Lets the child use the device at `path`, or all devices below it.
    #[must_use]
    pub fn device(mut self, path: impl AsRef<Path>) -> Self {
        self.devices.push(path.as_ref().to_owned());
        self
    }

    /// Lets the child read what is at and below `path`, and connect to sockets there.
    #[must_use]
    pub fn sockets(mut self, path: impl AsRef<Path>) -> Self {
        self.sockets.push(path.as_ref().to_owned());
        self
    }

    /// The devices that interactive programs expect, with pseudo-terminals, and shared memory.
    #[must_use]
    pub fn terminals(self) -> Self {
        const DEVICES: [&str; 8] = [
            "/dev/null",
            "/dev/zero",
            "/dev/full",
            "/dev/random",
            "/dev/urandom",
            "/dev/tty",
            "/dev/ptmx",
            "/dev/pts",
        ];
        DEVICES.into_iter().fold(self, Self::device).write("/dev/shm")
    }

    /// Lets the child connect only to these TCP ports, at any address, and listen on none. Does nothing before Linux
    /// 6.7.
    #[must_use]
    pub fn connect_only(mut self, ports: impl IntoIterator<Item = u16>) -> Self {
        self.connect = Some(ports.into_iter().collect());
        self
    }

    /// Keeps the child from sending signals to processes outside, and from connecting to their abstract Unix sockets.
    /// Does nothing before Linux 6.12.
    #[must_use]
    pub fn scoped(mut self) -> Self {
        self.is_scoped = true;
        self
    }

    /// Refuses the system calls that a program needs only to change the machine, or to look into other processes:
    /// they fail with `EPERM`. If the child runs as root, it also loses the capabilities for them.
    #[must_use]
    pub fn filter_system_calls(mut self, sockets: UnixSockets) -> Self {
        self.calls = Some(sockets);
        self
    }
}

/// Whether this kernel can confine children. If not, [`Guest::confine`](crate::Guest::confine) does nothing.
#[must_use]
pub fn is_confinement_available() -> bool {
    linux::abi() > 0
}

/// Whether this kernel keeps children from ports that [`Confinement::connect_only`] does not list.
#[must_use]
pub fn is_port_confinement_available() -> bool {
    linux::confines_ports()
}

/// Adds the steps that confine the child. Landlock comes first, because the filter refuses nothing that it needs, but
/// the filter must see every call of the program.
pub(crate) fn apply(command: &mut Command, confinement: &Confinement) -> io::Result<()> {
    if confinement.calls.is_some() {
        system_calls::drop_capabilities(command);
    }
    linux::apply(command, confinement)?;
    match confinement.calls {
        Some(sockets) => system_calls::apply(command, sockets),
        None => Ok(()),
    }
}

#[cfg(target_os = "linux")]
mod linux {
    use std::{
        os::fd::{AsRawFd as _, OwnedFd},
        ptr,
    };

    use landlock::{
        ABI, Access as _, AccessFs, AccessNet, CompatLevel, Compatible as _, NetPort, Ruleset,
        RulesetAttr as _, RulesetCreatedAttr as _, RulesetError, Scope, path_beneath_rules,
    };
    use nix::{
        errno::Errno,
        libc::{
            SYS_landlock_create_ruleset, SYS_landlock_restrict_self, c_int, c_long, c_void, syscall,
        },
    };

    use super::{Command, Confinement, io};
    use crate::guest::before_exec;

    /// The newest ABI whose rights on files are requested. Older kernels enforce the rights they know.
    const NEWEST: ABI = ABI::V10;
    /// The ABI whose rights on ports are requested: TCP.
    const PORTS: ABI = ABI::V5;

    /// The version of the kernel's ABI; 0 without Landlock.
    #[expect(unsafe_code, reason = "the crate does not tell the version")]
    pub(super) fn abi() -> u32 {
        /// `LANDLOCK_CREATE_RULESET_VERSION`, landlock_create_ruleset(2).
        const VERSION: c_int = 1;
        // SAFETY: with this flag, the call takes no attributes and only returns a number.
        let version: c_long = unsafe {
            syscall(SYS_landlock_create_ruleset, ptr::null::<c_void>(), 0_usize, VERSION)
        };
        u32::try_from(version).unwrap_or(0)
    }

    /// The rules as a file descriptor, or `None` if the kernel has no Landlock.
    pub(super) fn ruleset(confinement: &Confinement) -> io::Result<Option<OwnedFd>> {
        let (read, all) = (AccessFs::from_read(NEWEST), AccessFs::from_all(NEWEST));
        // Root could otherwise make the device of the machine's disk, and read it.
        let write = all & !(AccessFs::MakeChar | AccessFs::MakeBlock | AccessFs::IoctlDev);
        let device = read & !AccessFs::Execute
            | AccessFs::WriteFile
            | AccessFs::Truncate
            | AccessFs::IoctlDev;
        let rules = || -> Result<Option<OwnedFd>, RulesetError> {
            let mut ruleset = Ruleset::default().handle_access(all)?;
            if confinement.connect.is_some() {
                ruleset = ruleset.handle_access(AccessNet::from_all(PORTS))?;
            }
            if confinement.is_scoped {
                ruleset = ruleset.scope(Scope::from_all(NEWEST))?;
            }
            let ports = confinement.connect.iter().flatten();
            let sockets = read | AccessFs::ResolveUnix;
            let ruleset =
                ruleset
                    .create()?
                    .add_rules(ports.map(|port| {
                        Ok::<_, RulesetError>(NetPort::new(*port, AccessNet::ConnectTcp))
                    }))?
                    .add_rules(path_beneath_rules(&confinement.read, read))?
                    .add_rules(path_beneath_rules(&confinement.sockets, sockets))?
                    .add_rules(path_beneath_rules(&confinement.devices, device))?
                    .add_rules(path_beneath_rules(&confinement.write, write))?;
            Ok(ruleset.into())
        };
        rules().map_err(io::Error::other)
    }

    pub(super) fn confines_ports() -> bool {
        let rights = AccessNet::ConnectTcp;
        let required = Ruleset::default().set_compatibility(CompatLevel::HardRequirement);
        required.handle_access(rights).and_then(Ruleset::create).is_ok()
    }

    pub(super) fn apply(command: &mut Command, confinement: &Confinement) -> io::Result<()> {
        let Some(rules) = ruleset(confinement)? else { return Ok(()) };
        before_exec(command, || Ok(nix::sys::prctl::set_no_new_privs()?));
        // The file descriptor stays open as long as the closure exists.
        before_exec(command, move || restrict_self(&rules));
        Ok(())
    }

    #[expect(unsafe_code, reason = "between fork and exec there is no safe interface")]
    fn restrict_self(rules: &OwnedFd) -> io::Result<()> {
        let (fd, flags): (c_int, c_int) = (rules.as_raw_fd(), 0);
        // SAFETY: the call only takes away rights of this process.
        let result: c_long = unsafe { syscall(SYS_landlock_restrict_self, fd, flags) };
        Errno::result(result)?;
        Ok(())
    }
}

#[cfg(not(target_os = "linux"))]
mod linux {
    use super::{Command, Confinement, io};

    pub(super) fn abi() -> u32 {
        0
    }

    pub(super) fn confines_ports() -> bool {
        false
    }

    pub(super) fn apply(_: &mut Command, _: &Confinement) -> io::Result<()> {
        Ok(())
    }
}
