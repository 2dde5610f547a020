//! GitHub, and GitHub Enterprise: <https://docs.github.com/rest/pulls/pulls>.

use ::http::{Method, StatusCode};
use serde_json::json;

use super::{Open, Pull, Wanted, escaped, http::Api, signed};
use crate::{app::HEADERS, failure::Result};

/// Opens the pull request, or updates the one that is open for the same branches.
pub(super) async fn open(
    api: &Api<'_>,
    owner: &str,
    repository: &str,
    wanted: &Wanted<'_>,
) -> Result<String> {
    let pulls = format!("/repos/{}/{}/pulls", escaped(owner), escaped(repository));
    if let Some(pull) = find(api, &pulls, owner, wanted).await? {
        let Some(body) = pull.new_body(wanted) else { return Ok(pull.url) };
        let path = format!("{pulls}/{}", pull.number);
        let answer = api.ask(Method::PATCH, &path, &HEADERS, Some(&json!({"body": body}))).await?;
        return answer.read::<Pull>(&[StatusCode::OK]).map(|pull| pull.html_url);
    }
    let body = signed(wanted.body);
    let mut draft = wanted.draft;
    loop {
        let text = json!({
            "title": wanted.title, "head": wanted.head, "base": wanted.base, "body": body, "draft": draft,
        });
        let answer = api.ask(Method::POST, &pulls, &HEADERS, Some(&text)).await?;
        if answer.status == StatusCode::UNPROCESSABLE_ENTITY {
            // Some plans have no drafts for private repositories.
            if draft && answer.says("raft pull requests are not supported") {
                draft = false;
                continue;
            }
            // Somebody else was faster.
            if answer.says("pull request already exists")
                && let Some(pull) = find(api, &pulls, owner, wanted).await?
            {
                return Ok(pull.url);
            }
        }
        return answer.read::<Pull>(&[StatusCode::CREATED]).map(|pull| pull.html_url);
    }
}

/// The pull request that is open for the same branches.
async fn find(
    api: &Api<'_>,
    pulls: &str,
    owner: &str,
    wanted: &Wanted<'_>,
) -> Result<Option<Open>> {
    let head = escaped(&format!("{owner}:{}", wanted.head));
    let path = format!("{pulls}?state=open&head={head}&base={}", escaped(wanted.base));
    let answer = api.ask(Method::GET, &path, &HEADERS, None).await?;
    // Not all servers filter as they are asked to.
    let pulls = answer.read::<Vec<Pull>>(&[StatusCode::OK])?;
    Ok(pulls.into_iter().find(|it| it.is_for(wanted)).map(Open::from))
}
