//! A compiled policy and its decisions.
//!
//! Rules are found by host: exact names in a table, wildcards under their literal tail, and the few patterns that have
//! none (`*`) in a list of their own. A decision's cost grows with the rules that can concern the host, not with all.

use std::{
    collections::{BTreeSet, HashMap},
    sync::Arc,
};

use crate::{
    body::{BODY_READ_BYTES_DEFAULT, BODY_READ_BYTES_MAX, Body},
    cel::{Fault, Scope, Work},
    content::{ReadBody, Unreadable},
    destination::{Destination, Scheme, normal_host},
    document::{Condition, DomainPattern, Method, Rule},
    merge::Merged,
    path::NormalPath,
    permit::{CompiledRule, Permit},
    provider::PROVIDER_CAPABILITY,
};

/// The closed set of reasons of this crate; egress has more of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Reason {
    /// A rule allows it.
    RuleMatched,
    /// No rule names the host (with this port).
    DomainNotAllowed,
    /// Rules name the host, none this method.
    MethodNotAllowed,
    /// Rules name host and method, none this path.
    PathNotAllowed,
    /// It would be allowed over HTTPS.
    InsecureNotAllowed,
    /// Rules name host, method and path, none a body of this type.
    ContentTypeNotAllowed,
    /// The body is longer than the rules allow, or read.
    BodyTooLarge,
    /// It cannot be told what stands in the body.
    BodyUnreadable,
    /// The body is not as the rules' schema says.
    BodyInvalid,
    /// Rules name all of it, and their conditions do not hold.
    ConditionNotMet,
    /// A rule denies it.
    DeniedByRule,
    /// The name is no host name.
    HostInvalid,
    /// The response has a status that the rule does not name.
    ResponseStatusNotAllowed,
    /// The response is of a type that the rule does not name.
    ResponseContentTypeNotAllowed,
    /// The response is longer than the rule allows, or reads.
    ResponseTooLarge,
    /// It cannot be told what stands in the response.
    ResponseUnreadable,
    /// The rule's conditions of the response do not hold.
    ResponseConditionNotMet,
}

impl Reason {
    /// Every reason, in the order documented.
    pub const ALL: &'static [Self] = &[
        Self::RuleMatched,
        Self::DomainNotAllowed,
        Self::MethodNotAllowed,
        Self::PathNotAllowed,
        Self::InsecureNotAllowed,
        Self::ContentTypeNotAllowed,
        Self::BodyTooLarge,
        Self::BodyUnreadable,
        Self::BodyInvalid,
        Self::ConditionNotMet,
        Self::DeniedByRule,
        Self::HostInvalid,
        Self::ResponseStatusNotAllowed,
        Self::ResponseContentTypeNotAllowed,
        Self::ResponseTooLarge,
        Self::ResponseUnreadable,
        Self::ResponseConditionNotMet,
    ];

    /// The reason's spelling in audit rows and answers.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::RuleMatched => "rule_matched",
            Self::DomainNotAllowed => "domain_not_allowed",
            Self::MethodNotAllowed => "method_not_allowed",
            Self::PathNotAllowed => "path_not_allowed",
            Self::InsecureNotAllowed => "insecure_not_allowed",
            Self::ContentTypeNotAllowed => "content_type_not_allowed",
            Self::BodyTooLarge => "body_too_large",
            Self::BodyUnreadable => "body_unreadable",
            Self::BodyInvalid => "body_invalid",
            Self::ConditionNotMet => "condition_not_met",
            Self::DeniedByRule => "denied_by_rule",
            Self::HostInvalid => "host_invalid",
            Self::ResponseStatusNotAllowed => "response_status_not_allowed",
            Self::ResponseContentTypeNotAllowed => "response_content_type_not_allowed",
            Self::ResponseTooLarge => "response_too_large",
            Self::ResponseUnreadable => "response_unreadable",
            Self::ResponseConditionNotMet => "response_condition_not_met",
        }
    }

    /// Whether it is about a response, of a request that was allowed.
    pub const fn is_of_response(self) -> bool {
        matches!(
            self,
            Self::ResponseStatusNotAllowed
                | Self::ResponseContentTypeNotAllowed
                | Self::ResponseTooLarge
                | Self::ResponseUnreadable
                | Self::ResponseConditionNotMet
        )
    }

    /// How near a rule came that does not allow a request: the nearest explains a denial best.
    const fn nearness(self) -> u8 {
        match self {
            Self::HostInvalid | Self::DomainNotAllowed => 0,
            Self::MethodNotAllowed => 1,
            Self::PathNotAllowed => 2,
            Self::InsecureNotAllowed => 3,
            Self::ContentTypeNotAllowed => 4,
            Self::BodyTooLarge => 5,
            Self::BodyUnreadable => 6,
            Self::BodyInvalid => 7,
            Self::ConditionNotMet => 8,
            _ => 9,
        }
    }
}

