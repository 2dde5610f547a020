//! `/api/sessions`: conversations that any replica can continue.

use axum::extract::{Path, Request, State, rejection::PathRejection};
use contract::{
    Code, RequestError, SessionDeleted, SessionId, SessionList, SessionRequest, SessionView,
};
use http::Response;
use web::{BODY_LIMIT, Body};
use workspace::{Deleted, Session, Workspace, blocking};

use crate::routes::{PortState, reply};

/// The session that a job is for.
///
/// # Errors
/// If there is no such session.
pub(crate) async fn known(
    workspace: &Workspace,
    id: Option<SessionId>,
) -> Result<SessionId, RequestError> {
    let id = id.ok_or_else(unknown)?;
    let workspace = workspace.clone();
    let session = blocking(move || Session::open(&workspace, id)).await;
    session.map_err(|error| error.refusal())?.map(|session| session.id()).ok_or_else(unknown)
}

fn unknown() -> RequestError {
    RequestError::new(Code::SessionNotFound, "no such session: GET /api/sessions lists them")
}

fn parse(id: Result<Path<String>, PathRejection>) -> Option<SessionId> {
    id.ok()?.parse().ok()
}

/// `POST /api/sessions`.
pub(crate) async fn create(State(port): State<PortState>, request: Request) -> Response<Body> {
    let workspace = port.shared.workspace.clone();
    let unknown = port.shared.config.policy.unknown_fields;
    let made = async {
        let body = web::read_optional_json_body(request, BODY_LIMIT).await?;
        let request = SessionRequest::parse(&body, workspace.root_text(), unknown)?;
        blocking(move || make(&workspace, &request)).await
    };
    reply(made.await)
}

fn make(workspace: &Workspace, request: &SessionRequest) -> Result<SessionView, RequestError> {
    let id = SessionId::new();
    let place = match &request.workspace {
        Some(asked) => workspace.resolve(asked).map_err(|error| error.refusal("workspace"))?,
        None => workspace.make_session_place(id).map_err(|error| error.refusal())?,
    };
    let (session, _turn) =
        Session::create(workspace, id, &place).map_err(|error| error.refusal())?;
    session
        .view()
        .map_err(|error| error.refusal())?
        .ok_or_else(|| RequestError::new(Code::Internal, "the session cannot be read back"))
}

/// `GET /api/sessions`.
pub(crate) async fn list(State(port): State<PortState>) -> Response<Body> {
    let workspace = port.shared.workspace.clone();
    let sessions = blocking(move || Session::list(&workspace)).await;
    reply(
        sessions
            .map(|sessions| SessionList { count: sessions.len(), sessions })
            .map_err(|error| error.refusal()),
    )
}

/// `GET /api/sessions/{id}`.
pub(crate) async fn view(
    State(port): State<PortState>,
    id: Result<Path<String>, PathRejection>,
) -> Response<Body> {
    let workspace = port.shared.workspace.clone();
    let Some(id) = parse(id) else { return web::error(&unknown()) };
    let view = blocking(move || match Session::open(&workspace, id)? {
        Some(session) => session.view(),
        None => Ok(None),
    });
    reply(view.await.map_err(|error| error.refusal()).and_then(|view| view.ok_or_else(unknown)))
}

