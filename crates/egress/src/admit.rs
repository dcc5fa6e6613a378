//! Everything that is decided about a request before a byte of it goes out, in order; and what becomes of its head.

use std::sync::Arc;

use aws_lc_rs::digest;
use freehold_model::{
    ApprovalId, Timestamp,
    approval::{Question, Reason as Why},
    audit::AuditEvent,
};
use freehold_policy::{
    Approval, Body as Known, Decision, NormalPath, Permit, ReadBody, RequestHead, RuleName, Unreadable,
};
use http::{Uri, header, request::Parts};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::{
    Grant, Outgoing, Signer, agree,
    approval::{self, Lifted, Seen},
    audit,
    budget::{Charges, Reservation, Weight},
    counted::{self, Stopped},
    deny::Reason,
    exchange::Connection,
    facts::Facts,
    headers::{has_doubles, prepare_headers, single},
    inject, masking,
    options::ms,
    passage::{Passage, PassageError},
    transform::{self, Changes, Failure, Target},
};

/// The longest body that is read to be signed, in bytes.
const SIGNED_BODY_BYTES_MAX: u64 = 8 * 1024 * 1024;

/// A request that may go out.
pub(crate) struct Admitted {
    pub(crate) permit: Permit,
    pub(crate) body: Box<Passage>,
    pub(crate) changes: Changes,
    /// What it holds of budgets.
    pub(crate) reservation: Option<Reservation>,
    /// For the rules of its response.
    pub(crate) asked: Option<Box<Asked>>,
    /// How many rules of its bodies it is under.
    pub(crate) validations: u32,
    pub(crate) upgrade: bool,
    /// The approval that it goes by, where its rule wants one.
    pub(crate) approval: Option<ApprovalId>,
    /// Whether the name leads anywhere.
    pub(crate) resolved: Result<(), Reason>,
}

/// What the policy permits, and people where they were asked.
struct Permitted {
    grant: Arc<Grant>,
    permit: Permit,
    read: Option<ReadBody>,
    approval: Option<ApprovalId>,
    reservation: Option<Reservation>,
}

/// What a person is asked.
struct Asking<'a> {
    why: Why,
    permit: &'a Permit,
    policy_digest: &'a str,
    parts: &'a Parts,
    path: &'a str,
    row: &'a AuditEvent,
}

/// A request as it was decided on, before transforms changed it.
pub(crate) struct Asked {
    grant: Arc<Grant>,
    parts: Parts,
    path: NormalPath<'static>,
    upgrade: bool,
    /// Of its body, in bytes, when that is known.
    length: Option<u64>,
    read: Option<ReadBody>,
    /// For as long as `read` is here.
    _room: Option<Arc<OwnedSemaphorePermit>>,
}

impl Asked {
    /// What expressions see of it.
    pub(crate) fn facts<'a>(&'a self, connection: &'a Connection) -> Facts<'a> {
        let Self { grant, parts, path, upgrade, length, read, .. } = self;
        let heard = Heard { grant, path, upgrade: *upgrade, length: *length, read: read.as_ref() };
        connection.facts(&heard, parts)
    }
}

/// What is known of a request beside its head.
#[derive(Clone, Copy)]
struct Heard<'a> {
    grant: &'a Grant,
    path: &'a NormalPath<'a>,
    upgrade: bool,
    /// Of its body, in bytes, when that is known.
    length: Option<u64>,
    read: Option<&'a ReadBody>,
}

/// A request that may not go out.
pub(crate) struct Refusal {
    pub(crate) reason: Reason,
    /// The rule that denies it, or that would have allowed it where it was something else that did not.
    rule: Option<RuleName>,
    /// Where its body is not as it must be, or why it cannot be read.
    detail: Option<String>,
    /// What could not be put on it.
    failure: Option<Box<Failure>>,
    /// The approval that it was denied by, or in spite of.
    approval: Option<ApprovalId>,
    /// The counters that have no room for it, and why.
    stopped: Option<Box<Stopped>>,
}

impl From<Reason> for Refusal {
    fn from(reason: Reason) -> Self {
        Self { reason, rule: None, detail: None, failure: None, approval: None, stopped: None }
    }
}

impl Refusal {
    fn of_permitted(reason: Reason, permit: &Permit) -> Self {
        Self { rule: Some(permit.rule().clone()), ..reason.into() }
    }

