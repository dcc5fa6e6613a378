//! From documents to a policy: the built-in capability of the provider, and the merge by capability name.

use freehold_model::provider::Kind;

use crate::{
    decide::Policy,
    document::{Approval, Capability, Document, DomainPattern, Method, PathPattern, Rule},
    merge::merge,
};

/// The name of the built-in capability. The leading underscore is the platform's.
pub const PROVIDER_CAPABILITY: &str = "_provider";

/// The names of its rules.
pub(crate) const RULES: &[&str] = &["inference", "models"];

/// What every role of a provider may do without saying so: call the model.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProviderGrant {
    /// Fixes which paths are inference.
    pub kind: Kind,
    /// The upstream host, with a port when it is not 443.
    pub domain: String,
    /// The name of the credential to inject.
    pub credential: Option<String>,
}

/// Merges the provider's and the role's documents over the built-in capability and compiles the result.
///
/// Capabilities are merged by name: a role's capability replaces the allow rules and the transforms of the provider's of
/// that name and takes its place in the order; others follow. What the provider's denies stays denied, and its budgets hold
/// for every rule that the role puts there.
///
/// # Errors
/// When the provider's domain is not a host; nothing can be allowed then.
pub fn compile(
    provider: &ProviderGrant,
    provider_document: &Document,
    role_document: &Document,
) -> Result<Policy, String> {
    let domain = DomainPattern::parse(&provider.domain)?;
    if !domain.glob.is_literal() {
        return Err("a provider's domain is one host, without wildcards".to_owned());
    }
    let built_in = built_in(provider.kind, &domain);
    let capabilities = merge(&built_in, provider_document, role_document);
    Ok(Policy::new(&capabilities, &domain, provider.credential.as_deref()))
}

fn built_in(kind: Kind, domain: &DomainPattern) -> Capability {
    let (inference, listing) = paths(kind);
    let rule = |name: &str, methods: &[Method], paths: &[&str]| Rule {
        name: Some(name.to_owned()),
        domains: vec![domain.clone()],
        methods: methods.to_vec(),
        paths: paths.iter().filter_map(|path| PathPattern::parse(path).ok()).collect(),
        allow_insecure: false,
        when: Vec::new(),
        body: None,
        response: None,
        approval: Approval::NotNeeded,
    };
    let mut allow = vec![rule("inference", &[Method::Post], inference)];
    if !listing.is_empty() {
        allow.push(rule("models", &[Method::Get], listing));
    }
    Capability {
        name: PROVIDER_CAPABILITY.to_owned(),
        allow,
        deny: Vec::new(),
        transforms: Vec::new(),
        budgets: Vec::new(),
    }
}

/// Paths of inference (POST) and of the list of models (GET).
const fn paths(kind: Kind) -> (&'static [&'static str], &'static [&'static str]) {
    const MODELS: &[&str] = &["/v1/models", "/v1/models/*"];
    match kind {
        Kind::Anthropic => (&["/v1/messages", "/v1/messages/count_tokens"], MODELS),
        Kind::OpenAi => (&["/v1/responses", "/v1/chat/completions"], MODELS),
        Kind::Gemini => (
            &["/*/models/*:generateContent", "/*/models/*:streamGenerateContent", "/*/models/*:countTokens"],
            &["/*/models", "/*/models/*"],
        ),
        Kind::Vertex => (&["/*/projects/*/locations/*/publishers/*/models/*"], &[]),
        Kind::AzureOpenAi => (
            &[
                "/openai/deployments/*/chat/completions",
                "/openai/v1/chat/completions",
                "/openai/v1/responses",
                "/openai/responses",
            ],
            &["/openai/models", "/openai/v1/models"],
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_built_in_path_is_a_pattern() {
        for &kind in Kind::ALL {
            let (inference, listing) = paths(kind);
            for path in inference.iter().chain(listing) {
                assert!(PathPattern::parse(path).is_ok(), "{kind} {path}");
            }
        }
    }
}
