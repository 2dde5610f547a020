//! Gitea and Forgejo: <https://docs.gitea.com/api/>, <https://codeberg.org/api/swagger>.

use ::http::{Method, StatusCode};
use serde_json::json;

use super::{Open, Pull, Wanted, escaped, http::Api, signed};
use crate::failure::Result;

const HEADERS: [(&str, &str); 1] = [("accept", "application/json")];

/// Opens the pull request, or updates the one that is open for the same branches.
pub(super) async fn open(
    api: &Api<'_>,
    owner: &str,
    repository: &str,
    wanted: &Wanted<'_>,
) -> Result<String> {
    let pulls = format!("/repos/{}/{}/pulls", escaped(owner), escaped(repository));
    // A draft is a title with this prefix.
    let prefix = if wanted.draft { "WIP: " } else { "" };
    let title = format!("{prefix}{}", wanted.title);
    if let Some(pull) = find(api, &pulls, wanted).await? {
        let Some(body) = pull.new_body(wanted) else { return Ok(pull.url) };
        let path = format!("{pulls}/{}", pull.number);
        let answer = api.ask(Method::PATCH, &path, &HEADERS, Some(&json!({"body": body}))).await?;
        let ok = [StatusCode::OK, StatusCode::CREATED];
        return answer.read::<Pull>(&ok).map(|pull| pull.html_url);
    }
    let body = signed(wanted.body);
    let text = json!({"title": title, "head": wanted.head, "base": wanted.base, "body": body});
    let answer = api.ask(Method::POST, &pulls, &HEADERS, Some(&text)).await?;
    // Somebody else was faster.
    if answer.status == StatusCode::CONFLICT
        && let Some(pull) = find(api, &pulls, wanted).await?
    {
        return Ok(pull.url);
    }
    answer.read::<Pull>(&[StatusCode::CREATED]).map(|pull| pull.html_url)
}

/// The pull request that is open for the same branches.
async fn find(api: &Api<'_>, pulls: &str, wanted: &Wanted<'_>) -> Result<Option<Open>> {
    let path = format!("{pulls}/{}/{}", escaped(wanted.base), escaped(wanted.head));
    let answer = api.ask(Method::GET, &path, &HEADERS, None).await?;
    if answer.status == StatusCode::NOT_FOUND {
        return Ok(None);
    }
    let pull: Pull = answer.read(&[StatusCode::OK])?;
    Ok((pull.state == "open" && pull.is_for(wanted)).then(|| pull.into()))
}
