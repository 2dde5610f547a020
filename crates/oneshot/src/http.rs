//! A replica's routes: the job paths of its service, `GET /health` and `GET /status`.

use std::sync::Arc;

use contract::{Code, JobRequest, RawRequest, RequestError, Timestamp};
use http::{Method, Request, Response, StatusCode};
use hyper::body::Incoming;
use serde_json::json;
use web::{Body, OnDisconnect, PASSED_LIMIT, Peer};
use workspace::{CancelOnDisconnect, RequestDigest};

use crate::{JobService, replica::Replica};

impl<S: JobService> Replica<S> {
    /// Handles one request.
    pub(crate) async fn answer(self: Arc<Self>, request: Request<Incoming>) -> Response<Body> {
        let is_read = matches!(*request.method(), Method::GET | Method::HEAD);
        match request.uri().path() {
            path if S::SERVICE.runs_job_of(path) => {
                if request.method() == Method::POST {
                    self.take(request).await.unwrap_or_else(|refusal| *refusal)
                } else {
                    web::method_not_allowed("POST")
                }
            }
            "/health" | "/status" if !is_read => web::method_not_allowed("GET, HEAD"),
            "/health" => {
                let mut body = self.service.health(&self.workspace);
                body.insert("status".into(), "ok".into());
                body.insert("timestamp".into(), json!(Timestamp::now()));
                web::json(StatusCode::OK, &body)
            }
            "/status" => {
                let status = if self.is_idle().await { "idle" } else { "busy" };
                let body = json!({"status": status, "timestamp": Timestamp::now()});
                let mut response = web::json(StatusCode::OK, &body);
                if let Some(proof) = self.meet_challenge(request.headers()) {
                    response.headers_mut().insert(web::header::CHALLENGE_PROOF, proof);
                }
                response
            }
            _ => {
                let paths = S::SERVICE.spec().job_paths.join(", POST ");
                web::no_such_path(&format!(
                    "POST {paths}, GET /health, GET /status (sessions, repositories and jobs are the gateway's)"
                ))
            }
        }
    }

    async fn take(
        self: Arc<Self>,
        request: Request<Incoming>,
    ) -> Result<Response<Body>, web::Refusal> {
        let (headers, path) = (request.headers().clone(), request.uri().path().to_owned());
        let peer = request.extensions().get::<Peer>().cloned();
        if let Some(meant_for) = headers.get(web::header::REPLICA_ID)
            && meant_for.as_bytes() != self.config.id.to_string().as_bytes()
        {
            let error = RequestError::new(
                Code::Busy,
                "the request is for another replica, which used this address before",
            );
            let mut response = web::error(&error);
            *response.status_mut() = StatusCode::MISDIRECTED_REQUEST;
            return Err(Box::new(response));
        }
        let refuse = |error: RequestError| Box::new(web::error(&error));
        if !self.is_from_the_gateway(&headers) {
            let error = RequestError::new(
                Code::Forbidden,
                "this replica takes jobs only from the gateway of its stack: send the request to the gateway",
            );
            let mut response = web::error(&error);
            // A gateway of another stack, or of a version that proves nothing, keeps the job and tries another replica.
            if headers.contains_key(web::header::REPLICA_ID) {
                *response.status_mut() = StatusCode::MISDIRECTED_REQUEST;
            }
            return Err(Box::new(response));
        }
        if !self.is_idle().await {
            return Err(refuse(busy()));
        }
        let body = web::read_json_body(request, PASSED_LIMIT).await.map_err(refuse)?;
        let on_disconnect = OnDisconnect::read(&headers).map_err(refuse)?;
        let root = self.workspace.root_text();
        let policy = self.service.policy();
        let raw = RawRequest { body: &body, root, policy, path: &path, session: None, job: None };
        let parsed = S::Request::parse_raw(&raw).map_err(refuse)?;
        // A gateway encodes the body again, so it passes the digest of what its caller sent.
        let passed = headers.get(web::header::REQUEST_DIGEST);
        let digest = passed
            .and_then(|text| text.to_str().ok()?.parse().ok())
            .unwrap_or_else(|| RequestDigest::of(&parsed, &body, None));
        // In a separate task: if the caller disconnects now, the claim and the job must not be dropped.
        let (replica, named) = (Arc::clone(&self), headers.clone());
        let is_async = headers.get("prefer").is_some_and(|value| value == "respond-async");
        let accepting = tokio::spawn(async move {
            let job = replica.accept(&named, parsed, digest).await?;
            // Created here: if the caller is gone already, the guard is dropped and does what the caller asked for.
            let guard = match on_disconnect {
                OnDisconnect::Cancel if !is_async => CancelOnDisconnect::armed(&job, || false),
                OnDisconnect::Cancel | OnDisconnect::Continue => CancelOnDisconnect::disarmed(),
            };
            Ok((job, guard))
        });
        let (job, guard) = accepting
            .await
            .unwrap_or_else(|_| {
                Err(RequestError::new(
                    Code::Internal,
                    "the request could not be accepted: see the replica's log",
                ))
            })
            .map_err(refuse)?;
        if is_async {
            return Ok(web::json(StatusCode::ACCEPTED, &json!({"jobId": job.id()})));
        }
        let frames = web::frames(guard.follow(job.clone(), 0), web::ids_wanted(&headers));
        Ok(web::event_stream(job.id(), peer, frames))
    }
}

/// The response to a second job.
pub(crate) fn busy() -> RequestError {
    RequestError::new(
        Code::Busy,
        "this replica already has a job: send the request again, or send it to the gateway",
    )
}