/// What of a request is decided on: its head, and what is known of its body.
#[derive(Clone, Copy)]
pub struct RequestHead<'a> {
    /// Where it goes.
    pub destination: &'a Destination,
    /// The method, as the client wrote it.
    pub method: &'a str,
    /// The path, in normal form.
    pub path: &'a NormalPath<'a>,
    /// What conditions see of it.
    pub scope: &'a dyn Scope,
    /// What is known of its body. It is read before the decision where [`Policy::body_wanted`] says so.
    pub body: Body<'a>,
}

/// The answer to a request.
#[derive(Debug)]
pub enum Decision {
    /// It may go where the permit says.
    Allow(Permit),
    /// It may not.
    Deny(Denial),
}

/// Why a request may not go.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Denial {
    /// The reason.
    pub reason: Reason,
    /// The rule that denies it. When none does and none allows it: of those that name its host, method and path, the one that
    /// came nearest (its body before its conditions), the first of several.
    pub rule: Option<RuleName>,
    /// For the audit log: where a body is not as a schema says, or why it cannot be read. Nothing of its content.
    pub detail: Option<String>,
}

impl From<Reason> for Denial {
    fn from(reason: Reason) -> Self {
        Self { reason, rule: None, detail: None }
    }
}

/// Which document something stands in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Origin {
    /// None: it is the platform's own.
    BuiltIn,
    /// The provider's.
    Provider,
    /// The role's.
    Role,
}

impl Origin {
    /// Its spelling in audit rows.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::BuiltIn => "built_in",
            Self::Provider => "provider",
            Self::Role => "role",
        }
    }
}

/// Which rule decided. Two rules of a policy never have the same.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct RuleName {
    /// The document it stands in.
    pub origin: Origin,
    /// Its capability.
    pub capability: Arc<str>,
    /// Its name, or its place in the capability, such as `allow[2]`.
    pub rule: Arc<str>,
}

/// What one rule says of a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verdict {
    /// The rule.
    pub rule: RuleName,
    /// Whether it is a rule that denies.
    pub denies: bool,
    /// What it says.
    pub outcome: Match,
}

/// Whether a rule matches a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Match {
    /// It does.
    Whole,
    /// Something before its conditions does not.
    Misses(Reason),
    /// A condition does not hold.
    Condition {
        /// The number of the first such condition, from 0.
        at: usize,
        /// Why it has no value, if it has none.
        fault: Option<Fault>,
    },
}

/// The answer to a question for a name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DnsDecision {
    /// A rule names the host; requests are decided when they come.
    Allow {
        /// The capability of that rule.
        capability: Arc<str>,
    },
    /// None does.
    Deny(Denial),
}

/// A compiled policy. Immutable; share it behind an `Arc`.
#[derive(Debug)]
pub struct Policy {
    allow: Index,
    deny: Index,
    provider_host: Box<str>,
    provider_port: u16,
    credential: Option<Arc<str>>,
    /// Whether any rule looks into bodies.
    looks: bool,
    credentials: Vec<Box<str>>,
    secrets: Vec<Box<str>>,
}

/// Rules by host.
#[derive(Debug, Default)]
struct Index {
    exact: HashMap<Box<str>, Vec<Arc<CompiledRule>>>,
    /// By the literal tail of a wildcard.
    tails: HashMap<Box<str>, Vec<Arc<CompiledRule>>>,
    /// Patterns whose last label has a wildcard.
    general: Vec<Arc<CompiledRule>>,
}

