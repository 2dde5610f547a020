//! The system calls that a child may not make (seccomp), and root's capabilities for them.

use std::io;

use tokio::process::Command;

use crate::UnixSockets;

pub(crate) use linux::{apply, drop_capabilities, is_filter_available};

#[cfg(target_os = "linux")]
mod linux {
    use std::{collections::BTreeMap, fs};

    use nix::{
        errno::Errno,
        libc::{
            self, AF_INET, AF_INET6, AF_PACKET, AF_UNIX, CLONE_NEWCGROUP, CLONE_NEWIPC,
            CLONE_NEWNET, CLONE_NEWNS, CLONE_NEWPID, CLONE_NEWUSER, CLONE_NEWUTS, EPERM,
            SOCK_DGRAM, SOCK_RAW, TIOCSTI, c_int, c_long,
        },
    };
    use seccompiler::{
        BpfProgram, Error, SeccompAction, SeccompCmpArgLen as Length, SeccompCmpOp as Is,
        SeccompCondition, SeccompFilter, SeccompRule, TargetArch, sock_filter,
    };

    use super::{Command, UnixSockets, io};
    use crate::guest::before_exec;

    /// Refused whatever the arguments.
    const REFUSED: [c_long; 45] = [
        // Look into or change other processes. Landlock refuses most of it, but only for processes outside.
        libc::SYS_ptrace,
        libc::SYS_process_vm_readv,
        libc::SYS_process_vm_writev,
        libc::SYS_process_madvise,
        libc::SYS_kcmp,
        libc::SYS_pidfd_getfd,
        // Change what is mounted where.
        libc::SYS_mount,
        libc::SYS_umount2,
        libc::SYS_pivot_root,
        libc::SYS_move_mount,
        libc::SYS_open_tree,
        libc::SYS_fsopen,
        libc::SYS_fsconfig,
        libc::SYS_fsmount,
        libc::SYS_fspick,
        libc::SYS_mount_setattr,
        libc::SYS_quotactl,
        // Opens a file by its number, beside every path.
        libc::SYS_open_by_handle_at,
        // The keys of the user, which other programs of the user keep there.
        libc::SYS_keyctl,
        libc::SYS_add_key,
        libc::SYS_request_key,
        // Parts of the kernel with a history of holes, and nothing that a build needs.
        libc::SYS_bpf,
        libc::SYS_userfaultfd,
        libc::SYS_perf_event_open,
        // It makes sockets without the calls that this filter looks at. Programs fall back, as in containers.
        libc::SYS_io_uring_setup,
        libc::SYS_io_uring_enter,
        libc::SYS_io_uring_register,
        // A namespace gives a program rights over parts of the kernel that are new to it. What uses one also mounts
        // or writes to /proc, which Landlock refuses, so nothing is lost.
        libc::SYS_setns,
        // The machine as a whole.
        libc::SYS_kexec_load,
        libc::SYS_kexec_file_load,
        libc::SYS_init_module,
        libc::SYS_finit_module,
        libc::SYS_delete_module,
        libc::SYS_swapon,
        libc::SYS_swapoff,
        libc::SYS_reboot,
        libc::SYS_acct,
        libc::SYS_syslog,
        libc::SYS_settimeofday,
        libc::SYS_clock_settime,
        libc::SYS_clock_adjtime,
        libc::SYS_adjtimex,
        libc::SYS_sethostname,
        libc::SYS_setdomainname,
        libc::SYS_vhangup,
    ];

    const NAMESPACES: c_int = CLONE_NEWCGROUP
        | CLONE_NEWIPC
        | CLONE_NEWNET
        | CLONE_NEWNS
        | CLONE_NEWPID
        | CLONE_NEWUSER
        | CLONE_NEWUTS;
    /// The bits of a socket's type that are not flags.
    const SOCKET_TYPE: u64 = 0xf;

    /// Whether this kernel can filter system calls, and this program can write filters for its processor.
    pub(crate) fn is_filter_available() -> bool {
        let actions = fs::read_to_string("/proc/sys/kernel/seccomp/actions_avail");
        let has_action = |actions: String| actions.split_whitespace().any(|it| it == "errno");
        architecture().is_some() && actions.is_ok_and(has_action)
    }

    fn architecture() -> Option<TargetArch> {
        std::env::consts::ARCH.try_into().ok()
    }

    /// Adds the step that installs the filter. It is compiled here, because the child must not allocate.
    pub(crate) fn apply(command: &mut Command, sockets: UnixSockets) -> io::Result<()> {
        let Some(architecture) = architecture().filter(|_| is_filter_available()) else {
            return Ok(());
        };
        let program = program(architecture, sockets).map_err(io::Error::other)?;
        before_exec(command, move || match seccompiler::apply_filter(&program) {
            Ok(()) => Ok(()),
            Err(Error::Prctl(error) | Error::Seccomp(error)) => Err(error),
            Err(_) => Err(Errno::EINVAL.into()),
        });
        Ok(())
    }

