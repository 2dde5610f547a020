//! `stackctl adopt`.

use clap::Args;
use workspace::blocking;

use super::{OpsError, volume::VolumeOptions};
use crate::{client::print, command::exit, program};

/// Sign the tokens, sessions and owners of checkouts that have no proof
///
/// A stack signs what it writes to its workspace, and believes nothing else. What an earlier version wrote has no proof, and
/// neither has what somebody else put there. This command lists it, and signs it only with --yes: look for tokens and owners
/// that you do not know, and delete their files first.
#[derive(Clone, Debug, Args)]
#[command(after_help = "\
Examples:
  stackctl adopt            show what has no proof
  stackctl adopt --yes      sign it, so that the stack believes it

Exit codes: 0 success, 1 failed, 2 wrong usage, 3 no such workspace.")]
pub(crate) struct AdoptOptions {
    /// Sign what has no proof
    #[arg(long)]
    yes: bool,
    #[command(flatten)]
    volume: VolumeOptions,
}

/// Lists or signs what has no proof.
pub(crate) async fn adopt(options: AdoptOptions) -> anyhow::Result<u8> {
    let workspace = options.volume.open().await?;
    if !workspace.signs() {
        return Err(OpsError::NotYet(
            "the stack of this workspace signs nothing yet: start it with STACK_SECRET_FILE, or name its secret with \
             --secret-file"
                .to_owned(),
        )
        .into());
    }
    let yes = options.yes;
    let found = blocking(move || {
        let found = workspace.unproven_records()?;
        if yes {
            found.iter().try_for_each(|record| workspace.adopt(record))?;
        }
        Ok::<_, workspace::Error>(found)
    })
    .await?;
    let mut text: String = found.iter().map(|record| format!("{}\n", record.what)).collect();
    text += &match found.len() {
        0 => "everything has a proof\n".to_owned(),
        count if yes => format!("{count} signed\n"),
        count => {
            format!("{count} without a proof: `{} adopt --yes` signs them\n", program::name())
        }
    };
    print(&text)?;
    Ok(exit::COMPLETE)
}
