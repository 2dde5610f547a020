//! GitLab: merge requests by push options, and by its API.
//!
//! <https://docs.gitlab.com/topics/git/commit/#push-options-for-merge-requests>,
//! <https://docs.gitlab.com/api/merge_requests/>

use ::http::{Method, StatusCode};
use serde::Deserialize;
use serde_json::json;

use super::{Open, Wanted, escaped, http::Api, signed};
use crate::failure::Result;

const HEADERS: [(&str, &str); 1] = [("accept", "application/json")];
/// The longest description, in bytes: an option has to fit into one packet of git's protocol.
const LONGEST: usize = 30_000;
/// A line break in an option, which has none. The description is Markdown, which takes it as a tag.
const BREAK: &str = "<br>";

/// The options of a push that opens a merge request. `text` is its title, its description and the link at its end; without it,
/// one that is open for the branch keeps what it has.
pub(super) fn push_options(
    base: &str,
    text: Option<(&str, &str, &str)>,
    draft: bool,
) -> Vec<String> {
    let mut options =
        vec!["merge_request.create".to_owned(), format!("merge_request.target={base}")];
    let Some((title, body, link)) = text else { return options };
    let (body, link) = (body.replace('\n', BREAK), link.replace('\n', BREAK));
    let most = LONGEST.saturating_sub(link.len()).min(body.len());
    let end = (0..=most).rev().find(|end| body.is_char_boundary(*end)).unwrap_or_default();
    let body = body.get(..end).unwrap_or_default();
    options.push(format!("merge_request.title={title}"));
    options.push(format!("merge_request.description={body}{link}"));
    if draft {
        options.push("merge_request.draft".to_owned());
    }
    options
}

#[derive(Debug, Deserialize)]
struct Merge {
    iid: u64,
    web_url: String,
    #[serde(default)]
    description: Option<String>,
    source_branch: String,
    target_branch: String,
}

/// Opens the merge request of the project at `path`, or updates the one that is open for the same branches.
pub(super) async fn open(api: &Api<'_>, path: &str, wanted: &Wanted<'_>) -> Result<String> {
    let merges = format!("/projects/{}/merge_requests", escaped(path));
    if let Some(open) = find(api, &merges, wanted).await? {
        let Some(body) = open.new_body(wanted) else { return Ok(open.url) };
        let path = format!("{merges}/{}", open.number);
        let text = json!({"description": body});
        let answer = api.ask(Method::PUT, &path, &HEADERS, Some(&text)).await?;
        return answer.read::<Merge>(&[StatusCode::OK]).map(|merge| merge.web_url);
    }
    // A draft is a title with this prefix.
    let prefix = if wanted.draft { "Draft: " } else { "" };
    let text = json!({
        "source_branch": wanted.head,
        "target_branch": wanted.base,
        "title": format!("{prefix}{}", wanted.title),
        "description": signed(wanted.body),
    });
    let answer = api.ask(Method::POST, &merges, &HEADERS, Some(&text)).await?;
    // Somebody else was faster.
    if answer.status == StatusCode::CONFLICT
        && let Some(open) = find(api, &merges, wanted).await?
    {
        return Ok(open.url);
    }
    answer.read::<Merge>(&[StatusCode::CREATED]).map(|merge| merge.web_url)
}

/// The merge request that is open for the same branches.
async fn find(api: &Api<'_>, merges: &str, wanted: &Wanted<'_>) -> Result<Option<Open>> {
    let (head, base) = (escaped(wanted.head), escaped(wanted.base));
    let path = format!("{merges}?state=opened&source_branch={head}&target_branch={base}");
    let answer = api.ask(Method::GET, &path, &HEADERS, None).await?;
    let is_it = |it: &Merge| it.source_branch == wanted.head && it.target_branch == wanted.base;
    let found = answer.read::<Vec<Merge>>(&[StatusCode::OK])?.into_iter().find(is_it);
    let open = |it: Merge| Open {
        number: it.iid,
        url: it.web_url,
        body: it.description.unwrap_or_default(),
    };
    Ok(found.map(open))
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
        let link = "\n\n---\nJob 1";
        assert_eq!(
            push_options("main", Some(("Fix it", "Why\n\nso", link)), true),
            [
                "merge_request.create",
                "merge_request.target=main",
                "merge_request.title=Fix it",
                "merge_request.description=Why<br><br>so<br><br>---<br>Job 1",
                "merge_request.draft",
            ]
        );
        for long in ["é".repeat(LONGEST), "\n".repeat(LONGEST)] {
            let options = push_options("main", Some(("x", &long, link)), false);
            assert_eq!(options.len(), 4);
            assert!(options[3].len() <= LONGEST + 40, "{}", options[3].len());
            assert!(options[3].ends_with("Job 1"), "the link stays");
        }
        assert_eq!(push_options("main", None, true).len(), 2);
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