    fn program(
        architecture: TargetArch,
        sockets: UnixSockets,
    ) -> Result<BpfProgram, seccompiler::BackendError> {
        let mut rules: BTreeMap<i64, Vec<SeccompRule>> =
            REFUSED.into_iter().map(|call| (call, Vec::new())).collect();
        for flag in (0..c_int::BITS).map(|bit| 1 << bit).filter(|bit| NAMESPACES & bit != 0) {
            let has_flag = || rule([argument(0, Is::MaskedEq(wide(flag)), wide(flag))?]);
            rules.entry(libc::SYS_clone).or_default().push(has_flag()?);
            rules.entry(libc::SYS_unshare).or_default().push(has_flag()?);
        }
        let family = |family: c_int| argument(0, Is::Eq, wide(family));
        let mut socket = vec![rule([family(AF_PACKET)?])?];
        for raw in [AF_INET, AF_INET6] {
            let kind = argument(1, Is::MaskedEq(SOCKET_TYPE), wide(SOCK_RAW))?;
            socket.push(rule([family(raw)?, kind])?);
        }
        if sockets == UnixSockets::Refused {
            socket.push(rule([family(AF_UNIX)?])?);
            // A socket for datagrams can send to any other, although it is one of a pair. Linux makes one of SOCK_RAW too.
            let kind = |kind| rule([argument(1, Is::MaskedEq(SOCKET_TYPE), wide(kind))?]);
            rules.insert(libc::SYS_socketpair, vec![kind(SOCK_DGRAM)?, kind(SOCK_RAW)?]);
        }
        rules.insert(libc::SYS_socket, socket);
        // Types on another terminal of the user.
        let types = argument(1, Is::Eq, TIOCSTI)?;
        rules.insert(libc::SYS_ioctl, vec![rule([types])?]);
        // The limits of another process: a limit of processor time or of file sizes kills it.
        let another = argument(0, Is::Ne, 0)?;
        let sets = SeccompCondition::new(2, Length::Qword, Is::Ne, 0)?;
        rules.insert(libc::SYS_prlimit64, vec![rule([another, sets])?]);
        let refuse = SeccompAction::Errno(EPERM.unsigned_abs());
        let filter = SeccompFilter::new(rules, SeccompAction::Allow, refuse, architecture)?;
        let mut program = prelude();
        program.extend(BpfProgram::try_from(filter)?);
        Ok(program)
    }

    /// What answers that a call does not exist: `clone3`, whose flags are in memory where no filter sees them, so that
    /// programs use `clone`, as in containers; and on x86-64 the calls of the x32 ABI, which have other numbers.
    fn prelude() -> BpfProgram {
        // linux/bpf_common.h
        const LOAD: u16 = 0x20;
        const JUMP_IF_EQUAL: u16 = 0x15;
        const JUMP_IF_AT_LEAST: u16 = 0x35;
        const RETURN: u16 = 0x06;
        /// `__X32_SYSCALL_BIT`, asm/unistd.h.
        const X32: u32 = 0x4000_0000;
        let clone3 = u32::try_from(libc::SYS_clone3).unwrap_or(u32::MAX);
        let no_such_call = libc::SECCOMP_RET_ERRNO | libc::ENOSYS.unsigned_abs();
        vec![
            // The first field of `seccomp_data` is the number of the call.
            sock_filter { code: LOAD, jt: 0, jf: 0, k: 0 },
            sock_filter { code: JUMP_IF_AT_LEAST, jt: 1, jf: 0, k: X32 },
            sock_filter { code: JUMP_IF_EQUAL, jt: 0, jf: 1, k: clone3 },
            sock_filter { code: RETURN, jt: 0, jf: 0, k: no_such_call },
        ]
    }

    type Built<T> = Result<T, seccompiler::BackendError>;

    fn rule<const N: usize>(conditions: [SeccompCondition; N]) -> Built<SeccompRule> {
        SeccompRule::new(conditions.into())
    }

    /// A condition on the lower half of an argument: the kernel ignores the rest of an `int`.
    fn argument(number: u8, is: Is, value: u64) -> Built<SeccompCondition> {
        SeccompCondition::new(number, Length::Dword, is, value)
    }

    fn wide(number: c_int) -> u64 {
        number.cast_unsigned().into()
    }

    /// The capabilities that root keeps: to own, read and write files, to become another user, to end its own
    /// processes, and to listen on any port. linux/capability.h.
    const KEPT: [c_int; 11] = [
        0,  // CHOWN
        1,  // DAC_OVERRIDE
        3,  // FOWNER
        4,  // FSETID
        5,  // KILL
        6,  // SETGID
        7,  // SETUID
        8,  // SETPCAP
        10, // NET_BIND_SERVICE
        18, // SYS_CHROOT
        31, // SETFCAP
    ];

    /// Adds a step that takes capabilities from a child that runs as root, for good. Others have none.
    ///
    /// Landlock alone is not enough for root: with CAP_PERFMON or CAP_SYS_ADMIN, a process can read the environment and
    /// the memory map of any other, whatever Landlock says (tried on Linux 6.18).
    pub(crate) fn drop_capabilities(command: &mut Command) {
        if !nix::unistd::geteuid().is_root() {
            return;
        }
        before_exec(command, || {
            // From the bounding set: `exec` as root gives what is in it.
            (0..64).filter(|number| !KEPT.contains(number)).for_each(drop_capability);
            Ok(())
        });
    }

    #[expect(unsafe_code, reason = "no dependency wraps this system call")]
    fn drop_capability(number: c_int) {
        // SAFETY: the call only takes away rights of this process. It fails for numbers that the kernel does not know,
        // and in a container whose root may not do it, and has few capabilities anyway.
        let _ = unsafe { libc::prctl(libc::PR_CAPBSET_DROP, number, 0, 0, 0) };
    }
}

#[cfg(not(target_os = "linux"))]
mod linux {
    use super::{Command, UnixSockets, io};

    pub(crate) fn is_filter_available() -> bool {
        false
    }

    pub(crate) fn apply(_: &mut Command, _: UnixSockets) -> io::Result<()> {
        Ok(())
    }

    pub(crate) fn drop_capabilities(_: &mut Command) {}
}
