//! What a job has changed, as text for a person.

use anstyle::{AnsiColor, Style};
use contract::{Changes, FileChange, FileStatus};
use transcript::{one_line, visible};

/// The longest bar, in characters.
const BAR: u64 = 40;
/// The longest path that is shown, in characters.
const LONGEST_PATH: usize = 60;

/// A line for each file, at most `most` of them, and the sums. With colours, which the output stream removes where they are
/// not wanted. Ends with a line feed.
pub(super) fn diffstat(changes: &Changes, most: usize) -> String {
    let shown: Vec<(String, &FileChange)> =
        changes.files.iter().take(most).map(|file| (name(file), file)).collect();
    let width = shown.iter().map(|(name, _)| name.chars().count()).max().unwrap_or(0);
    let largest = shown.iter().map(|(_, file)| file.additions + file.deletions).max().unwrap_or(0);
    let (green, red) = (AnsiColor::Green.on_default(), AnsiColor::Red.on_default());
    let mut text = String::new();
    for (name, file) in &shown {
        let lines = file.additions + file.deletions;
        let count = if file.binary { "Bin".to_owned() } else { lines.to_string() };
        let scale = |lines: u64| match largest {
            0..=BAR => lines,
            // Nothing that changed is shown as nothing.
            _ => (lines * BAR / largest).max(u64::from(lines > 0)),
        };
        let bar = |sign: &str, lines: u64| sign.repeat(usize::try_from(scale(lines)).unwrap_or(0));
        let (added, removed) = (bar("+", file.additions), bar("-", file.deletions));
        let fill = " ".repeat(width - name.chars().count());
        text.push_str(&format!(" {name}{fill} | {count:>5}"));
        if lines > 0 {
            text.push_str(&format!(" {green}{added}{green:#}{red}{removed}{red:#}"));
        }
        text.push('\n');
    }
    if changes.files.len() > shown.len() {
        text.push_str(&format!(" … and {} more\n", changes.files.len() - shown.len()));
    }
    text.push_str(&sums(changes));
    for it in changes.skipped.iter().take(most) {
        let path = one_line(&visible(it.path.as_bytes()), 200);
        text.push_str(&format!(" not in it: {path} ({})\n", it.reason.words()));
    }
    if changes.skipped.len() > most {
        text.push_str(&format!(" not in it: {} more\n", changes.skipped.len() - most));
    }
    if changes.truncated {
        text.push_str(" It is too large to be shown as a whole: look at the checkout itself.\n");
    }
    text
}

fn sums(changes: &Changes) -> String {
    let count =
        |number: u64, one: &str| format!("{number} {one}{}", if number == 1 { "" } else { "s" });
    match changes.files.len() {
        0 => " No file was changed.\n".to_owned(),
        files => format!(
            " {} changed, {}(+), {}(-)\n",
            count(files as u64, "file"),
            count(changes.additions, "insertion"),
            count(changes.deletions, "deletion")
        ),
    }
}

fn name(file: &FileChange) -> String {
    let shown = |path: &str| one_line(&visible(path.as_bytes()), LONGEST_PATH);
    let path = shown(&file.path);
    let mut name = match (&file.from, file.status) {
        (Some(from), _) => format!("{} => {path}", shown(from)),
        (None, FileStatus::Added) => format!("{path} (new)"),
        (None, FileStatus::Deleted) => format!("{path} (gone)"),
        (None, _) => path,
    };
    let marks = [(file.lfs, " (in LFS)"), (file.hidden, " (hidden characters)")];
    name.extend(marks.iter().filter(|(is_marked, _)| *is_marked).map(|(_, mark)| *mark));
    name
}

/// A patch for a terminal: coloured, and with what a terminal would interpret or hide made visible.
pub(super) fn coloured(patch: &[u8]) -> String {
    let mut out = String::with_capacity(patch.len() + patch.len() / 8);
    // Before the first part of a file, its lines begin as content does.
    let mut is_head = true;
    for line in patch.split_inclusive(|byte| *byte == b'\n') {
        let style = match line {
            // No line of a content begins like this.
            _ if line.starts_with(b"diff --git ") => {
                is_head = true;
                Style::new().bold()
            }
            [b'@', b'@', ..] | b"GIT binary patch\n" => {
                is_head = false;
                AnsiColor::Cyan.on_default()
            }
            _ if is_head => Style::new().bold(),
            [b'+', ..] => AnsiColor::Green.on_default(),
            [b'-', ..] => AnsiColor::Red.on_default(),
            _ => Style::new(),
        };
        let line = visible(line.strip_suffix(b"\n").unwrap_or(line));
        out.push_str(&format!("{style}{line}{style:#}\n"));
    }
    out
}

#[cfg(test)]
mod tests {
    use contract::{SkipReason, SkippedFile};

    use super::*;

    fn file(path: &str, status: FileStatus, additions: u64, deletions: u64) -> FileChange {
        let (path, binary) = (path.to_owned(), false);
        let (encoded_path, from, lfs, hidden) = (None, None, false, false);
        FileChange { path, encoded_path, from, status, additions, deletions, binary, lfs, hidden }
    }

    #[test]
    fn a_line_for_each_file_and_the_sums() {
        let renamed = FileChange {
            from: Some("old".into()),
            ..file("new\x1b[31m", FileStatus::Renamed, 1, 0)
        };
        let binary = FileChange { binary: true, ..file("b", FileStatus::Modified, 0, 0) };
        let skipped = vec![SkippedFile { path: "pipe".into(), reason: SkipReason::Special }];
        let files = vec![
            file("a/long/name", FileStatus::Modified, 100, 1),
            binary,
            renamed,
            FileChange { hidden: true, lfs: true, ..file("z", FileStatus::Added, 1, 0) },
        ];
        let changes =
            Changes { files, additions: 102, deletions: 1, skipped, ..Changes::default() };
        let plain = |most| anstream::adapter::strip_str(&diffstat(&changes, most)).to_string();
        insta::assert_snapshot!(plain(10), @r"
         a/long/name                          |   101 +++++++++++++++++++++++++++++++++++++++-
         b                                    |   Bin
         old => new^[[31m                     |     1 +
         z (new) (in LFS) (hidden characters) |     1 +
         4 files changed, 102 insertions(+), 1 deletion(-)
         not in it: pipe (a pipe, a socket or a device)
        ");
        assert!(plain(1).contains("\n … and 3 more\n"));
        assert_eq!(diffstat(&Changes::default(), 1), " No file was changed.\n");
    }

    #[test]
    fn a_patch_neither_commands_the_terminal_nor_hides_from_it() {
        let patch = b"diff --git a/x b/x\n--- a/x\n+++ b/x\n@@ -1 +1,2 @@\n+\x1b[2Jred\xff\r\n-a\xe2\x80\xa8+b\n+++ b/y\n";
        let shown = coloured(patch);
        let plain = anstream::adapter::strip_str(&shown).to_string();
        assert_eq!(
            plain,
            "diff --git a/x b/x\n--- a/x\n+++ b/x\n@@ -1 +1,2 @@\n+^[[2Jred<FF>^M\n-a<U+2028>+b\n+++ b/y\n"
        );
        // A line of the file is no head.
        let (bold, green) = (Style::new().bold(), AnsiColor::Green.on_default());
        assert!(shown.contains(&format!("{bold}+++ b/x")), "{shown:?}");
        assert!(shown.contains(&format!("{green}+++ b/y")), "{shown:?}");
    }
}
