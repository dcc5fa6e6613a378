//! One call: an operation of the table, its parameters, and its answer.

use std::{fmt::Display, ops::Deref, path::PathBuf, time::Duration};

use bytes::{Bytes, BytesMut};
use freehold_api::{Method, Operation};
use futures::StreamExt;
use reqwest::{
    Response,
    header::{ACCEPT, CONTENT_TYPE, COOKIE, SET_COOKIE},
    multipart::Form,
};
use serde::{Serialize, de::DeserializeOwned};
use serde_json::Value;
use url::Url;
use uuid::Uuid;

use crate::{ApiError, Client, Error};

/// How long a call may take as a whole, uploads apart.
const CALL_TIMEOUT: Duration = Duration::from_secs(120);
/// How long a call with files may take.
const UPLOAD_TIMEOUT: Duration = Duration::from_secs(3600);
/// How often a call is tried when repeating it is harmless and the connection fails.
const ATTEMPTS_MAX: u32 = 3;
/// How long to wait before the second attempt; doubled for each one after.
const RETRY_PAUSE: Duration = Duration::from_millis(100);
/// The most bytes of an answer.
const ANSWER_BYTES_MAX: usize = 256 * 1024 * 1024;
/// The most bytes read of an error's body.
const ERROR_BYTES_MAX: usize = 64 * 1024;

/// An answer: its value, and the very text the server sent.
#[derive(Debug, Clone)]
pub struct Answer<T> {
    value: T,
    text: String,
}

impl<T> Answer<T> {
    /// The JSON text as the server sent it; empty when it sent none.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// The value alone.
    pub fn into_value(self) -> T {
        self.value
    }
}

impl<T> Deref for Answer<T> {
    type Target = T;
    fn deref(&self) -> &T {
        &self.value
    }
}

/// What a call sends.
#[derive(Debug)]
enum Content {
    Nothing,
    Json(Value),
    Multipart { fields: Value, files: Vec<PathBuf> },
}

/// A call being put together.
#[derive(Debug)]
pub(crate) struct Call {
    operation: &'static Operation,
    path: String,
    query: Vec<(String, String)>,
    content: Content,
    idempotency_key: Option<String>,
    cookie: Option<String>,
    pub(crate) timeout: Duration,
}

impl Call {
    /// A call of the operation with this id.
    pub(crate) fn new(id: &'static str) -> Self {
        let operation = freehold_api::operations()
            .find(|operation| operation.id == id)
            .expect("every method of this client names an operation of the table, as its tests show");
        let idempotency_key = operation.idempotent.then(|| Uuid::now_v7().simple().to_string());
        Self {
            operation,
            path: operation.path.to_owned(),
            query: Vec::new(),
            content: Content::Nothing,
            idempotency_key,
            cookie: None,
            timeout: CALL_TIMEOUT,
        }
    }

    /// Fills the path's next parameter. Ids need no escaping.
    pub(crate) fn id(mut self, id: impl Display) -> Self {
        if let (Some(start), Some(end)) = (self.path.find('{'), self.path.find('}')) {
            self.path.replace_range(start..=end, &id.to_string());
        }
        self
    }

    /// Sends this cookie, as `name=value`.
    pub(crate) fn cookie(mut self, cookie: &str) -> Self {
        self.cookie = Some(cookie.to_owned());
        self
    }

    pub(crate) fn query<Q: Serialize>(mut self, query: &Q) -> Self {
        if let Ok(Value::Object(fields)) = serde_json::to_value(query) {
            let pairs = |(name, value): (String, Value)| match value {
                Value::Array(values) => values.iter().map(|value| (name.clone(), plain(value))).collect(),
                value => vec![(name, plain(&value))],
            };
            self.query = fields.into_iter().flat_map(pairs).collect();
        }
        self
    }

    pub(crate) fn json<B: Serialize>(mut self, body: &B) -> Self {
        self.content = Content::Json(json(body));
        self
    }

    /// A body of fields and files; plain JSON when there is no file.
    pub(crate) fn with_files(mut self, body: &impl Serialize, files: &[PathBuf]) -> Self {
        if files.is_empty() {
            return self.json(body);
        }
        self.content = Content::Multipart { fields: json(body), files: files.to_vec() };
        self.timeout = UPLOAD_TIMEOUT;
        self
    }

    fn url(&self, client: &Client) -> Url {
        let mut url = client.url(&self.path);
        if !self.query.is_empty() {
            url.query_pairs_mut().extend_pairs(&self.query);
        }
        url
    }

    /// Reading changes nothing, and a creation with a key of its own happens once however often it is sent.
    const fn is_repeatable(&self) -> bool {
        // What comes with a cookie counts once.
        let is_read = matches!(self.operation.method, Method::Get) && self.cookie.is_none();
        is_read || self.idempotency_key.is_some()
    }

    async fn request(&self, client: &Client) -> Result<reqwest::RequestBuilder, Error> {
        let method = match self.operation.method {
            Method::Get => reqwest::Method::GET,
            Method::Post => reqwest::Method::POST,
            Method::Put => reqwest::Method::PUT,
            Method::Patch => reqwest::Method::PATCH,
            Method::Delete => reqwest::Method::DELETE,
        };
        let mut request = client.request(method, self.url(client)).timeout(self.timeout);
        if let Some(key) = &self.idempotency_key {
            request = request.header("idempotency-key", key);
        }
        if let Some(cookie) = &self.cookie {
            request = request.header(COOKIE, cookie);
        }
        Ok(match &self.content {
            Content::Nothing => request,
            Content::Json(body) => request.header(CONTENT_TYPE, "application/json").body(body.to_string()),
            Content::Multipart { fields, files } => request.multipart(form(fields, files).await?),
        })
    }
}

