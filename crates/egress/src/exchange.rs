//! One request: checked, decided, recorded, passed on.

use std::{
    convert::Infallible,
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::Bytes;
use freehold_model::audit::AuditEvent;
use freehold_policy::Destination;
use http::{Method, Request, Response, StatusCode, request::Parts};
use http_body_util::{Empty, Full};
use hyper::body::Incoming;
use tokio::sync::OwnedSemaphorePermit;
use tokio_util::sync::CancellationToken;

use crate::{
    Grant,
    admit::{Admitted, Refusal},
    approval,
    audit::{self, Attribution},
    body::ReplyBody,
    deny::{self, Reason},
    follow_up::{FollowUp, Phase},
    headers::strip_hop_by_hop,
    masking::Masking,
    options::ms,
    passage::{Bound, Passage},
    pod::Pod,
    respond::{self, Judge, Passing},
    spool::{Settlement, Unsettled},
    token::Verified,
    upgrade,
    watch::{Activity, OpenRequest},
};

/// Characters of a path that was refused, and of any method, in its audit row.
const REFUSED_PATH_CHARS_MAX: usize = 512;
const METHOD_CHARS_MAX: usize = 32;

/// An accepted connection: what is fixed for all of its requests.
pub(crate) struct Connection {
    pub(crate) pod: Arc<Pod>,
    pub(crate) attribution: Attribution,
    pub(crate) token: Option<Arc<Verified>>,
    pub(crate) destination: Destination,
    pub(crate) sni: Option<String>,
    pub(crate) activity: Arc<Activity>,
    /// Cancelled when the connection should take no further request.
    pub(crate) retire: CancellationToken,
    /// The connection's place among the pod's, kept for as long as anything of it lives.
    pub(crate) _room: OwnedSemaphorePermit,
}

impl Connection {
    /// Answers a request. Never fails: what cannot be passed on is answered here.
    pub(crate) fn handle(
        self: Arc<Self>,
        request: Request<Incoming>,
        open: OpenRequest,
    ) -> impl Future<Output = Result<Response<ReplyBody>, Infallible>> + Send {
        // Boxed, as its body is: each hand that it goes through would copy it.
        let (parts, body) = request.into_parts();
        let (body, parts) = (Passage::upstream(body, parts.version), Box::new(parts));
        self.answer(parts, body, open)
    }

    async fn answer(
        self: Arc<Self>,
        mut parts: Box<Parts>,
        body: Box<Passage>,
        open: OpenRequest,
    ) -> Result<Response<ReplyBody>, Infallible> {
        let started = Instant::now();
        let grant = self.pod.workspace.grant.load_full();
        let row = self.row(grant.as_deref(), &parts);
        let id = row.id;
        let is_head = parts.method == Method::HEAD;
        let outcome = match self.admit(grant, &mut parts, body, &row).await {
            Ok(admitted) => self.pass(admitted, row, parts, started).await,
            Err(refusal) => Err(Box::pin(self.refuse(refusal, row)).await),
        };
        Ok(match outcome {
            Ok((response, masking)) => response.map(|body| {
                ReplyBody::upstream(body, masking, ms(self.pod.state.options.limits.stalled_ms), open)
            }),
            Err(reason) => deny::response(reason, &self.destination.to_string(), id).map(|body| {
                // Over HTTP/2 hyper would send one all the same, which is an error of the protocol.
                ReplyBody::own(if is_head { Full::default() } else { body }, open)
            }),
        })
    }

    /// The row about a request, of which nothing is decided yet.
    fn row(&self, grant: Option<&Grant>, parts: &Parts) -> Arc<AuditEvent> {
        let mut row = self.attribution.http(grant, self.destination.to_string());
        row.method = Some(beginning(parts.method.as_str(), METHOD_CHARS_MAX));
        row.path = Some(beginning(parts.uri.path(), REFUSED_PATH_CHARS_MAX));
        Arc::new(row)
    }

    async fn refuse(&self, refusal: Refusal, mut row: Arc<AuditEvent>) -> Reason {
        let reason = refusal.reason;
        refusal.put(Arc::make_mut(&mut row));
        tracing::debug!(
            workspace.id = %self.pod.identity.workspace_id,
            egress.destination = %self.destination,
            egress.reason = reason.as_str(),
            "denied"
        );
        if self.pod.record(&row).await { reason } else { Reason::AuditUnavailable }
    }

    async fn pass(
        self: &Arc<Self>,
        admitted: Admitted,
        mut decided: Arc<AuditEvent>,
        parts: Box<Parts>,
        started: Instant,
    ) -> Result<(Passing, Option<Masking>), Reason> {
        let Admitted {
            permit,
            mut body,
            changes,
            reservation,
            asked,
            validations,
            upgrade,
            approval,
            resolved,
        } = admitted;
        let row = Arc::make_mut(&mut decided);
        audit::allowed(row, &permit.rule().capability);
        row.path = Some(parts.uri.path().to_owned());
        audit::by_rule(row, permit.rule());
        if let Some(id) = approval {
            approval::noted(row, id);
        }
        row.transforms_applied = Some(changes.applied);
        row.validations_applied = Some(validations);
        row.auth_applied = changes.credentials;
        if let Some(reservation) = &reservation {
            row.budget_snapshot = reservation.snapshots();
        }
        let follow_up = FollowUp::new(Arc::clone(&self.pod), Arc::clone(&decided));
        let unsettled = self.pod.record_unsettled(&decided).await.ok_or(Reason::AuditUnavailable)?;
        if let Some(bytes_max) = permit.body_max().filter(|_| body.length().is_none()) {
            let reason = Reason::Policy(freehold_policy::Reason::BodyTooLarge);
            let bound = Bound::new(bytes_max, Phase::RequestBody, reason, follow_up.clone());
            body.watch(Box::new(bound));
        }
        let mask = self.pod.workspace.masks.of(changes.secrets);
        let mut masking = mask.map(|mask| Masking::new(mask, changes.room, follow_up.clone()));
        if let (Some(reservation), Ok(())) = (&reservation, &resolved) {
            reservation.reached();
            body.meter(reservation.request_meter(), Phase::RequestBody, &follow_up);
        }
        let reservation = reservation.as_ref();
        let judge = Judge { connection: self, permit: &permit, asked, reservation, follow_up };
        let outcome = match resolved {
            Err(reason) => Err(reason),
            Ok(()) if upgrade => Box::pin(self.pass_upgrade(&judge, parts, &mut masking)).await,
            Ok(()) => self.pass_request(&judge, parts, body, masking.as_mut()).await,
        };
        if let (Some(reservation), Err(reason)) = (reservation, &outcome)
            && reason.is_before_upstream()
        {
            reservation.not_reached();
        }
        self.settle(unsettled, &outcome, started.elapsed());
        outcome.map(|response| (response, masking))
    }

    async fn pass_request(
        &self,
        judge: &Judge<'_>,
        parts: Box<Parts>,
        body: Box<Passage>,
        masking: Option<&mut Masking>,
    ) -> Result<Passing, Reason> {
        let response = self.pod.workspace.upstream.send(judge.permit, parts, body).await?;
        self.heed(response.status(), judge);
        let mut response = respond::checked(response, masking)?;
        if response.status() == StatusCode::SWITCHING_PROTOCOLS {
            // To what, nobody asked.
            return Err(Reason::UpstreamFailed);
        }
        strip_hop_by_hop(response.headers_mut());
        let mut response = response.map(Passage::downstream);
        if judge.asked.is_some() {
            response = Box::pin(judge.judge(response)).await?;
        }
        judge.count(&mut response).await?;
        Ok(response)
    }

    /// Tells whoever keeps credentials that those of this request were refused, when the upstream says so.
    fn heed(&self, status: StatusCode, judge: &Judge<'_>) {
        if status != StatusCode::UNAUTHORIZED {
            return;
        }
        if let Some(grant) = self.pod.workspace.grant.load_full() {
            judge.follow_up.row().auth_applied.iter().for_each(|name| grant.credentials.refused(name));
        }
    }

    /// Passes a request for a WebSocket on. When the upstream agrees, the tunnel takes `masking`.
    async fn pass_upgrade(
        self: &Arc<Self>,
        judge: &Judge<'_>,
        parts: Box<Parts>,
        masking: &mut Option<Masking>,
    ) -> Result<Passing, Reason> {
        let request = Request::from_parts((*parts).clone(), Empty::<Bytes>::new());
        let request = upgrade::request(request, &self.destination);
        let response = self.pod.workspace.upstream.send_upgrade(judge.permit, request).await?;
        self.heed(response.status(), judge);
        let response = respond::checked(response, masking.as_mut())?;
        if response.status() == StatusCode::SWITCHING_PROTOCOLS {
            judge.judge_switch(&response).await?;
        }
        let response = upgrade::join(self, Request::from_parts(*parts, ()), response, masking)?;
        let is_switched = response.status() == StatusCode::SWITCHING_PROTOCOLS;
        let response = response.map(Passage::downstream);
        if is_switched { Ok(response) } else { judge.judge(response).await }
    }

    fn settle(&self, row: Unsettled, outcome: &Result<Passing, Reason>, took: Duration) {
        let mut settlement = Settlement::default();
        match outcome {
            Ok(response) => {
                (settlement.latency, settlement.status) = (Some(took), Some(response.status().as_u16()));
            }
            Err(reason) if reason.is_upstream() || reason.is_before_upstream() => {
                settlement.upstream_error = Some(reason.as_str());
            }
            // The response came, and was not passed on: a row of its own says so.
            Err(_) => settlement.latency = Some(took),
        }
        self.pod.state.settle(row, settlement);
    }
}

/// The first characters of a text.
fn beginning(text: &str, chars_max: usize) -> String {
    // As many bytes are as many characters at most.
    let is_short = text.len() <= chars_max;
    let end = if is_short { None } else { text.char_indices().nth(chars_max).map(|(end, _)| end) };
    text[..end.unwrap_or(text.len())].to_owned()
}
