//! API keys: automation's credential, organization-wide.

use crate::{ApiKeyId, OrganizationId, Timestamp, slugs};

slugs! {
    /// What a key may do; the scopes of each are in the `access` crate.
    PermissionSet {
        /// Configuration, workspaces, tasks and audit.
        FullAccess => "full_access",
        /// Workspaces, tasks and audit.
        SubmitObserve => "submit_observe",
        /// Reading workspaces and audit.
        ReadOnly => "read_only",
    }
}

/// An API key. Only a hash of its secret is stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ApiKey {
    /// The id.
    pub id: ApiKeyId,
    /// The organization it speaks for.
    pub organization_id: OrganizationId,
    /// What it is for.
    pub label: String,
    /// The secret's recognisable ends, safe to show.
    pub prefix: String,
    /// What it may do.
    pub permission_set: PermissionSet,
    /// When it was made.
    pub created_at: Timestamp,
}
