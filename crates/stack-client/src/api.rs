//! Sends requests to a stack.

use std::{sync::Arc, time::Duration};

use boot::Secret;
use bytes::Bytes;
use contract::{
    JobDeleted, JobId, JobList, JobState, JobView, Timestamp, TokenId, TokenList, TokenRequest,
    TokenRevoked, TokenView,
};
use http::{HeaderValue, Method, Request, StatusCode, header};
use http_body_util::Full;
use serde::{Deserialize, de::DeserializeOwned};
use serde_json::json;
use tokio::net::TcpStream;
use transcript::one_line;
use web::{Answer, AskError};

use crate::{Error, StackUrl, tls::Tls, url::Scheme};

/// How long connecting may take, including TLS.
const CONNECT_TIME: Duration = Duration::from_secs(5);
/// How long the gateway may take to start its response. It responds at once, even under load.
const ANSWER_TIME: Duration = Duration::from_secs(60);
/// The longest response that is not a stream, in bytes.
const ANSWER_LIMIT: usize = 64 << 20;
/// The longest error sentence that is shown, in characters.
const SENTENCE: usize = 2000;
/// The longest error code, in characters.
const CODE: usize = 40;
/// The maximum number of jobs on a page of the gateway.
const PAGE: usize = 1000;

/// A stack at an address.
#[derive(Clone, Debug)]
pub struct Api {
    /// The address.
    pub url: StackUrl,
    token: Option<Arc<Secret>>,
    tls: Option<Tls>,
}

/// Which jobs to list.
#[derive(Clone, Debug, Default)]
pub struct Listing {
    /// The maximum number of jobs.
    pub limit: Option<usize>,
    /// Only jobs in this state.
    pub state: Option<JobState>,
    /// Only jobs whose ID begins or ends like this: hexadecimal digits and hyphens.
    pub id: Option<String>,
    /// Whether the list includes the jobs of workflows.
    pub children: Children,
}

/// Whether a listing includes the jobs that workflows started, and those that looked at what others have changed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Children {
    /// Yes.
    #[default]
    Listed,
    /// No.
    Omitted,
}

/// The `/status` of a service.
#[derive(Clone, Copy, Debug, Deserialize)]
pub struct ServiceStatus {
    /// Its replicas.
    pub replicas: ReplicaCounts,
    /// Its queue.
    pub queue: Queue,
}

/// The number of replicas.
#[derive(Clone, Copy, Debug, Deserialize)]
pub struct ReplicaCounts {
    /// Without a job.
    pub idle: usize,
    /// With one.
    pub busy: usize,
}

/// A service's queue.
#[derive(Clone, Copy, Debug, Deserialize)]
pub struct Queue {
    /// The number of queued jobs.
    pub depth: usize,
}

/// The response to a cancel request.
#[derive(Debug)]
pub struct Cancelled {
    /// The job's state.
    pub state: JobState,
    /// Whether the job had already ended.
    pub too_late: bool,
}

/// Whether a caller has asked for this job itself.
fn is_started_by_caller(job: &JobView) -> bool {
    job.parent.is_none() && job.changes_of.is_none()
}

impl Api {
    /// The stack at this address, without a token.
    ///
    /// # Errors
    /// [`Error::Certificates`] if the address uses https and there are no root certificates.
    pub fn new(url: impl Into<StackUrl>) -> Result<Self, Error> {
        let url = url.into();
        let tls = match url.scheme {
            Scheme::Http => None,
            Scheme::Https => Some(Tls::load()?),
        };
        Ok(Self { url, token: None, tls })
    }

    /// Adds a token to each request.
    #[must_use]
    pub fn with_token(mut self, token: Option<Secret>) -> Self {
        self.token = token.map(Arc::new);
        self
    }

