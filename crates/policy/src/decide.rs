//! A compiled policy and its decisions.
//!
//! Rules are found by host: exact names in a table, wildcards under their literal tail, and the few patterns that have
//! none (`*`) in a list of their own. A decision's cost grows with the rules that can concern the host, not with all.

use std::{collections::HashMap, sync::Arc};

use crate::{
    cel::{Fault, Scope, Work},
    destination::{Destination, Scheme, normal_host},
    document::{Capability, Condition, DomainPattern, Method, Rule},
    path::NormalPath,
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
    /// Rules name all of it, and their conditions do not hold.
    ConditionNotMet,
    /// A rule denies it.
    DeniedByRule,
    /// The name is no host name.
    HostInvalid,
}

impl Reason {
    /// The reason's spelling in audit rows and answers.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::RuleMatched => "rule_matched",
            Self::DomainNotAllowed => "domain_not_allowed",
            Self::MethodNotAllowed => "method_not_allowed",
            Self::PathNotAllowed => "path_not_allowed",
            Self::InsecureNotAllowed => "insecure_not_allowed",
            Self::ConditionNotMet => "condition_not_met",
            Self::DeniedByRule => "denied_by_rule",
            Self::HostInvalid => "host_invalid",
        }
    }
}

/// What of a request is decided on.
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
}

/// The answer to a request.
#[derive(Debug)]
pub enum Decision {
    /// It may go where the permit says.
    Allow(Permit),
    /// It may not.
    Deny(Denial),
}

/// The proof that a rule allows a request. Only [`Policy::decide`] makes one, and egress dials nothing without one.
#[derive(Debug)]
pub struct Permit {
    destination: Destination,
    rule: Arc<CompiledRule>,
    credential: Option<Arc<str>>,
}

impl Permit {
    /// The only place the request may go.
    pub const fn destination(&self) -> &Destination {
        &self.destination
    }

    /// The rule that allowed it.
    pub fn rule(&self) -> &RuleName {
        &self.rule.name
    }

    /// The credential to inject, by name: the provider's, for requests to its domain.
    pub fn credential(&self) -> Option<&str> {
        self.credential.as_deref()
    }
}

/// Why a request may not go.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Denial {
    /// The reason.
    pub reason: Reason,
    /// The rule that denies it; absent when no rule allows it.
    pub rule: Option<RuleName>,
}

impl From<Reason> for Denial {
    fn from(reason: Reason) -> Self {
        Self { reason, rule: None }
    }
}

/// Which rule decided.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RuleName {
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

#[derive(Debug)]
struct CompiledRule {
    name: RuleName,
    /// The rule's place in the whole policy: of several that match, the first is named.
    order: usize,
    rule: Rule,
}