impl Policy {
    pub(crate) fn new(
        capabilities: &[Merged<'_>],
        provider: &DomainPattern,
        credential: Option<&str>,
    ) -> Self {
        let (mut allow, mut deny) = (Index::default(), Index::default());
        let (mut order, mut looks) = (0, false);
        let mut credentials: BTreeSet<Box<str>> = credential.map(Into::into).into_iter().collect();
        let mut secrets = BTreeSet::new();
        for (denies, rule) in capabilities.iter().flat_map(|one| one.compile(&mut order)) {
            looks |= rule.looks;
            for transform in &rule.transforms {
                credentials.extend(transform.credential.as_deref().map(Into::into));
                secrets.extend(transform.secrets().map(Box::from));
            }
            if denies { &mut deny } else { &mut allow }.add(&rule);
        }
        Self {
            allow,
            deny,
            provider_host: provider.host().into(),
            provider_port: provider.port.unwrap_or(Scheme::Https.default_port()),
            credential: credential.map(Into::into),
            looks,
            credentials: credentials.into_iter().collect(),
            secrets: secrets.into_iter().collect(),
        }
    }

    /// The names of the credentials that it may ask for, each once and sorted; the provider's included.
    pub fn credentials(&self) -> impl Iterator<Item = &str> {
        self.credentials.iter().map(|name| &**name)
    }

    /// The names of the secrets that it may ask for, each once and sorted.
    pub fn secrets(&self) -> impl Iterator<Item = &str> {
        self.secrets.iter().map(|name| &**name)
    }

    /// Whether a request's body must be read before it is decided, and up to how many bytes: when a rule that names its host,
    /// method and path looks into bodies, and this one can be understood. A longer one is
    /// [`TooLong`](crate::Unreadable::TooLong); nothing of it need be read when its length says so.
    pub fn body_wanted(&self, request: &RequestHead<'_>) -> Option<u64> {
        if !self.looks || !request.body.is_readable() {
            return None;
        }
        let host = request.destination.host();
        let method = Method::parse(request.method);
        let deny = self.deny.candidates(host).filter(|rule| rule.looks && rule.denies_head(request).is_ok());
        let allow = self
            .allow
            .candidates(host)
            .filter(|rule| rule.looks && rule.allows_head(request, method).is_ok());
        deny.chain(allow).map(|rule| rule.reads()).max()
    }

    /// Decides a request. A rule that denies it beats every one that allows it, also when its condition has no value; of
    /// several that allow it, the first of the merged document is named.
    pub fn decide(&self, request: &RequestHead<'_>) -> Decision {
        let (host, work) = (request.destination.host(), Work::default());
        let denies = |rule: &&Arc<CompiledRule>| rule.denies(request, &work);
        if let Some(rule) = self.deny.candidates(host).filter(denies).min_by_key(|rule| rule.order) {
            let (reason, rule) = (Reason::DeniedByRule, Some(rule.name.clone()));
            return Decision::Deny(Denial { reason, rule, detail: None });
        }
        let method = Method::parse(request.method);
        let mut best: Option<&Arc<CompiledRule>> = None;
        // The nearest miss explains a denial best; of several as near, the first of the document.
        let (mut reason, mut nearest) = (Reason::DomainNotAllowed, None::<&Arc<CompiledRule>>);
        for rule in self.allow.candidates(host) {
            if best.is_some_and(|other| other.order < rule.order) {
                continue;
            }
            match rule.check(request, method, &work) {
                Ok(()) => best = Some(rule),
                Err(miss) if miss.nearness() < reason.nearness() => {}
                Err(miss) if miss == reason && nearest.is_some_and(|other| other.order < rule.order) => {}
                Err(miss) => (reason, nearest) = (miss, Some(rule)),
            }
        }
        match best {
            Some(rule) => Decision::Allow(Permit {
                destination: request.destination.clone(),
                rule: Arc::clone(rule),
                credential: self.credential.clone().filter(|_| self.takes_credential(request.destination)),
            }),
            None => {
                let near = nearest.filter(|_| reason.nearness() > Reason::InsecureNotAllowed.nearness());
                Decision::Deny(Denial {
                    reason,
                    rule: near.map(|rule| rule.name.clone()),
                    detail: near.and_then(|one| match reason {
                        Reason::BodyInvalid => one.detail(request),
                        Reason::BodyUnreadable => {
                            let why = request.body.read.and_then(ReadBody::unreadable);
                            // What can be read, and a schema all the same cannot tell.
                            Some(why.unwrap_or(Unreadable::Ambiguous).to_string())
                        }
                        _ => None,
                    }),
                })
            }
        }
    }

    /// What every rule says of a request, in the order of the merged document, those that deny before those that allow
    /// within a capability: for an author who asks why. The decision is [`decide`](Self::decide)'s.
    pub fn explain(&self, request: &RequestHead<'_>) -> Vec<Verdict> {
        let method = Method::parse(request.method);
        let work = Work::default();
        let verdict = |(rule, denies): (&Arc<CompiledRule>, bool)| {
            let head = if denies { rule.denies_head(request) } else { rule.allows_head(request, method) };
            let fails = |(at, condition): (usize, &Condition)| {
                if denies && may_hold(condition, request, &work) {
                    return None;
                }
                let held = condition.expression().holds(request.scope, &work);
                (held != Ok(true)).then(|| Match::Condition { at, fault: held.err() })
            };
            let body =
                || if denies { rule.denies_body(&request.body) } else { rule.allows_body(&request.body) };
            let outcome = match head.and_then(|()| body()) {
                Err(miss) => Match::Misses(miss),
                Ok(()) => rule.rule.when.iter().enumerate().find_map(fails).unwrap_or(Match::Whole),
            };
            Verdict { rule: rule.name.clone(), denies, outcome }
        };
        self.ordered().into_iter().map(verdict).collect()
    }

    /// The names of its rules, in the order of [`explain`](Self::explain), and whether each denies.
    pub fn rules(&self) -> Vec<(&RuleName, bool)> {
        self.ordered().into_iter().map(|(rule, denies)| (&rule.name, denies)).collect()
    }

    fn ordered(&self) -> Vec<(&Arc<CompiledRule>, bool)> {
        let mut rules: Vec<_> = self.allow.rules().map(|rule| (rule, false)).collect();
        rules.extend(self.deny.rules().map(|rule| (rule, true)));
        rules.sort_unstable_by_key(|(rule, _)| rule.order);
        rules.dedup_by_key(|(rule, _)| rule.order);
        rules
    }

    /// Decides a question for a name: whether any rule names it, whatever port, method or path, and none denies all of it.
    pub fn decide_dns(&self, name: &str) -> DnsDecision {
        let Ok(host) = normal_host(name) else { return DnsDecision::Deny(Reason::HostInvalid.into()) };
        let first = |index: &Index, counts: fn(&Rule) -> bool| {
            let names = |rule: &&Arc<CompiledRule>| {
                counts(&rule.rule) && rule.rule.domains.iter().any(|domain| domain.glob.matches(&host, b'.'))
            };
            index.candidates(&host).filter(names).min_by_key(|rule| rule.order).map(|rule| rule.name.clone())
        };
        let whole = |rule: &Rule| {
            let any_port = rule.domains.iter().all(|domain| domain.port.is_none());
            any_port
                && rule.methods.is_empty()
                && rule.paths.is_empty()
                && rule.when.is_empty()
                && rule.body.is_none()
        };
        if let Some(rule) = first(&self.deny, whole) {
            return DnsDecision::Deny(Denial {
                reason: Reason::DeniedByRule,
                rule: Some(rule),
                detail: None,
            });
        }
        match first(&self.allow, |_| true) {
            Some(rule) => DnsDecision::Allow { capability: rule.capability },
            None => DnsDecision::Deny(Reason::DomainNotAllowed.into()),
        }
    }

    /// Whether this is the provider's host, at any port, where no key but its credential may be used.
    pub fn is_provider(&self, destination: &Destination) -> bool {
        *self.provider_host == *destination.host()
    }

    /// The credential goes to the provider's own port alone, and never in the clear.
    fn takes_credential(&self, destination: &Destination) -> bool {
        self.is_provider(destination)
            && self.provider_port == destination.port()
            && destination.scheme() == Scheme::Https
    }
}

impl Index {
    /// Every rule, once or more.
    fn rules(&self) -> impl Iterator<Item = &Arc<CompiledRule>> {
        self.exact.values().chain(self.tails.values()).flatten().chain(&self.general)
    }

