//! Activity as server-sent events.

use std::time::Duration;

use axum::{body::Body, response::Response};
use bytes::Bytes;
use freehold_app::stream::{Activity, Listener};
use futures::{future::BoxFuture, stream};
use http::{HeaderValue, header};
use tokio::{
    sync::watch,
    time::{Instant, Interval, MissedTickBehavior, interval_at},
};

use crate::{call::Call, error::Failure, server::stopped, wire};

/// Where the stream begins: the position in `Last-Event-ID`.
pub(crate) fn last_event_id(call: &Call) -> Result<Option<u64>, Failure> {
    let Some(value) = call.headers.get("last-event-id") else { return Ok(None) };
    let read = |value: &HeaderValue| {
        let text = value.to_str().ok()?;
        text.bytes().all(|b| b.is_ascii_digit()).then(|| text.parse().ok())?
    };
    read(value).map(Some).ok_or_else(|| Failure::field("Last-Event-ID", "must be an `id` of this stream"))
}

/// Answers with what the listener hears, until it is dropped, the stream's time is over, the caller's secret is revoked or
/// the server stops.
pub(crate) fn respond(call: &mut Call, listener: Listener) -> Response {
    let revoked = call.revoked();
    let options = &call.shared.options;
    let mut heartbeat = interval_at(Instant::now() + options.sse_heartbeat, options.sse_heartbeat);
    heartbeat.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let state = State {
        listener,
        heartbeat,
        ends: Instant::now() + options.sse_duration_max,
        stopping: call.shared.stop.subscribe(),
        revoked,
        begun: false,
    };
    let events = stream::unfold(state, |mut state| async move {
        let text = state.next().await?;
        Some((Ok::<_, std::convert::Infallible>(text), state))
    });
    let mut response = call.answer("text/event-stream", Body::from_stream(events));
    let headers = response.headers_mut();
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    // Proxies that would collect the stream leave it alone.
    headers.insert("x-accel-buffering", HeaderValue::from_static("no"));
    response
}

struct State {
    listener: Listener,
    heartbeat: Interval,
    ends: Instant,
    stopping: watch::Receiver<bool>,
    /// Resolves when the caller's secret is not in force any more.
    revoked: BoxFuture<'static, ()>,
    begun: bool,
}

impl State {
    async fn next(&mut self) -> Option<Bytes> {
        if !self.begun {
            self.begun = true;
            // Sent at once, so that the client knows that it listens, and where to begin again should this connection
            // break before the first event.
            return Some(format!("id: {}\n\n", self.listener.position()).into());
        }
        tokio::select! {
            biased;
            () = stopped(&mut self.stopping) => None,
            () = &mut self.revoked => None,
            () = tokio::time::sleep_until(self.ends) => None,
            activity = self.listener.next() => activity.and_then(|activity| event(&activity)),
            _ = self.heartbeat.tick() => Some(Bytes::from_static(b": heartbeat\n\n")),
        }
    }
}

/// The longest time between two signs of life when nothing happens.
pub(crate) const HEARTBEAT: Duration = Duration::from_secs(15);
/// The longest life of one stream.
pub(crate) const DURATION_MAX: Duration = Duration::from_secs(300);

fn event(activity: &Activity) -> Option<Bytes> {
    // Everything in a row has a JSON form, and JSON as it is written here holds no line break.
    let data = serde_json::to_string(&wire::audit_event(activity.event.clone())).ok()?;
    Some(format!("id: {}\nevent: activity\ndata: {data}\n\n", activity.seq).into())
}
