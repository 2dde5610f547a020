//! Additions to the agent's system prompt.
//!
//! Without the repository's settings, the CLI does not read its `CLAUDE.md` either. Users expect it to be read, so
//! its text is passed as an argument.

use std::io::Read as _;

use cap_std::fs::{Dir, OpenOptions, OpenOptionsExt as _};
use tracing::warn;

/// The largest `CLAUDE.md` that is used, in bytes.
const MAX_FILE: u64 = 100_000;

/// The longest argument the kernel accepts, including the NUL (`MAX_ARG_STRLEN`, 32 pages).
const MAX_ARGUMENT: usize = 131_072;

const FILE: &str = "CLAUDE.md";

/// The repository's instructions: the text of `CLAUDE.md`, if it exists.
///
/// The file is opened beneath `directory`, which no link can leave. A file that is too large, not regular, or outside
/// is ignored with a warning, because an agent can work without it. Blocking.
pub(crate) fn of_repository(directory: &Dir) -> Option<String> {
    match read(directory) {
        Ok(text) => text,
        Err(why) => {
            warn!(file = FILE, %why, "ignoring the repository's instructions");
            None
        }
    }
}

fn read(directory: &Dir) -> Result<Option<String>, String> {
    let mut options = OpenOptions::new();
    // Opening a pipe without a writer would block forever.
    options.read(true).custom_flags(nix::libc::O_NONBLOCK);
    let file = match directory.open_with(FILE, &options) {
        Ok(file) => file,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error.to_string()),
    };
    let metadata = file.metadata().map_err(|error| error.to_string())?;
    if !metadata.is_file() {
        return Err("it is not a regular file".into());
    }
    let mut bytes = Vec::new();
    file.take(MAX_FILE + 1).read_to_end(&mut bytes).map_err(|error| error.to_string())?;
    if bytes.len() as u64 > MAX_FILE {
        return Err(format!("it is larger than {MAX_FILE} bytes"));
    }
    let text = String::from_utf8_lossy(&bytes).replace('\0', "");
    Ok((!text.trim().is_empty()).then_some(text))
}

/// Combines the repository's instructions and the caller's into one argument. It starts with a heading, so it cannot
/// be mistaken for an option. If both do not fit, the repository's are omitted.
pub(crate) fn argument(repository: Option<&str>, caller: Option<&str>) -> Option<String> {
    let caller = caller.filter(|text| !text.trim().is_empty());
    let part = |heading: &str, text: &str| format!("# {heading}\n\n{}\n", text.replace('\0', ""));
    let repository =
        repository.map(|text| part("Instructions of this repository (CLAUDE.md)", text));
    let caller = caller.map(|text| part("Instructions for this job", text));
    match (repository, caller) {
        (Some(repository), Some(caller)) if repository.len() + caller.len() + 1 < MAX_ARGUMENT => {
            Some(format!("{repository}\n{caller}"))
        }
        (Some(repository), None) if repository.len() < MAX_ARGUMENT => Some(repository),
        (Some(_), caller) => {
            warn!(
                file = FILE,
                "ignoring the repository's instructions: they do not fit into an argument"
            );
            caller
        }
        (None, caller) => caller,
    }
}

#[cfg(test)]
mod tests {
    use std::{fs, os::unix::fs::symlink, path::Path};

    use super::*;

    fn dir(path: &Path) -> Dir {
        Dir::open_ambient_dir(path, cap_std::ambient_authority()).unwrap()
    }

    #[test]
    fn a_file_beneath_is_read_and_a_missing_one_is_none() {
        let root = tempfile::tempdir().unwrap();
        let file = root.path().join(FILE);
        assert_eq!(of_repository(&dir(root.path())), None);
        fs::write(&file, "use\0 tabs\n").unwrap();
        assert_eq!(of_repository(&dir(root.path())).as_deref(), Some("use tabs\n"));
        // A link is allowed if its target is beneath.
        fs::rename(&file, root.path().join("AGENTS.md")).unwrap();
        symlink("AGENTS.md", &file).unwrap();
        assert_eq!(of_repository(&dir(root.path())).as_deref(), Some("use tabs\n"));
        fs::write(root.path().join("AGENTS.md"), " \n").unwrap();
        assert_eq!(of_repository(&dir(root.path())), None);
    }

    #[test]
    fn an_outside_or_irregular_file_is_not_read() {
        let outside = tempfile::tempdir().unwrap();
        fs::write(outside.path().join("secret"), "s3cret").unwrap();
        let root = tempfile::tempdir().unwrap();
        let repository = root.path().join("repository");
        fs::create_dir(&repository).unwrap();
        fs::write(root.path().join("secret"), "s3cret").unwrap();
        let file = repository.join(FILE);
        for target in
            [outside.path().join("secret").as_path(), Path::new("../secret"), Path::new(FILE)]
        {
            symlink(target, &file).unwrap();
            assert!(read(&dir(&repository)).is_err(), "{}", target.display());
            fs::remove_file(&file).unwrap();
        }
        fs::create_dir(&file).unwrap();
        assert!(read(&dir(&repository)).is_err());
        fs::remove_dir(&file).unwrap();
        nix::unistd::mkfifo(&file, nix::sys::stat::Mode::from_bits_truncate(0o600)).unwrap();
        assert!(read(&dir(&repository)).is_err(), "it must not wait for a writer");
    }

    #[test]
    fn an_oversized_file_is_ignored() {
        let root = tempfile::tempdir().unwrap();
        fs::write(root.path().join(FILE), "x".repeat(100_000)).unwrap();
        assert_eq!(of_repository(&dir(root.path())).unwrap().len(), 100_000);
        fs::write(root.path().join(FILE), "x".repeat(100_001)).unwrap();
        assert_eq!(of_repository(&dir(root.path())), None);
    }

    #[test]
    fn an_argument_is_never_an_option_and_always_fits() {
        assert_eq!(argument(None, None), None);
        assert_eq!(argument(None, Some(" \n")), None);
        assert_eq!(argument(None, Some("--x")).unwrap(), "# Instructions for this job\n\n--x\n");
        let both = argument(Some("-a"), Some("b\0")).unwrap();
        assert_eq!(
            both,
            "# Instructions of this repository (CLAUDE.md)\n\n-a\n\n# Instructions for this job\n\nb\n"
        );
        let (repository, caller) = ("x".repeat(100_000), "y".repeat(20_000));
        assert!(argument(Some(&repository), Some(&caller)).unwrap().len() > 120_000);
        // Invalid bytes become three bytes each.
        let wide = "\u{fffd}".repeat(100_000);
        assert_eq!(argument(Some(&wide), Some("y")), argument(None, Some("y")));
        assert_eq!(argument(Some(&wide), None), None);
    }
}
