//! `/api/tokens`: who may use the stack.

use std::sync::Arc;

use axum::{
    Extension,
    extract::{Path, Request, State, rejection::PathRejection},
};
use contract::{Code, RequestError, Timestamp, TokenId, TokenRequest, TokenRevoked, TokenView};
use http::{Response, StatusCode};
use web::{BODY_LIMIT, Body};
use workspace::blocking;

use crate::{
    audit::{Action, Entry},
    caller::Caller,
    routes::{PortState, reply},
    shared::Shared,
};

/// `POST /api/tokens`.
pub(crate) async fn create(
    State(port): State<PortState>,
    Extension(caller): Extension<Caller>,
    request: Request,
) -> Response<Body> {
    let shared = port.shared;
    let created = async {
        let body = web::read_json_body(request, BODY_LIMIT).await?;
        let request = TokenRequest::parse(&body, shared.config.policy.unknown_fields)?;
        if request.expires.is_some_and(|expires| expires <= Timestamp::now()) {
            return Err(RequestError::field("expires", "must be in the future"));
        }
        let made = Arc::clone(&shared);
        blocking(move || {
            let (record, token) = made.workspace.create_token(&request)?;
            // The next request may use it.
            made.callers.look(&made.workspace)?;
            Ok(TokenView { token: Some(token), ..record.view(None) })
        })
        .await
        .map_err(|error: workspace::Error| error.refusal())
    };
    let created = created.await;
    let entry = Entry::of(&caller, Action::CreateToken).outcome(&created);
    match created {
        Ok(view) => {
            shared.audit.add(entry.subject(&view.id));
            web::json(StatusCode::CREATED, &view)
        }
        Err(error) => {
            shared.audit.add(entry);
            web::error(&error)
        }
    }
}

/// `GET /api/tokens`.
pub(crate) async fn list(State(port): State<PortState>) -> Response<Body> {
    let shared = port.shared;
    let listed = blocking(move || shared.callers.list(&shared.workspace));
    reply(listed.await.map_err(|error: workspace::Error| error.refusal()))
}

/// `DELETE /api/tokens/{id}`.
pub(crate) async fn revoke(
    State(port): State<PortState>,
    Extension(caller): Extension<Caller>,
    id: Result<Path<String>, PathRejection>,
) -> Response<Body> {
    let id: Option<TokenId> = id.ok().and_then(|Path(id)| id.parse().ok());
    let revoked = match &id {
        Some(id) => revoke_it(&port.shared, id.clone()).await,
        None => Err(unknown()),
    };
    let entry = Entry::of(&caller, Action::RevokeToken).outcome(&revoked);
    port.shared.audit.add(match id {
        Some(id) => entry.subject(id),
        None => entry,
    });
    reply(revoked)
}

async fn revoke_it(shared: &Arc<Shared>, id: TokenId) -> Result<TokenRevoked, RequestError> {
    let (shared, revoked) = (Arc::clone(shared), id.clone());
    let is_revoked = blocking(move || {
        let is_revoked = shared.workspace.revoke_token(&revoked)?;
        // The next request must not use it.
        shared.callers.look(&shared.workspace)?;
        Ok(is_revoked)
    });
    match is_revoked.await.map_err(|error: workspace::Error| error.refusal())? {
        true => Ok(TokenRevoked::new(id)),
        false => Err(unknown()),
    }
}

fn unknown() -> RequestError {
    RequestError::new(Code::NotFound, "no such token: GET /api/tokens lists them")
}
