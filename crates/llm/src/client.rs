//! The HTTP side: one request, its waits, its status.

use std::path::PathBuf;
use std::sync::OnceLock;
use std::time::Duration;

use freehold_model::Timestamp;
use reqwest::header::{ACCEPT, CONTENT_TYPE};
use reqwest::redirect;
use url::Url;

use crate::read::{self, Decode, garbage};
use crate::{Answer, Delta, Error, Request, Wire, Written, anthropic, chat, classify, http, responses};

/// The most bytes of a refusal that are read.
const REFUSAL_BYTES_MAX: usize = 64 * 1024;
/// The longest wait for the whole body of a refusal.
const REFUSAL_WAIT: Duration = Duration::from_secs(10);
/// How long an unused connection is kept for the next call.
const CONNECTION_IDLE_MAX: Duration = Duration::from_secs(30);
/// The version of Anthropic's API that is spoken.
const ANTHROPIC_VERSION: &str = "2023-06-01";

/// How to reach a provider.
#[derive(Clone)]
pub struct Options {
    /// What it speaks.
    pub wire: Wire,
    /// Where it is: scheme, host and port, and a path before `/v1/...` if it has one.
    pub base_url: Url,
    /// The key sent to it; in a pod the documented placeholder, which egress replaces.
    pub api_key: String,
    /// The PEM file of the only roots trusted; without it no `https` URL can be reached.
    pub roots: Option<PathBuf>,
    /// The waits.
    pub timeouts: Timeouts,
}

impl std::fmt::Debug for Options {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Options")
            .field("wire", &self.wire)
            .field("base_url", &self.base_url.as_str())
            .field("roots", &self.roots)
            .field("timeouts", &self.timeouts)
            .finish_non_exhaustive()
    }
}

/// The longest waits of one call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Timeouts {
    /// Until the connection is made.
    pub connect: Duration,
    /// From the request to the head of the answer.
    pub first_byte: Duration,
    /// Between two pieces of the answer; a model may think in silence for minutes.
    pub between_chunks: Duration,
}

impl Default for Timeouts {
    fn default() -> Self {
        Self {
            connect: Duration::from_secs(10),
            first_byte: Duration::from_mins(5),
            between_chunks: Duration::from_mins(5),
        }
    }
}

/// A provider to ask. Making one costs nothing: the HTTP client, its roots and its connection come with the first call
/// and go when this is dropped, so keep it no longer than there is work.
#[derive(Debug)]
pub struct Client {
    options: Options,
    http: OnceLock<reqwest::Client>,
}

impl Client {
    /// A client of one provider.
    pub const fn new(options: Options) -> Self {
        Self { options, http: OnceLock::new() }
    }

    /// Sends `request`, tells `tell` of the progress, gives the finished answer. Dropping the future ends the call.
    /// It tries once: [`Error::pause`] says whether and when to try again.
    ///
    /// # Errors
    /// Whenever there is no finished answer.
    pub async fn ask(
        &self,
        request: &Request<'_>,
        tell: &mut (dyn FnMut(Delta<'_>) + Send),
    ) -> Result<Answer, Error> {
        self.ask_after(request, &mut Written::default(), tell).await
    }

    /// As [`Self::ask`], for a request whose items follow those that `written` kept of the last one.
    ///
    /// # Errors
    /// Whenever there is no finished answer.
    pub async fn ask_after(
        &self,
        request: &Request<'_>,
        written: &mut Written,
        tell: &mut (dyn FnMut(Delta<'_>) + Send),
    ) -> Result<Answer, Error> {
        let response = self.send(request, written).await?;
        let status = response.status();
        if !status.is_success() {
            return Err(refusal(response).await);
        }
        let kind =
            response.headers().get(CONTENT_TYPE).and_then(|kind| kind.to_str().ok()).unwrap_or_default();
        if !kind.starts_with("text/event-stream") {
            return Err(garbage(
                "the answer",
                &format_args!("its content type is `{kind}`, not an event stream"),
            ));
        }
        let mut decoder = decoder(self.options.wire);
        read::answer(read::pieces(response, self.options.timeouts.between_chunks), &mut *decoder, tell).await
    }

    async fn send(&self, request: &Request<'_>, written: &mut Written) -> Result<reqwest::Response, Error> {
        let Options { wire, base_url, api_key, timeouts, .. } = &self.options;
        let (path, body) = match wire {
            Wire::AnthropicMessages => ("v1/messages", anthropic::body(request, written)),
            Wire::OpenAiResponses => ("v1/responses", responses::body(request, written)),
            Wire::OpenAiChat => ("v1/chat/completions", chat::body(request, written)),
        };
        let body = body.map_err(Error::Request)?;
        let url = format!("{}/{path}", base_url.as_str().trim_end_matches('/'));
        let call =
            self.http()?.post(url).header(CONTENT_TYPE, "application/json").body(reqwest::Body::wrap(body));
        let call = match wire {
            Wire::AnthropicMessages => {
                call.header("x-api-key", api_key).header("anthropic-version", ANTHROPIC_VERSION)
            }
            Wire::OpenAiResponses | Wire::OpenAiChat => call.bearer_auth(api_key),
        };
        let call = call.header(ACCEPT, "text/event-stream").send();
        match tokio::time::timeout(timeouts.first_byte, call).await {
            Ok(Ok(response)) => Ok(response),
            Ok(Err(source)) if source.is_builder() => Err(Error::Http(source)),
            Ok(Err(source)) => Err(Error::Unavailable {
                after: None,
                message: "no answer came".to_owned(),
                source: Some(source.without_url()),
            }),
            Err(_) => Err(Error::Unavailable {
                after: None,
                message: format!("no answer began within {:?}", timeouts.first_byte),
                source: None,
            }),
        }
    }

    fn http(&self) -> Result<&reqwest::Client, Error> {
        if let Some(http) = self.http.get() {
            return Ok(http);
        }
        let http = http::builder(self.options.roots.as_deref())?
            .connect_timeout(self.options.timeouts.connect)
            .pool_idle_timeout(CONNECTION_IDLE_MAX)
            .pool_max_idle_per_host(1)
            .http1_only()
            // A key follows no redirect.
            .redirect(redirect::Policy::none())
            .build()
            .map_err(Error::Http)?;
        Ok(self.http.get_or_init(|| http))
    }
}

fn decoder(wire: Wire) -> Box<dyn Decode> {
    match wire {
        Wire::AnthropicMessages => Box::<anthropic::Decoder>::default(),
        Wire::OpenAiResponses => Box::<responses::Decoder>::default(),
        Wire::OpenAiChat => Box::<chat::Decoder>::default(),
    }
}

/// The error of an answer with a failure status; its body is read as far as it comes.
async fn refusal(mut response: reqwest::Response) -> Error {
    let mut body = Vec::new();
    let read = async {
        while let Ok(Some(piece)) = response.chunk().await {
            let room = REFUSAL_BYTES_MAX.saturating_sub(body.len());
            body.extend_from_slice(&piece[..piece.len().min(room)]);
            if body.len() == REFUSAL_BYTES_MAX {
                break;
            }
        }
    };
    // The status counts more than its explanation.
    _ = tokio::time::timeout(REFUSAL_WAIT, read).await;
    classify::status_error(response.status().as_u16(), response.headers(), &body, Timestamp::now())
}
