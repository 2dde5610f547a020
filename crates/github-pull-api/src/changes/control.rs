//! A control directory of ours that has the objects of a base.

use std::{
    fs,
    path::{Path, PathBuf},
};

use contract::CloneFilter;

use crate::{
    failure::{Failure, Result},
    git::{Command, Git},
    remote::{ObjectFormat, ObjectId, git_format},
    staging::Staging,
};

/// Where git works: its own objects, those of others to read, and nobody else's configuration.
pub(crate) struct Control<'a> {
    git: &'a Git,
    path: PathBuf,
    /// The objects of others.
    objects: PathBuf,
    /// The files, to read.
    files: PathBuf,
}

impl<'a> Control<'a> {
    /// Makes one in `staging` that can read `objects`, and the files at `files`. `shallow` are the commits whose parents
    /// are missing.
    ///
    /// # Errors
    /// If it cannot be written.
    pub(super) fn make(
        git: &'a Git,
        staging: &Staging,
        name: &str,
        format: ObjectFormat,
        filter: Option<CloneFilter>,
        (objects, files): (&Path, &Path),
        shallow: &[ObjectId],
    ) -> Result<Self> {
        let path = staging.directory(name)?;
        for directory in ["objects/info", "objects/pack", "refs", "info"] {
            let path = path.join(directory);
            fs::create_dir_all(&path).map_err(Failure::io("create", &path))?;
        }
        let write = |name: &str, text: &str| {
            let path = path.join(name);
            fs::write(&path, text).map_err(Failure::io("write", &path))
        };
        let quoted = objects.to_string_lossy().replace('\\', "\\\\").replace('"', "\\\"");
        write("objects/info/alternates", &format!("\"{quoted}\"\n"))?;
        let filter = filter.map(CloneFilter::as_str);
        let mut config = git_format(format, filter);
        // What is lost with this machine is made again.
        config.push_str("\tbare = false\n\tfilemode = true\n\tlogallrefupdates = false\n\tfsync = none\n\tlooseCompression = 1\n");
        if filter.is_some() {
            config.push_str("[remote \"origin\"]\n\turl = /nowhere\n\tpromisor = true\n");
        }
        write("config", &config)?;
        write("HEAD", "ref: refs/heads/unborn\n")?;
        // What a text is, its content says. Otherwise an attribute in the tree would hide it from a reader.
        write("info/attributes", "* !diff\n")?;
        if !shallow.is_empty() {
            let lines: String = shallow.iter().map(|id| format!("{id}\n")).collect();
            write("shallow", &lines)?;
        }
        let (objects, files) = (objects.to_owned(), files.to_owned());
        Ok(Self { git, path, objects, files })
    }

    /// A command on it, which may read the files but not write them.
    pub(crate) fn command(&self, arguments: &[&str]) -> Command<'a> {
        self.place(self.git.command(arguments)).reads(&self.files).env("GIT_WORK_TREE", &self.files)
    }

    /// Has `command` work on it, without the files.
    pub(crate) fn place<'c>(&self, command: Command<'c>) -> Command<'c> {
        command.git_dir(&self.path).reads(&self.objects)
    }

    /// Where it is.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }
}
