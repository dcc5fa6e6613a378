//! Providers: model backends.

use std::collections::BTreeMap;

use crate::{OrganizationId, ProviderId, Timestamp, slugs};

/// The key that programs in a pod use where they insist on one; egress always replaces it.
pub const PLACEHOLDER_KEY: &str = "freehold-placeholder";

slugs! {
    /// What kind of backend it is; fixes the wire format.
    Kind {
        /// Anthropic Messages.
        Anthropic => "anthropic",
        /// OpenAI Responses and Chat Completions.
        OpenAi => "openai",
        /// Gemini API.
        Gemini => "gemini",
        /// Vertex AI.
        Vertex => "vertex",
        /// Azure OpenAI Service.
        AzureOpenAi => "azure-openai",
    }
}

impl Kind {
    /// Whether agents of this version speak its wire; a provider of another kind cannot be made.
    pub const fn has_wire(self) -> bool {
        match self {
            Self::Anthropic | Self::OpenAi => true,
            Self::Gemini | Self::Vertex | Self::AzureOpenAi => false,
        }
    }
}

/// A model backend.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Provider {
    /// Its id.
    pub id: ProviderId,
    /// The organization it belongs to.
    pub organization_id: OrganizationId,
    /// Its name, unique in the organization.
    pub name: String,
    /// Its wire format.
    pub kind: Kind,
    /// A label for people.
    pub display_name: Option<String>,
    /// The upstream host, with a port when it is not 443.
    pub domain: String,
    /// The credential egress injects, by name.
    pub credential_name: Option<String>,
    /// The model of roles that name none.
    pub default_model: Option<String>,
    /// Base capabilities (YAML) of every role that uses it.
    pub capabilities: Option<String>,
    /// Settings of the kind.
    pub config: BTreeMap<String, String>,
    /// When it was created.
    pub created_at: Timestamp,
    /// When its row last changed.
    pub updated_at: Timestamp,
    /// When it was archived, if it is.
    pub archived_at: Option<Timestamp>,
}
