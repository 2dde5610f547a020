//! `stackctl adopt`.

use clap::Args;
use transcript::{chain, one_line};
use workspace::{Adopted, UnprovenRecord, Workspace, blocking, fingerprint};

use super::{OpsError, volume::VolumeOptions};
use crate::{client::print, command::exit, program};

/// The longest line about a record, in characters: longer than any path.
const LINE: usize = 5000;

/// Sign the tokens, sessions and owners of checkouts that have no valid proof
///
/// A stack signs what it writes to its workspace, and believes nothing else. What an earlier version wrote has no proof, and
/// neither has what somebody else put there; what was changed, or signed with an earlier secret, has a wrong one. This command
/// lists it. To sign it, name the list with --yes, as the last line of the listing says: if anything has changed since, nothing
/// is signed. Look for tokens and owners that you do not know first, and delete their files.
#[derive(Clone, Debug, Args)]
#[command(after_help = "\
Examples:
  stackctl adopt                          show what has no proof
  stackctl adopt --yes 0f3c…              sign what that has shown, so that the stack believes it

Exit codes: 0 success, 1 failed, 2 wrong usage, 3 no such workspace.")]
pub(crate) struct AdoptOptions {
    /// Sign the list with this name
    #[arg(long, value_name = "LIST")]
    yes: Option<String>,
    #[command(flatten)]
    volume: VolumeOptions,
}

/// Lists or signs what has no proof.
pub(crate) async fn adopt(options: AdoptOptions) -> anyhow::Result<u8> {
    let workspace = options.volume.open().await?;
    if !workspace.signs() {
        return Err(OpsError::NotYet(
            "the stack of this workspace signs nothing yet: start it with STACK_SECRET_FILE first, as `up` and the \
             deployments do by themselves"
                .to_owned(),
        )
        .into());
    }
    let look = workspace.clone();
    let found = blocking(move || look.unproven_records()).await?;
    if found.is_empty() {
        print("everything has a proof\n")?;
        return Ok(exit::COMPLETE);
    }
    let (name, me) = (fingerprint(&found), program::name());
    match options.yes {
        None => {
            let lines = found.iter().map(|record| one_line(&record.what, LINE) + "\n");
            let count = found.len();
            let last = format!("{count} without a proof: `{me} adopt --yes {name}` signs them\n");
            print(&lines.chain([last]).collect::<String>())?;
            Ok(exit::COMPLETE)
        }
        Some(listed) if listed != name => Err(OpsError::NotYet(format!(
            "nothing is signed, because what has no proof is not what `{me} adopt` has shown: run it again"
        ))
        .into()),
        Some(_) => sign(workspace, found).await,
    }
}

async fn sign(workspace: Workspace, found: Vec<UnprovenRecord>) -> anyhow::Result<u8> {
    let (mut signed, mut left) = (0, 0);
    for record in found {
        let (workspace, what) = (workspace.clone(), one_line(&record.what, LINE));
        let why = match blocking(move || workspace.adopt(&record)).await {
            Ok(Adopted::Signed) => None,
            Ok(Adopted::Changed) => Some("it has changed since".to_owned()),
            Ok(Adopted::Busy) => Some("a job uses it".to_owned()),
            // The others can still be signed.
            Err(error) => Some(format!("failed to {}", chain(&error))),
        };
        match why {
            None => {
                signed += 1;
                print(&format!("signed: {what}\n"))?;
            }
            Some(why) => {
                left += 1;
                print(&format!("NOT signed, because {why}: {what}\n"))?;
            }
        }
    }
    if left == 0 {
        print(&format!("{signed} signed\n"))?;
        return Ok(exit::COMPLETE);
    }
    print(&format!("{signed} signed, {left} not\n"))?;
    Ok(exit::FAILED)
}
