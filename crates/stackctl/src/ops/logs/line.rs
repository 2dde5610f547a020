//! A logged line: read, chosen, drawn. Pure.

use std::collections::BTreeSet;

use contract::{JobId, Timestamp};
use supervisor::Part;

use crate::client::clean;

/// One line of one replica.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Line {
    pub(super) part: String,
    pub(super) slot: u64,
    /// When it was logged, as far as anyone knows.
    pub(super) at: Option<Timestamp>,
    pub(super) text: String,
}

/// What the engine sends when it is asked for timestamps: `<time> <text>`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Raw<'a> {
    /// To the nanosecond and of one length, so that it can be compared as text.
    pub(super) stamp: &'a str,
    pub(super) at: Option<Timestamp>,
    pub(super) text: &'a str,
}

/// Takes it apart. What is not as expected is shown rather than lost.
pub(super) fn parse(line: &str) -> Raw<'_> {
    let (stamp, text) = line.split_once(' ').unwrap_or((line, ""));
    match crate::ops::ps::swarm::time(Some(stamp)) {
        Some(at) => Raw { stamp, at: Some(at), text },
        None => Raw { stamp: "", at: None, text: line },
    }
}

/// Which lines are shown.
#[derive(Clone, Debug, Default)]
pub(super) struct Filter {
    /// Only about these; none: all.
    pub(super) jobs: Option<BTreeSet<JobId>>,
    pub(super) since: Option<Timestamp>,
}

impl Filter {
    pub(super) fn takes(&self, line: &Line) -> bool {
        let about =
            self.jobs.as_ref().is_none_or(|jobs| ids(&line.text).any(|id| jobs.contains(&id)));
        let young = match (self.since, line.at) {
            (Some(since), Some(at)) => at >= since,
            _ => true,
        };
        about && young
    }
}

/// The ids in a line, in whatever format it was logged: what looks like one is one.
fn ids(text: &str) -> impl Iterator<Item = JobId> {
    let is_part = |c: char| c.is_ascii_hexdigit() || c == '-';
    text.split(move |c| !is_part(c))
        .filter(|word| word.len() == 36)
        .filter_map(|word| word.parse().ok())
}

/// The line as it is printed, with the replica before it.
pub(super) fn draw(line: &Line) -> String {
    let style = Part::from_name(&line.part).map(Part::style).unwrap_or_default();
    let label = format!("{}.{}", line.part, line.slot);
    // A log may quote what an agent or a git host has said.
    let text = clean(&line.text).replace('\n', " ");
    format!("{style}{label:<18}{style:#}| {text}")
}

#[cfg(test)]
mod tests {
    use super::*;

    const JOB: &str = "019aa001-0000-7000-8000-0123456789ab";
    const OTHER: &str = "019aa001-0000-7000-8000-0123456789ac";

    #[test]
    fn what_the_engine_sends() {
        let raw = parse("2026-11-21T12:00:00.123456789Z a text  with spaces");
        assert_eq!(
            (raw.stamp, raw.text),
            ("2026-11-21T12:00:00.123456789Z", "a text  with spaces")
        );
        assert_eq!(raw.at.unwrap().to_string(), "2026-11-21T12:00:00.123Z");
        assert_eq!(parse("2026-11-21T12:00:00Z").text, "");
        for odd in ["", "x", "no time here at all"] {
            assert_eq!(parse(odd), Raw { stamp: "", at: None, text: odd });
        }
    }

    fn line(text: &str) -> Line {
        let at = Some(Timestamp::from_millisecond(5000));
        Line { part: "workflow-api".into(), slot: 2, at, text: text.into() }
    }

    #[test]
    fn lines_about_a_job() {
        let jobs = Some(BTreeSet::from([JOB.parse().unwrap()]));
        let filter = Filter { jobs, since: None };
        for (text, taken) in [
            (format!("INFO begins service=workflow-api job={JOB}"), true),
            (format!("INFO begins job={OTHER}"), false),
            (format!("{{\"level\":\"INFO\",\"job\":\"{JOB}\"}}"), true),
            (format!("child={JOB}, broke off"), true),
            (format!("path=/workspace/jobs/{JOB}/app"), true),
            (format!("job={JOB}0"), false),
            (JOB[1..].to_owned(), false),
            (String::new(), false),
        ] {
            assert_eq!(filter.takes(&line(&text)), taken, "{text}");
        }
        assert!(Filter::default().takes(&line("anything")));
    }

    #[test]
    fn lines_of_a_time() {
        let since = |ms| Filter { jobs: None, since: Some(Timestamp::from_millisecond(ms)) };
        assert!(since(5000).takes(&line("x")));
        assert!(!since(5001).takes(&line("x")));
    }

    #[test]
    fn a_terminal_obeys_none_of_it() {
        let drawn = draw(&line("\x1b[2Jgone\r\x07"));
        assert_eq!(anstream::adapter::strip_str(&drawn).to_string(), "workflow-api.2    | gone");
        assert!(!drawn.contains("\x1b[2J") && !drawn.contains('\r'), "{drawn:?}");
    }
}
