//! The gateway's reads, as a client asks for them.

use std::time::Duration;

use bytes::Bytes;
use contract::{JobId, JobList, JobState, JobView, Timestamp};
use http::{Method, StatusCode};
use serde::{Deserialize, de::DeserializeOwned};
use web::{Answer, AskError, BaseUrl, ask};

use super::{draw, error::ClientError, ids, options::DEFAULT_URL};

/// How long a connection may take to be made.
const CONNECT_TIME: Duration = Duration::from_secs(5);
/// How long the gateway may take to begin its answer; it answers at once, however busy it is.
const ANSWER_TIME: Duration = Duration::from_secs(60);
/// The longest answer that is no stream.
const ANSWER_LIMIT: usize = 64 << 20;
/// The longest sentence of a refusal that is shown.
const SENTENCE: usize = 2000;
/// The longest code of a refusal.
const CODE: usize = 40;
/// The most jobs the gateway puts on a page.
const PAGE: usize = 1000;

/// A stack, by its address.
#[derive(Clone, Debug)]
pub(crate) struct Api {
    pub(crate) url: BaseUrl,
}

/// Which jobs a listing is of.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Listing {
    pub(crate) limit: Option<usize>,
    pub(crate) state: Option<JobState>,
    pub(crate) children: Children,
}

/// Whether a listing holds the jobs that workflows asked for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Children {
    /// It does.
    #[default]
    Listed,
    /// It does not.
    Omitted,
}

/// What a service says of itself.
#[derive(Clone, Copy, Debug, Deserialize)]
pub(crate) struct Status {
    pub(crate) replicas: ReplicaCounts,
    pub(crate) queue: Queue,
}

/// How many replicas there are, by what they do.
#[derive(Clone, Copy, Debug, Deserialize)]
pub(crate) struct ReplicaCounts {
    pub(crate) idle: usize,
    pub(crate) busy: usize,
}

/// What waits.
#[derive(Clone, Copy, Debug, Deserialize)]
pub(crate) struct Queue {
    pub(crate) depth: usize,
}

/// What became of a request to cancel.
#[derive(Debug)]
pub(crate) struct Cancelled {
    pub(crate) state: JobState,
    /// Whether the job had ended before.
    pub(crate) too_late: bool,
}

impl Api {
    pub(crate) fn new(url: BaseUrl) -> Self {
        Self { url }
    }

    /// A command on this stack and that job, to be copied.
    pub(crate) fn command(&self, verb: &str, job: JobId) -> String {
        let url = self.url.to_string();
        let url = if url == DEFAULT_URL { String::new() } else { format!(" --url {url}") };
        format!("{} {verb} {}{url}", super::program_name(), ids::short(job))
    }

