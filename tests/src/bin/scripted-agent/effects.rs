//! The agent's side effects: files, processes, and a dump of its own environment.

use std::{
    env,
    ffi::OsString,
    fs,
    io::{Read as _, Write as _},
    os::unix::process::CommandExt as _,
    path::Path,
    process::{self, Command},
    sync::mpsc,
    thread,
    time::Duration,
};

use nix::{
    sys::signal::{SigSet, SigmaskHow, pthread_sigmask},
    unistd::{geteuid, getpgrp, getsid, setsid},
};
use serde_json::{Map, Value, json};
use testkit::Spawn;

/// The hidden first argument of a spawned process's launcher; see [`launch_if_asked`].
const LAUNCH: &str = "--scripted-agent-launch";

/// In the launcher of a spawned process: replaces it with that program, with no blocked signals and, if requested, in
/// a session of its own.
pub(crate) fn launch_if_asked(argv: &[OsString]) {
    if argv.get(1).is_none_or(|first| first != LAUNCH) {
        return;
    }
    if argv.get(2).is_some_and(|mode| mode == "setsid") {
        setsid().expect("failed to create a session");
    }
    pthread_sigmask(SigmaskHow::SIG_SETMASK, Some(&SigSet::empty()), None).unwrap();
    let [program, arguments @ ..] = argv.get(3..).unwrap_or_default() else {
        panic!("nothing to spawn");
    };
    let error = Command::new(program).args(arguments).exec();
    panic!("failed to run {}: {error}", program.display());
}

/// Starts a process; a thread reaps it.
pub(crate) fn start(spawn: &Spawn) {
    let mode = if spawn.setsid { "setsid" } else { "same" };
    let mut child = Command::new(env::current_exe().expect("the program knows its path"))
        .args([LAUNCH, mode])
        .args(&spawn.argv)
        .spawn()
        .expect("failed to start a process");
    thread::spawn(move || child.wait());
}

/// Writes a file and creates its parent directories.
pub(crate) fn write(path: &Path, content: &[u8]) {
    if let Some(parent) = path.parent() {
        fs::create_dir_all(parent).expect("failed to create a directory");
    }
    fs::write(path, content).unwrap_or_else(|error| panic!("failed to write {path:?}: {error}"));
}

/// Appends to a file in one write.
pub(crate) fn append(path: &Path, text: &str) {
    let mut file = fs::File::options().create(true).append(true).open(path).unwrap();
    file.write_all(text.as_bytes()).expect("failed to append");
}

/// Writes the arguments, environment and descriptors of this process to a file.
pub(crate) fn dump(path: &Path) {
    let text = |text: OsString| text.to_string_lossy().into_owned();
    let environment: Map<String, Value> =
        env::vars_os().map(|(name, value)| (text(name), text(value).into())).collect();
    let descriptors: Map<String, Value> = fs::read_dir("/proc/self/fd")
        .unwrap()
        .filter_map(|entry| entry.ok())
        .filter_map(|entry| {
            // The descriptor of the listing itself is listed, but is closed by now.
            let target = fs::read_link(entry.path()).ok()?;
            Some((text(entry.file_name()), text(target.into()).into()))
        })
        .collect();
    let credentials: Map<String, Value> =
        ["CLAUDE_CODE_API_KEY_FILE_DESCRIPTOR", "CLAUDE_CODE_OAUTH_TOKEN_FILE_DESCRIPTOR"]
            .into_iter()
            .filter_map(|name| {
                Some((name.to_owned(), read_descriptor(env::var(name).ok()?).into()))
            })
            .collect();
    let dump = json!({
        "argv": env::args_os().map(text).collect::<Vec<_>>(),
        "env": environment,
        "fds": descriptors,
        "credentials": credentials,
        "cwd": env::current_dir().unwrap(),
        "uid": geteuid().as_raw(),
        "pid": process::id(),
        "ppid": std::os::unix::process::parent_id(),
        "pgid": getpgrp().as_raw(),
        "sid": getsid(None).unwrap().as_raw(),
    });
    // Renamed into place, because a test waits for the file.
    let unfinished = path.with_extension("unfinished");
    write(&unfinished, dump.to_string().as_bytes());
    fs::rename(&unfinished, path).expect("failed to put the dump in place");
}

/// The content of this descriptor, if it ends within two seconds.
fn read_descriptor(number: String) -> String {
    let (sender, receiver) = mpsc::channel();
    thread::spawn(move || {
        let mut text = String::new();
        let read = fs::File::open(format!("/proc/self/fd/{number}"))
            .and_then(|mut file| file.read_to_string(&mut text));
        sender.send(read.map_or_else(|error| format!("<{error}>"), |_| text))
    });
    receiver.recv_timeout(Duration::from_secs(2)).unwrap_or_else(|_| "<no end>".to_owned())
}