/// `DELETE /api/sessions/{id}`.
pub(crate) async fn delete(
    State(port): State<PortState>,
    id: Result<Path<String>, PathRejection>,
) -> Response<Body> {
    let Some(id) = parse(id) else { return web::error(&unknown()) };
    let workspace = port.shared.workspace.clone();
    let deleted = blocking(move || Session::delete(&workspace, id)).await;
    reply(match deleted.map_err(|error| error.refusal()) {
        Ok(Deleted::Done) => Ok(SessionDeleted::new(id)),
        Ok(Deleted::Unknown) => Err(unknown()),
        Ok(Deleted::Busy) => Err(RequestError::new(
            Code::Busy,
            "a job uses this session: cancel the job, or wait for its end",
        )),
        Err(error) => Err(error),
    })
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use axum::{Router, body::Body};
    use contract::Service;
    use http::Method;
    use http_body_util::BodyExt;
    use serde_json::{Value, json};
    use tempfile::TempDir;
    use tower::ServiceExt;

    use super::*;
    use crate::{routes, shared::Shared};

    fn port() -> (TempDir, Workspace, Router) {
        let dir = tempfile::tempdir().unwrap();
        let shared = Arc::new(Shared::of_tests(dir.path()));
        (dir, shared.workspace.clone(), routes::router(&shared, Service::Claude))
    }

    async fn ask(port: &Router, method: Method, path: &str, body: &str) -> (u16, Value) {
        let mut request =
            http::Request::builder().method(method).uri(path).header("host", "localhost");
        if !body.is_empty() {
            request = request.header("content-type", "application/json");
        }
        let request = request.body(Body::from(body.to_owned())).unwrap();
        let answer = port.clone().oneshot(request).await.unwrap();
        let status = answer.status().as_u16();
        let body = answer.into_body().collect().await.unwrap().to_bytes();
        (status, serde_json::from_slice(&body).unwrap())
    }

    #[tokio::test]
    async fn a_session_is_made_listed_and_deleted() {
        let (dir, workspace, port) = port();
        std::fs::create_dir(dir.path().join("app")).unwrap();
        let (status, made) = ask(&port, Method::POST, "/api/sessions", "").await;
        assert_eq!(status, 200);
        let id = made["sessionId"].as_str().unwrap().to_owned();
        assert_eq!(made["workspace"], format!("{}/jobs/{id}/work", workspace.root_text()));
        assert!(std::path::Path::new(made["workspace"].as_str().unwrap()).is_dir());
        let (_, other) = ask(&port, Method::POST, "/api/sessions", r#"{"workspace":"app"}"#).await;
        assert_eq!(other["workspace"], format!("{}/app", workspace.root_text()));
        let (status, list) = ask(&port, Method::GET, "/api/sessions", "").await;
        assert_eq!((status, &list["count"]), (200, &json!(2)));
        assert_eq!(list["sessions"].as_array().unwrap().len(), 2);
        let path = format!("/api/sessions/{id}");
        assert_eq!(ask(&port, Method::GET, &path, "").await, (200, made));
        let deleted = ask(&port, Method::DELETE, &path, "").await;
        assert_eq!(deleted, (200, json!({"message": "Session deleted", "sessionId": id})));
        let (status, error) = ask(&port, Method::DELETE, &path, "").await;
        assert_eq!((status, &error["code"]), (404, &json!("session_not_found")));
        assert_eq!(ask(&port, Method::GET, "/api/sessions/x", "").await.0, 404);
    }

    #[tokio::test]
    async fn bad_requests() {
        let (_dir, workspace, port) = port();
        for body in [r#"{"workspace":"none"}"#, r#"{"workspace":".stack"}"#, "[]", "x"] {
            assert_eq!(ask(&port, Method::POST, "/api/sessions", body).await.0, 400, "{body}");
        }
        assert_eq!(ask(&port, Method::DELETE, "/api/sessions", "").await.0, 405);
        let id = SessionId::new();
        assert_eq!(ask(&port, Method::GET, &format!("/api/stream/{id}"), "").await.0, 405);
        assert!(
            known(&workspace, Some(id)).await.is_err() && known(&workspace, None).await.is_err()
        );
    }

    #[tokio::test]
    async fn a_session_in_use_cannot_be_deleted() {
        let (_dir, workspace, port) = port();
        let id = SessionId::new();
        let place = workspace.make_session_place(id).unwrap();
        let (_session, turn) = Session::create(&workspace, id, &place).unwrap();
        let path = format!("/api/sessions/{id}");
        assert_eq!(ask(&port, Method::DELETE, &path, "").await.0, 503);
        drop(turn);
        assert_eq!(ask(&port, Method::DELETE, &path, "").await.0, 200);
    }
}