    fn add(&mut self, rule: &Arc<CompiledRule>) {
        for domain in &rule.rule.domains {
            let host = domain.host();
            let bucket = if domain.glob.is_literal() {
                self.exact.entry(host.into()).or_default()
            } else {
                let labels = domain.glob.literal_tail();
                match host.rsplitn(labels + 1, '.').last() {
                    Some(head) if labels > 0 => self.tails.entry(host[head.len() + 1..].into()).or_default(),
                    _ => &mut self.general,
                }
            };
            if !bucket.iter().any(|other| Arc::ptr_eq(other, rule)) {
                bucket.push(Arc::clone(rule));
            }
        }
    }

    /// The rules that can concern a host: its own, and those of each tail it ends in.
    fn candidates<'a>(&'a self, host: &'a str) -> impl Iterator<Item = &'a Arc<CompiledRule>> {
        let tails = host
            .match_indices('.')
            .map(|(at, _)| &host[at + 1..])
            .chain(std::iter::once(host))
            .filter(|_| !self.tails.is_empty())
            .filter_map(|tail| self.tails.get(tail))
            .flatten();
        self.exact.get(host).into_iter().flatten().chain(tails).chain(&self.general)
    }
}

impl CompiledRule {
    /// `Ok` when it allows the request, or how near it came.
    fn check(&self, request: &RequestHead<'_>, method: Option<Method>, work: &Work) -> Result<(), Reason> {
        self.allows_head(request, method)?;
        self.allows_body(&request.body)?;
        if !self.rule.when.iter().all(|one| one.expression().holds(request.scope, work) == Ok(true)) {
            return Err(Reason::ConditionNotMet);
        }
        debug_assert!(
            *self.name.capability != *PROVIDER_CAPABILITY || request.destination.scheme() == Scheme::Https
        );
        Ok(())
    }

