//! One request: checked, decided, recorded, passed on.

use std::{
    convert::Infallible,
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::Bytes;
use freehold_model::{
    EventId, Timestamp,
    audit::{AuditEvent, Decision as Outcome},
};
use freehold_policy::{
    Approval, Body as RequestBody, Decision, Destination, NormalPath, Permit, RequestHead, RuleName,
};
use http::{HeaderMap, Request, Response, StatusCode, Uri, header, request::Parts};
use http_body_util::Empty;
use hyper::{
    body::{Body, Incoming},
    ext::ReasonPhrase,
};
use serde_json::json;
use tokio::sync::OwnedSemaphorePermit;
use tokio_util::sync::CancellationToken;

use crate::{
    Grant, Unavailable, agree,
    audit::{self, Attribution},
    body::ReplyBody,
    deny::{self, Reason},
    facts::Facts,
    headers::{prepare_headers, strip_hop_by_hop},
    inject,
    mask::Mask,
    masking::{self, Masking},
    options::ms,
    pod::Pod,
    spool::{Settlement, Settles},
    token::Verified,
    upgrade,
    watch::Activity,
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

/// A request that may go out.
struct Admitted {
    permit: Permit,
    /// The credential that was put on.
    injected: Option<Injected>,
    upgrade: bool,
    /// Whether the name leads anywhere.
    resolved: Result<(), Reason>,
}

/// A credential that was put on.
struct Injected {
    name: String,
    /// What strikes it out of the response, unless it is too short for that.
    mask: Option<Arc<Mask>>,
}

/// A request that may not.
struct Refusal {
    reason: Reason,
    /// The rule that denies it, or that would have allowed it where it was something else that did not.
    rule: Option<RuleName>,
    /// The credential that would have been put on.
    credential: Option<String>,
}

impl From<Reason> for Refusal {
    fn from(reason: Reason) -> Self {
        Self { reason, rule: None, credential: None }
    }
}

impl Refusal {
    fn of_permitted(reason: Reason, permit: &Permit) -> Self {
        let credential = permit.credential().map(str::to_owned);
        Self { reason, rule: Some(permit.rule().clone()), credential }
    }
}

impl Connection {
    /// Answers a request. Never fails: what cannot be passed on is answered here.
    pub(crate) async fn handle(
        self: Arc<Self>,
        request: Request<Incoming>,
    ) -> Result<Response<ReplyBody>, Infallible> {
        let open = self.activity.open();
        let started = Instant::now();
        let (mut parts, body) = request.into_parts();
        let grant = self.pod.workspace.grant.load_full();
        let mut row = self.attribution.http(grant.as_deref(), self.destination.to_string());
        row.method = Some(parts.method.as_str().chars().take(METHOD_CHARS_MAX).collect());
        row.path = Some(parts.uri.path().chars().take(REFUSED_PATH_CHARS_MAX).collect());
        let id = row.id;
        let outcome = match self.admit(grant.as_deref(), &mut parts).await {
            Ok(admitted) => self.pass(admitted, row, parts, body, started).await,
            Err(refusal) => Err(self.refuse(refusal, row).await),
        };
        Ok(match outcome {
            Ok((response, masking)) => response.map(|body| {
                ReplyBody::upstream(body, masking, ms(self.pod.state.options.limits.stalled_ms), open)
            }),
            Err(reason) => deny::response(reason, &self.destination.to_string(), id)
                .map(|body| ReplyBody::own(body, open)),
        })
    }

    /// Every check there is before a byte goes out, in order. Leaves `parts` as they are sent upstream.
    async fn admit(&self, grant: Option<&Grant>, parts: &mut Parts) -> Result<Admitted, Refusal> {
        self.check_token()?;
        if parts.headers.len() > self.pod.state.options.limits.headers_max {
            // HTTP/1.1 does not come as far.
            return Err(Reason::HeadTooLarge.into());
        }
        let grant = grant.ok_or(Reason::NoGrant)?;
        agree::check(&self.destination, self.sni.as_deref(), parts).map_err(|_| Reason::AuthorityMismatch)?;
        let (permit, path, upgrade) = self.decide(grant, parts)?;
        let mut query = parts.uri.query().map(str::to_owned);
        let injected = match put_credential(grant, &permit, &mut parts.headers, &mut query).await {
            Ok(injected) => injected,
            Err(reason) => return Err(Refusal::of_permitted(reason, &permit)),
        };
        parts.uri = target(path, query)?;
        let resolved = match self.pod.workspace.upstream.resolve(&permit).await {
            Err(reason) if !reason.is_upstream() => return Err(Refusal::of_permitted(reason, &permit)),
            resolved => resolved,
        };
        Ok(Admitted { permit, injected, upgrade, resolved })
    }

    /// The policy's decision on the head as it goes out, with the path in normal form, and whether it asks for a WebSocket.
    fn decide(&self, grant: &Grant, parts: &mut Parts) -> Result<(Permit, String, bool), Refusal> {
        // What stays behind, no condition sees.
        let upgrade = prepare_headers(parts);
        let path = NormalPath::parse(parts.uri.path()).map_err(|_| Reason::PathAmbiguous)?;
        let facts = Facts::new(&self.destination, &path, parts, upgrade, grant, &self.attribution);
        let method = parts.method.as_str();
        let body = body_facts(&parts.headers);
        let head = RequestHead { destination: &self.destination, method, path: &path, scope: &facts, body };
        match grant.policy.decide(&head) {
            Decision::Allow(permit) if unsupported(&permit, &body) => {
                Err(Refusal::of_permitted(Reason::Policy(freehold_policy::Reason::ConditionNotMet), &permit))
            }
            Decision::Allow(permit) => Ok((permit, path.as_str().to_owned(), upgrade)),
            Decision::Deny(denial) => {
                let reason = Reason::Policy(denial.reason);
                Err(Refusal { rule: denial.rule, ..reason.into() })
            }
        }
    }

    /// The connection's own token, or a renewed one for the same traffic.
    fn check_token(&self) -> Result<(), Reason> {
        let Some(own) = &self.token else {
            self.retire.cancel();
            return Err(Reason::NoToken);
        };
        let now = Timestamp::now();
        let renewed = || {
            self.pod.token.load_full().is_some_and(|current| {
                current.expires_at > now && current.subject.task_id == own.subject.task_id
            })
        };
        if own.expires_at > now || renewed() {
            return Ok(());
        }
        self.retire.cancel();
        Err(Reason::TokenExpired)
    }

    async fn refuse(&self, refusal: Refusal, mut row: AuditEvent) -> Reason {
        let Refusal { reason, rule, credential } = refusal;
        audit::denied(&mut row, reason);
        if let Some(rule) = rule {
            audit::by_rule(&mut row, &rule);
        }
        if let (Reason::AuthUnavailable, Some(credential)) = (reason, credential) {
            row.auth_failures.insert(credential, reason.as_str().to_owned());
        }
        tracing::debug!(
            workspace.id = %self.pod.identity.workspace_id,
            egress.destination = %self.destination,
            egress.reason = reason.as_str(),
            "denied"
        );
        if self.pod.record(row, Settles::Now).await { reason } else { Reason::AuditUnavailable }
    }

    async fn pass(
        self: &Arc<Self>,
        admitted: Admitted,
        mut row: AuditEvent,
        parts: Parts,
        body: Incoming,
        started: Instant,
    ) -> Result<(Response<Incoming>, Option<Masking>), Reason> {
        let Admitted { permit, injected, upgrade, resolved } = admitted;
        let id = row.id;
        audit::allowed(&mut row, &permit.rule().capability);
        row.path = Some(parts.uri.path().to_owned());
        audit::by_rule(&mut row, permit.rule());
        row.transforms_applied = Some(u32::from(injected.is_some()));
        let (name, mask) = injected.map(|injected| (injected.name, injected.mask)).unzip();
        row.auth_applied = name.into_iter().collect();
        let mut masking = mask.flatten().map(|mask| Masking::new(mask, Arc::clone(&self.pod), row.clone()));
        if !self.pod.record(row, Settles::Later).await {
            return Err(Reason::AuditUnavailable);
        }
        let upstream = &self.pod.workspace.upstream;
        let outcome = match resolved {
            Err(reason) => Err(reason),
            Ok(()) if upgrade => self.pass_upgrade(&permit, parts, body, &mut masking).await,
            Ok(()) => {
                let response = upstream.send(&permit, Request::from_parts(parts, body)).await;
                response.and_then(|response| checked(response, masking.as_mut())).and_then(|mut response| {
                    if response.status() == StatusCode::SWITCHING_PROTOCOLS {
                        // To what, nobody asked.
                        return Err(Reason::UpstreamFailed);
                    }
                    strip_hop_by_hop(response.headers_mut());
                    Ok(response)
                })
            }
        };
        self.settle(id, &permit, &outcome, started.elapsed());
        outcome.map(|response| (response, masking))
    }

    /// Passes a request for a WebSocket on. When the upstream agrees, the tunnel takes `masking`.
    async fn pass_upgrade(
        self: &Arc<Self>,
        permit: &Permit,
        parts: Parts,
        body: Incoming,
        masking: &mut Option<Masking>,
    ) -> Result<Response<Incoming>, Reason> {
        let request = Request::from_parts(parts.clone(), Empty::<Bytes>::new());
        let request = upgrade::request(request, &self.destination);
        let response = self.pod.workspace.upstream.send_upgrade(permit, request).await?;
        let response = checked(response, masking.as_mut())?;
        Ok(upgrade::join(self, Request::from_parts(parts, body), response, masking))
    }

    fn settle(
        &self,
        id: EventId,
        permit: &Permit,
        outcome: &Result<Response<Incoming>, Reason>,
        took: Duration,
    ) {
        let settlement = match outcome {
            Ok(response) => Settlement {
                latency: Some(took),
                detail: Some(json!({ "rule": &*permit.rule().rule, "status": response.status().as_u16() })),
            },
            Err(reason) => Settlement {
                latency: None,
                detail: Some(json!({ "rule": &*permit.rule().rule, "upstream_error": reason.as_str() })),
            },
        };
        self.pod.state.settle(id, settlement);
    }

    /// Records that the connection, or a request on it that could not be read, was refused.
    pub(crate) async fn refuse_connection(&self, reason: Reason) {
        let grant = self.pod.workspace.grant.load_full();
        let mut row = self.attribution.http(grant.as_deref(), self.destination.to_string());
        row.decision = Some(Outcome::Deny);
        row.reason = Some(reason.as_str().to_owned());
        self.pod.record(row, Settles::Now).await;
    }
}

/// What the head says of the body. Without a length and without `Transfer-Encoding` there may still be one over HTTP/2.
fn body_facts(headers: &HeaderMap) -> RequestBody<'_> {
    let one = |name| {
        let mut values = headers.get_all(name).iter();
        values.next().filter(|_| values.next().is_none()).and_then(|value| value.to_str().ok())
    };
    let length = one(header::CONTENT_LENGTH).and_then(|length| length.parse().ok());
    RequestBody { content_type: one(header::CONTENT_TYPE), length, read: None }
}

/// Whether the permit carries what is not enforced here yet: such a request does not go out.
fn unsupported(permit: &Permit, body: &RequestBody<'_>) -> bool {
    permit.approval() != Approval::NotNeeded
        || permit.response().is_some()
        || !permit.transforms().is_empty()
        || !permit.counters().is_empty()
        || (permit.body_max().is_some() && body.length.is_none())
}

/// The provider's credential on requests to the provider's domain; nothing on others.
async fn put_credential(
    grant: &Grant,
    permit: &Permit,
    headers: &mut HeaderMap,
    query: &mut Option<String>,
) -> Result<Option<Injected>, Reason> {
    if !grant.policy.is_provider(permit.destination()) {
        return Ok(None);
    }
    inject::strip_placeholder(headers, query).map_err(|_| Reason::ForeignCredential)?;
    let Some(name) = permit.credential() else { return Ok(None) };
    let unavailable = |unavailable: Unavailable| {
        tracing::debug!(
            credential.name = name,
            egress.code = unavailable.code(),
            "a credential is unavailable"
        );
        Reason::AuthUnavailable
    };
    let injection = grant.credentials.injection(name).await.map_err(unavailable)?;
    if injection.as_signer().is_some() {
        return Err(unavailable(Unavailable("signer_not_taken")));
    }
    inject::apply(&injection, headers, query);
    let mask = injection.mask();
    if mask.is_some() {
        masking::prepare(headers);
    }
    Ok(Some(Injected { name: name.to_owned(), mask }))
}

/// A response's head as it may be seen: without a way past this proxy, without secrets, and with a body in which they
/// can be found.
fn checked(
    mut response: Response<Incoming>,
    masking: Option<&mut Masking>,
) -> Result<Response<Incoming>, Reason> {
    // The words after the status are the upstream's own, and nobody needs them.
    response.extensions_mut().remove::<ReasonPhrase>();
    response.headers_mut().remove(header::ALT_SVC);
    if let Some(masking) = masking {
        if masking::is_coded(response.headers()) && !response.body().is_end_stream() {
            return Err(Reason::UpstreamEncoded);
        }
        masking.head(response.headers_mut());
    }
    Ok(response)
}

fn target(path: String, query: Option<String>) -> Result<Uri, Reason> {
    let text = match query {
        Some(query) => format!("{path}?{query}"),
        None => path,
    };
    text.parse().map_err(|_| Reason::RequestMalformed)
}
