//! What the doctor has found.

use anstyle::{AnsiColor, Style};
use serde::Serialize;

/// One thing that was looked at.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Finding {
    pub(super) name: &'static str,
    pub(super) state: State,
    /// What is there, in a few words.
    pub(super) found: String,
    /// The command that fixes it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) fix: Option<String>,
}

/// What that means for `up`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) enum State {
    /// As it should be.
    Ok,
    /// `up`, or every job of some kind, would fail.
    Missing,
    /// `up` works, but could work better.
    Advice,
    /// This cannot be found out from here.
    Unknown,
}

impl Finding {
    pub(super) fn ok(name: &'static str, found: impl Into<String>) -> Self {
        Self { name, state: State::Ok, found: found.into(), fix: None }
    }

    pub(super) fn missing(
        name: &'static str,
        found: impl Into<String>,
        fix: impl Into<String>,
    ) -> Self {
        Self::judge(name, found, false, State::Missing, fix)
    }

    pub(super) fn advice(
        name: &'static str,
        found: impl Into<String>,
        fix: impl Into<String>,
    ) -> Self {
        Self::judge(name, found, false, State::Advice, fix)
    }

    /// Fine if `is_fine`, and otherwise `or`, with the command that fixes it.
    pub(super) fn judge(
        name: &'static str,
        found: impl Into<String>,
        is_fine: bool,
        or: State,
        fix: impl Into<String>,
    ) -> Self {
        let (state, fix) = if is_fine { (State::Ok, None) } else { (or, Some(fix.into())) };
        Self { name, state, found: found.into(), fix }
    }

    pub(super) fn unknown(name: &'static str, found: impl Into<String>) -> Self {
        Self { name, state: State::Unknown, found: found.into(), fix: None }
    }

    /// For people, in colours that the stream drops where they are not seen.
    pub(super) fn text(&self) -> String {
        let (word, color) = match self.state {
            State::Ok => ("ok", AnsiColor::Green),
            State::Missing => ("MISSING", AnsiColor::Red),
            State::Advice => ("advice", AnsiColor::Yellow),
            State::Unknown => ("?", AnsiColor::Cyan),
        };
        let style = Style::new().fg_color(Some(color.into()));
        let mut text = format!("{style}{word:<8}{style:#} {:<16} {}", self.name, self.found);
        for line in self.fix.iter().flat_map(|fix| fix.lines()) {
            text.push_str(&format!("\n{:25} → {line}", ""));
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn for_people_and_for_programs() {
        let finding = Finding::missing("memory", "1 GiB free", "stackctl up --claude 1");
        insta::assert_snapshot!(anstream::adapter::strip_str(&finding.text()), @r"
        MISSING  memory           1 GiB free
                                  → stackctl up --claude 1
        ");
        insta::assert_snapshot!(serde_json::to_string(&finding).unwrap(),
            @r#"{"name":"memory","state":"missing","found":"1 GiB free","fix":"stackctl up --claude 1"}"#);
        let fine = serde_json::to_string(&Finding::ok("memory", "x")).unwrap();
        assert_eq!(fine, r#"{"name":"memory","state":"ok","found":"x"}"#);
    }
}