    /// One request; the head of its answer must come in time.
    pub(crate) async fn send(
        &self,
        method: Method,
        path: &str,
        headers: &[(&'static str, String)],
        body: Bytes,
    ) -> Result<Answer, AskError> {
        let answer = ask(&self.url, method, path, headers, body, CONNECT_TIME);
        tokio::time::timeout(ANSWER_TIME, answer)
            .await
            .unwrap_or(Err(AskError::Silent(ANSWER_TIME)))
    }

    /// The jobs of a listing, newest first, from as many pages as it takes.
    pub(crate) async fn jobs(&self, listing: Listing) -> Result<Vec<JobView>, ClientError> {
        let limit = listing.limit.unwrap_or(usize::MAX);
        let mut jobs = Vec::new();
        let mut cursor = None;
        loop {
            let wanted = match listing.children {
                Children::Listed => limit.min(PAGE),
                // Most workflows have two children.
                Children::Omitted => limit.saturating_mul(3).min(PAGE),
            };
            let mut path = format!("/api/jobs?limit={wanted}");
            if let Some(state) = listing.state {
                path.push_str(&format!("&state={}", state.as_str()));
            }
            if let Some(cursor) = &cursor {
                path.push_str(&format!("&cursor={cursor}"));
            }
            let page: JobList = self.get(&path).await?.0;
            jobs.extend(
                page.jobs
                    .into_iter()
                    .filter(|job| listing.children == Children::Listed || job.parent.is_none()),
            );
            // What came from outside goes into a path only if it is an id.
            cursor = page.next.and_then(|next| next.parse::<JobId>().ok());
            if jobs.len() >= limit || cursor.is_none() {
                jobs.truncate(limit);
                return Ok(jobs);
            }
        }
    }

    /// The jobs created since, newest first, from at most so many pages; and whether those are all.
    pub(crate) async fn jobs_since(
        &self,
        since: Timestamp,
        pages: usize,
    ) -> Result<(Vec<JobView>, bool), ClientError> {
        let mut jobs: Vec<JobView> = Vec::new();
        let mut cursor: Option<JobId> = None;
        for _ in 0..pages {
            let after = cursor.map(|cursor| format!("&cursor={cursor}")).unwrap_or_default();
            let page: JobList = self.get(&format!("/api/jobs?limit={PAGE}{after}")).await?.0;
            let reached = page.jobs.last().is_none_or(|oldest| oldest.created < since);
            jobs.extend(page.jobs.into_iter().filter(|job| job.created >= since));
            cursor = page.next.and_then(|next| next.parse().ok());
            if reached || cursor.is_none() {
                return Ok((jobs, true));
            }
        }
        Ok((jobs, false))
    }

    /// What the service at this address is doing.
    pub(crate) async fn status(&self) -> Result<Status, ClientError> {
        Ok(self.get("/status").await?.0)
    }

    /// One job.
    pub(crate) async fn job(&self, id: JobId) -> Result<JobView, ClientError> {
        Ok(self.get(&format!("/api/jobs/{id}")).await?.0)
    }

    /// Asks that a job be cancelled.
    pub(crate) async fn cancel(&self, id: JobId) -> Result<Cancelled, ClientError> {
        #[derive(Deserialize)]
        struct State {
            state: JobState,
        }
        let path = format!("/api/jobs/{id}/cancel");
        let (State { state }, status) = self.exchange(Method::POST, &path).await?;
        Ok(Cancelled { state, too_late: status == StatusCode::OK })
    }

    async fn get<T: DeserializeOwned>(&self, path: &str) -> Result<(T, StatusCode), ClientError> {
        self.exchange(Method::GET, path).await
    }

    async fn exchange<T: DeserializeOwned>(
        &self,
        method: Method,
        path: &str,
    ) -> Result<(T, StatusCode), ClientError> {
        let unreachable = |cause| ClientError::Unreachable { url: self.url.clone(), cause };
        let answer = self.send(method, path, &[], Bytes::new()).await.map_err(unreachable)?;
        if !answer.status.is_success() {
            return Err(self.refusal(answer).await);
        }
        let status = answer.status;
        let whole = tokio::time::timeout(ANSWER_TIME, answer.bytes(ANSWER_LIMIT));
        let body =
            whole.await.unwrap_or(Err(AskError::Silent(ANSWER_TIME))).map_err(unreachable)?;
        Ok((serde_json::from_slice(&body).map_err(ClientError::Answer)?, status))
    }

    /// What an answer that says no says.
    pub(crate) async fn refusal(&self, answer: Answer) -> ClientError {
        #[derive(Deserialize)]
        struct Body {
            error: String,
            code: Option<String>,
        }
        let status = answer.status;
        let whole = tokio::time::timeout(ANSWER_TIME, answer.bytes(ANSWER_LIMIT)).await;
        match whole.ok().and_then(Result::ok).map(|body| serde_json::from_slice::<Body>(&body)) {
            Some(Ok(body)) => {
                let sentence = draw::one_line(&body.error, SENTENCE);
                let code = body.code.map(|code| draw::one_line(&code, CODE));
                ClientError::Refused { status, code, sentence }
            }
            _ => {
                ClientError::NotAStack { url: self.url.clone(), what: format!("it says {status}") }
            }
        }
    }
}
