//! A logged line: chosen and printed. Pure.

use std::collections::BTreeSet;

use contract::{JobId, Timestamp};
use supervisor::Part;
use swarm::LogLine;
use transcript::clean;

/// Which lines are shown.
#[derive(Clone, Debug, Default)]
pub(super) struct Filter {
    /// Only lines about these jobs, or all lines.
    pub(super) jobs: Option<BTreeSet<JobId>>,
    pub(super) since: Option<Timestamp>,
}

impl Filter {
    pub(super) fn takes(&self, line: &LogLine) -> bool {
        let about =
            self.jobs.as_ref().is_none_or(|jobs| ids(&line.text).any(|id| jobs.contains(&id)));
        let young = match (self.since, line.at) {
            (Some(since), Some(at)) => at >= since,
            _ => true,
        };
        about && young
    }
}

/// The IDs in a line, in whatever format it was logged: what looks like an ID is one.
fn ids(text: &str) -> impl Iterator<Item = JobId> {
    let is_part = |c: char| c.is_ascii_hexdigit() || c == '-';
    text.split(move |c| !is_part(c))
        .filter(|word| word.len() == 36)
        .filter_map(|word| word.parse().ok())
}

/// The line as it is printed, with the replica before it.
pub(super) fn styled(line: &LogLine) -> String {
    let style = Part::from_name(&line.service).map(Part::style).unwrap_or_default();
    let label = format!("{}.{}", line.service, line.slot);
    // A log may quote what an agent or a git host has said.
    let text = clean(&line.text).replace('\n', " ");
    format!("{style}{label:<18}{style:#}| {text}")
}

#[cfg(test)]
mod tests {
    use super::*;

    const JOB: &str = "019aa001-0000-7000-8000-0123456789ab";
    const OTHER: &str = "019aa001-0000-7000-8000-0123456789ac";

    fn line(text: &str) -> LogLine {
        let at = Some(Timestamp::from_millisecond(5000));
        LogLine { service: "workflow-api".into(), slot: 2, at, text: text.into() }
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
        let text = styled(&line("\x1b[2Jgone\r\x07"));
        assert_eq!(anstream::adapter::strip_str(&text).to_string(), "workflow-api.2    | gone");
        assert!(!text.contains("\x1b[2J") && !text.contains('\r'), "{text:?}");
    }
}
