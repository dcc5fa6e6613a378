//! Who may do what: scopes, member roles, API key templates, and proofs of authorization.
