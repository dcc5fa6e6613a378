//! The caller, what it may do, and the proofs that it may.

use std::ops::Deref;

use freehold_model::{
    ApiKeyId, MemberId, OrganizationId,
    api_key::{ApiKey, PermissionSet},
    audit::SYSTEM_USER,
    member::{Member, MemberRole},
    session::Session,
    workspace::Workspace,
};

use crate::{
    grant::{member_scopes, permission_set_scopes},
    scope::{Scope, Scopes},
};

/// Who is calling.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Kind {
    /// A person, by a personal token.
    Member {
        /// The member.
        id: MemberId,
        /// The member's role.
        role: MemberRole,
        /// The member's address.
        email: String,
    },
    /// Automation, by an API key.
    ApiKey {
        /// The key.
        id: ApiKeyId,
        /// What it is for.
        label: String,
        /// Its template.
        permission_set: PermissionSet,
    },
}

/// An authenticated caller: its organization and scopes follow from what it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Actor {
    organization: OrganizationId,
    kind: Kind,
    scopes: Scopes,
}

/// Something a caller may want to do. Most rights have two scopes: one for everything, one for what the caller created.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Right {
    /// Change providers, roles and packs.
    ConfigWrite,
    /// Read workspaces, their tasks, sessions and activity.
    WorkspaceRead,
    /// Create and change workspaces.
    WorkspaceWrite,
    /// Change many workspaces at once, whoever made them.
    WorkspaceWriteAll,
    /// Submit tasks.
    TasksWrite,
    /// Read the audit log.
    AuditRead,
    /// Read the whole audit log, whoever caused its rows.
    AuditReadAll,
    /// Change credentials.
    CredentialWrite,
    /// Change credentials of the whole organization.
    CredentialWriteAll,
    /// Create, change and delete secrets.
    SecretsWrite,
    /// List, create and revoke API keys.
    ApiKeysWrite,
}

impl Right {
    /// Every right, in the order of declaration.
    pub const ALL: &'static [Self] = &[
        Self::ConfigWrite,
        Self::WorkspaceRead,
        Self::WorkspaceWrite,
        Self::WorkspaceWriteAll,
        Self::TasksWrite,
        Self::AuditRead,
        Self::AuditReadAll,
        Self::CredentialWrite,
        Self::CredentialWriteAll,
        Self::SecretsWrite,
        Self::ApiKeysWrite,
    ];

    /// The scope for everything, and the one for what the caller created where there is one.
    pub const fn scopes(self) -> (Scope, Option<Scope>) {
        match self {
            Self::ConfigWrite => (Scope::CapsWrite, None),
            Self::WorkspaceRead => (Scope::WorkspaceRead, Some(Scope::WorkspaceReadOwn)),
            Self::WorkspaceWrite => (Scope::WorkspaceWrite, Some(Scope::WorkspaceWriteOwn)),
            Self::WorkspaceWriteAll => (Scope::WorkspaceWrite, None),
            Self::TasksWrite => (Scope::TasksWrite, Some(Scope::TasksWriteOwn)),
            Self::AuditRead => (Scope::AuditRead, Some(Scope::AuditReadOwn)),
            Self::AuditReadAll => (Scope::AuditRead, None),
            Self::CredentialWrite => (Scope::AuthWrite, Some(Scope::AuthWriteOwn)),
            Self::CredentialWriteAll => (Scope::AuthWrite, None),
            Self::SecretsWrite => (Scope::SecretsWrite, None),
            Self::ApiKeysWrite => (Scope::ApiKeysWrite, None),
        }
    }
}

/// Why a caller may not.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Denied {
    /// It has none of the right's scopes.
    #[error("caller lacks required scope `{needed}`")]
    MissingScope {
        /// The scope that would do for everything.
        needed: Scope,
    },
    /// It may only touch what it created, and this is not.
    #[error("the scope reaches only what the caller created")]
    NotOwner,
    /// The thing belongs to another organization, whose things this caller cannot know of.
    #[error("the thing is not in the caller's organization")]
    OtherOrganization,
}

/// A thing that belongs to an organization and may have a creator.
pub trait Owned {
    /// The organization it belongs to.
    fn organization(&self) -> OrganizationId;
    /// The member who created it; none when an API key did.
    fn created_by(&self) -> Option<MemberId>;
}

