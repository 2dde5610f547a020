//! `/api/sessions` and `/api/stream/:id`: conversations that any replica can go on with.

use bytes::Bytes;
use contract::{
    Code, RequestError, Service, SessionDeleted, SessionId, SessionList, SessionRequest,
    UnknownFields,
};
use http::{Method, Request, Response, StatusCode};
use web::{BODY_LIMIT, Body};
use workspace::{Deleted, Session, Workspace, blocking};

/// A path that belongs to sessions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Route {
    /// `/api/sessions`
    All,
    /// `/api/sessions/:id`; `None` if that is no session's id.
    One(Option<SessionId>),
    /// `/api/stream/:id`, which takes jobs; `None` if that is no session's id.
    Stream(Option<SessionId>),
}

impl Route {
    /// The route of `path` on the port of `service`, if it is one of these.
    #[must_use]
    pub fn of(service: Service, path: &str) -> Option<Self> {
        if service != Service::Claude {
            return None;
        }
        if path == "/api/sessions" {
            return Some(Self::All);
        }
        let id = |prefix| Some(path.strip_prefix(prefix)?).filter(|id: &&str| !id.contains('/'));
        if let Some(id) = id("/api/sessions/") {
            return Some(Self::One(id.parse().ok()));
        }
        Some(Self::Stream(id("/api/stream/")?.parse().ok()))
    }
}

