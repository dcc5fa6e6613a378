//! Agent roles: what an operator ships.

use crate::{OrganizationId, PackId, ProviderId, RoleId, Timestamp, slugs};

slugs! {
    /// Where a role's agents work.
    Environment {
        /// Development, the default.
        Development => "development",
        /// Staging.
        Staging => "staging",
        /// Production.
        Production => "production",
    }
}

slugs! {
    /// How hard the model should think.
    ThinkingEffort {
        /// As hard as the model can.
        High => "high",
        /// In between.
        Medium => "medium",
        /// A little.
        Low => "low",
        /// Not at all.
        Off => "off",
    }
}

slugs! {
    /// How a role keeps warm pods.
    PoolPolicy {
        /// It keeps none.
        None => "",
        /// A fixed number.
        Static => "static",
        /// Between a floor and a ceiling, by demand.
        Dynamic => "dynamic",
    }
}

/// An agent role: provider, model, policy, packs, limits.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Role {
    /// Its id.
    pub id: RoleId,
    /// The organization it belongs to.
    pub organization_id: OrganizationId,
    /// Its name, unique in the organization.
    pub name: String,
    /// A label for people.
    pub display_name: Option<String>,
    /// What it is for.
    pub description: Option<String>,
    /// The provider its agents call.
    pub provider_id: ProviderId,
    /// The model; the provider's default when absent.
    pub model: Option<String>,
    /// Its policy: an inline `caps.yaml`.
    pub capabilities: Option<String>,
    /// Where its agents work.
    pub environment: Environment,
    /// Told to the agent, so that it knows where it runs.
    pub environment_description: Option<String>,
    /// The most seconds a task may run; the server's default when absent.
    pub task_timeout_seconds: Option<u32>,
    /// Seconds a workspace may sit idle; the server's default when absent.
    pub idle_timeout_seconds: Option<u32>,
    /// How hard the model should think.
    pub thinking_effort: Option<ThinkingEffort>,
    /// The most model calls in a task.
    pub max_continuations: Option<u32>,
    /// The most tokens of conversation before compaction.
    pub max_context_tokens: Option<u64>,
    /// How it keeps warm pods.
    pub pool_policy: PoolPolicy,
    /// Warm pods kept, or the floor.
    pub pool_size: Option<u32>,
    /// The ceiling of a dynamic pool.
    pub pool_max_size: Option<u32>,
    /// Attached packs.
    pub pack_ids: Vec<PackId>,
    /// When it was created.
    pub created_at: Timestamp,
    /// When its row last changed.
    pub updated_at: Timestamp,
    /// When it was archived, if it is.
    pub archived_at: Option<Timestamp>,
}