/// A compiled policy. Immutable; share it behind an `Arc`.
#[derive(Debug)]
pub struct Policy {
    allow: Index,
    deny: Index,
    provider_host: Box<str>,
    provider_port: u16,
    credential: Option<Arc<str>>,
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
        capabilities: &[Capability],
        provider: &DomainPattern,
        credential: Option<&str>,
    ) -> Self {
        let (mut allow, mut deny) = (Index::default(), Index::default());
        let mut order = 0;
        for capability in capabilities {
            let capability_name: Arc<str> = capability.name.as_str().into();
            for (index, rules, list) in
                [(&mut deny, &capability.deny, "deny"), (&mut allow, &capability.allow, "allow")]
            {
                for (at, rule) in rules.iter().enumerate() {
                    order += 1;
                    let given = rule.name.as_deref().map(Into::into);
                    let name = RuleName {
                        capability: Arc::clone(&capability_name),
                        rule: given.unwrap_or_else(|| format!("{list}[{at}]").into()),
                    };
                    index.add(&Arc::new(CompiledRule { name, order, rule: rule.clone() }));
                }
            }
        }
        Self {
            allow,
            deny,
            provider_host: provider.host().into(),
            provider_port: provider.port.unwrap_or(Scheme::Https.default_port()),
            credential: credential.map(Into::into),
        }
    }

    /// Decides a request. A rule that denies it beats every one that allows it, also when its condition has no value; of
    /// several that allow it, the first of the merged document is named.
    pub fn decide(&self, request: &RequestHead<'_>) -> Decision {
        let (host, work) = (request.destination.host(), Work::default());
        let denies = |rule: &&Arc<CompiledRule>| rule.denies(request, &work);
        if let Some(rule) = self.deny.candidates(host).filter(denies).min_by_key(|rule| rule.order) {
            let (reason, rule) = (Reason::DeniedByRule, Some(rule.name.clone()));
            return Decision::Deny(Denial { reason, rule });
        }
        let method = Method::parse(request.method);
        let mut best: Option<&Arc<CompiledRule>> = None;
        // The nearest miss explains a denial best.
        let mut reason = Reason::DomainNotAllowed;
        for rule in self.allow.candidates(host) {
            if best.is_some_and(|other| other.order < rule.order) {
                continue;
            }
            match rule.check(request, method, &work) {
                Ok(()) => best = Some(rule),
                Err(miss) if miss.nearness() > reason.nearness() => reason = miss,
                Err(_) => {}
            }
        }
        match best {
            Some(rule) => Decision::Allow(Permit {
                destination: request.destination.clone(),
                rule: Arc::clone(rule),
                credential: self.credential.clone().filter(|_| self.takes_credential(request.destination)),
            }),
            None => Decision::Deny(reason.into()),
        }
    }

    /// What every rule says of a request, in the order of the merged document, those that deny before those that allow
    /// within a capability: for an author who asks why. The decision is [`decide`](Self::decide)'s.
    pub fn explain(&self, request: &RequestHead<'_>) -> Vec<Verdict> {
        let method = Method::parse(request.method);
        let mut rules: Vec<_> = self.allow.rules().map(|rule| (rule, false)).collect();
        rules.extend(self.deny.rules().map(|rule| (rule, true)));
        rules.sort_unstable_by_key(|(rule, _)| rule.order);
        rules.dedup_by_key(|(rule, _)| rule.order);
        let work = Work::default();
        let verdict = |(rule, denies): (&Arc<CompiledRule>, bool)| {
            let head = if denies { rule.denies_head(request) } else { rule.allows_head(request, method) };
            let fails = |(at, condition): (usize, &Condition)| match condition
                .expression()
                .holds(request.scope, &work)
            {
                Ok(true) => None,
                // What denies does so in doubt.
                Err(_) if denies => None,
                Ok(false) => Some(Match::Condition { at, fault: None }),
                Err(fault) => Some(Match::Condition { at, fault: Some(fault) }),
            };
            let outcome = match head {
                Err(miss) => Match::Misses(miss),
                Ok(()) => rule.rule.when.iter().enumerate().find_map(fails).unwrap_or(Match::Whole),
            };
            Verdict { rule: rule.name.clone(), denies, outcome }
        };
        rules.into_iter().map(verdict).collect()
    }

    /// Decides a question for a name: whether any rule names it, whatever port, method or path, and none denies all of it.
    pub fn decide_dns(&self, name: &str) -> DnsDecision {
        let Ok(host) = normal_host(name) else { return DnsDecision::Deny(Reason::HostInvalid.into()) };
        let first = |index: &Index, counts: fn(&Rule) -> bool| {
            let names = |rule: &&Arc<CompiledRule>| {
                counts(&rule.rule) && rule.rule.domains.iter().any(|domain| domain.glob.matches(&host, '.'))
            };
            index.candidates(&host).filter(names).min_by_key(|rule| rule.order).map(|rule| rule.name.clone())
        };
        let whole = |rule: &Rule| {
            let any_port = rule.domains.iter().all(|domain| domain.port.is_none());
            any_port && rule.methods.is_empty() && rule.paths.is_empty() && rule.when.is_empty()
        };
        if let Some(rule) = first(&self.deny, whole) {
            return DnsDecision::Deny(Denial { reason: Reason::DeniedByRule, rule: Some(rule) });
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
        if !self.rule.when.iter().all(|one| one.expression().holds(request.scope, work) == Ok(true)) {
            return Err(Reason::ConditionNotMet);
        }
        debug_assert!(
            *self.name.capability != *PROVIDER_CAPABILITY || request.destination.scheme() == Scheme::Https
        );
        Ok(())
    }

    /// The same without its conditions.
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
            && self.rule.when.iter().all(|one| one.expression().holds(request.scope, work) != Ok(false))
    }

    /// The same without its conditions. A domain without a port is denied at every port, and a path in every spelling that
    /// servers take for one that is named.
    fn denies_head(&self, request: &RequestHead<'_>) -> Result<(), Reason> {
        let (rule, destination) = (&self.rule, request.destination);
        let names_host = |domain: &DomainPattern| {
            domain.port.is_none_or(|port| port == destination.port())
                && domain.glob.matches(destination.host(), '.')
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

fn covers(domain: &DomainPattern, destination: &Destination) -> bool {
    domain.port.unwrap_or(destination.scheme().default_port()) == destination.port()
        && domain.glob.matches(destination.host(), '.')
}

impl Reason {
    const fn nearness(self) -> u8 {
        match self {
            Self::HostInvalid | Self::DomainNotAllowed => 0,
            Self::MethodNotAllowed => 1,
            Self::PathNotAllowed => 2,
            Self::InsecureNotAllowed => 3,
            Self::ConditionNotMet => 4,
            Self::RuleMatched | Self::DeniedByRule => 5,
        }
    }
}
