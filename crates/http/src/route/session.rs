//! Sessions: the durable record.

use axum::response::Response;
use freehold_api::{
    error::ErrorCode,
    limits::SESSION_PAGE_DEFAULT,
    session::{SessionList, SessionListQuery},
};
use freehold_app::session::SessionSelection;

use crate::{
    call::{Call, Handler},
    error::Failure,
    wire,
};

pub(super) const HANDLERS: &[(&str, Handler)] = &[
    ("session_list", |call| Box::pin(session_list(call))),
    ("session_view", |call| Box::pin(session_view(call))),
];

async fn session_list(mut call: Call) -> Result<Response, Failure> {
    let query: SessionListQuery = call.query()?;
    let (offset, limit) = (query.offset.unwrap_or(0), query.limit.unwrap_or(SESSION_PAGE_DEFAULT));
    let selection = SessionSelection { role: query.agent_id, workspace: query.workspace_id, offset, limit };
    let (sessions, total) = call.app().session_list(call.actor()?, selection).await?;
    let data = sessions.into_iter().map(wire::session).collect();
    call.json(&SessionList { data, total, offset, limit })
}

async fn session_view(call: Call) -> Result<Response, Failure> {
    let id = call.id("session_id", ErrorCode::SessionNotFound)?;
    let session = call.app().session_view(call.actor()?, id).await?;
    call.json(&wire::session(session))
}
