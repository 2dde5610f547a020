//! GitLab: merge requests by push options.
//!
//! <https://docs.gitlab.com/topics/git/commit/#push-options-for-merge-requests>

/// The longest description, in bytes: an option has to fit into one packet of git's protocol.
const LONGEST: usize = 30_000;

/// The options of a push that opens a merge request, or updates the one that is open for the branch.
pub(super) fn push_options(base: &str, title: &str, body: &str, draft: bool) -> Vec<String> {
    let end = (0..=LONGEST.min(body.len())).rev().find(|end| body.is_char_boundary(*end));
    // An option has no line breaks; the description is Markdown, which takes them as tags.
    let description = body.get(..end.unwrap_or_default()).unwrap_or(body).replace('\n', "<br>");
    let mut options = vec![
        "merge_request.create".to_owned(),
        format!("merge_request.target={base}"),
        format!("merge_request.title={title}"),
        format!("merge_request.description={description}"),
    ];
    if draft {
        options.push("merge_request.draft".to_owned());
    }
    options
}

/// The URL of the merge request in what GitLab printed.
pub(super) fn url_in(said: &str) -> Option<String> {
    let lines = said.lines().filter_map(|line| line.strip_prefix("remote:"));
    let words = lines.flat_map(str::split_whitespace);
    let is_url = |word: &&str| {
        url::Url::parse(word).is_ok_and(|url| {
            matches!(url.scheme(), "http" | "https") && url.path().contains("/merge_requests/")
        })
    };
    // Where a new one could be made by hand is no merge request.
    words.filter(is_url).find(|word| !word.contains("/merge_requests/new")).map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options() {
        assert_eq!(
            push_options("main", "Fix it", "Why\n\nso", true),
            [
                "merge_request.create",
                "merge_request.target=main",
                "merge_request.title=Fix it",
                "merge_request.description=Why<br><br>so",
                "merge_request.draft",
            ]
        );
        let long = "é".repeat(LONGEST);
        let options = push_options("main", "x", &long, false);
        assert_eq!(options.len(), 4);
        assert!(options[3].len() <= LONGEST + 40, "{}", options[3].len());
    }

    #[test]
    fn the_url_that_it_prints() {
        let said = "remote: \nremote: View merge request for agent/x:        \n\
            remote:   https://gitlab.example.com/my/repo/-/merge_requests/1        \nremote: \n";
        assert_eq!(
            url_in(said).as_deref(),
            Some("https://gitlab.example.com/my/repo/-/merge_requests/1")
        );
        let said = "remote: To create a merge request for x, visit:\n\
            remote:   https://gitlab.example.com/my/repo/-/merge_requests/new?merge_request%5Bsource_branch%5D=x\n";
        assert_eq!(url_in(said), None);
        assert_eq!(url_in("https://h/-/merge_requests/1"), None, "git's own words");
    }
}
