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
    /// The files that git obeys.
    obeyed: Vec<(&'static str, String)>,
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
        let mut obeyed = vec![
            ("config", config),
            ("HEAD", "ref: refs/heads/unborn\n".to_owned()),
            // What a text is, its content says. Otherwise an attribute in the tree would hide it from a reader.
            ("info/attributes", "* !diff\n".to_owned()),
        ];
        if !shallow.is_empty() {
            obeyed.push(("shallow", shallow.iter().map(|id| format!("{id}\n")).collect()));
        }
        obeyed.iter().try_for_each(|(name, text)| write(name, text))?;
        let (objects, files) = (objects.to_owned(), files.to_owned());
        Ok(Self { git, path, obeyed, objects, files })
    }

    /// A command on it, which may read the files but not write them.
    pub(crate) fn command(&self, arguments: &[&str]) -> Command<'a> {
        let command = self.git.command(arguments).git_dir(&self.path).reads(&self.objects);
        command.reads(&self.files).env("GIT_WORK_TREE", &self.files)
    }

    /// Makes a directory for a command that gets credentials. It is not on the volume, so nobody else can write what git obeys.
    ///
    /// # Errors
    /// If it cannot be made.
    pub(crate) fn make_private(&self) -> Result<PathBuf> {
        let path = self.git.private("control")?;
        for directory in ["refs", "info"] {
            let path = path.join(directory);
            fs::create_dir(&path).map_err(Failure::io("create", &path))?;
        }
        for (name, text) in &self.obeyed {
            let path = path.join(name);
            fs::write(&path, text).map_err(Failure::io("write", &path))?;
        }
        Ok(path)
    }

    /// Has `command` work in the directory that was made for it, on the objects, without the files.
    pub(crate) fn place_in<'c>(&self, private: &Path, command: Command<'c>) -> Command<'c> {
        let own = self.path.join("objects");
        let command = command.git_dir(private).env("GIT_OBJECT_DIRECTORY", &own);
        command.writes(own).reads(&self.objects)
    }

    /// Where the contents of files in LFS are that became pointers. It need not be there.
    pub(crate) fn lfs_storage(&self) -> PathBuf {
        self.path.join("lfs")
    }

    /// Where it is.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }
}
