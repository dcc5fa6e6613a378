//! The document, the reference, health and figures.

use axum::response::Response;
use freehold_api::service::Health;

use crate::{
    call::{Call, Handler},
    error::Failure,
};

pub(super) const HANDLERS: &[(&str, Handler)] = &[
    ("openapi_view", |call| Box::pin(openapi_view(call))),
    ("docs_view", |call| Box::pin(docs_view(call))),
    ("health_view", |call| Box::pin(health_view(call))),
    ("metrics_view", |call| Box::pin(metrics_view(call))),
];

async fn openapi_view(call: Call) -> Result<Response, Failure> {
    Ok(call.bytes(call.shared.document.text.clone()))
}

async fn docs_view(call: Call) -> Result<Response, Failure> {
    Ok(call.answer("text/html; charset=utf-8", call.shared.reference.clone().into()))
}

async fn health_view(call: Call) -> Result<Response, Failure> {
    call.app().health().await?;
    call.json(&Health { status: "ok".to_owned(), version: env!("CARGO_PKG_VERSION").to_owned() })
}

async fn metrics_view(call: Call) -> Result<Response, Failure> {
    let media_type = "application/openmetrics-text; version=1.0.0; charset=utf-8";
    Ok(call.answer(media_type, call.shared.metrics.text().into()))
}
