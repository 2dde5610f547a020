//! The workspace of a stack on this machine, for commands that change what is in it.

use std::path::{Path, PathBuf};

use clap::Args;
use workspace::{Workspace, blocking};

use super::OpsError;

/// Where a workspace is, and what signs its records.
#[derive(Clone, Debug, Args)]
pub(super) struct VolumeOptions {
    /// The workspace on this machine
    #[arg(long, env = "WORKSPACE_DIR", value_name = "DIR", default_value = "./workspace")]
    workspace: PathBuf,
    /// The secret with which the stack signs its records, if it is not in the workspace
    #[arg(long, env = "STACK_SECRET_FILE", value_name = "FILE")]
    secret_file: Option<String>,
}

impl VolumeOptions {
    /// Opens the workspace. What is written from now on is signed, if the stack signs.
    ///
    /// # Errors
    /// If there is none, or the secret of its stack cannot be read.
    pub(super) async fn open(&self) -> anyhow::Result<Workspace> {
        let (root, file) = (self.workspace.clone(), self.secret_file.clone());
        // Opening it would create one, and no stack would use it.
        if !root.join(".stack").is_dir() {
            return Err(OpsError::NoWorkspace { workspace: root }.into());
        }
        let opened = blocking(move || {
            let workspace = Workspace::open(&root)?;
            let file = file.filter(|file| !file.is_empty());
            workspace.sign_like_the_stack(file.as_deref().map(Path::new))?;
            Ok::<_, workspace::Error>(workspace)
        });
        Ok(opened.await?)
    }
}