    fn unchanged(failure: Failure, permit: &Permit) -> Self {
        let reason = match &failure {
            Failure::Transform { .. } => Reason::TransformFailed,
            Failure::Credential(_) | Failure::Secret { .. } => Reason::AuthUnavailable,
        };
        Self { failure: Some(Box::new(failure)), ..Self::of_permitted(reason, permit) }
    }

    fn stopped(stopped: Stopped, permit: &Permit) -> Self {
        let reason = stopped.0;
        Self { stopped: Some(Box::new(stopped)), ..Self::of_permitted(reason, permit) }
    }

    /// Writes it into the request's row.
    pub(crate) fn put(self, row: &mut AuditEvent) {
        audit::denied(row, self.reason);
        if let Some(rule) = self.rule {
            audit::by_rule(row, &rule);
        }
        if let Some(at) = self.detail {
            audit::noted(row, "body", at.into());
        }
        if let Some(id) = self.approval {
            approval::noted(row, id);
        }
        if let Some(stopped) = self.stopped {
            row.budget_ceilings = stopped.1;
        }
        match self.failure.map(|failure| *failure) {
            None => {}
            Some(Failure::Credential(name)) => {
                row.auth_failures.insert(name, Reason::AuthUnavailable.as_str().to_owned());
            }
            Some(Failure::Secret { transform, secret }) => {
                let why = Reason::AuthUnavailable.as_str();
                row.auth_failures.insert(format!("secret:{secret}"), why.to_owned());
                row.transforms_failed.insert(transform, why.to_owned());
            }
            Some(Failure::Transform { name, why }) => {
                row.transforms_failed.insert(name, why.to_owned());
            }
        }
    }
}

impl Connection {
    /// Every check there is before a byte goes out, in order. Leaves `parts` as they are sent upstream.
    pub(crate) async fn admit(
        &self,
        grant: Option<Arc<Grant>>,
        parts: &mut Parts,
        mut body: Box<Passage>,
        row: &AuditEvent,
    ) -> Result<Admitted, Refusal> {
        self.check_token()?;
        if parts.headers.len() > self.pod.state.options.limits.headers_max {
            // HTTP/1.1 does not come as far.
            return Err(Reason::HeadTooLarge.into());
        }
        let grant = grant.ok_or(Reason::NoGrant)?;
        agree::check(&self.destination, self.sni.as_deref(), parts).map_err(|_| Reason::AuthorityMismatch)?;
        // What stays behind, no condition sees.
        let upgrade = prepare_headers(parts);
        if has_doubles(&parts.headers) {
            return Err(Reason::RequestMalformed.into());
        }
        let path = NormalPath::parse(parts.uri.path()).map_err(|_| Reason::PathAmbiguous)?.into_owned();
        let permitted = self.permitted(grant, parts, &path, upgrade, &mut body, row).await?;
        let Permitted { grant, permit, read, approval, reservation } = permitted;
        let (held, length) = (|refusal: Refusal| Refusal { approval, ..refusal }, body.length());
        let asked = permit.response().map(|_| (parts.clone(), Arc::clone(&grant)));
        let heard = Heard { grant: &grant, path: &path, upgrade, length, read: read.as_ref() };
        let changes = self.change(&heard, &permit, parts, &mut body).await.map_err(held)?;
        let resolved = match self.pod.workspace.upstream.resolve(&permit).await {
            Err(reason) if !reason.is_upstream() => {
                return Err(held(Refusal::of_permitted(reason, &permit)));
            }
            resolved => resolved,
        };
        let validations = u32::from(permit.validates_body()) + u32::from(permit.response().is_some());
        let asked = asked.map(|(parts, grant)| {
            Box::new(Asked { grant, parts, path, upgrade, length, read, _room: body.room() })
        });
        Ok(Admitted { permit, body, changes, reservation, asked, validations, upgrade, approval, resolved })
    }

