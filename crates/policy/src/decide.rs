//! A compiled policy and its decisions.
//!
//! Rules are found by host: exact names in a table, wildcards under their literal tail, and the few patterns that have
//! none (`*`) in a list of their own. A decision's cost grows with the rules that can concern the host, not with all.

use std::{collections::HashMap, sync::Arc};

use crate::{
    destination::{Destination, Scheme, normal_host},
    document::{AllowRule, Capability, DomainPattern, Method},
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
            Self::HostInvalid => "host_invalid",
        }
    }
}

/// What of a request is decided on.
#[derive(Debug, Clone, Copy)]
pub struct RequestHead<'a> {
    /// Where it goes.
    pub destination: &'a Destination,
    /// The method, as the client wrote it.
    pub method: &'a str,
    /// The path, in normal form.
    pub path: &'a NormalPath<'a>,
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

    /// The capability that allowed it.
    pub fn capability(&self) -> &str {
        &self.rule.capability
    }

    /// The rule that allowed it: its name, or its place in the capability (`allow[2]`).
    pub fn rule(&self) -> &str {
        &self.rule.name
    }

    /// The credential to inject, by name: the provider's, for requests to its domain.
    pub fn credential(&self) -> Option<&str> {
        self.credential.as_deref()
    }
}

/// Why a request may not go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Denial {
    /// The reason. A denied request met no rule, so there is none to name.
    pub reason: Reason,
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
    capability: Arc<str>,
    name: Box<str>,
    /// The rule's place in the whole policy: of several that match, the first is named.
    order: usize,
    rule: AllowRule,
}

/// A compiled policy. Immutable; share it behind an `Arc`.
#[derive(Debug)]
pub struct Policy {
    /// By host, or by the literal tail of a wildcard.
    exact: HashMap<Box<str>, Vec<Arc<CompiledRule>>>,
    tails: HashMap<Box<str>, Vec<Arc<CompiledRule>>>,
    /// Patterns whose last label has a wildcard.
    general: Vec<Arc<CompiledRule>>,
    provider_host: Box<str>,
    provider_port: u16,
    credential: Option<Arc<str>>,
}

impl Policy {
    pub(crate) fn new(
        capabilities: &[Capability],
        provider: &DomainPattern,
        credential: Option<&str>,
    ) -> Self {
        let mut policy = Self {
            exact: HashMap::new(),
            tails: HashMap::new(),
            general: Vec::new(),
            provider_host: provider.host().into(),
            provider_port: provider.port.unwrap_or(Scheme::Https.default_port()),
            credential: credential.map(Into::into),
        };
        let mut order = 0;
        for capability in capabilities {
            let capability_name: Arc<str> = capability.name.as_str().into();
            for (index, rule) in capability.allow.iter().enumerate() {
                order += 1;
                let name = rule.name.clone().unwrap_or_else(|| format!("allow[{index}]")).into();
                let capability = Arc::clone(&capability_name);
                policy.add(&Arc::new(CompiledRule { capability, name, order, rule: rule.clone() }));
            }
        }
        policy
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

    /// Decides a request. Of several rules that allow it, the first of the merged document is named.
    pub fn decide(&self, request: &RequestHead<'_>) -> Decision {
        let destination = request.destination;
        let method = Method::parse(request.method);
        let mut best: Option<&Arc<CompiledRule>> = None;
        // The nearest miss explains a denial best.
        let mut reason = Reason::DomainNotAllowed;
        for rule in self.candidates(destination.host()) {
            match rule.check(destination, method, request.path) {
                Ok(()) if best.is_none_or(|other| rule.order < other.order) => best = Some(rule),
                Ok(()) => {}
                Err(miss) if miss.nearness() > reason.nearness() => reason = miss,
                Err(_) => {}
            }
        }
        match best {
            Some(rule) => Decision::Allow(Permit {
                destination: destination.clone(),
                rule: Arc::clone(rule),
                credential: self.credential.clone().filter(|_| self.takes_credential(destination)),
            }),
            None => Decision::Deny(Denial { reason }),
        }
    }

    /// Decides a question for a name: whether any rule names it, whatever port, method or path.
    pub fn decide_dns(&self, name: &str) -> DnsDecision {
        let Ok(host) = normal_host(name) else {
            return DnsDecision::Deny(Denial { reason: Reason::HostInvalid });
        };
        let named = self
            .candidates(&host)
            .filter(|rule| rule.rule.domains.iter().any(|domain| domain.glob.matches(&host, '.')))
            .min_by_key(|rule| rule.order);
        match named {
            Some(rule) => DnsDecision::Allow { capability: Arc::clone(&rule.capability) },
            None => DnsDecision::Deny(Denial { reason: Reason::DomainNotAllowed }),
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
    fn check(
        &self,
        destination: &Destination,
        method: Option<Method>,
        path: &NormalPath<'_>,
    ) -> Result<(), Reason> {
        let rule = &self.rule;
        if !rule.domains.iter().any(|domain| covers(domain, destination)) {
            return Err(Reason::DomainNotAllowed);
        }
        if !method.is_some_and(|method| rule.methods.contains(&method)) {
            return Err(Reason::MethodNotAllowed);
        }
        if !rule.paths.is_empty() && !rule.paths.iter().any(|pattern| pattern.matches(path)) {
            return Err(Reason::PathNotAllowed);
        }
        if destination.scheme() == Scheme::Http && !rule.allow_insecure {
            return Err(Reason::InsecureNotAllowed);
        }
        debug_assert!(*self.capability != *PROVIDER_CAPABILITY || destination.scheme() == Scheme::Https);
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
            Self::RuleMatched => 4,
        }
    }
}