/// Serializes a request of ours, which always can be.
fn json(body: &impl Serialize) -> Value {
    serde_json::to_value(body).unwrap_or(Value::Null)
}

/// A scalar as it stands in a query or a form; anything else as JSON.
fn plain(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}

async fn form(fields: &Value, files: &[PathBuf]) -> Result<Form, Error> {
    let mut form = Form::new();
    for (name, value) in fields.as_object().into_iter().flatten() {
        form = form.text(name.clone(), plain(value));
    }
    for path in files {
        // A name that had to be changed to be sent would be another file's in the pod.
        if path.file_name().is_none_or(|name| name.to_str().is_none()) {
            let source = std::io::Error::new(std::io::ErrorKind::InvalidInput, "its name is not UTF-8");
            return Err(Error::File { path: path.clone(), source });
        }
        // Streamed from the disk: an upload's size is not bounded by memory.
        form = form.file("file", path).await.map_err(|source| Error::File { path: path.clone(), source })?;
    }
    Ok(form)
}

impl Client {
    /// Sends a call and answers with the head of a successful response.
    pub(crate) async fn send(&self, call: &Call) -> Result<Response, Error> {
        let attempts = if call.is_repeatable() { ATTEMPTS_MAX } else { 1 };
        let mut pause = RETRY_PAUSE;
        for attempt in 1.. {
            match call.request(self).await?.send().await {
                Ok(response) if response.status().is_success() => return Ok(response),
                Ok(response) => return Err(self.refusal(response).await),
                Err(error) if attempt < attempts && !error.is_timeout() && !error.is_builder() => {
                    tokio::time::sleep(pause).await;
                    pause *= 2;
                }
                Err(error) => return Err(self.lost(error)),
            }
        }
        unreachable!("the last attempt returns")
    }

    /// Sends a call and reads its JSON answer.
    pub(crate) async fn call<T: DeserializeOwned>(&self, call: Call) -> Result<Answer<T>, Error> {
        let operation = call.operation.id;
        let text = self.text(call).await?;
        let value = serde_json::from_str(&text).map_err(|source| Error::Contract { operation, source })?;
        Ok(Answer { value, text })
    }

    /// As [`Self::call`], with the cookie that came along, as `name=value`.
    pub(crate) async fn call_with_cookie<T: DeserializeOwned>(
        &self,
        call: Call,
    ) -> Result<(Answer<T>, String), Error> {
        let operation = call.operation.id;
        let response = self.send(&call).await?;
        let cookie = response.headers().get(SET_COOKIE).and_then(|cookie| cookie.to_str().ok());
        let cookie = cookie.and_then(|cookie| cookie.split(';').next()).unwrap_or_default().to_owned();
        let text = self.read(operation, response).await?;
        let value = serde_json::from_str(&text).map_err(|source| Error::Contract { operation, source })?;
        Ok((Answer { value, text }, cookie))
    }

    /// Sends a call whose answer has nothing to read.
    pub(crate) async fn call_empty(&self, call: Call) -> Result<Answer<()>, Error> {
        let text = self.text(call).await?;
        Ok(Answer { value: (), text })
    }

    async fn text(&self, call: Call) -> Result<String, Error> {
        let operation = call.operation.id;
        let response = self.send(&call).await?;
        self.read(operation, response).await
    }

    async fn read(&self, operation: &'static str, response: Response) -> Result<String, Error> {
        let body = self
            .body(response, ANSWER_BYTES_MAX)
            .await?
            .ok_or(Error::TooLong { operation, limit_bytes: ANSWER_BYTES_MAX })?;
        String::from_utf8(body.into()).map_err(|error| Error::Contract {
            operation,
            source: serde::de::Error::custom(error.utf8_error()),
        })
    }

    /// A response's body, or nothing when it is longer than `limit_bytes`.
    async fn body(&self, response: Response, limit_bytes: usize) -> Result<Option<Bytes>, Error> {
        let mut stream = response.bytes_stream();
        let mut body = BytesMut::new();
        while let Some(chunk) = stream.next().await {
            let chunk = chunk.map_err(|error| self.lost(error))?;
            if body.len() + chunk.len() > limit_bytes {
                return Ok(None);
            }
            body.extend_from_slice(&chunk);
        }
        Ok(Some(body.freeze()))
    }

    /// The error that an unsuccessful response holds.
    pub(crate) async fn refusal(&self, response: Response) -> Error {
        let status = response.status().as_u16();
        let body = self.body(response, ERROR_BYTES_MAX).await.ok().flatten().unwrap_or_default();
        Error::Api(Box::new(ApiError::read(status, &body)))
    }

    pub(crate) fn lost(&self, error: reqwest::Error) -> Error {
        let address = self.address().to_owned();
        // The address is in the error already, and a query need not be shown.
        let source = error.without_url();
        if source.is_connect() {
            Error::Unreachable { address, source }
        } else {
            Error::Broken { address, source: source.into() }
        }
    }

    /// A request for an event stream, without an overall timeout.
    pub(crate) fn stream_request(&self, call: &Call) -> reqwest::RequestBuilder {
        self.request(reqwest::Method::GET, call.url(self)).header(ACCEPT, "text/event-stream")
    }
}