    /// What the policy decides, and people where the rule or a budget wants them. What they approve is decided again, by the
    /// policy in force then: a rule that denies it and came meanwhile wins, and another that asks, asks.
    async fn permitted(
        &self,
        mut grant: Arc<Grant>,
        parts: &Parts,
        path: &NormalPath<'_>,
        upgrade: bool,
        body: &mut Passage,
        row: &AuditEvent,
    ) -> Result<Permitted, Refusal> {
        let length = body.length();
        let mut read = self
            .read_request(&Heard { grant: &grant, path, upgrade, length, read: None }, parts, body)
            .await?;
        let mut lifted = Lifted::default();
        loop {
            let heard = Heard { grant: &grant, path, upgrade, length, read: read.as_ref() };
            let decided = self.decide(&heard, parts, body);
            let permit = decided.map_err(|refusal| Refusal { approval: lifted.last(), ..refusal })?;
            let standing = self.pod.workspace.standing.load_full();
            let covers = |why| lifted.covers(&standing, why, permit.rule(), &grant.policy_digest);
            let needs_approval = permit.approval() != Approval::NotNeeded;
            let approval = if needs_approval { covers(Why::ApprovalRequired) } else { lifted.last() };
            let why = if needs_approval && approval.is_none() {
                Why::ApprovalRequired
            } else {
                let by = covers(Why::BudgetExceeded);
                let charges = self.weigh(&heard, &permit, parts, body)?;
                match self.reserve(charges, by.is_some()).await {
                    Ok(reservation) => {
                        let approval = by.or(approval);
                        return Ok(Permitted { grant, permit, read, approval, reservation });
                    }
                    Err(refused) if refused.asks() && by.is_none() => Why::BudgetExceeded,
                    Err(refused) => {
                        let refusal = Refusal::stopped(counted::stopped(&refused), &permit);
                        return Err(Refusal { approval: by.or(approval), ..refusal });
                    }
                }
            };
            if lifted.is_full() {
                let refusal = Refusal::of_permitted(Reason::ApprovalDenied, &permit);
                return Err(Refusal { approval: lifted.last(), ..refusal });
            }
            let (policy_digest, path_text) = (&*grant.policy_digest, path.as_str());
            let asking = Asking { why, permit: &permit, policy_digest, parts, path: path_text, row };
            let by = Box::pin(self.ask(asking, body)).await?;
            lifted.add(why, permit.rule().clone(), by);
            let late = |reason: Reason| Refusal { approval: lifted.last(), ..reason.into() };
            self.check_token().map_err(late)?;
            let now = self.pod.workspace.grant.load_full().ok_or(Reason::NoGrant).map_err(late)?;
            if !Arc::ptr_eq(&now, &grant) {
                grant = now;
                let heard = Heard { grant: &grant, path, upgrade, length, read: None };
                read = self.read_request(&heard, parts, body).await?;
            }
        }
    }

    /// What a permitted request is to use of each counter that counts it.
    fn weigh(
        &self,
        heard: &Heard<'_>,
        permit: &Permit,
        parts: &Parts,
        body: &Passage,
    ) -> Result<Option<Charges>, Refusal> {
        let facts = self.facts(heard, parts);
        let weight = Weight { length: body.length(), path: heard.path.as_str(), body: body.so_far() };
        let whose = self.attribution.whose(heard.grant);
        counted::weigh(&self.pod.state.budgets, permit, &weight, whose.as_ref(), heard.upgrade, &facts)
            .map_err(|stopped| Refusal::stopped(stopped, permit))
    }

    /// Holds the request until a person decides; answers the approval that it goes on by.
    async fn ask(&self, asking: Asking<'_>, body: &mut Passage) -> Result<ApprovalId, Refusal> {
        let Asking { why, permit, policy_digest, parts, path, row } = asking;
        let refused = |reason| Refusal::of_permitted(reason, permit);
        let place = approval::place(&self.pod).map_err(refused)?;
        let patience = ms(self.pod.state.options.limits.approval_body_ms);
        // What comes later is not shown, and said to be missing.
        if let Ok(begun) = tokio::time::timeout(patience, body.begin(approval::BODY_BYTES_MAX + 1)).await {
            begun.map_err(|_| refused(Reason::RequestMalformed))?;
        }
        let (id, now) = (ApprovalId::from_uuid(uuid::Uuid::now_v7()), Timestamp::now());
        let seen = Seen { bytes: body.so_far(), is_whole: body.is_read(), trailers: body.trailers() };
        let question = Question {
            id,
            organization_id: self.attribution.organization_id(),
            workspace_id: self.attribution.workspace_id(),
            task_id: self.attribution.task_id(),
            reason: why,
            rule: approval::rule_ref(permit.rule()),
            policy_digest: policy_digest.to_owned(),
            shown: approval::shown(parts, self.destination.to_string(), path, seen),
            created_at: now,
            expires_at: self.pod.state.desk.expires_at(now),
        };
        let mut row = row.clone();
        audit::by_rule(&mut row, permit.rule());
        let held = approval::hold(&self.pod, place, question, row).await;
        held.map_err(|reason| Refusal { approval: Some(id), ..refused(reason) })
    }

