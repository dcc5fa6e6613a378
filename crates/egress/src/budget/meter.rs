//! Counts a body as it passes, and cuts it at the limit.
//!
//! Invariant: no byte passes that was not reserved. At most one frame is held back, while its bytes are reserved.

use std::{
    future::Future,
    pin::Pin,
    sync::{Arc, atomic::Ordering},
    task::{Context, Poll, ready},
};

use bytes::{Buf, Bytes};
use http_body::Frame;

use super::{
    Refused,
    reservation::{Hold, Spending},
    usage::Tap,
};

/// Which body it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Side {
    Request = 0,
    Response = 1,
}

/// Why a body broke off.
#[derive(Debug, thiserror::Error)]
pub enum Cut<E: std::error::Error + 'static> {
    /// By itself.
    #[error("the body broke off")]
    Source(#[source] E),
    /// A counter has no more room for it.
    #[error("the body was cut at the limit of a budget")]
    Limit(Box<Refused>),
}

type Reserving = Pin<Box<dyn Future<Output = Result<Vec<Hold>, Refused>> + Send>>;

/// Sees a body pass, frame by frame.
pub struct Meter {
    // Before the spending, so that all that was held is settled when the last of it ends.
    holds: Vec<Hold>,
    reserving: Option<Reserving>,
    /// A frame that waits for its bytes to be reserved.
    waiting: Bytes,
    tap: Option<Tap>,
    is_over: bool,
    is_whole: bool,
    side: Side,
    spending: Arc<Spending>,
}

impl Meter {
    pub(super) fn new(spending: Arc<Spending>, side: Side, holds: Vec<Hold>, tap: Option<Tap>) -> Self {
        let (reserving, waiting) = (None, Bytes::new());
        Self { holds, reserving, waiting, tap, is_over: false, is_whole: false, side, spending }
    }

    /// Bytes that are held back.
    pub const fn held(&self) -> usize {
        self.waiting.len()
    }

    /// The next frame of a body that `poll` polls, or the part of it that may pass. After an error there is no more.
    pub fn poll_frame<E: std::error::Error + 'static>(
        &mut self,
        cx: &mut Context<'_>,
        poll: impl FnOnce(&mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, E>>>,
    ) -> Poll<Option<Result<Frame<Bytes>, Cut<E>>>> {
        if self.is_over {
            return Poll::Ready(None);
        }
        if self.waiting.is_empty() {
            let frame = match ready!(poll(cx)) {
                Some(Ok(frame)) => frame,
                Some(Err(error)) => {
                    self.is_over = true;
                    return Poll::Ready(Some(Err(Cut::Source(error))));
                }
                None => {
                    (self.is_over, self.is_whole) = (true, true);
                    return Poll::Ready(None);
                }
            };
            match frame.into_data() {
                Ok(data) if data.is_empty() => return Poll::Ready(Some(Ok(Frame::data(data)))),
                Ok(data) => self.waiting = data,
                // Trailers are the last frame.
                Err(frame) => {
                    self.is_whole = true;
                    return Poll::Ready(Some(Ok(frame)));
                }
            }
        }
        match ready!(self.poll_reserved(cx)) {
            Ok(()) => Poll::Ready(Some(Ok(Frame::data(self.pass())))),
            Err(refused) => {
                (self.is_over, self.waiting) = (true, Bytes::new());
                Poll::Ready(Some(Err(Cut::Limit(Box::new(refused)))))
            }
        }
    }

    /// Waits until some bytes of what waits may pass.
    fn poll_reserved(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Refused>> {
        loop {
            if let Some(reserving) = &mut self.reserving {
                let reserved = ready!(reserving.as_mut().poll(cx));
                self.reserving = None;
                match reserved {
                    Ok(holds) => self.holds = holds,
                    Err(refused) => return Poll::Ready(Err(refused)),
                }
            }
            if self.holds.iter().all(|hold| hold.left() > 0) {
                return Poll::Ready(Ok(()));
            }
            let step = self.holds.first().map_or(0, Hold::step).max(self.waiting.len() as u64);
            let holds = std::mem::take(&mut self.holds);
            self.reserving = Some(Box::pin(async move {
                let mut next = Vec::with_capacity(holds.len());
                for hold in holds {
                    next.push(if hold.left() > 0 { hold } else { hold.next(1, step).await? });
                }
                Ok(next)
            }));
        }
    }

    /// The part of what waits that is reserved, counted.
    fn pass(&mut self) -> Bytes {
        let most = self.holds.iter().map(Hold::left).min().unwrap_or(u64::MAX);
        let most = usize::try_from(most).unwrap_or(usize::MAX).min(self.waiting.len());
        let part = self.waiting.slice(..most);
        self.waiting.advance(most);
        for hold in &mut self.holds {
            hold.used += part.len() as u64;
        }
        self.spending.passed[self.side as usize].fetch_add(part.len() as u64, Ordering::Relaxed);
        if let Some(tap) = &mut self.tap {
            tap.look(&part);
        }
        part
    }

    /// Says that the body ended as it should, where whoever reads it need not poll for its end.
    pub const fn ended(&mut self) {
        self.is_whole = true;
    }
}

impl Drop for Meter {
    fn drop(&mut self) {
        if let Some(tap) = &mut self.tap {
            self.spending.answered(tap, self.is_whole);
        }
    }
}
