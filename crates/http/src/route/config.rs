//! The caller's session and the server's defaults.

use axum::response::Response;
use freehold_api::config::{Config, ConfigDefaults};

use crate::{
    call::{Call, Handler},
    error::Failure,
    wire,
};

pub(super) const HANDLERS: &[(&str, Handler)] = &[
    ("me_session_view", |call| Box::pin(me_session_view(call))),
    ("config_view", |call| Box::pin(config_view(call))),
];

async fn me_session_view(call: Call) -> Result<Response, Failure> {
    let actor = call.actor()?;
    let member = call.app().me(actor).await?;
    call.json(&wire::me(actor, member.as_ref()))
}

async fn config_view(call: Call) -> Result<Response, Failure> {
    let settings = call.app().settings();
    let defaults = ConfigDefaults {
        task_timeout_seconds: settings.task_timeout_seconds,
        idle_timeout_seconds: settings.idle_timeout_seconds,
        oauth_redirect_uri: format!("{}/oauth/callback", settings.public_url),
    };
    call.json(&Config { defaults })
}