    /// Reads the body, when a rule that may match looks into it.
    async fn read_request(
        &self,
        heard: &Heard<'_>,
        parts: &Parts,
        body: &mut Passage,
    ) -> Result<Option<ReadBody>, Refusal> {
        let known = known(parts, body);
        let wanted = {
            let facts = self.facts(heard, parts);
            heard.grant.policy.body_wanted(&self.head(parts, heard.path, &facts, known))
        };
        let Some(bytes_max) = wanted else { return Ok(None) };
        if masking::is_coded(&parts.headers) {
            return Ok(Some(ReadBody::failed(Unreadable::Coded)));
        }
        if known.length.is_some_and(|length| length > bytes_max) {
            return Ok(Some(ReadBody::failed(Unreadable::TooLong)));
        }
        let read = Box::pin(self.read(&self.pod.request_bodies, body, bytes_max)).await?;
        match read.map_err(|_| Reason::RequestMalformed)? {
            Some(bytes) => Ok(Some(ReadBody::new(known.content_type, bytes))),
            None => Ok(Some(ReadBody::failed(Unreadable::TooLong))),
        }
    }

    /// Reads a body, once there is room for it among those that the pod's requests hold at once. One that has room already
    /// waits for no more, which it, or others that wait like it, may hold: it gets that at once or is refused.
    pub(crate) async fn read<'b>(
        &self,
        bodies: &Arc<Semaphore>,
        body: &'b mut Passage,
        bytes_max: u64,
    ) -> Result<Result<Option<&'b [u8]>, PassageError>, Reason> {
        let limits = &self.pod.state.options.limits;
        let wanted = body.room_wanted(bytes_max, limits.bodies_per_pod_kibibytes_max);
        if wanted > 0 {
            let bodies = Arc::clone(bodies);
            let room = if body.room().is_some() {
                bodies.try_acquire_many_owned(wanted).ok()
            } else {
                let room = bodies.acquire_many_owned(wanted);
                tokio::time::timeout(ms(limits.body_wait_ms), room).await.ok().and_then(Result::ok)
            };
            body.add_room(room.ok_or(Reason::BodiesFull)?);
        }
        Ok(body.read(bytes_max).await)
    }

    /// What expressions see of a request.
    fn facts<'a>(&'a self, heard: &Heard<'a>, parts: &'a Parts) -> Facts<'a> {
        let Heard { grant, path, upgrade, length, read } = *heard;
        let body = Known { content_type: None, length, read };
        Facts::new(&self.destination, path, parts, grant, &self.attribution).with(upgrade, &body)
    }

    fn head<'a>(
        &'a self,
        parts: &'a Parts,
        path: &'a NormalPath<'_>,
        facts: &'a Facts<'_>,
        body: Known<'a>,
    ) -> RequestHead<'a> {
        let method = parts.method.as_str();
        RequestHead { destination: &self.destination, method, path, scope: facts, body }
    }

    /// The policy's decision.
    fn decide(&self, heard: &Heard<'_>, parts: &Parts, body: &Passage) -> Result<Permit, Refusal> {
        let facts = self.facts(heard, parts);
        let body = Known { read: heard.read, ..known(parts, body) };
        match heard.grant.policy.decide(&self.head(parts, heard.path, &facts, body)) {
            Decision::Allow(permit) => Ok(permit),
            Decision::Deny(denial) => {
                let reason = Reason::Policy(denial.reason);
                Err(Refusal { rule: denial.rule, detail: denial.detail, ..reason.into() })
            }
        }
    }

    /// Puts the provider's credential on the request and has the rule's transforms change it.
    async fn change(
        &self,
        heard: &Heard<'_>,
        permit: &Permit,
        parts: &mut Parts,
        body: &mut Passage,
    ) -> Result<Changes, Refusal> {
        let Heard { grant, path, read, .. } = *heard;
        let unchanged = |failure| Refusal::unchanged(failure, permit);
        let mut query = parts.uri.query().map(str::to_owned);
        let evaluated = if permit.transforms().is_empty() {
            None
        } else {
            let gathered = transform::gather(&*grant.credentials, permit).await.map_err(unchanged)?;
            let evaluated = transform::evaluate(permit, &gathered, &self.facts(heard, parts));
            let own = transform::Own::of(&parts.headers, query.as_deref());
            Some((evaluated.map_err(unchanged)?, gathered, own))
        };
        let mut changes = self.put_provider(grant, permit, parts, &mut query).await?;
        let (mut path, mut replaced) = (path.as_str().to_owned(), None);
        if let Some((evaluated, gathered, own)) = evaluated {
            let headers = &mut parts.headers;
            let mut target =
                Target { headers, query: &mut query, path: &mut path, read, body: &mut replaced };
            changes.apply(evaluated, &gathered, &own, &mut target).map_err(unchanged)?;
        }
        if let Some(bytes) = replaced {
            body.replace(bytes);
        }
        if changes.is_masked()
            || counted::reads_answer(permit)
            || permit.response().is_some_and(freehold_policy::ResponseRule::reads_body)
        {
            masking::prepare(&mut parts.headers);
        }
        let room = self.pod.workspace.masks.room(&changes.secrets);
        changes.room = room.map_err(|_| Refusal::of_permitted(Reason::BodiesFull, permit))?;
        if let Some(signer) = changes.signer.take() {
            Box::pin(self.sign(&*signer, permit, parts, &path, &mut query, body)).await?;
        }
        parts.uri = target(path, query)?;
        Ok(changes)
    }

    /// The provider's credential on requests to the provider's domain; nothing on others.
    async fn put_provider(
        &self,
        grant: &Grant,
        permit: &Permit,
        parts: &mut Parts,
        query: &mut Option<String>,
    ) -> Result<Changes, Refusal> {
        let mut changes = Changes::default();
        if !grant.policy.is_provider(permit.destination()) {
            return Ok(changes);
        }
        inject::strip_placeholder(&mut parts.headers, query)
            .map_err(|_| Refusal::of_permitted(Reason::ForeignCredential, permit))?;
        let Some(name) = permit.credential() else { return Ok(changes) };
        let injection = transform::ask(&*grant.credentials, name).await;
        let injection = injection.map_err(|failure| Refusal::unchanged(failure, permit))?;
        inject::apply(&injection, &mut parts.headers, query);
        changes.applied = 1;
        changes.signer = injection.as_signer().cloned();
        changes.secrets = injection.secrets();
        if !changes.can_be_masked() {
            tracing::warn!(credential.name = name, "a credential is too long to be looked for in answers");
            return Err(Refusal::unchanged(Failure::Credential(name.to_owned()), permit));
        }
        changes.credentials.push(name.to_owned());
        Ok(changes)
    }

    /// Signs a request of which nothing changes any more.
    async fn sign(
        &self,
        signer: &dyn Signer,
        permit: &Permit,
        parts: &mut Parts,
        path: &str,
        query: &mut Option<String>,
        body: &mut Passage,
    ) -> Result<(), Refusal> {
        let authority = permit.destination().to_string();
        let mut outgoing = Outgoing {
            method: &parts.method,
            authority: &authority,
            is_tls: permit.destination().scheme() == freehold_policy::Scheme::Https,
            path,
            query,
            headers: &mut parts.headers,
            body_sha256: None,
            now: Timestamp::now(),
        };
        if signer.needs_body(&outgoing) {
            let read = self.read(&self.pod.request_bodies, body, SIGNED_BODY_BYTES_MAX).await?;
            let Some(bytes) = read.map_err(|_| Reason::RequestMalformed)? else {
                let reason = Reason::Policy(freehold_policy::Reason::BodyTooLarge);
                return Err(Refusal::of_permitted(reason, permit));
            };
            outgoing.body_sha256 = sha256(bytes);
        }
        signer.sign(&mut outgoing).map_err(|unavailable| {
            tracing::debug!(egress.code = unavailable.code(), "a request could not be signed");
            Refusal::of_permitted(Reason::AuthUnavailable, permit)
        })
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
                current.expires_at > now && current.subject.whose() == own.subject.whose()
            })
        };
        if own.expires_at > now || renewed() {
            return Ok(());
        }
        self.retire.cancel();
        Err(Reason::TokenExpired)
    }
}

fn sha256(bytes: &[u8]) -> Option<[u8; digest::SHA256_OUTPUT_LEN]> {
    digest::digest(&digest::SHA256, bytes).as_ref().try_into().ok()
}

/// What is known of a body that is not read.
fn known<'a>(parts: &'a Parts, body: &Passage) -> Known<'a> {
    Known { content_type: single(&parts.headers, &header::CONTENT_TYPE), length: body.length(), read: None }
}

fn target(path: String, query: Option<String>) -> Result<Uri, Reason> {
    let text = match query {
        Some(query) => format!("{path}?{query}"),
        None => path,
    };
    text.parse().map_err(|_| Reason::RequestMalformed)
}
