//! An LFS server beside a repository: the part of the batch API that downloads and uploads need, and the files.
//! <https://github.com/git-lfs/git-lfs/blob/main/docs/api/batch.md>

use std::collections::HashMap;

use bytes::Bytes;
use http::{HeaderMap, Response, StatusCode, header};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

use crate::host::{Body, respond};

/// The prefix of LFS requests after the path of the repository.
pub(crate) const PATH: &str = "/info/lfs/";

const JSON: &str = "application/vnd.git-lfs+json";

/// The files of one repository.
#[derive(Clone, Debug, Default)]
pub(crate) struct LfsFiles {
    pub(crate) contents: HashMap<String, Bytes>,
    /// The URL that batch answers give as the place of the files, if it is not this server.
    pub(crate) elsewhere: Option<String>,
    /// Whether it refuses uploads, as one whose quota is used up.
    pub(crate) is_full: bool,
}

/// Whether `content` may be stored as `id`.
pub(crate) fn is_object(id: &str, content: &[u8]) -> bool {
    let digest = Sha256::digest(content);
    id == digest.iter().map(|byte| format!("{byte:02x}")).collect::<String>()
}

impl LfsFiles {
    /// Answers a request for `suffix` of the repository `name`.
    pub(crate) fn answer(
        &self,
        (name, suffix): (&str, &str),
        headers: &HeaderMap,
        body: &[u8],
    ) -> Response<Body> {
        if suffix == "/info/lfs/objects/batch" {
            return self.batch(name, headers, body);
        }
        let id = suffix.rsplit('/').next().unwrap_or_default();
        match self.contents.get(id) {
            Some(content) => respond(StatusCode::OK, "application/octet-stream", content.clone()),
            None => respond(StatusCode::NOT_FOUND, JSON, r#"{"message": "no such file"}"#),
        }
    }

    fn batch(&self, name: &str, headers: &HeaderMap, body: &[u8]) -> Response<Body> {
        let text = |name| headers.get(name).and_then(|value| value.to_str().ok());
        let base = self.elsewhere.clone().unwrap_or_else(|| {
            format!("http://{}/{name}.git/info/lfs/objects", text(header::HOST).unwrap_or_default())
        });
        let login: Value = match text(header::AUTHORIZATION) {
            Some(login) => json!({"Authorization": login}),
            None => json!({}),
        };
        let request: Value = serde_json::from_slice(body).unwrap_or_default();
        let uploads = request["operation"] == "upload";
        if uploads && self.is_full {
            let text = r#"{"message": "This repository is over its data quota."}"#;
            return respond(StatusCode::FORBIDDEN, JSON, text);
        }
        let objects = request["objects"].as_array().cloned().unwrap_or_default();
        let answers: Vec<Value> = objects
            .iter()
            .map(|object| {
                let (id, size) = (&object["oid"], &object["size"]);
                let href = format!("{base}/{}", id.as_str().unwrap_or_default());
                let mut answer = json!({"oid": id, "size": size, "authenticated": true});
                let action = json!({"href": href, "header": login});
                let is_here = self.contents.contains_key(id.as_str().unwrap_or_default());
                match (uploads, is_here) {
                    // What is there already needs nothing to be done.
                    (true, true) => {}
                    (true, false) => answer["actions"] = json!({"upload": action}),
                    (false, _) => answer["actions"] = json!({"download": action}),
                }
                answer
            })
            .collect();
        let answer = json!({"transfer": "basic", "objects": answers});
        respond(StatusCode::OK, JSON, answer.to_string())
    }
}
