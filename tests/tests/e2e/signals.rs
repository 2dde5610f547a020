//! Signals that arrive at the worst moment: while a program installs its handlers for them.

use std::{
    fs,
    path::Path,
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use contract::Service;
use nix::{
    sys::{
        ptrace,
        signal::{Signal, kill},
        wait::{WaitPidFlag, WaitStatus, waitpid},
    },
    unistd::Pid,
};
use tempfile::TempDir;
use testkit::{free_port, target_binary};

use crate::support::PATIENCE;

/// `up` would wait for such a part until the end of the grace period.
#[test]
fn a_replica_does_not_miss_the_signal_to_exit() {
    exits_if_told_while_it_installs_its_handler("github-pull-api", Signal::SIGTERM);
    exits_if_told_while_it_installs_its_handler("claude-code-api", Signal::SIGHUP);
}

#[test]
fn a_gateway_does_not_miss_the_signal_to_exit() {
    exits_if_told_while_it_installs_its_handler("gateway", Signal::SIGTERM);
}

/// Holds the thread that has just installed its handler of `signal`, while the signal reaches another thread and all of
/// them have come to rest.
fn exits_if_told_while_it_installs_its_handler(part: &str, signal: Signal) {
    let workspace = TempDir::new().unwrap();
    let pid = start(part, workspace.path());
    let mut held = Held(Some(pid));
    ptrace::setoptions(pid, ptrace::Options::PTRACE_O_TRACESYSGOOD).unwrap();
    until_it_handles(pid, signal);
    kill(pid, signal).unwrap();
    wait(part, "another thread gets the signal", || {
        (pending(pid) & (1 << (signal as u32 - 1)) == 0).then_some(())
    });
    let mut looks_at_rest = 0;
    wait(part, "the other threads sleep", || {
        looks_at_rest = if others_sleep(pid) { looks_at_rest + 1 } else { 0 };
        (looks_at_rest == 5).then_some(())
    });
    ptrace::detach(pid, None).unwrap();
    let status = wait(part, "it exits", || match waitpid(pid, Some(WaitPidFlag::WNOHANG)) {
        Ok(WaitStatus::StillAlive) => None,
        other => Some(other.unwrap()),
    });
    held.0 = None;
    assert_eq!(status, WaitStatus::Exited(pid, 0), "{part}");
}

/// Is killed on drop.
struct Held(Option<Pid>);

impl Drop for Held {
    fn drop(&mut self) {
        if let Some(pid) = self.0 {
            let _ = kill(pid, Signal::SIGKILL);
            let _ = waitpid(pid, None);
        }
    }
}

/// Starts a part of a stack, which is traced and has not done anything yet.
#[expect(unsafe_code, reason = "a process can only say itself that its parent traces it")]
#[expect(clippy::zombie_processes, reason = "whoever gets its pid waits for it")]
fn start(part: &str, workspace: &Path) -> Pid {
    use std::os::unix::process::CommandExt as _;
    let mut command = Command::new(target_binary("stackctl"));
    command.args(["serve", part]).env_clear().env("WORKSPACE_DIR", workspace);
    command.env("BIND_ADDRESS", "127.0.0.1").env("AGENT_USER", "none");
    for service in Service::ALL {
        command.env(service.spec().port_variable, free_port().to_string());
    }
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    // SAFETY: one system call.
    unsafe { command.pre_exec(|| Ok(ptrace::traceme()?)) };
    let child: Child = command.spawn().unwrap();
    let pid = Pid::from_raw(child.id().cast_signed());
    assert_eq!(waitpid(pid, None).unwrap(), WaitStatus::Stopped(pid, Signal::SIGTRAP));
    pid
}

/// Lets the main thread run until it has installed a handler.
fn until_it_handles(pid: Pid, signal: Signal) {
    let mut deliver = None;
    let mut installs = false;
    loop {
        ptrace::syscall(pid, deliver.take()).unwrap();
        match waitpid(pid, None).unwrap() {
            // The end of the call.
            WaitStatus::PtraceSyscall(_) if installs => return,
            WaitStatus::PtraceSyscall(_) => installs = installs_handler(pid, signal),
            WaitStatus::Stopped(_, other) => deliver = Some(other),
            other => panic!("it ended early: {other:?}"),
        }
    }
}

/// Whether the system call that begins is `rt_sigaction(signal, handler, …)`.
fn installs_handler(pid: Pid, signal: Signal) -> bool {
    let registers = ptrace::getregs(pid).unwrap();
    #[cfg(target_arch = "x86_64")]
    let (call, number, handler) = (registers.orig_rax, registers.rdi, registers.rsi);
    #[cfg(target_arch = "aarch64")]
    let (call, number, handler) = (registers.regs[8], registers.regs[0], registers.regs[1]);
    call == nix::libc::SYS_rt_sigaction.cast_unsigned() && number == signal as u64 && handler != 0
}

/// The signals that wait for any thread of the process.
fn pending(pid: Pid) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("ShdPnd:")).unwrap();
    u64::from_str_radix(line.trim(), 16).unwrap()
}

/// Whether all threads but the first sleep.
fn others_sleep(pid: Pid) -> bool {
    let threads = fs::read_dir(format!("/proc/{pid}/task")).unwrap();
    let mut others = threads.map(Result::unwrap).filter(|it| it.file_name() != *pid.to_string());
    others.all(|thread| {
        let stat = fs::read_to_string(thread.path().join("stat")).unwrap_or_default();
        stat.rsplit_once(") ").is_none_or(|(_, rest)| rest.starts_with('S'))
    })
}

/// Looks every 10 ms.
fn wait<T>(part: &str, what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let begun = Instant::now();
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(begun.elapsed() < PATIENCE, "{part}: timed out waiting until {what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}
