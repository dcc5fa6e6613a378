//! The HTTP side: one request, its timeouts, its status.

use std::path::PathBuf;
use std::time::Duration;

use url::Url;

use crate::{Answer, Delta, Error, Request, Wire};

/// How to reach a provider.
#[derive(Debug, Clone)]
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

/// The longest waits of one call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Timeouts {
    /// Until the connection is made.
    pub connect: Duration,
    /// From the request to the head of the answer.
    pub first_byte: Duration,
    /// Between two pieces of the answer.
    pub between_chunks: Duration,
}

impl Default for Timeouts {
    fn default() -> Self {
        Self {
            connect: Duration::from_secs(10),
            first_byte: Duration::from_mins(5),
            between_chunks: Duration::from_mins(2),
        }
    }
}

/// A provider to ask. Making one costs nothing; the HTTP client is made at the first call, so drop it when idle.
#[derive(Debug)]
pub struct Client {
    options: Options,
}

impl Client {
    /// A client of one provider.
    pub const fn new(options: Options) -> Self {
        Self { options }
    }

    /// Sends `request`, tells `on_delta` of the progress, gives the finished answer. Dropping the future ends the call.
    /// It does not retry: see [`Error::pause`].
    ///
    /// # Errors
    /// Whenever there is no finished answer.
    pub async fn ask(
        &self,
        request: &Request<'_>,
        on_delta: &mut (dyn FnMut(Delta<'_>) + Send),
    ) -> Result<Answer, Error> {
        let _ = (request, on_delta);
        Err(Error::Garbage { message: format!("no wire yet for {}", self.options.base_url) })
    }
}