    /// Whether the body is as it must be. Where the rule looks into it at all, what cannot be told is not: a condition that
    /// asks whether there is a value would take it for none.
    fn allows_body(&self, body: &Body<'_>) -> Result<(), Reason> {
        if let Some(rule) = &self.rule.body {
            rule.allows(body)?;
        }
        match self.looks.then(|| body.unreadable()).flatten() {
            Some(reason) => Err(reason),
            None => Ok(()),
        }
    }

    /// For a rule that denies: whether the body is one of those, or may be.
    fn denies_body(&self, body: &Body<'_>) -> Result<(), Reason> {
        self.rule.body.as_ref().map_or(Ok(()), |rule| rule.denies(body))
    }

    /// Up to how many bytes it reads a body.
    fn reads(&self) -> u64 {
        let max = self.rule.body.as_ref().and_then(|body| body.max_bytes);
        // Conversations with models are long, and the model may be named behind the last word.
        let default = if self.counts_money() { BODY_READ_BYTES_MAX } else { BODY_READ_BYTES_DEFAULT };
        max.unwrap_or(default).min(BODY_READ_BYTES_MAX)
    }

    /// Where the body is not as its schema says.
    fn detail(&self, request: &RequestHead<'_>) -> Option<String> {
        self.rule.body.as_ref()?.schema.as_ref()?.detail(request.body.read?)
    }

    /// The same without its body and its conditions.
    fn allows_head(&self, request: &RequestHead<'_>, method: Option<Method>) -> Result<(), Reason> {
        let (rule, destination) = (&self.rule, request.destination);
        if !rule.domains.iter().any(|domain| covers(domain, destination)) {
            return Err(Reason::DomainNotAllowed);
        }
        if !method.is_some_and(|method| rule.methods.contains(&method)) {
            return Err(Reason::MethodNotAllowed);
        }
        if !rule.paths.is_empty() && !rule.paths.iter().any(|pattern| pattern.matches(request.path)) {
            return Err(Reason::PathNotAllowed);
        }
        if destination.scheme() == Scheme::Http && !rule.allow_insecure {
            return Err(Reason::InsecureNotAllowed);
        }
        Ok(())
    }

    /// Whether it denies the request: what cannot be told is denied.
    fn denies(&self, request: &RequestHead<'_>, work: &Work) -> bool {
        self.denies_head(request).is_ok()
            && self.denies_body(&request.body).is_ok()
            && self.rule.when.iter().all(|one| may_hold(one, request, work))
    }

    /// The same without its body and its conditions. A domain without a port is denied at every port, and a path in every
    /// spelling that servers take for one that is named.
    fn denies_head(&self, request: &RequestHead<'_>) -> Result<(), Reason> {
        let (rule, destination) = (&self.rule, request.destination);
        let names_host = |domain: &DomainPattern| {
            domain.port.is_none_or(|port| port == destination.port())
                && domain.glob.matches(destination.host(), b'.')
        };
        if !rule.domains.iter().any(names_host) {
            return Err(Reason::DomainNotAllowed);
        }
        if !rule.methods.is_empty() && !rule.methods.iter().any(|method| method.as_str() == request.method) {
            return Err(Reason::MethodNotAllowed);
        }
        if !rule.paths.is_empty() && !rule.paths.iter().any(|pattern| pattern.may_match(request.path)) {
            return Err(Reason::PathNotAllowed);
        }
        Ok(())
    }
}

/// Whether a condition holds, or it cannot be told: it has no value, or looks into a body that cannot be read.
fn may_hold(condition: &Condition, request: &RequestHead<'_>, work: &Work) -> bool {
    let looks = || condition.expression().attributes().iter().any(|one| one.needs_request_body());
    condition.expression().holds(request.scope, work) != Ok(false)
        || (looks() && request.body.unreadable().is_some())
}

/// Whether a domain of a rule that allows is of this host and port.
pub(crate) fn covers(domain: &DomainPattern, destination: &Destination) -> bool {
    domain.port.unwrap_or(destination.scheme().default_port()) == destination.port()
        && domain.glob.matches(destination.host(), b'.')
}
