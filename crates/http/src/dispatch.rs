//! The way of every request: named, authenticated, checked, handled, answered.

use std::{
    panic::AssertUnwindSafe,
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use axum::{body::Body, extract::Request, response::Response};
use bytes::{Bytes, BytesMut};
use freehold_access::Actor;
use freehold_api::{
    Body as Shape, Guard, Operation, error::ErrorCode, limits::JSON_BODY_BYTES_MAX, operation::Face,
};
use freehold_app::Standing;
use futures::FutureExt;
use http::{HeaderMap, HeaderValue, Uri, header};
use http_body_util::BodyExt;
use serde_json::Value;
use sha2::{Digest, Sha256};

use crate::{
    call::{Call, Handler, Payload, Shared},
    document::{body_schema, query_schema},
    error::{Failure, REQUEST_ID},
    metrics::Metrics,
};

/// Time a JSON body may take to arrive.
pub(crate) const BODY_TIME_MAX: Duration = Duration::from_secs(30);

/// An operation and what answers it.
pub(crate) struct Route {
    pub operation: &'static Operation,
    pub handler: Handler,
    /// Where its figures are.
    pub figures: usize,
}

/// Counts a request as active until it is dropped, also when its connection is.
struct Active(Arc<Metrics>);

impl Drop for Active {
    fn drop(&mut self) {
        self.0.ended();
    }
}

/// Answers one request, whatever happens.
pub(crate) async fn dispatch(shared: Arc<Shared>, route: &'static Route, request: Request) -> Response {
    let started = Instant::now();
    shared.metrics.begun();
    let active = Active(Arc::clone(&shared.metrics));
    let request_id = request_id();
    let served = serve(Arc::clone(&shared), route, request, request_id.clone());
    let response = match AssertUnwindSafe(served).catch_unwind().await {
        Ok(Ok(response)) => response,
        Ok(Err(failure)) => failure.respond(route.operation.face, &request_id),
        Err(_) => Failure::internal("a handler panicked").respond(route.operation.face, &request_id),
    };
    drop(active);
    finish(&shared, route.figures, response, &request_id, started)
}

/// Answers what is no operation.
pub(crate) fn refuse(shared: &Shared, code: ErrorCode) -> Response {
    let (started, request_id) = (Instant::now(), request_id());
    let response = Failure::of(code).respond(Face::ControlPlane, &request_id);
    finish(shared, shared.metrics.unrouted(), response, &request_id, started)
}

fn request_id() -> String {
    format!("req_{}", uuid::Uuid::now_v7().simple())
}

fn finish(shared: &Shared, figures: usize, mut response: Response, id: &str, started: Instant) -> Response {
    if let Ok(id) = HeaderValue::from_str(id) {
        response.headers_mut().insert(REQUEST_ID, id);
    }
    let (status, took) = (response.status().as_u16(), started.elapsed());
    tracing::debug!(request.id = id, response.status = status, duration_us = took.as_micros(), "answered");
    shared.metrics.answered(figures, status, took);
    response
}

async fn serve(
    shared: Arc<Shared>,
    route: &'static Route,
    request: Request,
    request_id: String,
) -> Result<Response, Failure> {
    let operation = route.operation;
    // Whoever is refused is answered before the body came. The connection reads what is left of it when it ends.
    let (head, body) = request.into_parts();
    let Admitted { query, actor, standing } = admit(&shared, operation, &head.uri, &head.headers).await?;
    let payload = payload(&shared, operation, &head.headers, body).await?;
    let path = head.uri.path().to_owned();
    let raw_query = head.uri.query().map(str::to_owned);
    let params = params(operation.path, &path);
    let call = Call {
        shared,
        operation,
        actor,
        standing,
        request_id,
        path,
        params,
        query,
        raw_query,
        headers: head.headers,
        payload,
    };
    (route.handler)(call).await
}

/// What is known of a request before its body is looked at.
struct Admitted {
    query: Value,
    actor: Option<Arc<Actor>>,
    standing: Option<Standing>,
}

async fn admit(
    shared: &Shared,
    operation: &Operation,
    uri: &Uri,
    headers: &HeaderMap,
) -> Result<Admitted, Failure> {
    let query = query(shared, operation, uri)?;
    let (actor, standing) = authenticate(shared, operation, headers, &query).await?.unzip();
    Ok(Admitted { query, actor, standing: standing.flatten() })
}

/// The path's segments that stand where the pattern has names. The pattern is matched from the end, since sessions routes
/// are served under two prefixes.
fn params(pattern: &'static str, path: &str) -> Vec<(&'static str, String)> {
    pattern
        .rsplit('/')
        .zip(path.rsplit('/'))
        .filter_map(|(name, value)| {
            let name = name.strip_prefix('{')?.strip_suffix('}')?;
            Some((name, value.to_owned()))
        })
        .collect()
}

/// The query's parameters, checked. Operations without parameters do not look at it.
fn query(shared: &Shared, operation: &Operation, uri: &Uri) -> Result<Value, Failure> {
    let Some(schema) = query_schema(operation) else { return Ok(Value::Null) };
    let mut pairs: Vec<(String, String)> = Vec::new();
    for (name, value) in url::form_urlencoded::parse(uri.query().unwrap_or_default().as_bytes()) {
        // What was no UTF-8 was replaced by this character.
        if name.contains('\u{fffd}') || value.contains('\u{fffd}') {
            return Err(Failure::field("query", "is not UTF-8"));
        }
        if pairs.iter().any(|(earlier, _)| *earlier == name) && !shared.document.is_list(&schema, &name) {
            return Err(Failure::field(&name, "is given twice"));
        }
        pairs.push((name.into_owned(), value.into_owned()));
    }
    let fields = shared.document.object_of(&schema, pairs);
    shared.document.check(&schema, &fields)?;
    Ok(fields)
}

/// Finds out who calls, and that the caller has the operation's rights at all; how far they reach is for the use case.
async fn authenticate(
    shared: &Shared,
    operation: &Operation,
    headers: &HeaderMap,
    query: &Value,
) -> Result<Option<(Arc<Actor>, Option<Standing>)>, Failure> {
    let rights = match operation.guard {
        Guard::Public => return Ok(None),
        Guard::SignedIn => &[],
        Guard::Rights(rights) => rights,
    };
    let from_query = query["api_key"].as_str().filter(|_| operation.is_event_stream());
    if headers.get_all(header::AUTHORIZATION).iter().nth(1).is_some() {
        return Err(Failure::new(ErrorCode::Unauthorized, "more than one credential was sent"));
    }
    let secret = headers.get(header::AUTHORIZATION).map_or(Ok(from_query), |value| {
        value.to_str().map(|value| Some(credential(value))).map_err(|_| Failure::of(ErrorCode::Unauthorized))
    })?;
    let secret = secret.ok_or_else(|| Failure::new(ErrorCode::Unauthorized, "no credential was sent"))?;
    let actor = shared.app.authenticate(secret).await?;
    let actor =
        actor.ok_or_else(|| Failure::new(ErrorCode::Unauthorized, "the credential is unknown or revoked"))?;
    for right in rights {
        actor.reach(*right)?;
    }
    Ok(Some((actor, operation.is_stream().then(|| shared.app.standing(secret)))))
}

/// The secret of an `Authorization` header: after `Bearer`, or alone.
fn credential(value: &str) -> &str {
    match value.trim().split_once(' ') {
        Some((scheme, secret)) if scheme.eq_ignore_ascii_case("bearer") => secret.trim(),
        Some(_) | None => value.trim(),
    }
}

async fn payload(
    shared: &Shared,
    operation: &Operation,
    headers: &HeaderMap,
    body: Body,
) -> Result<Payload, Failure> {
    let Some(schema) = body_schema(operation) else { return Ok(Payload::None) };
    let content_type =
        headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let media_type = content_type.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    match (media_type.as_str(), operation.body) {
        ("application/json", _) => {
            let bytes = collect(headers, body, shared.options.body_time_max).await?;
            let mut fields = crate::json::parse(&bytes)?;
            shared.document.check(&schema, &fields)?;
            drop_read_only(&mut fields, operation);
            Ok(Payload::Fields { fields, hash: Sha256::digest(&bytes).into() })
        }
        ("multipart/form-data", Shape::JsonOrMultipart(_)) => {
            let boundary = multer::parse_boundary(content_type)
                .map_err(|error| Failure::new(ErrorCode::UnsupportedMediaType, error.to_string()))?;
            Ok(Payload::Form { boundary, body: Mutex::new(body) })
        }
        (_, shape) => {
            let known = match shape {
                Shape::JsonOrMultipart(_) => "application/json or multipart/form-data",
                Shape::Json(_) | Shape::None => "application/json",
            };
            let message = format!("the content type must be {known}");
            Err(Failure::new(ErrorCode::UnsupportedMediaType, message))
        }
    }
}

/// What only the server sets may be sent back as it was read; it is not looked at.
pub(crate) fn drop_read_only(fields: &mut Value, operation: &Operation) {
    if let Some(fields) = fields.as_object_mut() {
        fields.retain(|name, _| !operation.read_only.contains(&name.as_str()));
    }
}

/// A JSON body, as far as its limit.
async fn collect(headers: &HeaderMap, mut body: Body, limit: Duration) -> Result<Bytes, Failure> {
    let announced =
        headers.get(header::CONTENT_LENGTH).and_then(|value| value.to_str().ok()?.parse::<usize>().ok());
    let read = async {
        let mut bytes = BytesMut::with_capacity(announced.unwrap_or(0).min(JSON_BODY_BYTES_MAX));
        while let Some(frame) = body.frame().await {
            let frame = frame.map_err(|error| {
                Failure::new(ErrorCode::InvalidJson, format!("the body was cut: {error}"))
            })?;
            let Ok(data) = frame.into_data() else { continue };
            if bytes.len() + data.len() > JSON_BODY_BYTES_MAX {
                let message = format!("a JSON body may have {JSON_BODY_BYTES_MAX} bytes");
                return Err(Failure::new(ErrorCode::PayloadTooLarge, message));
            }
            bytes.extend_from_slice(&data);
        }
        Ok(bytes.freeze())
    };
    let late = |_| {
        let message = format!("the body did not arrive within {} seconds", limit.as_secs());
        Failure::new(ErrorCode::InvalidJson, message)
    };
    tokio::time::timeout(limit, read).await.map_err(late)?
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_credential_comes_with_or_without_a_scheme() {
        for header in ["Bearer sk_x", "bearer sk_x", "BEARER  sk_x ", "sk_x", " sk_x "] {
            assert_eq!(credential(header), "sk_x", "{header:?}");
        }
    }

    #[test]
    fn parameters_are_found_under_either_prefix() {
        assert_eq!(
            params("/v1/sessions/{session_id}", "/api/v1/sessions/x"),
            [("session_id", "x".to_owned())]
        );
        assert_eq!(
            params("/v1/workspaces/{id}/tasks/{tid}", "/v1/workspaces/a/tasks/b"),
            [("tid", "b".to_owned()), ("id", "a".to_owned())]
        );
    }
}
