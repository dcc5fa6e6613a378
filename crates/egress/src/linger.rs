//! Patience with a client that is still sending what nobody reads: it gets to read why. Limited in bytes and in time.

use std::time::Duration;

use http_body_util::BodyExt;
use hyper::body::Incoming;

/// Bytes that are read and dropped of a refused request, or at the end of a connection.
pub(crate) const LINGER_BYTES_MAX: usize = 64 * 1024 * 1024;
/// How long that may take.
pub(crate) const LINGER_TIME_MAX: Duration = Duration::from_secs(5);

/// Reads and drops what is left of a request's body over HTTP/2. Else its stream is reset behind the answer, and programs
/// that still send (curl among them) take the reset for the answer. Over HTTP/1.1 the connection lingers instead.
pub(crate) fn drop_slowly(mut body: Incoming) {
    let reading = async move {
        let mut left = LINGER_BYTES_MAX;
        while left > 0
            && let Some(Ok(frame)) = body.frame().await
        {
            left = left.saturating_sub(frame.data_ref().map_or(0, bytes::Bytes::len));
        }
    };
    // At the end of the server there is nothing to run it.
    if let Ok(runtime) = tokio::runtime::Handle::try_current() {
        runtime.spawn(tokio::time::timeout(LINGER_TIME_MAX, reading));
    }
}
