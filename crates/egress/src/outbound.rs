//! Requests of the server's own, such as those to the issuers of credentials: no policy decides them, and they go the same
//! way as all others: verified certificates, public addresses or the operator's own.

use std::time::Duration;

use bytes::Bytes;
use freehold_policy::{Destination, Scheme};
use http::{HeaderValue, Request, Response, Uri, header};
use http_body_util::{BodyExt, Full, Limited};

use crate::{deny::Reason, dial::Connector};

/// The longest that a request of the server's own takes, to the last byte of its answer.
const EXCHANGE_MAX: Duration = Duration::from_secs(15);
/// The most bytes of an answer.
const ANSWER_BYTES_MAX: usize = 1024 * 1024;

/// Sends requests of the server's own, each on a connection of its own.
pub struct Outbound {
    connector: Connector,
}

impl Outbound {
    pub(crate) const fn new(connector: Connector) -> Self {
        Self { connector }
    }

    /// Sends a request to an https address and reads the whole answer. Follows no redirect.
    ///
    /// # Errors
    /// Where there is no answer: the address is forbidden or does not answer, the certificate is not trusted, the answer
    /// is late or too long.
    pub async fn send(&self, request: Request<Bytes>) -> Result<Response<Bytes>, Reason> {
        let exchange = async {
            let uri = request.uri();
            if uri.scheme_str() != Some("https") {
                return Err(Reason::UpstreamTls);
            }
            let port = uri.port_u16().unwrap_or_else(|| Scheme::Https.default_port());
            let destination = Destination::new(Scheme::Https, uri.host().unwrap_or_default(), port)
                .map_err(|_| Reason::UpstreamUnresolved)?;
            let (mut parts, body) = request.into_parts();
            let host =
                HeaderValue::from_str(&destination.to_string()).map_err(|_| Reason::RequestMalformed)?;
            parts.headers.insert(header::HOST, host);
            let path = parts.uri.path_and_query().map_or("/", http::uri::PathAndQuery::as_str);
            parts.uri = path.parse::<Uri>().map_err(|_| Reason::RequestMalformed)?;
            let request = Request::from_parts(parts, Full::new(body));
            let (head, body) = self.connector.send_alone(&destination, request).await?.into_parts();
            let body =
                Limited::new(body, ANSWER_BYTES_MAX).collect().await.map_err(|_| Reason::UpstreamFailed)?;
            Ok(Response::from_parts(head, body.to_bytes()))
        };
        tokio::time::timeout(EXCHANGE_MAX, exchange).await.unwrap_or(Err(Reason::UpstreamTimeout))
    }
}
