//! What an agent changed, as `git diff` would show it.

use std::path::Path;

use anstyle::{AnsiColor, Style};
use git2::{DiffFormat, DiffOptions, Repository};
use transcript::visible;

/// How many lines are shown at most.
const MOST: usize = 200;

/// The difference between the branch of the bare repository `sample` and the files of `checkout`, a line each, with
/// colours that the output stream removes where they are not wanted.
///
/// The checkout's own `.git` is not read: the agent may have written it.
pub(super) fn diff(sample: &Path, checkout: &Path) -> Result<Vec<String>, git2::Error> {
    let repository = Repository::open_bare(sample)?;
    repository.set_workdir(checkout, false)?;
    let before = repository.head()?.peel_to_tree()?;
    let mut options = DiffOptions::new();
    options.include_untracked(true).recurse_untracked_dirs(true).show_untracked_content(true);
    let diff = repository.diff_tree_to_workdir(Some(&before), Some(&mut options))?;
    let mut lines = Vec::new();
    diff.print(DiffFormat::Patch, |_, _, line| {
        let sign = line.origin();
        let text = String::from_utf8_lossy(line.content());
        for part in text.lines() {
            lines.push(styled(sign, part));
        }
        lines.len() <= MOST
    })
    // It is not an error that we stopped it.
    .or_else(|error| if lines.len() > MOST { Ok(()) } else { Err(error) })?;
    if lines.len() > MOST {
        lines.truncate(MOST);
        lines.push("…".to_owned());
    }
    Ok(lines)
}

fn styled(sign: char, text: &str) -> String {
    let style = match sign {
        '+' => AnsiColor::Green.on_default(),
        '-' => AnsiColor::Red.on_default(),
        'H' => AnsiColor::Cyan.on_default(),
        'F' => Style::new().bold(),
        _ => Style::new(),
    };
    let sign = if matches!(sign, '+' | '-' | ' ') { sign.to_string() } else { String::new() };
    let text = visible(text.as_bytes());
    format!("{style}{sign}{text}{style:#}")
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::{super::sample, *};

    fn plain(lines: &[String]) -> String {
        anstream::adapter::strip_str(&lines.join("\n")).to_string()
    }

    #[test]
    fn changed_new_and_removed_files() {
        let root = tempfile::tempdir().unwrap();
        let (served, checkout) = (root.path().join("served"), root.path().join("checkout"));
        sample::create(&served).unwrap();
        Repository::clone(served.to_str().unwrap(), &checkout).unwrap();
        assert_eq!(diff(&served, &checkout).unwrap(), [""; 0]);
        fs::write(checkout.join("LICENSE"), "Do not.\n").unwrap();
        fs::write(checkout.join("NEW.md"), "new\x1b[2J\n").unwrap();
        fs::remove_file(checkout.join("tests/test_tea.py")).unwrap();
        insta::assert_snapshot!(plain(&diff(&served, &checkout).unwrap()), @r#"
        diff --git a/LICENSE b/LICENSE
        index dcdcd05..6bf5c88 100644
        --- a/LICENSE
        +++ b/LICENSE
        @@ -1 +1 @@
        -Do with it whatever you like.
        +Do not.
        diff --git a/NEW.md b/NEW.md
        new file mode 100644
        index 0000000..25ef569
        --- /dev/null
        +++ b/NEW.md
        @@ -0,0 +1 @@
        +new^[[2J
        diff --git a/tests/test_tea.py b/tests/test_tea.py
        deleted file mode 100644
        index fdbddc9..0000000
        --- a/tests/test_tea.py
        +++ /dev/null
        @@ -1,5 +0,0 @@
        -from tea import minutes
        -
        -
        -def test_green_is_quick():
        -    assert minutes("green") == 2
        "#);
        // The agent may have written the configuration.
        fs::write(checkout.join(".git/config"), "[core]\n\tworktree = /etc\n").unwrap();
        assert_eq!(diff(&served, &checkout).unwrap().len(), 25);
    }

    #[test]
    fn a_long_one_is_cut() {
        let root = tempfile::tempdir().unwrap();
        let (served, checkout) = (root.path().join("served"), root.path().join("checkout"));
        sample::create(&served).unwrap();
        Repository::clone(served.to_str().unwrap(), &checkout).unwrap();
        fs::write(checkout.join("long"), "x\n".repeat(1000)).unwrap();
        let lines = diff(&served, &checkout).unwrap();
        assert_eq!((lines.len(), lines.last().unwrap().as_str()), (MOST + 1, "…"));
    }
}
