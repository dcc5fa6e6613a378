//! Why a use case did not do what was asked, told apart by what the caller can do about it.

use std::collections::BTreeMap;

use freehold_access::Denied;
use freehold_model::{OrganizationId, workspace};

use crate::ports::{AgentError, SealError, UploadError};

/// A kind of thing that can be missing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Thing {
    /// A provider.
    Provider,
    /// A role.
    Role,
    /// A workspace.
    Workspace,
    /// A task.
    Task,
    /// A session.
    Session,
    /// A credential.
    Credential,
    /// A secret.
    Secret,
    /// An API key.
    ApiKey,
    /// An approval.
    Approval,
    /// A member.
    Member,
    /// A personal token.
    PersonalToken,
    /// An organization.
    Organization,
}

impl Thing {
    /// The word for it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Provider => "provider",
            Self::Role => "agent role",
            Self::Workspace => "workspace",
            Self::Task => "task",
            Self::Session => "session",
            Self::Credential => "credential",
            Self::Secret => "secret",
            Self::ApiKey => "API key",
            Self::Approval => "approval",
            Self::Member => "member",
            Self::PersonalToken => "personal token",
            Self::Organization => "organization",
        }
    }
}

/// Why a use case did not do what was asked. Whatever the variant, nothing was changed, unless its text says otherwise.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Fields that are not acceptable, each with the reason.
    #[error("the request has fields that are not acceptable")]
    Invalid {
        /// Reason by field.
        fields: BTreeMap<String, String>,
    },
    /// The caller may not.
    #[error(transparent)]
    Denied(#[from] Denied),
    /// Only a person may, and the caller is none.
    #[error("only a person decides, and the caller is an API key")]
    PeopleOnly,
    /// There is no such thing in the caller's organization.
    #[error("no such {} in this organization", .0.as_str())]
    NotFound(Thing),
    /// The name is in use.
    #[error("the name `{name}` is taken by another {}", thing.as_str())]
    NameTaken {
        /// What has the name.
        thing: Thing,
        /// The name.
        name: String,
    },
    /// The thing is not in a state that allows this.
    #[error("{0}")]
    InvalidState(String),
    /// It is not archived.
    #[error("the {} is not archived", .0.as_str())]
    NotArchived(Thing),
    /// The role's provider is archived.
    #[error("the role's provider is archived")]
    ProviderArchived,
    /// The role is archived.
    #[error("the role is archived")]
    RoleArchived,
    /// Workspaces are running under it.
    #[error("it has running workspaces ({count}): stop them first")]
    WorkspacesActive {
        /// How many.
        count: usize,
    },
    /// The workspace is archived.
    #[error("the workspace is archived")]
    WorkspaceArchived,
    /// The workspace's phase refuses.
    #[error(transparent)]
    WorkspacePhase(#[from] workspace::Denied),
    /// Something that is bounded is full.
    #[error("{0}")]
    TooMany(String),
    /// The idempotency key stands for another request.
    #[error("{0}")]
    IdempotencyConflict(&'static str),
    /// The agent does not answer.
    #[error("the workspace's agent does not answer")]
    Agent(#[from] AgentError),
    /// An uploaded file could not be kept.
    #[error("an uploaded file could not be kept")]
    Upload(#[from] UploadError),
    /// A secret could not be kept or removed.
    #[error(transparent)]
    Seal(#[from] SealError),
    /// The store failed.
    #[error("the store failed")]
    Store(#[from] freehold_store::Error),
    /// The owner's token could not be kept, so that no owner was made.
    #[error("the owner's token could not be written")]
    OwnerToken(#[source] std::io::Error),
    /// A row refers to one that is not there: a bug.
    #[error("rows of organization {organization} contradict each other: {what}")]
    Inconsistent {
        /// Whose rows.
        organization: OrganizationId,
        /// What is wrong.
        what: &'static str,
    },
}

impl Error {
    /// One field that is not acceptable.
    pub fn field(name: &str, reason: impl Into<String>) -> Self {
        Self::Invalid { fields: BTreeMap::from([(name.to_owned(), reason.into())]) }
    }
}

/// Collects fields that are not acceptable.
#[derive(Debug, Default)]
pub(crate) struct Fields(BTreeMap<String, String>);

impl Fields {
    pub fn add(&mut self, name: &str, reason: impl Into<String>) {
        self.0.insert(name.to_owned(), reason.into());
    }

    /// Refuses the field when `bad`.
    pub fn refuse(&mut self, bad: bool, name: &str, reason: &str) {
        if bad {
            self.add(name, reason);
        }
    }

    pub fn check(self) -> Result<(), Error> {
        if self.0.is_empty() { Ok(()) } else { Err(Error::Invalid { fields: self.0 }) }
    }
}