    /// Sends a request, and waits at most a minute for the head of the response.
    ///
    /// # Errors
    /// If there is no response.
    pub async fn send(
        &self,
        method: Method,
        path: &str,
        headers: &[(&'static str, String)],
        body: Bytes,
    ) -> Result<Answer, AskError> {
        let uri = format!("{}{path}", self.url.prefix);
        let mut request = web::request_to(&self.url.authority(), method, uri, headers, body)?;
        if let Some(token) = &self.token {
            let bearer = format!("Bearer {}", token.expose());
            let mut bearer = HeaderValue::from_str(&bearer).map_err(http::Error::from)?;
            bearer.set_sensitive(true);
            request.headers_mut().insert(header::AUTHORIZATION, bearer);
        }
        let answer = self.exchange(request);
        tokio::time::timeout(ANSWER_TIME, answer)
            .await
            .unwrap_or(Err(AskError::Silent(ANSWER_TIME)))
    }

    /// Sends a request on a new connection.
    async fn exchange(&self, request: Request<Full<Bytes>>) -> Result<Answer, AskError> {
        let target = self.url.target();
        let failed = |error| AskError::Connect(target.clone(), error);
        let connect = async {
            let stream = TcpStream::connect(&target).await?;
            let _ = stream.set_nodelay(true);
            match &self.tls {
                None => Ok((Some(stream), None)),
                Some(tls) => Ok((None, Some(tls.connect(&self.url, stream).await?))),
            }
        };
        let connected = tokio::time::timeout(CONNECT_TIME, connect)
            .await
            .unwrap_or_else(|_| Err(std::io::ErrorKind::TimedOut.into()));
        match connected.map_err(failed)? {
            (Some(plain), _) => web::ask_on(plain, &target, request).await,
            (_, Some(encrypted)) => web::ask_on(encrypted, &target, request).await,
            (None, None) => Err(failed(std::io::ErrorKind::NotConnected.into())),
        }
    }

    /// The jobs of a listing, newest first, from as many pages as needed.
    ///
    /// # Errors
    /// If the stack does not respond, or refuses the request.
    pub async fn jobs(&self, listing: Listing) -> Result<Vec<JobView>, Error> {
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
            if let Some(id) = &listing.id {
                path.push_str(&format!("&id={id}"));
            }
            if let Some(cursor) = &cursor {
                path.push_str(&format!("&cursor={cursor}"));
            }
            let page: JobList = self.get(&path).await?.0;
            jobs.extend(
                page.jobs.into_iter().filter(|job| {
                    listing.children == Children::Listed || is_started_by_caller(job)
                }),
            );
            // Data from outside is only used in a path if it is a valid ID.
            cursor = page.next.and_then(|next| next.parse::<JobId>().ok());
            if jobs.len() >= limit || cursor.is_none() {
                jobs.truncate(limit);
                return Ok(jobs);
            }
        }
    }

    /// The jobs created since a time, newest first, from at most so many pages, and whether they are complete.
    ///
    /// # Errors
    /// As [`jobs`](Self::jobs).
    pub async fn jobs_since(
        &self,
        since: Timestamp,
        pages: usize,
    ) -> Result<(Vec<JobView>, bool), Error> {
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

    /// The status of the service at this address.
    ///
    /// # Errors
    /// As [`jobs`](Self::jobs).
    pub async fn status(&self) -> Result<ServiceStatus, Error> {
        Ok(self.get("/status").await?.0)
    }

    /// One job.
    ///
    /// # Errors
    /// As [`jobs`](Self::jobs).
    pub async fn job(&self, id: JobId) -> Result<JobView, Error> {
        Ok(self.get(&format!("/api/jobs/{id}")).await?.0)
    }

    /// Requests the cancellation of a job.
    ///
    /// # Errors
    /// As [`jobs`](Self::jobs).
    pub async fn cancel(&self, id: JobId) -> Result<Cancelled, Error> {
        #[derive(Deserialize)]
        struct State {
            state: JobState,
        }
        let path = format!("/api/jobs/{id}/cancel");
        let (State { state }, status) = self.json(Method::POST, &path).await?;
        Ok(Cancelled { state, too_late: status == StatusCode::OK })
    }

    /// Deletes a job that has ended.
    ///
    /// # Errors
    /// As [`jobs`](Self::jobs).
    pub async fn delete(&self, id: JobId) -> Result<JobDeleted, Error> {
        Ok(self.json(Method::DELETE, &format!("/api/jobs/{id}")).await?.0)
    }

    /// Creates a token. Needs that of an administrator.
    ///
    /// # Errors
    /// As [`jobs`](Self::jobs).
    pub async fn create_token(&self, request: &TokenRequest) -> Result<TokenView, Error> {
        let body = json!({
            "name": request.name,
            "scopes": request.scopes,
            "limits": request.limits,
            "expires": request.expires,
        });
        Ok(self.exchange_json(Method::POST, "/api/tokens", body.to_string().into()).await?.0)
    }

    /// The tokens, without their secrets. Needs that of an administrator.
    ///
    /// # Errors
    /// As [`jobs`](Self::jobs).
    pub async fn tokens(&self) -> Result<TokenList, Error> {
        Ok(self.get("/api/tokens").await?.0)
    }

    /// Revokes a token. Needs that of an administrator.
    ///
    /// # Errors
    /// As [`jobs`](Self::jobs).
    pub async fn revoke_token(&self, id: &TokenId) -> Result<TokenRevoked, Error> {
        Ok(self.json(Method::DELETE, &format!("/api/tokens/{id}")).await?.0)
    }

    /// Whether everybody may use the stack, because it has no tokens.
    ///
    /// # Errors
    /// As [`jobs`](Self::jobs).
    pub async fn is_open(&self) -> Result<bool, Error> {
        #[derive(Deserialize)]
        struct Health {
            #[serde(default)]
            open: bool,
        }
        let (Health { open }, _) = self.get("/health").await?;
        Ok(open)
    }

    async fn get<T: DeserializeOwned>(&self, path: &str) -> Result<(T, StatusCode), Error> {
        self.json(Method::GET, path).await
    }

    async fn json<T: DeserializeOwned>(
        &self,
        method: Method,
        path: &str,
    ) -> Result<(T, StatusCode), Error> {
        self.exchange_json(method, path, Bytes::new()).await
    }

    async fn exchange_json<T: DeserializeOwned>(
        &self,
        method: Method,
        path: &str,
        body: Bytes,
    ) -> Result<(T, StatusCode), Error> {
        let unreachable = |cause| Error::Unreachable { url: self.url.clone(), cause };
        let kind = ("content-type", "application/json".to_owned());
        let headers = if body.is_empty() { &[][..] } else { std::slice::from_ref(&kind) };
        let answer = self.send(method, path, headers, body).await.map_err(unreachable)?;
        if !answer.status.is_success() {
            return Err(self.refusal(answer).await);
        }
        let status = answer.status;
        let whole = tokio::time::timeout(ANSWER_TIME, answer.bytes(ANSWER_LIMIT));
        let body =
            whole.await.unwrap_or(Err(AskError::Silent(ANSWER_TIME))).map_err(unreachable)?;
        Ok((serde_json::from_slice(&body).map_err(Error::Answer)?, status))
    }

    /// The error for an unsuccessful response.
    pub(crate) async fn refusal(&self, answer: Answer) -> Error {
        #[derive(Deserialize)]
        struct Body {
            error: String,
            code: Option<String>,
        }
        let status = answer.status;
        let location = answer.header("location").map(|location| one_line(location, SENTENCE));
        let whole = tokio::time::timeout(ANSWER_TIME, answer.bytes(ANSWER_LIMIT)).await;
        match whole.ok().and_then(Result::ok).map(|body| serde_json::from_slice::<Body>(&body)) {
            Some(Ok(body)) => {
                let sentence = one_line(&body.error, SENTENCE);
                let code = body.code.map(|code| one_line(&code, CODE));
                Error::Refused { status, code, sentence }
            }
            // A proxy in front of the stack has its own error format.
            _ if status == StatusCode::UNAUTHORIZED => {
                let sentence = format!("{} requires a valid token", self.url);
                Error::Refused { status, code: None, sentence }
            }
            _ => {
                let what = match location {
                    Some(location) if status.is_redirection() => {
                        format!("it answers {status} and redirects to {location}")
                    }
                    _ => format!("it answers {status}"),
                };
                Error::NotAStack { url: self.url.clone(), what }
            }
        }
    }
}
