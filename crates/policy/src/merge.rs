//! The merge of the provider's document and the role's, by the name of the capability.

use std::{collections::HashSet, sync::Arc};

use crate::{
    budget::Counter,
    decide::{Origin, RuleName},
    document::{Capability, Document, Rule},
    permit::{Applied, CompiledRule},
    provider::PROVIDER_CAPABILITY,
    transform::Transform,
};

/// A capability of a policy: whose rules count, and all that they are subject to.
pub(crate) struct Merged<'d> {
    name: &'d str,
    /// Whose allow rules and transforms these are.
    origin: Origin,
    allow: &'d [Rule],
    transforms: &'d [Transform],
    /// Those of each document.
    deny: Vec<(Origin, &'d [Rule])>,
    budgets: Vec<(Origin, &'d [Counter])>,
}

/// The capabilities of a policy, in order: the built-in one, the provider's, each in the role's form where the role has one
/// of that name, and the role's others.
pub(crate) fn merge<'d>(
    built_in: &'d Capability,
    provider: &'d Document,
    role: &'d Document,
) -> Vec<Merged<'d>> {
    let find = |document: &'d Document, name: &str| document.capabilities.iter().find(|one| one.name == name);
    let mut merged = Vec::with_capacity(1 + provider.capabilities.len() + role.capabilities.len());
    let mut first = Merged::of(Origin::BuiltIn, built_in);
    for (origin, document) in [(Origin::Provider, provider), (Origin::Role, role)] {
        first.subject(origin, find(document, PROVIDER_CAPABILITY));
    }
    merged.push(first);
    let is_own = |capability: &&Capability| capability.name != PROVIDER_CAPABILITY;
    let known: HashSet<&str> = provider.capabilities.iter().map(|one| one.name.as_str()).collect();
    for capability in provider.capabilities.iter().filter(is_own) {
        merged.push(match find(role, &capability.name) {
            None => Merged::of(Origin::Provider, capability),
            Some(of_role) => {
                let mut one =
                    Merged { deny: Vec::new(), budgets: Vec::new(), ..Merged::of(Origin::Role, of_role) };
                one.subject(Origin::Provider, Some(capability));
                one.subject(Origin::Role, Some(of_role));
                one
            }
        });
    }
    let of_role = role.capabilities.iter().filter(is_own).filter(|one| !known.contains(one.name.as_str()));
    merged.extend(of_role.map(|one| Merged::of(Origin::Role, one)));
    merged
}

impl<'d> Merged<'d> {
    fn of(origin: Origin, capability: &'d Capability) -> Self {
        Self {
            name: &capability.name,
            origin,
            allow: &capability.allow,
            transforms: &capability.transforms,
            deny: vec![(origin, &capability.deny)],
            budgets: vec![(origin, &capability.budgets)],
        }
    }

    /// Adds what a document denies and bounds.
    fn subject(&mut self, origin: Origin, capability: Option<&'d Capability>) {
        if let Some(capability) = capability {
            self.deny.push((origin, &capability.deny));
            self.budgets.push((origin, &capability.budgets));
        }
    }

    /// Its rules, those that deny (`true`) before those that allow. Counts `order` up.
    pub(crate) fn compile(&self, order: &mut usize) -> Vec<(bool, Arc<CompiledRule>)> {
        let capability: Arc<str> = self.name.into();
        let named =
            |origin, rule: &str| RuleName { origin, capability: Arc::clone(&capability), rule: rule.into() };
        let of_rule = |origin, rule: &Rule, list: &str, at: usize| match &rule.name {
            Some(name) => named(origin, name),
            None => named(origin, &format!("{list}[{at}]")),
        };
        let transforms: Vec<Arc<Applied<Transform>>> = self
            .transforms
            .iter()
            .map(|one| Arc::new(Applied { name: named(self.origin, &one.name), what: one.clone() }))
            .collect();
        let counters: Vec<Arc<Applied<Counter>>> = self
            .budgets
            .iter()
            .flat_map(|(origin, list)| list.iter().map(|one| (*origin, one)))
            .map(|(origin, one)| Arc::new(Applied { name: named(origin, &one.name), what: one.clone() }))
            .collect();
        let mut next = || {
            *order += 1;
            *order
        };
        let mut rules = Vec::new();
        for (origin, list) in &self.deny {
            for (at, rule) in list.iter().enumerate() {
                let name = of_rule(*origin, rule, "deny", at);
                rules.push((true, Arc::new(CompiledRule::new(name, next(), rule))));
            }
        }
        for (at, rule) in self.allow.iter().enumerate() {
            let names = |list: &Option<Vec<String>>| names(list.as_deref(), rule);
            let of_transforms = transforms.iter().filter(|one| names(&one.applies_to)).cloned().collect();
            // The provider does not know the names of a role's rules: what it bounds, it bounds under every name.
            let counts = |one: &&Arc<Applied<Counter>>| {
                let is_foreign = one.name.origin == Origin::Provider && self.origin == Origin::Role;
                is_foreign || names(&one.applies_to)
            };
            let of_counters = counters.iter().filter(counts).cloned().collect();
            let compiled = CompiledRule::new(of_rule(self.origin, rule, "allow", at), next(), rule);
            rules.push((false, Arc::new(compiled.with(of_transforms, of_counters))));
        }
        rules
    }
}

/// Whether a list of names is absent, or has a rule's.
fn names(list: Option<&[String]>, rule: &Rule) -> bool {
    list.is_none_or(|list| rule.name.as_ref().is_some_and(|name| list.contains(name)))
}
