//! `web_fetch`: a request to the network, which leaves the pod by the same road as everything else.

use std::{collections::BTreeMap, time::Duration};

use reqwest::{Client, Method, Response, redirect};
use serde::Deserialize;
use url::Url;

use super::Outcome;

/// From the beginning to the end of one fetch.
const FETCH_TIMEOUT: Duration = Duration::from_secs(60);
/// Until the connection is made.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// The most bytes of a body that are shown.
const BODY_BYTES_MAX: usize = 48 * 1024;
/// The most bytes of response headers that are shown.
const HEADER_BYTES_MAX: usize = 4 * 1024;
/// The most redirects that are followed.
const REDIRECTS_MAX: usize = 5;
/// The most request headers.
const REQUEST_HEADERS_MAX: usize = 32;
/// The methods there are.
pub(crate) const METHODS: [&str; 6] = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE"];

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct WebFetch {
    url: String,
    method: Option<String>,
    #[serde(default)]
    headers: BTreeMap<String, String>,
    body: Option<String>,
}

/// The HTTP client, made at the first fetch.
#[derive(Debug, Default)]
pub(super) struct Web {
    client: Option<Client>,
}

impl Web {
    pub(super) async fn fetch(&mut self, arguments: WebFetch) -> Outcome {
        let method = arguments.method.as_deref().unwrap_or("GET").to_ascii_uppercase();
        if !METHODS.contains(&method.as_str()) {
            return Outcome::error(format!("`method` is one of {}. Nothing was sent.", METHODS.join(", ")));
        }
        let url = Url::parse(&arguments.url).ok().filter(|url| matches!(url.scheme(), "http" | "https"));
        let Some(url) = url else {
            return Outcome::error("`url` is not a whole http or https URL. Nothing was sent.");
        };
        if arguments.headers.len() > REQUEST_HEADERS_MAX {
            return Outcome::error(format!("At most {REQUEST_HEADERS_MAX} headers. Nothing was sent."));
        }
        let client = match self.client() {
            Ok(client) => client,
            Err(why) => return Outcome::error(why),
        };
        let method = Method::from_bytes(method.as_bytes()).unwrap_or(Method::GET);
        let mut request = client.request(method, url);
        for (name, value) in arguments.headers {
            request = request.header(name, value);
        }
        if let Some(body) = arguments.body {
            request = request.body(body);
        }
        match tokio::time::timeout(FETCH_TIMEOUT, exchange(request)).await {
            Ok(Ok(outcome)) => outcome,
            Ok(Err(error)) => Outcome::error(format!("The request failed: {}.", chain(&error))),
            Err(_) => Outcome::error(format!("The request took longer than {} s.", FETCH_TIMEOUT.as_secs())),
        }
    }

    fn client(&mut self) -> Result<Client, String> {
        if let Some(client) = &self.client {
            return Ok(client.clone());
        }
        // What the pod trusts: the file that `SSL_CERT_FILE` names, as for other programs.
        let unusable = |error: &dyn std::error::Error| {
            format!("The HTTP client could not be made: {}. Nothing was sent.", chain(error))
        };
        let client = freehold_llm::http::builder(crate::options::trust_file().as_deref())
            .map_err(|error| unusable(&error))?
            .connect_timeout(CONNECT_TIMEOUT)
            .redirect(redirect::Policy::limited(REDIRECTS_MAX))
            .build()
            .map_err(|error| unusable(&error))?;
        self.client = Some(client.clone());
        Ok(client)
    }
}

async fn exchange(request: reqwest::RequestBuilder) -> Result<Outcome, reqwest::Error> {
    let mut response = request.send().await?;
    let mut text = head(&response);
    let status = response.status();
    let mut body = Vec::new();
    let mut more = false;
    while let Some(piece) = response.chunk().await? {
        let room = BODY_BYTES_MAX - body.len();
        body.extend_from_slice(&piece[..piece.len().min(room)]);
        if piece.len() > room {
            more = true;
            break;
        }
    }
    if body.contains(&0) {
        text.push_str(&format!(
            "\n[a binary body of {}{} bytes]",
            if more { "more than " } else { "" },
            body.len()
        ));
    } else if !body.is_empty() {
        text.push('\n');
        text.push_str(&String::from_utf8_lossy(&body));
    }
    if more {
        text.push_str(&format!("\n[the body is longer; only its first {BODY_BYTES_MAX} bytes are shown]"));
    }
    if let Some(reason) = denied(status.as_u16(), &body) {
        text.push_str(&format!(
            "\n[the policy of this workspace does not allow this request ({reason}); trying again will not help: do \
             without it, or say that it is needed]"
        ));
    }
    let is_fine = status.is_success() || status.is_redirection();
    Ok(if is_fine { Outcome::success(text) } else { Outcome::error(text) })
}

fn head(response: &Response) -> String {
    let mut text = format!("HTTP {} from {}\n", response.status(), response.url());
    for (name, value) in response.headers() {
        let line = format!("{name}: {}\n", String::from_utf8_lossy(value.as_bytes()));
        if text.len() + line.len() > HEADER_BYTES_MAX {
            text.push_str("[more headers cut]\n");
            break;
        }
        text.push_str(&line);
    }
    text
}

/// The reason when this is egress's refusal rather than the server's answer.
fn denied(status: u16, body: &[u8]) -> Option<String> {
    #[derive(Deserialize)]
    struct Envelope {
        error: Refusal,
    }
    #[derive(Deserialize)]
    struct Refusal {
        code: String,
        #[serde(default)]
        reason: String,
    }
    let envelope: Envelope = (status >= 400).then(|| serde_json::from_slice(body).ok())??;
    (envelope.error.code == "egress_denied").then_some(envelope.error.reason)
}

fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        text.push_str(": ");
        text.push_str(&error.to_string());
        source = error.source();
    }
    text
}
