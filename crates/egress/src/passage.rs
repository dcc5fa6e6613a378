//! A body on its way through: passed on as it comes, or read before something was decided and then passed on; watched by
//! those who count or bound it.

use std::{
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use bytes::{Bytes, BytesMut};
use http::{HeaderMap, Version};
use http_body::{Body, Frame, SizeHint};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use tokio::sync::OwnedSemaphorePermit;

use crate::{
    budget::{Cut, Meter},
    counted,
    deny::Reason,
    follow_up::{FollowUp, Phase},
    headers::{prepare_trailers, strip_hop_by_hop},
    linger,
};

/// Why a body ends before its end.
#[derive(Debug, thiserror::Error)]
pub(crate) enum PassageError {
    #[error("the sender broke off")]
    Broken(#[source] hyper::Error),
    #[error("it was cut off")]
    Cut(#[source] Reason),
}

/// Sees the bytes of a body as they pass.
pub(crate) trait Watch: Send + Sync {
    /// The next bytes, before they are passed on.
    ///
    /// # Errors
    /// They are not, and the body is cut off here.
    fn data(&mut self, data: &[u8]) -> Result<(), Reason>;
}

/// Which way a body goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Way {
    /// From a client that speaks this version.
    Upstream(Version),
    Downstream,
}

/// A body on its way.
pub(crate) struct Passage {
    way: Way,
    /// What was read and is not passed on yet. In one piece, whatever it came in: a body that comes byte by byte would take
    /// many times its room.
    read: BytesMut,
    trailers: Option<HeaderMap>,
    /// What was not read yet.
    rest: Option<Incoming>,
    watches: Vec<Box<dyn Watch>>,
    metered: Option<Box<Metered>>,
    /// Room for what was read, among all that the pod's requests hold; until it is gone, here and in the hands of whoever
    /// sends it.
    room: Option<Arc<OwnedSemaphorePermit>>,
}

/// What was read, with its room.
struct Roomed {
    data: BytesMut,
    _room: Option<Arc<OwnedSemaphorePermit>>,
}

impl AsRef<[u8]> for Roomed {
    fn as_ref(&self) -> &[u8] {
        &self.data
    }
}

impl Passage {
    /// A request's body. Its trailers lose what its head may not carry either. What is left of it when it is dropped is
    /// read on for a while, so that the client gets to read why.
    pub(crate) fn upstream(body: Incoming, version: Version) -> Box<Self> {
        Self::new(Way::Upstream(version), body)
    }

    /// A response's body.
    pub(crate) fn downstream(body: Incoming) -> Box<Self> {
        Self::new(Way::Downstream, body)
    }

    /// Boxed: it goes through many hands.
    fn new(way: Way, body: Incoming) -> Box<Self> {
        let (read, watches) = (BytesMut::new(), Vec::new());
        Box::new(Self { way, read, trailers: None, rest: Some(body), watches, metered: None, room: None })
    }

    /// Its length in bytes, when that is known: 0 when there is none.
    pub(crate) fn length(&self) -> Option<u64> {
        self.size_hint().exact()
    }

    /// The room that it holds, for whoever keeps what stands in it for longer.
    pub(crate) fn room(&self) -> Option<Arc<OwnedSemaphorePermit>> {
        self.room.clone()
    }

    /// Has the bytes seen that pass from now on.
    pub(crate) fn watch(&mut self, watch: Box<dyn Watch>) {
        self.watches.push(watch);
    }

    /// Has the bytes counted that pass from now on.
    pub(crate) fn meter(&mut self, meter: Option<Meter>, phase: Phase, follow_up: &FollowUp) {
        self.metered = meter.map(|meter| Box::new(Metered { meter, phase, follow_up: follow_up.clone() }));
    }

    /// What was read and is not passed on yet.
    pub(crate) fn so_far(&self) -> &[u8] {
        &self.read
    }

    /// How much room has to be had, in kibibytes, beside what it has, before so many bytes of it are read: none where there
    /// is nothing left to read.
    pub(crate) fn room_wanted(&self, bytes_max: u64, kibibytes_max: u32) -> u32 {
        if self.is_read() {
            return 0;
        }
        let kibibytes = self.length().unwrap_or(bytes_max).min(bytes_max).div_ceil(1024);
        let wanted = u32::try_from(kibibytes).unwrap_or(u32::MAX).min(kibibytes_max);
        let held = self.room.as_ref().map_or(0, |room| room.num_permits());
        wanted.saturating_sub(u32::try_from(held).unwrap_or(u32::MAX))
    }

    /// Has it hold more room, for as long as what was read is here.
    pub(crate) fn add_room(&mut self, more: OwnedSemaphorePermit) {
        match self.room.as_mut().and_then(Arc::get_mut) {
            Some(room) => room.merge(more),
            None => self.room = Some(Arc::new(more)),
        }
    }

    /// Reads all of it, or as much as shows that it is longer than `bytes_max`: then there is nothing to look into. What was
    /// read is passed on all the same.
    ///
    /// # Errors
    /// When the sender breaks off.
    pub(crate) async fn read(&mut self, bytes_max: u64) -> Result<Option<&[u8]>, PassageError> {
        let missing = self.length().unwrap_or_default().min(bytes_max).saturating_sub(self.read_bytes());
        // Else it grows by doubling, and may take twice the room that it has.
        self.read.reserve(usize::try_from(missing).unwrap_or_default());
        while self.size_hint().lower() <= bytes_max && self.read_frame().await? {}
        Ok((self.read_bytes() <= bytes_max && self.rest.is_none()).then_some(&*self.read))
    }

    /// Reads its beginning: so many bytes, unless it ends before. What was read is passed on all the same. Cancel safe.
    ///
    /// # Errors
    /// When the sender breaks off.
    pub(crate) async fn begin(&mut self, bytes: usize) -> Result<(), PassageError> {
        while self.read.len() < bytes && self.read_frame().await? {}
        Ok(())
    }

    /// Reads its next frame. False: there is none.
    async fn read_frame(&mut self) -> Result<bool, PassageError> {
        let Some(rest) = &mut self.rest else { return Ok(false) };
        match rest.frame().await {
            None => self.rest = None,
            Some(Err(error)) => return Err(PassageError::Broken(error)),
            Some(Ok(frame)) => match self.way.cleaned(frame).into_data() {
                Ok(data) => self.read.extend_from_slice(&data),
                Err(frame) => self.trailers = frame.into_trailers().ok(),
            },
        }
        Ok(true)
    }

    /// Whether it was read to its end.
    pub(crate) fn is_read(&self) -> bool {
        self.rest.as_ref().is_none_or(Incoming::is_end_stream)
    }

    /// Its trailers, where it was read to its end and has some.
    pub(crate) const fn trailers(&self) -> Option<&HeaderMap> {
        self.trailers.as_ref()
    }

    /// Puts another body in the place of one that was read. Its trailers, which may be sums over it, stay behind.
    pub(crate) fn replace(&mut self, body: Bytes) {
        (self.rest, self.trailers) = (None, None);
        self.read = body.into();
    }

    fn read_bytes(&self) -> u64 {
        self.read.len() as u64
    }

    /// The next frame of what was read, or else of what was not.
    fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, PassageError>>> {
        let room = self.room.take();
        if !self.read.is_empty() {
            let data = Bytes::from_owner(Roomed { data: std::mem::take(&mut self.read), _room: room });
            return Poll::Ready(Some(Ok(Frame::data(data))));
        }
        let Some(rest) = &mut self.rest else {
            return Poll::Ready(self.trailers.take().map(|trailers| Ok(Frame::trailers(trailers))));
        };
        let frame = ready!(Pin::new(rest).poll_frame(cx));
        Poll::Ready(frame.map(|frame| match frame {
            Ok(frame) => Ok(self.way.cleaned(frame)),
            Err(error) => Err(PassageError::Broken(error)),
        }))
    }
}

/// A body's meter, and the row that says that it cut the body off.
struct Metered {
    meter: Meter,
    phase: Phase,
    follow_up: FollowUp,
}

impl Passage {
    /// The next frame, or the part of it that budgets have room for.
    fn poll_metered(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, PassageError>>> {
        let Some(mut metered) = self.metered.take() else { return self.poll_next(cx) };
        let polled = metered.meter.poll_frame(cx, |cx| self.poll_next(cx));
        let polled = polled.map_err(|cut| match cut {
            Cut::Source(error) => error,
            Cut::Limit(refused) => {
                let reason = counted::reason(&refused);
                let ceilings = counted::ceilings(&refused);
                metered.follow_up.clone().with_ceilings(ceilings).cut(metered.phase, reason);
                PassageError::Cut(reason)
            }
        });
        self.metered = Some(metered);
        if self.is_end_stream()
            && let Some(metered) = &mut self.metered
        {
            // Whoever reads it need not ask for the end.
            metered.meter.ended();
        }
        polled
    }
}

impl Way {
    /// Trailers, like headers, lose what concerns one connection alone, and a request's what could count for its head.
    fn cleaned(self, mut frame: Frame<Bytes>) -> Frame<Bytes> {
        if let Some(trailers) = frame.trailers_mut() {
            match self {
                Self::Upstream(_) => prepare_trailers(trailers),
                Self::Downstream => strip_hop_by_hop(trailers),
            }
        }
        frame
    }
}

impl Drop for Passage {
    fn drop(&mut self) {
        let lingers = self.way == Way::Upstream(Version::HTTP_2);
        if let Some(rest) = self.rest.take().filter(|rest| lingers && !rest.is_end_stream()) {
            linger::drop_slowly(rest);
        }
    }
}

impl Body for Passage {
    type Data = Bytes;
    type Error = PassageError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, PassageError>>> {
        let frame = ready!(self.poll_metered(cx));
        if let Some(Ok(frame)) = &frame
            && let Some(data) = frame.data_ref()
        {
            for watch in &mut self.watches {
                if let Err(reason) = watch.data(data) {
                    return Poll::Ready(Some(Err(PassageError::Cut(reason))));
                }
            }
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.metered.as_ref().is_none_or(|metered| metered.meter.held() == 0)
            && self.read.is_empty()
            && self.trailers.is_none()
            && self.is_read()
    }

    fn size_hint(&self) -> SizeHint {
        let held = self.metered.as_ref().map_or(0, |metered| metered.meter.held() as u64);
        let (read, mut hint) = (self.read_bytes() + held, SizeHint::new());
        let rest = self.rest.as_ref().map_or_else(|| SizeHint::with_exact(0), Incoming::size_hint);
        hint.set_lower(rest.lower().saturating_add(read));
        // With a length alone trailers would have no place.
        if let Some(upper) = rest.upper().filter(|_| self.trailers.is_none()) {
            hint.set_upper(upper.saturating_add(read));
        }
        hint
    }
}

/// Cuts a body off where it is longer than a rule allows, and has a row written that says so. For bodies whose length is
/// not known beforehand.
pub(crate) struct Bound {
    left: u64,
    phase: Phase,
    reason: Reason,
    /// Until it was written.
    follow_up: Option<FollowUp>,
}

impl Bound {
    pub(crate) const fn new(bytes_max: u64, phase: Phase, reason: Reason, follow_up: FollowUp) -> Self {
        Self { left: bytes_max, phase, reason, follow_up: Some(follow_up) }
    }
}

impl Watch for Bound {
    fn data(&mut self, data: &[u8]) -> Result<(), Reason> {
        let Some(left) = self.left.checked_sub(data.len() as u64) else {
            if let Some(follow_up) = self.follow_up.take() {
                follow_up.cut(self.phase, self.reason);
            }
            return Err(self.reason);
        };
        self.left = left;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use http::{Request, Response};
    use hyper::{server::conn::http1, service::service_fn};
    use hyper_util::rt::TokioIo;
    use tokio::io::AsyncWriteExt;

    use super::*;

    #[tokio::test]
    async fn a_body_that_comes_byte_by_byte_is_kept_in_one_piece() {
        let (mut client, server) = tokio::io::duplex(64 * 1024);
        let head = b"POST / HTTP/1.1\r\nhost: a\r\nconnection: close\r\ntransfer-encoding: chunked\r\n\r\n";
        let chunks = b"1\r\na\r\n".repeat(1_000);
        client.write_all(&[head, &chunks[..], b"0\r\n\r\n"].concat()).await.unwrap();
        let service = service_fn(async |request: Request<Incoming>| {
            let mut body = Passage::upstream(request.into_body(), Version::HTTP_11);
            assert_eq!(body.read(1_000).await.unwrap(), Some(&[b'a'; 1_000][..]));
            assert_eq!(body.frame().await.unwrap().unwrap().into_data().unwrap().len(), 1_000);
            assert!(body.frame().await.is_none());
            Ok::<_, PassageError>(Response::new(String::new()))
        });
        http1::Builder::new().serve_connection(TokioIo::new(server), service).await.unwrap();
    }
}
