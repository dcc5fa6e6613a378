//! The body of an answer: our own, or the upstream's passed on as it comes, without a buffer between.

use std::{
    pin::Pin,
    task::{Context, Poll},
};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use http_body_util::Full;
use hyper::body::Incoming;

use crate::watch::OpenRequest;

/// A body that counts its request as open until it is sent or dropped.
pub(crate) struct ReplyBody {
    source: Source,
    _open: OpenRequest,
}

enum Source {
    Own(Full<Bytes>),
    Upstream(Incoming),
}

impl ReplyBody {
    pub(crate) const fn own(body: Full<Bytes>, open: OpenRequest) -> Self {
        Self { source: Source::Own(body), _open: open }
    }

    pub(crate) const fn upstream(body: Incoming, open: OpenRequest) -> Self {
        Self { source: Source::Upstream(body), _open: open }
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
            Source::Upstream(body) => Pin::new(body).poll_frame(cx),
        }
    }

    fn is_end_stream(&self) -> bool {
        match &self.source {
            Source::Own(body) => body.is_end_stream(),
            Source::Upstream(body) => body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.source {
            Source::Own(body) => body.size_hint(),
            Source::Upstream(body) => body.size_hint(),
        }
    }
}
