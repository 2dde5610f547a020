//! Making a checkout where there is none.

use std::{fs, io, os::unix::ffi::OsStrExt as _, path::Path};

use contract::CloneFilter;

use super::{Done, Refusal, config_file, files::path, tree::Changes};
use crate::{
    failure::{Failure, Result},
    git::{Command, Git},
    monitor::Monitor,
    remote::{LFS_CONFIGURATION, Mirror, Refs, Wanted, git_format, origin, pack_refs},
};

/// Makes a checkout in the empty directory `making`.
///
/// # Errors
/// Why there is no checkout.
pub(crate) fn make(
    git: &Git,
    mirror: Mirror<'_>,
    wanted: &Wanted,
    address: &str,
    making: &Path,
) -> Result<Done> {
    let directory = making.join(".git");
    mirror.tidy()?;
    copy_objects(&git.monitor, &mirror.path().join("objects"), &directory.join("objects"))?;
    write_git_dir(&mirror, wanted, address, &directory)?;
    let lfs = mirror.lfs();
    // Others may fetch while the files are written.
    drop(mirror);

    let id = wanted.id();
    git.monitor.message(format!("Checking out {} at {}", wanted.name(), id.short()));
    let command = |arguments: &[&str]| -> Command<'_> {
        let command = git.command(arguments).git_dir(&directory).work_tree(making);
        match &lfs {
            Some(lfs) => lfs.configure(command),
            None => command,
        }
    };
    git.check_size(Changes::all(command, id)?.size(command)?)?;
    command(&["checkout", "-f", "--progress"]).output()?;
    Ok(Done::wanted(wanted, id))
}

/// Renames what was made to `target`. `false` if the target appeared meanwhile.
///
/// # Errors
/// If it cannot be put there.
pub(crate) fn place(monitor: &Monitor, making: &Path, target: &Path) -> Result<bool> {
    if let Some(parent) = target.parent() {
        fs::create_dir_all(parent).map_err(Failure::io("create", parent))?;
    }
    let _settling = monitor.settle()?;
    let refusal = Refusal { target };
    match fs::rename(making, target) {
        Ok(()) => Ok(true),
        Err(error) => match error.kind() {
            io::ErrorKind::DirectoryNotEmpty | io::ErrorKind::AlreadyExists => Ok(false),
            io::ErrorKind::NotADirectory => Err(refusal.because("it is not a directory")),
            io::ErrorKind::ResourceBusy => {
                Err(refusal.because("something is mounted there: use another name"))
            }
            _ => Err(Failure::io("put in place", target)(error)),
        },
    }
}

/// Copies every object, so that the checkout shares no inode with the mirror.
fn copy_objects(monitor: &Monitor, from: &Path, to: &Path) -> Result<()> {
    fs::create_dir_all(to).map_err(Failure::io("create", to))?;
    for entry in fs::read_dir(from).map_err(Failure::io("list", from))? {
        monitor.check_stop()?;
        let entry = entry.map_err(Failure::io("list", from))?;
        let (name, path) = (entry.file_name(), entry.path());
        if name.as_bytes().starts_with(b"tmp_") {
            continue;
        }
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            // `info` holds what points elsewhere.
            if name != "info" {
                copy_objects(monitor, &path, &to.join(name))?;
            }
        } else {
            fs::copy(&path, to.join(name)).map_err(Failure::io("copy", &path))?;
        }
    }
    Ok(())
}

/// Writes a `.git` in which `git pull` and `git push` work, with its references in one file.
fn write_git_dir(
    mirror: &Mirror<'_>,
    wanted: &Wanted,
    address: &str,
    directory: &Path,
) -> Result<()> {
    let write = |name: &Path, content: &[u8]| {
        let path = directory.join(name);
        if let Some(parent) = path.parent() {
            fs::create_dir_all(parent).map_err(Failure::io("create", parent))?;
        }
        fs::write(&path, content).map_err(Failure::io("write", &path))
    };
    for name in ["objects/info", "objects/pack", "refs/heads", "refs/tags"] {
        let path = directory.join(name);
        fs::create_dir_all(&path).map_err(Failure::io("create", &path))?;
    }
    let refs: Refs = mirror
        .refs()
        .iter()
        .map(|(name, id)| match name.strip_prefix(b"refs/heads/") {
            Some(branch) => ([b"refs/remotes/origin/", branch].concat(), id.clone()),
            None => (name.clone(), id.clone()),
        })
        .collect();
    write(Path::new("packed-refs"), &pack_refs(&refs))?;
    if let Some(default) = mirror.default() {
        let text = [b"ref: refs/remotes/origin/", default, b"\n"].concat();
        write(Path::new("refs/remotes/origin/HEAD"), &text)?;
    }
    let filter = mirror.filter().map(CloneFilter::as_str);
    let mut config = git_format(wanted.id().format(), filter);
    config.push_str("\tfilemode = true\n\tbare = false\n\tlogallrefupdates = true\n");
    config.push_str(&origin(address, filter));
    config.push_str("\tfetch = +refs/heads/*:refs/remotes/origin/*\n");
    if mirror.lfs().is_some() {
        config.push_str(LFS_CONFIGURATION);
    }
    let mut config = config.into_bytes();
    let id = format!("{}\n", wanted.id());
    if let Wanted::Branch(name, _) = wanted {
        write(path(&[b"refs/heads/", name.as_slice()].concat()), id.as_bytes())?;
        write(Path::new("HEAD"), &[b"ref: refs/heads/", name.as_slice(), b"\n"].concat())?;
        config.extend_from_slice(&config_file::branch_section(name));
    } else {
        write(Path::new("HEAD"), id.as_bytes())?;
    }
    write(Path::new("config"), &config)?;
    let shallow: String = mirror.shallow()?.iter().map(|id| format!("{id}\n")).collect();
    if shallow.is_empty() { Ok(()) } else { write(Path::new("shallow"), shallow.as_bytes()) }
}
