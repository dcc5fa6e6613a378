//! The body of an answer: our own, or the upstream's passed on as it comes.

use std::{
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use http_body_util::Full;
use tokio::time::{Instant, Sleep};

use crate::{
    masking::Masking,
    passage::{Passage, PassageError},
    watch::OpenRequest,
};

/// Why an answer breaks off.
#[derive(Debug, thiserror::Error)]
pub(crate) enum BodyError {
    #[error("the upstream broke off")]
    Upstream(#[source] PassageError),
    #[error("the upstream sent nothing for too long")]
    Stalled,
}

type Polled = Poll<Option<Result<Frame<Bytes>, BodyError>>>;

/// A body that counts its request as open until it is sent or dropped.
pub(crate) struct ReplyBody {
    source: Source,
    /// Of an upstream alone.
    patience: Option<Patience>,
    _open: OpenRequest,
}

enum Source {
    Own(Full<Bytes>),
    Upstream(Box<Passage>),
    Masked(Box<Masked>),
}

/// An upstream's body with the secret struck out.
struct Masked {
    body: Box<Passage>,
    masking: Masking,
    /// Trailers or an error that came while bytes were held back; they come after these.
    last: Option<Result<Frame<Bytes>, BodyError>>,
    over: bool,
}

impl ReplyBody {
    pub(crate) const fn own(body: Full<Bytes>, open: OpenRequest) -> Self {
        Self { source: Source::Own(body), patience: None, _open: open }
    }

    /// The upstream's body, which breaks off when it brings nothing for as long as `stalled`.
    pub(crate) fn upstream(
        body: Box<Passage>,
        masking: Option<Masking>,
        stalled: Duration,
        open: OpenRequest,
    ) -> Self {
        let source = match masking {
            None => Source::Upstream(body),
            Some(masking) => Source::Masked(Box::new(Masked { body, masking, last: None, over: false })),
        };
        Self { source, patience: Some(Patience::new(stalled)), _open: open }
    }
}

impl Body for ReplyBody {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Polled {
        let polled = match &mut self.source {
            Source::Own(body) => {
                Pin::new(body).poll_frame(cx).map_err(|never: std::convert::Infallible| match never {})
            }
            Source::Upstream(body) => Pin::new(body).poll_frame(cx).map_err(BodyError::Upstream),
            Source::Masked(masked) => masked.poll_frame(cx),
        };
        match &mut self.patience {
            Some(patience) => patience.watch(polled, cx),
            None => polled,
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

/// How long an upstream may be silent. A connection's own limit does not see one of its streams stall.
struct Patience {
    limit: Duration,
    /// Made when there was something to wait for.
    timer: Option<Pin<Box<Sleep>>>,
    last: Instant,
}

impl Patience {
    fn new(limit: Duration) -> Self {
        Self { limit, timer: None, last: Instant::now() }
    }

    fn watch(&mut self, polled: Polled, cx: &mut Context<'_>) -> Polled {
        if polled.is_ready() {
            self.last = Instant::now();
            return polled;
        }
        let timer = self.timer.get_or_insert_with(|| Box::pin(tokio::time::sleep(self.limit)));
        while timer.as_mut().poll(cx).is_ready() {
            let due = self.last + self.limit;
            if due <= Instant::now() {
                return Poll::Ready(Some(Err(BodyError::Stalled)));
            }
            // There were frames since it was set.
            timer.as_mut().reset(due);
        }
        Poll::Pending
    }
}

impl Masked {
    fn poll_frame(&mut self, cx: &mut Context<'_>) -> Polled {
        // Each turn takes a frame, and holds back less than the longest spelling.
        loop {
            if self.over {
                return Poll::Ready(self.last.take());
            }
            let Poll::Ready(frame) = Pin::new(&mut self.body).poll_frame(cx) else {
                let short = self.masking.pause();
                return if short.is_empty() {
                    Poll::Pending
                } else {
                    Poll::Ready(Some(Ok(Frame::data(short))))
                };
            };
            let frame = match frame.map(|frame| frame.map(Frame::into_data)) {
                Some(Ok(Ok(data))) => {
                    let data = self.masking.push(data);
                    if data.is_empty() {
                        continue;
                    }
                    return Poll::Ready(Some(Ok(Frame::data(data))));
                }
                Some(Ok(Err(mut frame))) => {
                    if let Some(trailers) = frame.trailers_mut() {
                        self.masking.trailers(trailers);
                    }
                    Some(Ok(frame))
                }
                Some(Err(error)) => Some(Err(BodyError::Upstream(error))),
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
