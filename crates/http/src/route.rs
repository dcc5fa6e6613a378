//! Handlers, one file a resource: each converts a request, calls one use case, and converts what it answers.

mod audit;
mod config;
mod credential;
mod key;
mod oauth;
mod proof;
mod provider;
mod role;
mod secret;
mod service;
mod session;
mod task;
mod workspace;

use crate::call::Handler;

/// What answers the operation of this id.
pub(crate) fn handler(id: &str) -> Option<Handler> {
    handlers().find(|(of, _)| *of == id).map(|(_, handler)| *handler)
}

fn handlers() -> impl Iterator<Item = &'static (&'static str, Handler)> {
    [
        audit::HANDLERS,
        config::HANDLERS,
        credential::HANDLERS,
        key::HANDLERS,
        proof::HANDLERS,
        oauth::HANDLERS,
        provider::HANDLERS,
        role::HANDLERS,
        secret::HANDLERS,
        service::HANDLERS,
        session::HANDLERS,
        task::HANDLERS,
        workspace::HANDLERS,
    ]
    .into_iter()
    .flatten()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn what_is_answered_is_exactly_what_is_documented() {
        let answered: Vec<&str> = handlers().map(|(id, _)| *id).collect();
        let documented: BTreeSet<&str> = freehold_api::operations().map(|operation| operation.id).collect();
        assert_eq!(answered.len(), documented.len());
        assert_eq!(answered.into_iter().collect::<BTreeSet<_>>(), documented);
    }
}
