//! One request, as a handler sees it: named, authenticated, checked.

use std::{
    str::FromStr,
    sync::{Arc, Mutex},
};

use axum::{body::Body, response::Response};
use freehold_access::Actor;
use freehold_api::{Operation, error::ErrorCode, limits::IDEMPOTENCY_KEY_CHARS_MAX, operation::Face};
use freehold_app::{App, Once, Outcome, Standing};
use futures::future::BoxFuture;
use http::{HeaderMap, HeaderValue, StatusCode, header};
use serde::{Serialize, de::DeserializeOwned};
use serde_json::Value;
use sha2::{Digest, Sha256};
use tokio::sync::watch;

use crate::{document::Document, error::Failure, metrics::Metrics, server::Options};

/// What every request shares.
pub(crate) struct Shared {
    pub app: App,
    pub options: Options,
    pub document: Document,
    /// The reference for people.
    pub reference: String,
    pub metrics: Arc<Metrics>,
    /// Whether the server is stopping, which ends streams.
    pub stop: watch::Sender<bool>,
}

/// Answers one operation.
pub(crate) type Handler = fn(Call) -> BoxFuture<'static, Result<Response, Failure>>;

/// What came as body.
pub(crate) enum Payload {
    /// Nothing that is read.
    None,
    /// Fields that were checked by the operation's schema, and the hash of the bytes they came as.
    Fields { fields: Value, hash: [u8; 32] },
    /// A form that is still to be read. The lock is never waited for: it lets a request be shared between threads.
    Form { boundary: String, body: Mutex<Body> },
}

/// One request.
pub(crate) struct Call {
    pub shared: Arc<Shared>,
    pub operation: &'static Operation,
    pub actor: Option<Arc<Actor>>,
    /// Of a stream's caller: what ends the stream when the secret is revoked.
    pub standing: Option<Standing>,
    pub request_id: String,
    pub path: String,
    /// Path parameters by name.
    pub params: Vec<(&'static str, String)>,
    /// Query parameters that were checked by the operation's schema.
    pub query: Value,
    /// The query as it came.
    pub raw_query: Option<String>,
    pub headers: HeaderMap,
    pub payload: Payload,
}

impl Call {
    /// Resolves when a stream's caller is not who may have it any more, because the secret was revoked.
    pub fn revoked(&mut self) -> BoxFuture<'static, ()> {
        match self.standing.take() {
            Some(standing) => Box::pin(standing.ended()),
            None => Box::pin(futures::future::pending()),
        }
    }

    pub fn app(&self) -> &App {
        &self.shared.app
    }

    /// The caller. An operation that is guarded always has one.
    pub fn actor(&self) -> Result<&Actor, Failure> {
        self.actor.as_deref().ok_or_else(|| Failure::of(ErrorCode::Unauthorized))
    }

    /// The id in the path; `unknown` when it is malformed, for then there is nothing of that id.
    pub fn id<T: FromStr>(&self, name: &str, unknown: ErrorCode) -> Result<T, Failure> {
        let text = self.params.iter().find(|(param, _)| *param == name).map_or("", |(_, value)| value);
        text.parse().map_err(|_| match self.operation.face {
            Face::ControlPlane => Failure::of(unknown),
            Face::Sessions => Failure::of(ErrorCode::InvalidId),
        })
    }

    /// The query.
    pub fn query<T: DeserializeOwned>(&mut self) -> Result<T, Failure> {
        typed(self.query.take())
    }

    /// The body's fields.
    pub fn fields<T: DeserializeOwned>(&mut self) -> Result<T, Failure> {
        match &mut self.payload {
            Payload::Fields { fields, .. } => typed(fields.take()),
            Payload::None | Payload::Form { .. } => Err(Failure::internal("a body was not read as fields")),
        }
    }

    /// That the request must happen once, if it says so. `render` makes the body of the answer.
    pub fn once<T>(&self, render: fn(&T) -> Vec<u8>) -> Result<Option<Once<T>>, Failure> {
        let Payload::Fields { hash, .. } = &self.payload else { return Ok(None) };
        self.once_for(*hash, render)
    }

    /// As [`Self::once`], of a request whose body has this hash.
    pub fn once_for<T>(&self, body: [u8; 32], render: fn(&T) -> Vec<u8>) -> Result<Option<Once<T>>, Failure> {
        let mut keys = self.headers.get_all("idempotency-key").iter();
        let Some(key) = keys.next() else { return Ok(None) };
        if keys.next().is_some() {
            return Err(Failure::field("Idempotency-Key", "is given twice"));
        }
        // `to_str` lets tabs and spaces through.
        let key = key.to_str().ok().filter(|key| {
            (1..=IDEMPOTENCY_KEY_CHARS_MAX).contains(&key.len())
                && key.bytes().all(|byte| byte.is_ascii_graphic())
        });
        let Some(key) = key else {
            return Err(Failure::field("Idempotency-Key", "must be 1 to 255 visible ASCII characters"));
        };
        let digest = Sha256::new()
            .chain_update(self.operation.id)
            .chain_update([0])
            .chain_update(&self.path)
            .chain_update([0])
            .chain_update(body)
            .finalize()
            .into();
        Ok(Some(self.app().once(key.to_owned(), &digest, render)))
    }

    /// A success with a JSON body.
    pub fn json<T: Serialize>(&self, value: &T) -> Result<Response, Failure> {
        Ok(self.bytes(serde_json::to_vec(value).map_err(Failure::internal)?))
    }

    /// A success with a JSON body that is made already.
    pub fn bytes(&self, body: impl Into<Body>) -> Response {
        self.answer("application/json", body.into())
    }

    /// A success with a body of this type.
    pub fn answer(&self, media_type: &'static str, body: Body) -> Response {
        let mut response = Response::new(body);
        *response.status_mut() = StatusCode::from_u16(self.operation.status).unwrap_or(StatusCode::OK);
        response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(media_type));
        response
    }

    /// A success of a request that may have happened before.
    pub fn outcome<T>(&self, outcome: Outcome<T>, render: fn(&T) -> Vec<u8>) -> Response {
        match outcome {
            Outcome::Done(done) => self.bytes(render(&done)),
            Outcome::Replayed(earlier) => {
                let mut response = self.bytes(earlier);
                response.headers_mut().insert("idempotency-replayed", HeaderValue::from_static("true"));
                response
            }
        }
    }
}

/// Reads fields that passed their schema. What the schema cannot say (the range of a type) is refused here.
pub(crate) fn typed<T: DeserializeOwned>(fields: Value) -> Result<T, Failure> {
    serde_json::from_value(fields).map_err(|error| Failure::field("body", error.to_string()))
}