/// The session that a job is for.
///
/// # Errors
/// If there is none.
pub async fn known(
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

/// Answers a request that is no job.
pub async fn answer<B>(workspace: &Workspace, route: Route, request: Request<B>) -> Response<Body>
where
    B: hyper::body::Body<Data = Bytes>,
{
    let reading = matches!(*request.method(), Method::GET | Method::HEAD);
    let result = match (route, request.method()) {
        (Route::All, &Method::POST) => create(workspace, request).await,
        (Route::All, _) if reading => list(workspace).await,
        (Route::One(id), &Method::DELETE) => delete(workspace, id).await,
        (Route::One(id), _) if reading => view(workspace, id).await,
        (Route::All, _) => return web::method_not_allowed("GET, HEAD, POST"),
        (Route::One(_), _) => return web::method_not_allowed("GET, HEAD, DELETE"),
        (Route::Stream(_), _) => return web::method_not_allowed("POST"),
    };
    result.unwrap_or_else(|error| web::error(&error))
}

async fn create<B>(
    workspace: &Workspace,
    request: Request<B>,
) -> Result<Response<Body>, RequestError>
where
    B: hyper::body::Body<Data = Bytes>,
{
    let body = web::read_optional_json_body(request, BODY_LIMIT).await?;
    let request = SessionRequest::parse(&body, workspace.root_text(), UnknownFields::Ignored)?;
    let workspace = workspace.clone();
    let view = blocking(move || {
        let id = SessionId::new();
        let place = match request.workspace {
            Some(asked) => workspace.resolve(&asked).map_err(|error| error.refusal("workspace"))?,
            None => workspace.make_session_place(id).map_err(|error| error.refusal())?,
        };
        let (session, _turn) =
            Session::create(&workspace, id, &place).map_err(|error| error.refusal())?;
        session
            .view()
            .map_err(|error| error.refusal())?
            .ok_or_else(|| RequestError::new(Code::Internal, "the session cannot be read back"))
    })
    .await?;
    Ok(web::json(StatusCode::OK, &view))
}

async fn list(workspace: &Workspace) -> Result<Response<Body>, RequestError> {
    let workspace = workspace.clone();
    let sessions =
        blocking(move || Session::list(&workspace)).await.map_err(|error| error.refusal())?;
    Ok(web::json(StatusCode::OK, &SessionList { count: sessions.len(), sessions }))
}

async fn view(
    workspace: &Workspace,
    id: Option<SessionId>,
) -> Result<Response<Body>, RequestError> {
    let id = id.ok_or_else(unknown)?;
    let workspace = workspace.clone();
    let view = blocking(move || match Session::open(&workspace, id)? {
        Some(session) => session.view(),
        None => Ok(None),
    })
    .await;
    let view = view.map_err(|error| error.refusal())?.ok_or_else(unknown)?;
    Ok(web::json(StatusCode::OK, &view))
}

async fn delete(
    workspace: &Workspace,
    id: Option<SessionId>,
) -> Result<Response<Body>, RequestError> {
    let id = id.ok_or_else(unknown)?;
    let workspace = workspace.clone();
    let deleted = blocking(move || Session::delete(&workspace, id)).await;
    match deleted.map_err(|error| error.refusal())? {
        Deleted::Done => Ok(web::json(StatusCode::OK, &SessionDeleted::new(id))),
        Deleted::Unknown => Err(unknown()),
        Deleted::Busy => Err(RequestError::new(
            Code::Busy,
            "a job works in this session: cancel it, or wait for its end",
        )),
    }
}

#[cfg(test)]
mod tests {
    use http::header;
    use http_body_util::{BodyExt, Full};
    use serde_json::{Value, json};

    use super::*;

    async fn ask(workspace: &Workspace, method: Method, path: &str, body: &str) -> (u16, Value) {
        let mut request = Request::new(Full::from(Bytes::from(body.to_owned())));
        *request.method_mut() = method;
        if !body.is_empty() {
            let json = http::HeaderValue::from_static("application/json");
            request.headers_mut().insert(header::CONTENT_TYPE, json);
        }
        let route = Route::of(Service::Claude, path).unwrap();
        let answer = answer(workspace, route, request).await;
        let status = answer.status().as_u16();
        let body = answer.into_body().collect().await.unwrap().to_bytes();
        (status, serde_json::from_slice(&body).unwrap())
    }

    #[test]
    fn routes() {
        let id = SessionId::new();
        let of = |path: &str| Route::of(Service::Claude, path);
        assert_eq!(of("/api/sessions"), Some(Route::All));
        assert_eq!(of(&format!("/api/sessions/{id}")), Some(Route::One(Some(id))));
        assert_eq!(of(&format!("/api/stream/{id}")), Some(Route::Stream(Some(id))));
        assert_eq!(of("/api/stream/../x"), None);
        assert_eq!(of("/api/stream/.."), Some(Route::Stream(None)));
        assert_eq!(of("/api/sessions/"), Some(Route::One(None)));
        assert_eq!(of(&format!("/api/sessions/{id}/x")), None);
        assert_eq!(Route::of(Service::Pull, "/api/sessions"), None);
    }

    #[tokio::test]
    async fn a_session_is_made_listed_and_deleted() {
        let dir = tempfile::tempdir().unwrap();
        let workspace = Workspace::open(dir.path()).unwrap();
        std::fs::create_dir(dir.path().join("app")).unwrap();
        let (status, made) = ask(&workspace, Method::POST, "/api/sessions", "").await;
        assert_eq!(status, 200);
        let id = made["sessionId"].as_str().unwrap().to_owned();
        assert_eq!(made["workspace"], format!("{}/jobs/{id}/work", workspace.root_text()));
        assert!(std::path::Path::new(made["workspace"].as_str().unwrap()).is_dir());
        let (_, other) =
            ask(&workspace, Method::POST, "/api/sessions", r#"{"workspace":"app"}"#).await;
        assert_eq!(other["workspace"], format!("{}/app", workspace.root_text()));
        let (status, list) = ask(&workspace, Method::GET, "/api/sessions", "").await;
        assert_eq!((status, &list["count"]), (200, &json!(2)));
        assert_eq!(list["sessions"].as_array().unwrap().len(), 2);
        let path = format!("/api/sessions/{id}");
        assert_eq!(ask(&workspace, Method::GET, &path, "").await, (200, made));
        let deleted = ask(&workspace, Method::DELETE, &path, "").await;
        assert_eq!(deleted, (200, json!({"message": "Session deleted", "sessionId": id})));
        let (status, error) = ask(&workspace, Method::DELETE, &path, "").await;
        assert_eq!((status, &error["code"]), (404, &json!("session_not_found")));
        assert_eq!(ask(&workspace, Method::GET, "/api/sessions/x", "").await.0, 404);
    }

    #[tokio::test]
    async fn bad_requests() {
        let dir = tempfile::tempdir().unwrap();
        let workspace = Workspace::open(dir.path()).unwrap();
        for body in [r#"{"workspace":"none"}"#, r#"{"workspace":".stack"}"#, "[]", "x"] {
            assert_eq!(ask(&workspace, Method::POST, "/api/sessions", body).await.0, 400, "{body}");
        }
        assert_eq!(ask(&workspace, Method::DELETE, "/api/sessions", "").await.0, 405);
        let id = SessionId::new();
        assert_eq!(ask(&workspace, Method::GET, &format!("/api/stream/{id}"), "").await.0, 405);
        assert!(
            known(&workspace, Some(id)).await.is_err() && known(&workspace, None).await.is_err()
        );
    }

    #[tokio::test]
    async fn one_that_is_in_use_stays() {
        let dir = tempfile::tempdir().unwrap();
        let workspace = Workspace::open(dir.path()).unwrap();
        let id = SessionId::new();
        let place = workspace.make_session_place(id).unwrap();
        let (_session, turn) = Session::create(&workspace, id, &place).unwrap();
        let path = format!("/api/sessions/{id}");
        assert_eq!(ask(&workspace, Method::DELETE, &path, "").await.0, 503);
        drop(turn);
        assert_eq!(ask(&workspace, Method::DELETE, &path, "").await.0, 200);
    }
}
