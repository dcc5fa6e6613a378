//! Members and their personal tokens.

use crate::{MemberId, OrganizationId, Timestamp, TokenId, slugs};

slugs! {
    /// What a member may do; the scopes of each are in the `access` crate.
    MemberRole {
        /// Everything, members and billing included.
        Owner => "owner",
        /// Everything but members and billing.
        Operator => "operator",
        /// Own workspaces, tasks and credentials.
        Member => "member",
    }
}

/// A person in an organization.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Member {
    /// The id.
    pub id: MemberId,
    /// The organization.
    pub organization_id: OrganizationId,
    /// E-mail address, unique in the organization.
    pub email: String,
    /// The role.
    pub role: MemberRole,
    /// When the member was added.
    pub created_at: Timestamp,
}

/// A member's credential for CLI and scripts. Only a hash of its secret is stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PersonalToken {
    /// The id.
    pub id: TokenId,
    /// The member it speaks for.
    pub member_id: MemberId,
    /// What it is for.
    pub label: String,
    /// The secret's recognisable ends, safe to show.
    pub prefix: String,
    /// When it was made.
    pub created_at: Timestamp,
}
