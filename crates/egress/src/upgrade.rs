//! WebSocket: the upgrade is passed on, and then bytes both ways until one side ends.

use std::sync::Arc;

use bytes::Bytes;
use freehold_policy::Destination;
use http::{HeaderValue, Request, Response, StatusCode, header};
use http_body_util::Empty;
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;

use crate::{
    deny::Reason,
    exchange::Connection,
    headers::strip_hop_by_hop,
    masking::{MaskedTunnel, Masking},
    watch::Patience,
};

const WEBSOCKET: HeaderValue = HeaderValue::from_static("websocket");
const UPGRADE: HeaderValue = HeaderValue::from_static("upgrade");

/// The request as it goes upstream, whose connection headers were taken off.
pub(crate) fn request(
    mut request: Request<Empty<Bytes>>,
    destination: &Destination,
) -> Request<Empty<Bytes>> {
    let headers = request.headers_mut();
    headers.insert(header::CONNECTION, UPGRADE);
    headers.insert(header::UPGRADE, WEBSOCKET);
    if let Ok(host) = HeaderValue::from_str(&destination.to_string()) {
        headers.insert(header::HOST, host);
    }
    request
}

/// When the upstream agreed, joins both sides as soon as the client has its answer. Returns that answer.
///
/// # Errors
/// When the upstream changes to what nobody asked for.
pub(crate) fn join(
    connection: &Arc<Connection>,
    mut request: Request<()>,
    mut response: Response<Incoming>,
    masking: &mut Option<Masking>,
) -> Result<Response<Incoming>, Reason> {
    let to = response.headers_mut().remove(header::UPGRADE);
    strip_hop_by_hop(response.headers_mut());
    if response.status() != StatusCode::SWITCHING_PROTOCOLS {
        return Ok(response);
    }
    if !to.is_some_and(|to| to.as_bytes().eq_ignore_ascii_case(b"websocket")) {
        return Err(Reason::UpstreamFailed);
    }
    response.headers_mut().insert(header::CONNECTION, UPGRADE);
    response.headers_mut().insert(header::UPGRADE, WEBSOCKET);
    connection.activity.upgrade();
    let client = hyper::upgrade::on(&mut request);
    let upstream = hyper::upgrade::on(&mut response);
    let connection = Arc::clone(connection);
    let masking = masking.take();
    tokio::spawn(async move {
        let open = connection.activity.open();
        let limits = &connection.pod.state.options.limits;
        let tunnel = async {
            let (Ok(client), Ok(upstream)) = (client.await, upstream.await) else { return };
            let mut upstream = MaskedTunnel::new(TokioIo::new(upstream), masking);
            let _ = tokio::io::copy_bidirectional(&mut TokioIo::new(client), &mut upstream).await;
        };
        tokio::select! {
            () = tunnel => {}
            () = connection.pod.stop.cancelled() => {}
            () = connection.activity.quiet(Patience::of(limits)) => {}
        }
        drop(open);
    });
    Ok(response)
}
