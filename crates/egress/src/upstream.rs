//! Upstream connections of one workspace. Each has its own pools and TLS sessions, so that two identities never share a
//! connection.

use std::{error::Error, time::Duration};

use bytes::Bytes;
use freehold_policy::Permit;
use http::{HeaderMap, HeaderValue, Request, Response, Version, header, request::Parts};
use http_body_util::Empty;
use hyper::body::Incoming;

use crate::{
    Limits,
    deny::Reason,
    dial::{Connector, Dialer, Offer},
    options::ms,
    passage::Passage,
    pool::Pool,
};

/// The upstream side of one workspace.
pub(crate) struct Upstream {
    pools: Pools,
    /// For addresses that rules name, which may be inside. Pools of their own: no other request gets their connections.
    named: Pools,
    connector: Connector,
    response_head: Duration,
}

/// Connections by what the client speaks, since a translation costs time and a little of what was said: who speaks HTTP/1.1
/// has it spoken upstream too, if it is spoken there.
struct Pools {
    http1: Pool,
    other: Pool,
}

impl Upstream {
    pub(crate) fn new(dialer: &Dialer, limits: &Limits) -> Self {
        let connector = Connector::new(dialer, limits);
        let pools = |named| {
            let pool = |offer| Pool::new(connector.with(offer, named), limits);
            Pools { http1: pool(Offer::Http1First), other: pool(Offer::Any) }
        };
        let (pools, named) = (pools(false), pools(true));
        Self { pools, named, connector, response_head: ms(limits.response_head_ms) }
    }

    /// Whether the permitted destination has an address that may be dialled.
    pub(crate) async fn resolve(&self, permit: &Permit) -> Result<(), Reason> {
        self.connector.resolver.resolve(permit.destination(), permit.names_address()).await.map(|_| ())
    }

    /// Sends a request whose target is a path and returns the answer's head; bodies pass as they come.
    pub(crate) async fn send(
        &self,
        permit: &Permit,
        mut parts: Box<Parts>,
        body: Box<Passage>,
    ) -> Result<Response<Incoming>, Reason> {
        let pools = if permit.names_address() { &self.named } else { &self.pools };
        let pool = if parts.version == Version::HTTP_2 { &pools.other } else { &pools.http1 };
        say_length(&mut parts.headers, &body);
        let sent = pool.send(permit.destination(), parts, body);
        let sent = tokio::time::timeout(self.response_head, sent).await;
        let error = match sent {
            Ok(Ok(response)) => return Ok(response),
            Ok(Err(error)) => error,
            Err(_) => return Err(Reason::UpstreamTimeout),
        };
        tracing::debug!(egress.destination = %permit.destination(), error = &*error, "upstream failed");
        Err(reason_of(&*error))
    }

    /// Sends a request that asks for an upgrade on an HTTP/1.1 connection of its own.
    pub(crate) async fn send_upgrade(
        &self,
        permit: &Permit,
        request: Request<Empty<Bytes>>,
    ) -> Result<Response<Incoming>, Reason> {
        let connector = self.connector.with(Offer::Http1, permit.names_address());
        let sent = connector.send_alone(permit.destination(), request);
        tokio::time::timeout(self.response_head, sent).await.unwrap_or(Err(Reason::UpstreamTimeout))
    }
}

/// Of methods that seldom have a body, hyper sends none whose length it does not know, unless it is told how. (Over HTTP/2 it
/// takes the header off again.)
fn say_length(headers: &mut HeaderMap, body: &Passage) {
    if body.length().is_none() {
        headers.insert(header::TRANSFER_ENCODING, HeaderValue::from_static("chunked"));
    }
}

/// The reason in an error's chain; what has none broke off.
fn reason_of(error: &(dyn Error + 'static)) -> Reason {
    let mut chain = std::iter::successors(Some(error), |&error| error.source());
    chain.find_map(|error| error.downcast_ref().copied()).unwrap_or(Reason::UpstreamFailed)
}
