//! A replica's routes.

use std::sync::Arc;

use contract::{Code, JobRequest, RequestError, SessionId, Timestamp};
use http::{Method, Request, Response, StatusCode};
use hyper::body::Incoming;
use job_http::{Leaving, OnDisconnect, Route};
use serde_json::{Value, json};
use web::{BODY_LIMIT, Body};
use workspace::RequestDigest;

use crate::{JobService, replica::Replica};

impl<S: JobService> Replica<S> {
    /// Answers one request.
    pub(crate) async fn answer(self: Arc<Self>, request: Request<Incoming>) -> Response<Body> {
        let cors = self.config.cors.clone();
        if let Some(preflight) = cors.preflight(request.method(), request.headers()) {
            return preflight;
        }
        cors.mark(self.route(request).await)
    }

    async fn route(self: Arc<Self>, request: Request<Incoming>) -> Response<Body> {
        let reading = matches!(*request.method(), Method::GET | Method::HEAD);
        let path = request.uri().path();
        let posting = request.method() == Method::POST;
        if path == S::Request::SERVICE.job_path() {
            return if posting {
                self.take(request, None).await.unwrap_or_else(|refusal| *refusal)
            } else {
                web::method_not_allowed("POST")
            };
        }
        match Route::of(S::Request::SERVICE, path) {
            Some(Route::Stream(session)) if posting => {
                return match job_http::known(&self.workspace, session).await {
                    Ok(session) => {
                        self.take(request, Some(session)).await.unwrap_or_else(|refusal| *refusal)
                    }
                    Err(error) => web::error(&error),
                };
            }
            Some(route) => return job_http::answer(&self.workspace, route, request).await,
            None => {}
        }
        let read = self.service.reads().iter().find(|read| read.path == path);
        match (path, read) {
            ("/health" | "/status", _) | (_, Some(_)) if !reading => {
                web::method_not_allowed("GET, HEAD")
            }
            ("/health", _) => {
                let mut body = self.service.health(&self.workspace);
                body.insert("status".into(), "ok".into());
                body.insert("timestamp".into(), json!(Timestamp::now()));
                web::json(StatusCode::OK, &body)
            }
            ("/status", _) => {
                let status = if self.is_idle().await { "idle" } else { "busy" };
                web::json(StatusCode::OK, &json!({"status": status, "timestamp": Timestamp::now()}))
            }
            (_, Some(read)) => {
                let (answer, workspace) = (read.answer, self.workspace.clone());
                let value: Option<Value> = tokio::task::spawn_blocking(move || answer(&workspace))
                    .await
                    .ok()
                    .and_then(Result::ok);
                match value {
                    Some(value) => web::json(StatusCode::OK, &value),
                    None => web::error(&RequestError::new(
                        Code::Internal,
                        "the workspace cannot be read",
                    )),
                }
            }
            _ => web::no_such_path(&self.routes()),
        }
    }

    fn routes(&self) -> String {
        let reads: String =
            self.service.reads().iter().map(|read| format!(", GET {}", read.path)).collect();
        format!("POST {}, GET /health, GET /status{reads}", S::Request::SERVICE.job_path())
    }

    async fn take(
        self: Arc<Self>,
        request: Request<Incoming>,
        session: Option<SessionId>,
    ) -> Result<Response<Body>, web::Refusal> {
        let headers = request.headers().clone();
        if let Some(meant_for) = headers.get(web::header::REPLICA_ID)
            && meant_for.as_bytes() != self.config.id.to_string().as_bytes()
        {
            let error =
                RequestError::new(Code::Busy, "this is another replica than the one you mean");
            let mut response = web::error(&error);
            *response.status_mut() = StatusCode::MISDIRECTED_REQUEST;
            return Err(Box::new(response));
        }
        let refuse = |error: RequestError| Box::new(web::error(&error));
        if !self.is_idle().await {
            return Err(refuse(busy()));
        }
        let body = web::read_json_body(request, BODY_LIMIT).await.map_err(refuse)?;
        let on_disconnect = OnDisconnect::read(&headers).map_err(refuse)?;
        let parsed = S::Request::parse(&body, self.workspace.root_text(), self.service.policy())
            .and_then(|parsed| match session {
                Some(session) => parsed.in_session(session),
                None => Ok(parsed),
            })
            .map_err(refuse)?;
        // A gateway passes the digest of what its caller sent on: it encodes the body anew.
        let digest = match headers
            .get(web::header::REQUEST_DIGEST)
            .and_then(|text| text.to_str().ok()?.parse().ok())
        {
            Some(digest) => digest,
            None => RequestDigest::of(&parsed, &body, session),
        };
        // In a task of its own: a caller that leaves now would otherwise take the claim down with it, and the job.
        let (replica, named) = (Arc::clone(&self), headers.clone());
        let is_async = headers.get("prefer").is_some_and(|value| value == "respond-async");
        let accepting = tokio::spawn(async move {
            let job = replica.accept(&named, parsed, digest).await?;
            // Made here: if the caller is gone already, nobody takes it, and what it wanted comes true.
            let on_disconnect = if is_async { OnDisconnect::Continue } else { on_disconnect };
            let leaving = Leaving::new(on_disconnect, &job, || false);
            Ok((job, leaving))
        });
        let (job, leaving) = accepting
            .await
            .unwrap_or_else(|_| {
                Err(RequestError::new(Code::Internal, "the request could not be taken"))
            })
            .map_err(refuse)?;
        if is_async {
            return Ok(web::json(StatusCode::ACCEPTED, &json!({"jobId": job.id()})));
        }
        let events = job_http::events(job.clone(), 0, web::ids_wanted(&headers), leaving);
        Ok(web::event_stream(job.id(), events))
    }
}

/// The answer to a second job.
pub(crate) fn busy() -> RequestError {
    RequestError::new(
        Code::Busy,
        "this replica has a job already: send the request again, or through the gateway",
    )
}
