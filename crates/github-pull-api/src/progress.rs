//! git's standard error: lines of progress, and everything else.

use crate::{
    git::Work,
    report::{Progress, Reporter, Stage},
};

/// How much of what is no progress is kept: the end, where git says why it failed.
const MOST_KEPT: usize = 16 * 1024;
/// The longest line of progress.
const LONGEST_LINE: usize = 4096;

/// Takes git's standard error apart as it comes.
pub(crate) struct Lines<'a> {
    reporter: &'a Reporter,
    line: Vec<u8>,
    kept: Vec<u8>,
}

impl<'a> Lines<'a> {
    pub(crate) fn new(reporter: &'a Reporter) -> Self {
        Self { reporter, line: Vec::new(), kept: Vec::new() }
    }

    /// Takes what has come, and says whose work it shows.
    pub(crate) fn push(&mut self, bytes: &[u8]) -> Work {
        let mut work = Work::Host;
        for &byte in bytes {
            match byte {
                b'\r' | b'\n' => work = self.end_line(),
                _ if self.line.len() < LONGEST_LINE => self.line.push(byte),
                _ => {}
            }
        }
        work
    }

    /// What was no progress, lossily.
    pub(crate) fn finish(&mut self) -> String {
        self.end_line();
        String::from_utf8_lossy(&self.kept).into_owned()
    }

    fn end_line(&mut self) -> Work {
        let line = std::mem::take(&mut self.line);
        let text = String::from_utf8_lossy(&line);
        let Some((progress, work)) = parse(&text) else {
            if !line.is_empty() && !text.starts_with("remote: Counting") {
                self.kept.extend_from_slice(&line);
                self.kept.push(b'\n');
                let surplus = self.kept.len().saturating_sub(MOST_KEPT);
                self.kept.drain(..surplus);
            }
            return Work::Host;
        };
        if let Some(progress) = progress {
            self.reporter.progress(progress);
        }
        work
    }
}

/// Reads a line of progress; `None` if it is none. `Receiving objects:  45% (9/20), 1.20 MiB | 2.00 MiB/s`
fn parse(line: &str) -> Option<(Option<Progress>, Work)> {
    let (title, rest) = line.split_once(':')?;
    if title == "remote" {
        let is_progress = rest.contains("% (") || rest.trim_start().starts_with("Enumerating");
        return is_progress.then_some((None, Work::Host));
    }
    let rest = rest.trim_start();
    let counts = rest.split_once('(').and_then(|(_, rest)| rest.split_once(')'));
    let Some((counts, after)) = counts.filter(|_| rest.contains("% (")) else {
        // A count without a total: `Checking connectivity: 1234, done.`
        let is_count = rest.starts_with(|c: char| c.is_ascii_digit());
        return (is_count && title.contains(' ')).then_some((None, Work::Local));
    };
    let (received, total) = counts.split_once('/')?;
    let (received, total): (usize, usize) = (received.parse().ok()?, total.parse().ok()?);
    let bytes = after.strip_prefix(", ").and_then(parse_size).unwrap_or_default();
    let stage = match title {
        "Receiving objects" | "Unpacking objects" | "Downloading LFS objects" => Stage::Receiving,
        "Resolving deltas" => Stage::Resolving,
        "Updating files" => Stage::Checkout,
        _ => return Some((None, Work::Local)),
    };
    let is_waiting = stage == Stage::Receiving && received < total;
    let work = if is_waiting { Work::Host } else { Work::Local };
    Some((Some(Progress { stage, received, total, bytes }), work))
}

/// The size at the beginning of `1.20 MiB | 2.00 MiB/s`, in bytes.
fn parse_size(text: &str) -> Option<usize> {
    let mut words = text.split_whitespace();
    let (number, unit) = (words.next()?, words.next()?);
    // git counts in powers of 1024, git-lfs in powers of 1000.
    let unit: usize = match unit.trim_end_matches(',') {
        "bytes" | "byte" | "B" => 1,
        "KB" => 1000,
        "MB" => 1_000_000,
        "GB" => 1_000_000_000,
        "KiB" => 1 << 10,
        "MiB" => 1 << 20,
        "GiB" => 1 << 30,
        _ => return None,
    };
    // Two digits at most follow the point.
    let (whole, part) = number.split_once('.').unwrap_or((number, "0"));
    let tenths = if part.len() == 1 { 10 } else { 1 };
    let (whole, part): (usize, usize) = (whole.parse().ok()?, part.parse().ok()?);
    let part = part.checked_mul(tenths)?.checked_mul(unit)? / 100;
    whole.checked_mul(unit)?.checked_add(part)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_of_progress() {
        let progress =
            |stage, received, total, bytes| Some(Progress { stage, received, total, bytes });
        for (line, expected) in [
            (
                "Receiving objects:  45% (9/20), 1.50 MiB | 2.00 MiB/s",
                Some((progress(Stage::Receiving, 9, 20, 3 << 19), Work::Host)),
            ),
            (
                "Receiving objects: 100% (20/20), 245 bytes | 245.00 KiB/s, done.",
                Some((progress(Stage::Receiving, 20, 20, 245), Work::Local)),
            ),
            (
                "Resolving deltas:  50% (1/2)",
                Some((progress(Stage::Resolving, 1, 2, 0), Work::Local)),
            ),
            (
                "Updating files: 100% (3/3), done.",
                Some((progress(Stage::Checkout, 3, 3, 0), Work::Local)),
            ),
            (
                "Downloading LFS objects:  50% (1/2), 1.5 MB | 120 KB/s",
                Some((progress(Stage::Receiving, 1, 2, 1_500_000), Work::Host)),
            ),
            ("remote: Compressing objects:   3% (1/30)", Some((None, Work::Host))),
            ("remote: Enumerating objects: 32, done.", Some((None, Work::Host))),
            ("Checking connectivity: 120, done.", Some((None, Work::Local))),
            ("remote: Repository not found.", None),
            ("fatal: repository 'http://127.0.0.1:81/x/' not found", None),
            ("error: RPC failed; HTTP 500", None),
            ("ssh: connect to host x port 22: Connection refused", None),
            ("\ta: 50% of it", None),
        ] {
            assert_eq!(parse(line), expected, "{line}");
        }
    }

    #[test]
    fn what_is_no_progress_is_kept_to_its_end() {
        let reporter = Reporter::default();
        let mut lines = Lines::new(&reporter);
        lines.push(b"Updating files:  50% (1/2)\rUpdating files: 100% (2/2), done.\nfatal: a");
        lines.push("x".repeat(10_000).as_bytes());
        lines.push(b"\n");
        let kept = lines.finish();
        assert!(kept.starts_with("fatal: ax") && kept.len() < 5000, "{kept}");
        for number in 0..10_000 {
            lines.push(format!("error: {number}\n").as_bytes());
        }
        let kept = lines.finish();
        assert!(kept.ends_with("error: 9999\n") && kept.len() <= MOST_KEPT, "{kept}");
    }
}
