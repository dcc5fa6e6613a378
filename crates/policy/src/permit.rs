//! The proof that a request may go, and all that was decided about it.

use std::{fmt, ops::Deref, sync::Arc};

use crate::{
    budget::{Counter, Unit},
    cel::Attribute,
    decide::{RuleName, covers},
    destination::Destination,
    document::{Approval, DomainPattern, Rule},
    respond::ResponseRule,
    transform::Transform,
};

/// A rule in a policy, with all that applies to its requests.
#[derive(Debug)]
pub(crate) struct CompiledRule {
    pub(crate) name: RuleName,
    /// The rule's place in the whole policy: of several that match, the first is named.
    pub(crate) order: usize,
    pub(crate) rule: Rule,
    /// Whether the body must be known to decide, to change or to count a request.
    pub(crate) looks: bool,
    pub(crate) transforms: Vec<Arc<Applied<Transform>>>,
    pub(crate) counters: Vec<Arc<Applied<Counter>>>,
}

impl CompiledRule {
    pub(crate) fn new(name: RuleName, order: usize, rule: &Rule) -> Self {
        let rule = rule.clone();
        let mut compiled =
            Self { name, order, rule, looks: false, transforms: Vec::new(), counters: Vec::new() };
        compiled.looks = compiled.looks();
        compiled
    }

    /// Adds what applies to its requests.
    pub(crate) fn with(
        mut self,
        transforms: Vec<Arc<Applied<Transform>>>,
        counters: Vec<Arc<Applied<Counter>>>,
    ) -> Self {
        (self.transforms, self.counters) = (transforms, counters);
        self.looks = self.looks();
        self
    }

    fn looks(&self) -> bool {
        let asks = |attributes: &[Attribute]| attributes.iter().any(|one| one.needs_request_body());
        let rule = &self.rule;
        rule.body.as_ref().is_some_and(|body| body.schema.is_some())
            || rule.when.iter().any(|one| asks(one.expression().attributes()))
            || rule.response.as_ref().is_some_and(|response| response.asks(Attribute::needs_request_body))
            || self.transforms.iter().any(|one| {
                !one.body.is_empty() || one.formulas().any(|formula| asks(formula.expression().attributes()))
            })
            || self.counts_money()
            || self
                .counters
                .iter()
                .any(|one| one.amount.as_ref().is_some_and(|amount| asks(amount.expression().attributes())))
    }

    /// Whether a request's money is counted, for which its body must say the model.
    pub(crate) fn counts_money(&self) -> bool {
        self.counters.iter().any(|one| one.unit == Unit::Usd)
    }
}

/// A transform or a counter of a policy, under the name that tells it from all others.
#[derive(Debug, PartialEq, Eq)]
pub struct Applied<T> {
    /// Its name; [`RuleName::rule`] is the transform's or the counter's.
    pub name: RuleName,
    pub(crate) what: T,
}

impl<T> Deref for Applied<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.what
    }
}

/// The proof that a rule allows a request. Only [`crate::Policy::decide`] makes one, and egress dials nothing without one.
pub struct Permit {
    pub(crate) destination: Destination,
    pub(crate) rule: Arc<CompiledRule>,
    pub(crate) credential: Option<Arc<str>>,
}

impl Permit {
    /// The only place the request may go.
    pub const fn destination(&self) -> &Destination {
        &self.destination
    }

    /// Whether the rule names the destination's IP address, at this port, itself, and not a pattern that it fits.
    pub fn names_address(&self) -> bool {
        let names = |domain: &DomainPattern| domain.glob.is_literal() && covers(domain, &self.destination);
        self.destination.ip().is_some() && self.rule.rule.domains.iter().any(names)
    }

    /// The rule that allowed it.
    pub fn rule(&self) -> &RuleName {
        &self.rule.name
    }

    /// The credential to inject, by name: the provider's, for requests to its domain.
    pub fn credential(&self) -> Option<&str> {
        self.credential.as_deref()
    }

    /// The greatest length of the request's body in bytes. Where the length was not known for the decision, whoever sends
    /// the body must hold to it.
    pub fn body_max(&self) -> Option<u64> {
        self.rule.rule.body.as_ref()?.max_bytes
    }

    /// Whether the rule says anything of the request's body.
    pub fn validates_body(&self) -> bool {
        self.rule.rule.body.is_some()
    }

    /// Whether a person must agree before the request goes out.
    pub fn approval(&self) -> Approval {
        self.rule.rule.approval
    }

    /// What must hold of the response.
    pub fn response(&self) -> Option<&ResponseRule> {
        self.rule.rule.response.as_ref()
    }

    /// What is changed of the request, in order.
    pub fn transforms(&self) -> &[Arc<Applied<Transform>>] {
        &self.rule.transforms
    }

    /// What the request counts for. All of them must have room for it.
    pub fn counters(&self) -> &[Arc<Applied<Counter>>] {
        &self.rule.counters
    }
}

impl fmt::Debug for Permit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { destination, rule, credential } = self;
        let mut shown = f.debug_struct("Permit");
        shown.field("destination", destination).field("rule", &rule.name).field("credential", credential);
        shown.finish_non_exhaustive()
    }
}
