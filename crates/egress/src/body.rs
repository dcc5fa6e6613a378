//! Bodies on their way: an answer's, our own or the upstream's passed on as it comes; and a request's, whose trailers
//! are no back door for what its head may not carry.

use std::{
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use http_body_util::Full;
use hyper::body::Incoming;

use crate::{
    headers::{prepare_trailers, strip_hop_by_hop},
    masking::Masking,
    watch::OpenRequest,
};

/// A body that counts its request as open until it is sent or dropped.
pub(crate) struct ReplyBody {
    source: Source,
    _open: OpenRequest,
}

enum Source {
    Own(Full<Bytes>),
    Upstream(Incoming),
    Masked(Box<Masked>),
}

/// An upstream's body with the secret struck out.
struct Masked {
    body: Incoming,
    masking: Masking,
    /// Trailers or an error that came while bytes were held back; they come after these.
    last: Option<Result<Frame<Bytes>, hyper::Error>>,
    over: bool,
}

impl ReplyBody {
    pub(crate) const fn own(body: Full<Bytes>, open: OpenRequest) -> Self {
        Self { source: Source::Own(body), _open: open }
    }

    pub(crate) fn upstream(body: Incoming, masking: Option<Masking>, open: OpenRequest) -> Self {
        let source = match masking {
            None => Source::Upstream(body),
            Some(masking) => Source::Masked(Box::new(Masked { body, masking, last: None, over: false })),
        };
        Self { source, _open: open }
    }
}

impl Body for ReplyBody {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        match &mut self.source {
            Source::Own(body) => Pin::new(body)
                .poll_frame(cx)
                .map(|frame| frame.map(|frame| frame.map_err(|never| match never {}))),
            Source::Upstream(body) => {
                Pin::new(body).poll_frame(cx).map(|frame| frame.map(|frame| frame.map(without_hop_by_hop)))
            }
            Source::Masked(masked) => masked.poll_frame(cx),
        }
    }

    fn is_end_stream(&self) -> bool {
        match &self.source {
            Source::Own(body) => body.is_end_stream(),
            Source::Upstream(body) => body.is_end_stream(),
            Source::Masked(masked) => {
                masked.masking.held() == 0 && masked.last.is_none() && masked.body.is_end_stream()
            }
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.source {
            Source::Own(body) => body.size_hint(),
            Source::Upstream(body) => body.size_hint(),
            Source::Masked(masked) => masked.size_hint(),
        }
    }
}

impl Masked {
    fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        // Each turn takes a frame, and holds back less than the longest spelling.
        loop {
            if self.over {
                return Poll::Ready(self.last.take());
            }
            let frame = ready!(Pin::new(&mut self.body).poll_frame(cx));
            let frame = match frame.map(|frame| frame.map(Frame::into_data)) {
                Some(Ok(Ok(data))) => {
                    let data = self.masking.push(data);
                    if data.is_empty() {
                        continue;
                    }
                    return Poll::Ready(Some(Ok(Frame::data(data))));
                }
                Some(Ok(Err(frame))) => {
                    let mut frame = without_hop_by_hop(frame);
                    if let Some(trailers) = frame.trailers_mut() {
                        self.masking.trailers(trailers);
                    }
                    Some(Ok(frame))
                }
                Some(Err(error)) => Some(Err(error)),
                None => None,
            };
            self.over = true;
            self.last = frame;
            let held = self.masking.finish();
            if !held.is_empty() {
                return Poll::Ready(Some(Ok(Frame::data(held))));
            }
        }
    }

    fn size_hint(&self) -> SizeHint {
        let (hint, held) = (self.body.size_hint(), self.masking.held() as u64);
        let mut with_held = SizeHint::new();
        with_held.set_lower(hint.lower().saturating_add(held));
        if let Some(upper) = hint.upper() {
            with_held.set_upper(upper.saturating_add(held));
        }
        with_held
    }
}

/// Trailers, like headers, lose what concerns one connection alone.
fn without_hop_by_hop(mut frame: Frame<Bytes>) -> Frame<Bytes> {
    if let Some(trailers) = frame.trailers_mut() {
        strip_hop_by_hop(trailers);
    }
    frame
}

/// A request's body as it goes upstream.
pub(crate) struct RequestBody(pub(crate) Incoming);

impl Body for RequestBody {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        let mut frame = ready!(Pin::new(&mut self.0).poll_frame(cx));
        if let Some(trailers) = frame.as_mut().and_then(|frame| frame.as_mut().ok()?.trailers_mut()) {
            prepare_trailers(trailers);
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.0.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.0.size_hint()
    }
}