impl Owned for Workspace {
    fn organization(&self) -> OrganizationId {
        self.organization_id
    }
    fn created_by(&self) -> Option<MemberId> {
        self.created_by
    }
}

impl Owned for Session {
    fn organization(&self) -> OrganizationId {
        self.organization_id
    }
    fn created_by(&self) -> Option<MemberId> {
        self.created_by
    }
}

/// Proof that a caller may do to the thing what was asked. Only [`Actor::authorize`] makes one.
#[derive(Debug, Clone)]
pub struct Authorized<T> {
    thing: T,
}

impl<T> Authorized<T> {
    /// The thing itself.
    pub fn into_inner(self) -> T {
        self.thing
    }
}

impl<T> Deref for Authorized<T> {
    type Target = T;
    fn deref(&self) -> &T {
        &self.thing
    }
}

/// Proof that a caller may use a right, and how far it reaches. Only [`Actor::reach`] makes one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Reach {
    organization: OrganizationId,
    owner: Option<MemberId>,
}

impl Reach {
    /// The organization it reaches into.
    pub const fn organization(&self) -> OrganizationId {
        self.organization
    }

    /// The only creator whose things it reaches; none when it reaches all.
    pub const fn owner(&self) -> Option<MemberId> {
        self.owner
    }

    /// Whether it reaches a thing that this member created.
    pub fn covers(&self, created_by: Option<MemberId>) -> bool {
        self.owner.is_none() || self.owner == created_by
    }
}

impl Actor {
    /// A person.
    pub fn member(member: &Member) -> Self {
        Self {
            organization: member.organization_id,
            scopes: member_scopes(member.role),
            kind: Kind::Member { id: member.id, role: member.role, email: member.email.clone() },
        }
    }

    /// An API key.
    pub fn api_key(key: &ApiKey) -> Self {
        Self {
            organization: key.organization_id,
            scopes: permission_set_scopes(key.permission_set),
            kind: Kind::ApiKey { id: key.id, label: key.label.clone(), permission_set: key.permission_set },
        }
    }

    /// The organization it acts in.
    pub const fn organization(&self) -> OrganizationId {
        self.organization
    }

    /// What it is.
    pub const fn kind(&self) -> &Kind {
        &self.kind
    }

    /// What it may do.
    pub const fn scopes(&self) -> Scopes {
        self.scopes
    }

    /// The member it is; none for a key, which has no person behind it.
    pub const fn member_id(&self) -> Option<MemberId> {
        match &self.kind {
            Kind::Member { id, .. } => Some(*id),
            Kind::ApiKey { .. } => None,
        }
    }

    /// What audit rows name as their cause: the member, or [`SYSTEM_USER`] for a key.
    pub fn user_id(&self) -> String {
        self.member_id().map_or_else(|| SYSTEM_USER.to_owned(), |id| id.to_string())
    }

    /// Proves the right, as far as it reaches. Enough for lists (which filter by [`Reach::owner`]) and for creating things,
    /// since what a caller creates is its own.
    ///
    /// # Errors
    /// [`Denied::MissingScope`], or [`Denied::NotOwner`] when only `:own` is granted and no person is calling.
    pub fn reach(&self, right: Right) -> Result<Reach, Denied> {
        let (any, own) = right.scopes();
        if self.scopes.contains(any) {
            return Ok(Reach { organization: self.organization, owner: None });
        }
        if !own.is_some_and(|own| self.scopes.contains(own)) {
            return Err(Denied::MissingScope { needed: any });
        }
        let owner = self.member_id().ok_or(Denied::NotOwner)?;
        Ok(Reach { organization: self.organization, owner: Some(owner) })
    }

    /// Proves every one of the rights over the thing.
    ///
    /// # Errors
    /// The first [`Denied`] among the rights; [`Denied::OtherOrganization`] comes before all others.
    pub fn authorize<T: Owned>(&self, rights: &[Right], thing: T) -> Result<Authorized<T>, Denied> {
        if thing.organization() != self.organization {
            return Err(Denied::OtherOrganization);
        }
        for right in rights {
            if !self.reach(*right)?.covers(thing.created_by()) {
                return Err(Denied::NotOwner);
            }
        }
        Ok(Authorized { thing })
    }
}

#[cfg(test)]
#[path = "actor_tests.rs"]
mod tests;
