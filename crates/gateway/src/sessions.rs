//! `/api/sessions`: conversations that any replica can continue.

use axum::{
    Extension,
    extract::{Path, Request, State, rejection::PathRejection},
};
use contract::{
    Code, RequestError, SessionDeleted, SessionId, SessionList, SessionRequest, SessionView,
};
use http::Response;
use web::{BODY_LIMIT, Body};
use workspace::{Deleted, Session, Workspace, blocking};

use crate::{
    audit::{Action, Entry},
    caller::{Access, Act, Caller, not_yours},
    places,
    routes::{PortState, reply},
};

/// The session with this ID, if the caller may do this with it.
///
/// # Errors
/// If there is no such session, or it belongs to another caller.
pub(crate) async fn known(
    workspace: &Workspace,
    caller: &Caller,
    act: Act,
    id: Option<SessionId>,
) -> Result<SessionId, RequestError> {
    let id = id.ok_or_else(unknown)?;
    let workspace = workspace.clone();
    let owner = blocking(move || places::owner_of_session(&workspace, id)).await?;
    match caller.access(owner.ok_or_else(unknown)?.as_ref(), act) {
        Access::Granted => Ok(id),
        Access::Forbidden => Err(not_yours("this session")),
        Access::Hidden => Err(unknown()),
    }
}

fn unknown() -> RequestError {
    RequestError::new(Code::SessionNotFound, "no such session: GET /api/sessions lists them")
}

fn parse(id: Result<Path<String>, PathRejection>) -> Option<SessionId> {
    id.ok()?.parse().ok()
}

/// `POST /api/sessions`.
pub(crate) async fn create(
    State(port): State<PortState>,
    Extension(caller): Extension<Caller>,
    request: Request,
) -> Response<Body> {
    let entry = Entry::of(&caller, Action::CreateSession);
    let workspace = port.shared.workspace.clone();
    let unknown = port.shared.config.policy.unknown_fields;
    let made = async {
        let body = web::read_optional_json_body(request, BODY_LIMIT).await?;
        let request = SessionRequest::parse(&body, workspace.root_text(), unknown)?;
        blocking(move || make(&workspace, &caller, &request)).await
    };
    let made = made.await;
    let entry = entry.outcome(&made);
    port.shared.audit.add(match &made {
        Ok(session) => entry.subject(session.session_id),
        Err(_) => entry,
    });
    reply(made)
}

fn make(
    workspace: &Workspace,
    caller: &Caller,
    request: &SessionRequest,
) -> Result<SessionView, RequestError> {
    let id = SessionId::new();
    let place = match &request.workspace {
        Some(asked) => {
            places::check_path(workspace, caller, asked, None)?;
            workspace.resolve(asked).map_err(|error| error.refusal("workspace"))?
        }
        None => workspace.make_session_place(id).map_err(|error| error.refusal())?,
    };
    let (session, _turn) = Session::create_for(workspace, id, &place, &caller.name)
        .map_err(|error| error.refusal())?;
    session
        .view()
        .map_err(|error| error.refusal())?
        .ok_or_else(|| RequestError::new(Code::Internal, "the session cannot be read back"))
}

/// `GET /api/sessions`.
pub(crate) async fn list(
    State(port): State<PortState>,
    Extension(caller): Extension<Caller>,
) -> Response<Body> {
    let workspace = port.shared.workspace.clone();
    let sessions = blocking(move || {
        let is_its = |owner: &_| caller.access(Some(owner), Act::Read) == Access::Granted;
        Session::list_of(&workspace, is_its)
    })
    .await;
    reply(
        sessions
            .map(|sessions| SessionList { count: sessions.len(), sessions })
            .map_err(|error| error.refusal()),
    )
}

/// `GET /api/sessions/{id}`.
pub(crate) async fn view(
    State(port): State<PortState>,
    Extension(caller): Extension<Caller>,
    id: Result<Path<String>, PathRejection>,
) -> Response<Body> {
    let workspace = port.shared.workspace.clone();
    let id = match known(&workspace, &caller, Act::Read, parse(id)).await {
        Ok(id) => id,
        Err(error) => return web::error(&error),
    };
    let view = blocking(move || match Session::open(&workspace, id)? {
        Some(session) => session.view(),
        None => Ok(None),
    });
    reply(view.await.map_err(|error| error.refusal()).and_then(|view| view.ok_or_else(unknown)))
}

/// `DELETE /api/sessions/{id}`.
pub(crate) async fn delete(
    State(port): State<PortState>,
    Extension(caller): Extension<Caller>,
    id: Result<Path<String>, PathRejection>,
) -> Response<Body> {
    let id = parse(id);
    let deleted = delete_it(&port.shared.workspace, &caller, id).await;
    let entry = Entry::of(&caller, Action::DeleteSession).outcome(&deleted);
    port.shared.audit.add(match id {
        Some(id) => entry.subject(id),
        None => entry,
    });
    reply(deleted)
}

async fn delete_it(
    workspace: &Workspace,
    caller: &Caller,
    id: Option<SessionId>,
) -> Result<SessionDeleted, RequestError> {
    let id = known(workspace, caller, Act::Change, id).await?;
    let workspace = workspace.clone();
    let deleted = blocking(move || Session::delete(&workspace, id)).await;
    match deleted.map_err(|error| error.refusal()) {
        Ok(Deleted::Done) => Ok(SessionDeleted::new(id)),
        Ok(Deleted::Unknown) => Err(unknown()),
        Ok(Deleted::Busy) => Err(RequestError::new(
            Code::Busy,
            "a job uses this session: cancel the job, or wait for its end",
        )),
        Err(error) => Err(error),
    }
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
        for id in [Some(id), None] {
            assert!(known(&workspace, &Caller::anonymous(), Act::Read, id).await.is_err());
        }
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
