//! Which files and ports a child can reach, enforced by the kernel (Landlock).

use std::{
    io,
    path::{Path, PathBuf},
};

use tokio::process::Command;

/// The files a child can reach. Everything else is denied, whatever its permissions.
///
/// A path that does not exist is skipped, so optional paths can be listed.
#[derive(Clone, Debug, Default)]
pub struct Confinement {
    read: Vec<PathBuf>,
    write: Vec<PathBuf>,
    /// The TCP ports it may connect to; `None` allows all.
    connect: Option<Vec<u16>>,
}

impl Confinement {
    /// The system's programs, libraries and configuration, and the devices every program expects: what is needed to
    /// run a program, and no user's files.
    #[must_use]
    pub fn system() -> Self {
        const READ: [&str; 11] = [
            "/usr",
            "/bin",
            "/sbin",
            "/lib",
            "/lib32",
            "/lib64",
            "/opt",
            "/nix",
            "/etc",
            "/sys/devices/system/cpu",
            "/dev/urandom",
        ];
        READ.into_iter().fold(Self::default(), Self::read).write("/dev/null")
    }

    /// Lets the child read, list and execute everything at and below `path`.
    #[must_use]
    pub fn read(mut self, path: impl AsRef<Path>) -> Self {
        self.read.push(path.as_ref().to_owned());
        self
    }

    /// Gives the child full access to everything at and below `path`.
    #[must_use]
    pub fn write(mut self, path: impl AsRef<Path>) -> Self {
        self.write.push(path.as_ref().to_owned());
        self
    }

    /// Lets the child connect only to these TCP ports, at any address, and listen on none. Does nothing before Linux
    /// 6.7.
    #[must_use]
    pub fn connect_only(mut self, ports: impl IntoIterator<Item = u16>) -> Self {
        self.connect = Some(ports.into_iter().collect());
        self
    }
}

/// Whether this kernel can confine children. If not, [`Guest::confine`](crate::Guest::confine) does nothing.
#[must_use]
pub fn is_confinement_available() -> bool {
    linux::ruleset(&Confinement::default()).is_ok_and(|ruleset| ruleset.is_some())
}

/// Whether this kernel keeps children from ports that [`Confinement::connect_only`] does not list.
#[must_use]
pub fn is_port_confinement_available() -> bool {
    linux::confines_ports()
}

pub(crate) use linux::apply;

#[cfg(target_os = "linux")]
mod linux {
    use std::os::fd::{AsRawFd as _, OwnedFd};

    use landlock::{
        ABI, Access as _, AccessFs, AccessNet, CompatLevel, Compatible as _, NetPort, Ruleset,
        RulesetAttr as _, RulesetCreatedAttr as _, RulesetError, path_beneath_rules,
    };
    use nix::{
        errno::Errno,
        libc::{SYS_landlock_restrict_self, c_int, c_long, syscall},
    };

    use super::{Command, Confinement, io};

    /// The newest ABI whose rights are requested. Older kernels enforce the rights they know.
    const NEWEST: ABI = ABI::V5;

    /// The rules as a file descriptor, or `None` if the kernel has no Landlock.
    pub(super) fn ruleset(confinement: &Confinement) -> io::Result<Option<OwnedFd>> {
        let rules = || -> Result<Option<OwnedFd>, RulesetError> {
            let mut ruleset = Ruleset::default().handle_access(AccessFs::from_all(NEWEST))?;
            if confinement.connect.is_some() {
                ruleset = ruleset.handle_access(AccessNet::from_all(NEWEST))?;
            }
            let ports = confinement.connect.iter().flatten();
            let ruleset = ruleset
                .create()?
                .add_rules(
                    ports.map(|port| {
                        Ok::<_, RulesetError>(NetPort::new(*port, AccessNet::ConnectTcp))
                    }),
                )?
                .add_rules(path_beneath_rules(&confinement.read, AccessFs::from_read(NEWEST)))?
                .add_rules(path_beneath_rules(&confinement.write, AccessFs::from_all(NEWEST)))?;
            Ok(ruleset.into())
        };
        rules().map_err(io::Error::other)
    }

    pub(super) fn confines_ports() -> bool {
        let rights = AccessNet::ConnectTcp;
        let required = Ruleset::default().set_compatibility(CompatLevel::HardRequirement);
        required.handle_access(rights).and_then(Ruleset::create).is_ok()
    }

    #[expect(unsafe_code, reason = "between fork and exec there is no safe interface")]
    pub(crate) fn apply(command: &mut Command, confinement: &Confinement) -> io::Result<()> {
        let Some(rules) = ruleset(confinement)? else { return Ok(()) };
        // SAFETY: the closure runs in the forked child and makes two system calls. The file descriptor stays open as
        // long as the closure exists.
        unsafe {
            command.pre_exec(move || {
                nix::sys::prctl::set_no_new_privs()?;
                let (fd, flags): (c_int, c_int) = (rules.as_raw_fd(), 0);
                let result: c_long = syscall(SYS_landlock_restrict_self, fd, flags);
                Errno::result(result)?;
                Ok(())
            });
        }
        Ok(())
    }
}

#[cfg(not(target_os = "linux"))]
mod linux {
    use super::{Command, Confinement, io};

    pub(super) fn ruleset(_: &Confinement) -> io::Result<Option<()>> {
        Ok(None)
    }

    pub(super) fn confines_ports() -> bool {
        false
    }

    pub(crate) fn apply(_: &mut Command, _: &Confinement) -> io::Result<()> {
        Ok(())
    }
}
