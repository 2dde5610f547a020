//! Commits of ours: what they say, and how they are made.

use contract::Deliver;

use super::{settings::Identity, source::Source};
use crate::{
    changes::Control,
    failure::{Failure, Result},
    remote::ObjectId,
};

/// Who has done the work.
const AGENT: &str = "Claude Code <noreply@anthropic.com>";
/// The longest subject that is made of a prompt, in characters.
const LONGEST_SUBJECT: usize = 72;
/// The longest text of the agent in a message, in bytes.
const LONGEST_TEXT: usize = 16 << 10;

/// The trailers by which a commit is recognized again.
pub(super) const JOB: &str = "Job-Id: ";
pub(super) const SESSION: &str = "Session-Id: ";

/// What the commits and the pull request of a delivery say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Words {
    /// One line.
    pub(super) title: String,
    /// Without white space at its ends; may be empty.
    pub(super) body: String,
}

impl Words {
    pub(super) fn of(source: &Source, deliver: &Deliver) -> Self {
        let title = deliver.title.clone().unwrap_or_else(|| subject(&source.prompt));
        let body = deliver.body.as_deref().or(source.words.as_deref()).unwrap_or_default();
        let body =
            cut(body, if deliver.body.is_some() { Deliver::LONGEST_BODY } else { LONGEST_TEXT });
        Self { title, body }
    }
}

impl Words {
    /// Those of a commit that the agent has made.
    pub(super) fn of_commit(message: &str) -> Self {
        let body = message.trim().split_once('\n').map_or("", |(_, body)| body);
        Self { title: subject(message), body: cut(body, LONGEST_TEXT) }
    }
}

/// The first line of a prompt.
fn subject(prompt: &str) -> String {
    let line = prompt.lines().map(str::trim).find(|line| !line.is_empty()).unwrap_or("Changes");
    let line = line.replace(char::is_control, " ");
    if line.chars().count() <= LONGEST_SUBJECT {
        return line;
    }
    line.chars().take(LONGEST_SUBJECT - 1).collect::<String>().trim_end().to_owned() + "…"
}

/// Text without control characters, of at most `most` bytes.
fn cut(text: &str, most: usize) -> String {
    let text: String = text.chars().filter(|c| !c.is_control() || "\n\t".contains(*c)).collect();
    let text = text.trim();
    if text.len() <= most {
        return text.to_owned();
    }
    let end = (0..=most).rev().find(|end| text.is_char_boundary(*end)).unwrap_or_default();
    format!("{}\n[…]", text.get(..end).unwrap_or_default().trim_end())
}

/// The message of a commit. Its last paragraph is ours, whatever the text before says.
pub(super) fn message(source: &Source, words: &Words, author: &Identity) -> String {
    let mut message = format!("{}\n\n", words.title);
    if !words.body.is_empty() {
        message.push_str(&words.body);
        message.push_str("\n\n");
    }
    message.push_str(&format!("{JOB}{}\n", source.job));
    if let Some(session) = source.session {
        message.push_str(&format!("{SESSION}{session}\n"));
    }
    if !source.caller.is_anonymous() {
        let name = source.caller.as_str();
        // Not the address of a person: git hosts would show the commit as that person's.
        let address = format!("caller+{name}@{}", author.domain());
        message.push_str(&format!("Co-authored-by: {name} <{address}>\n"));
    }
    message.push_str(&format!("Co-authored-by: {AGENT}\n"));
    message
}

/// Makes commits, all alike whenever they are made.
pub(super) struct Committer<'a> {
    pub(super) control: &'a Control<'a>,
    pub(super) author: &'a Identity,
    /// The commit that the agent was given.
    pub(super) given: &'a ObjectId,
    /// Seconds since 1970.
    pub(super) time: i64,
}

impl Committer<'_> {
    /// Makes a commit.
    ///
    /// # Errors
    /// If git cannot.
    pub(super) fn make(
        &self,
        tree: &ObjectId,
        parent: Option<&ObjectId>,
        message: &str,
    ) -> Result<ObjectId> {
        let mut arguments = vec!["commit-tree", "--no-gpg-sign"];
        if let Some(parent) = parent {
            arguments.extend(["-p", parent.as_str()]);
        }
        arguments.push(tree.as_str());
        let mut command = self.control.command(&arguments).input(message.as_bytes().to_vec());
        for who in ["AUTHOR", "COMMITTER"] {
            command = command
                .env(format!("GIT_{who}_NAME"), &self.author.name)
                .env(format!("GIT_{who}_EMAIL"), &self.author.email)
                .env(format!("GIT_{who}_DATE"), format!("@{} +0000", self.time));
        }
        id_in(&command.output()?)
    }

    /// The tree of `theirs` with what `ours` has changed since `base`, all of them trees; `None` if they conflict. How files are
    /// merged is up to the attributes that the agent was given, and not to those that it has left.
    ///
    /// # Errors
    /// If git cannot merge at all.
    pub(super) fn merge(
        &self,
        base: &ObjectId,
        ours: &ObjectId,
        theirs: &ObjectId,
    ) -> Result<Option<ObjectId>> {
        if base == ours || ours == theirs {
            return Ok(Some(theirs.clone()));
        }
        if base == theirs {
            return Ok(Some(ours.clone()));
        }
        // Commits that nobody gets to see: git merges commits, and finds their base itself.
        let base = self.make(base, None, "base")?;
        let side = |tree| self.make(tree, Some(&base), "side");
        let (ours, theirs) = (side(ours)?, side(theirs)?);
        let merge = ["merge-tree", "--write-tree", "--no-messages", theirs.as_str(), ours.as_str()];
        let command = self.control.command(&merge).env("GIT_ATTR_SOURCE", self.given.as_str());
        let merged = command.run()?;
        match merged.status.code() {
            Some(0) => id_in(&merged.stdout).map(Some),
            Some(1) => Ok(None),
            _ => Err(merged.failure()),
        }
    }

    /// Whether the control directory has this commit.
    ///
    /// # Errors
    /// If git cannot be run.
    pub(super) fn has(&self, commit: &ObjectId) -> Result<bool> {
        let commit = format!("{commit}^{{commit}}");
        let looked = self.control.command(&["cat-file", "-e", &commit]).run()?;
        Ok(looked.status.success())
    }

    /// The tree of a commit.
    ///
    /// # Errors
    /// If git cannot find it.
    pub(super) fn tree_of(&self, commit: &ObjectId) -> Result<ObjectId> {
        let tree = format!("{commit}^{{tree}}");
        id_in(&self.control.command(&["rev-parse", "--verify", &tree]).output()?)
    }
}

/// The ID on the first line that git printed.
pub(super) fn id_in(printed: &[u8]) -> Result<ObjectId> {
    let line = printed.split(|byte| *byte == b'\n').next().unwrap_or_default();
    ObjectId::parse(line).ok_or_else(|| Failure::Git("it printed no ID".into()))
}
