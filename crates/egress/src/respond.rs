//! A response on its way to the pod: without a way past this proxy, without secrets, and as its rule says.

use freehold_policy::{Body as Known, ReadBody, Reply, Unreadable};
use http::{HeaderMap, Response, header, response::Parts};
use hyper::{
    body::{Body, Incoming},
    ext::ReasonPhrase,
};

use crate::{
    admit::Asked,
    budget::Reservation,
    counted,
    deny::Reason,
    exchange::Connection,
    follow_up::{FollowUp, Phase},
    headers::single,
    masking::{self, Masking},
    passage::{Bound, Passage},
};

/// A response on its way.
pub(crate) type Passing = Response<Box<Passage>>;

/// A response's head as it may be seen: without a way past this proxy, without secrets, and with a body in which they
/// can be found.
pub(crate) fn checked(
    mut response: Response<Incoming>,
    masking: Option<&mut Masking>,
) -> Result<Response<Incoming>, Reason> {
    // The words after the status are the upstream's own, and nobody needs them.
    response.extensions_mut().remove::<ReasonPhrase>();
    response.headers_mut().remove(header::ALT_SVC);
    keep_one_length(response.headers_mut());
    if let Some(masking) = masking {
        if masking::is_coded(response.headers()) && !response.body().is_end_stream() {
            return Err(Reason::UpstreamEncoded);
        }
        masking.head(response.headers_mut());
    }
    Ok(response)
}

/// Leaves a response the length that it was read by: of several that are equal one, and none beside chunks.
fn keep_one_length(headers: &mut HeaderMap) {
    let first =
        headers.remove(header::CONTENT_LENGTH).filter(|_| !headers.contains_key(header::TRANSFER_ENCODING));
    let first = first.as_ref().and_then(|length| length.to_str().ok()?.split(',').next());
    if let Some(Ok(length)) = first.map(|length| length.trim().parse()) {
        headers.insert(header::CONTENT_LENGTH, length);
    }
}

/// Holds a response against the rule that allowed its request.
pub(crate) struct Judge<'c> {
    pub(crate) connection: &'c Connection,
    pub(crate) permit: &'c freehold_policy::Permit,
    /// The request, when the rule says anything of the response.
    pub(crate) asked: Option<Box<Asked>>,
    /// What counts the response.
    pub(crate) reservation: Option<&'c Reservation>,
    /// The row that says that a response was not passed on.
    pub(crate) follow_up: FollowUp,
}

impl Judge<'_> {
    /// The response, when it may be passed on.
    pub(crate) async fn judge(&self, response: Passing) -> Result<Passing, Reason> {
        let (Some(rule), Some(_)) = (self.permit.response(), &self.asked) else { return Ok(response) };
        let (parts, mut body) = response.into_parts();
        let known = Known {
            content_type: single(&parts.headers, &header::CONTENT_TYPE),
            length: body.length(),
            read: None,
        };
        let mut reply = Reply { status: parts.status.as_u16(), body: known };
        if rule.refuses_head(&reply) {
            self.check(&parts, &reply).await?;
        }
        let read = match rule.body_wanted(&reply) {
            None => None,
            Some(bytes_max) => Some(Box::pin(self.read(&parts, &known, &mut body, bytes_max)).await?),
        };
        reply.body.read = read.as_ref();
        self.check(&parts, &reply).await?;
        if let Some(bytes_max) = rule.max_bytes().filter(|_| body.length().is_none()) {
            let reason = Reason::Policy(freehold_policy::Reason::ResponseTooLarge);
            let bound = Bound::new(bytes_max, Phase::ResponseBody, reason, self.follow_up.clone());
            body.watch(Box::new(bound));
        }
        Ok(Response::from_parts(parts, body))
    }

    /// Has budgets count the response as it passes on, when they have room for it.
    pub(crate) async fn count(&self, response: &mut Passing) -> Result<(), Reason> {
        let Some(reservation) = self.reservation else { return Ok(()) };
        let length = response.body().length();
        match reservation.response_meter(response.headers(), length).await {
            Ok(meter) => {
                response.body_mut().meter(meter, Phase::ResponseBody, &self.follow_up);
                Ok(())
            }
            Err(refused) => {
                let reason = counted::reason(&refused);
                let follow_up = self.follow_up.clone().with_ceilings(counted::ceilings(&refused));
                let is_written = Box::pin(follow_up.denied(Phase::ResponseHeaders, reason)).await;
                Err(if is_written { reason } else { Reason::AuditUnavailable })
            }
        }
    }

    /// The same for an answer that begins a tunnel, which has no body.
    pub(crate) async fn judge_switch(&self, response: &Response<Incoming>) -> Result<(), Reason> {
        let (mut parts, ()) =
            Response::builder().status(response.status()).body(()).unwrap_or_default().into_parts();
        parts.headers.clone_from(response.headers());
        self.check(&parts, &Reply { status: parts.status.as_u16(), body: Known::NONE }).await
    }

    async fn read(
        &self,
        parts: &Parts,
        known: &Known<'_>,
        body: &mut Passage,
        bytes_max: u64,
    ) -> Result<ReadBody, Reason> {
        if masking::is_coded(&parts.headers) {
            return Ok(ReadBody::failed(Unreadable::Coded));
        }
        let connection = self.connection;
        let bodies = &connection.pod.response_bodies;
        match connection.read(bodies, body, bytes_max).await?.map_err(|_| Reason::UpstreamFailed)? {
            Some(bytes) => Ok(ReadBody::new(known.content_type, bytes)),
            None => Ok(ReadBody::failed(Unreadable::TooLong)),
        }
    }

    async fn check(&self, parts: &Parts, reply: &Reply<'_>) -> Result<(), Reason> {
        let (Some(rule), Some(asked)) = (self.permit.response(), &self.asked) else { return Ok(()) };
        let verdict = {
            let facts = asked.facts(self.connection).answered(parts, reply.body.read);
            rule.check(reply, &facts)
        };
        let Err(reason) = verdict else { return Ok(()) };
        let phase = match reply.body.read {
            Some(_) => Phase::ResponseBody,
            None => Phase::ResponseHeaders,
        };
        let reason = Reason::Policy(reason);
        if Box::pin(self.follow_up.clone().denied(phase, reason)).await {
            Err(reason)
        } else {
            Err(Reason::AuditUnavailable)
        }
    }
}
