//! Agent roles: what an operator ships.

use freehold_access::{Actor, Right};
use freehold_model::{
    ProviderId, RoleId, Timestamp,
    audit::EventType,
    role::{Environment, PoolPolicy, Role, ThinkingEffort},
};
use freehold_policy::Document;
use freehold_store::{OrgRead, OrgTx, Page, ROLE_NAME_KEY, RoleFilter};
use serde_json::json;

use crate::{
    App, Error, Once, Outcome, Thing,
    audit::{self, Cause},
    error::Fields,
    new_uuid, now,
    once::once,
    policy::{self, Written},
    ports::PolicyChange,
    provider::{self, set, workspaces_active},
};

/// A role to create.
#[derive(Debug, Clone)]
pub struct RoleNew {
    /// Its name.
    pub name: String,
    /// The provider its agents call.
    pub provider_id: ProviderId,
    /// What else is said of it; what is absent here stays at its default.
    pub rest: RoleChange,
}

/// What to change of a role; none leaves alone, some none clears.
#[derive(Debug, Clone, Default)]
pub struct RoleChange {
    /// A label for people.
    pub display_name: Option<Option<String>>,
    /// What it is for.
    pub description: Option<Option<String>>,
    /// The provider its agents call.
    pub provider_id: Option<ProviderId>,
    /// The model.
    pub model: Option<Option<String>>,
    /// The policy.
    pub capabilities: Option<Option<String>>,
    /// Where its agents work.
    pub environment: Option<Environment>,
    /// Told to the agent.
    pub environment_description: Option<Option<String>>,
    /// The most seconds a task may run.
    pub task_timeout_seconds: Option<Option<u32>>,
    /// Seconds a workspace may sit idle.
    pub idle_timeout_seconds: Option<Option<u32>>,
    /// How hard the model should think.
    pub thinking_effort: Option<Option<ThinkingEffort>>,
    /// The most model calls in a task.
    pub max_continuations: Option<Option<u32>>,
    /// The most tokens of conversation before compaction.
    pub max_context_tokens: Option<Option<u64>>,
    /// Not built yet: only no pool is accepted.
    pub pool_policy: Option<PoolPolicy>,
    /// Not built yet: only 0 is accepted.
    pub pool_size: Option<u32>,
    /// Not built yet: only 0 is accepted.
    pub pool_max_size: Option<u32>,
    /// Not built yet: only none is accepted.
    pub pack_ids: Option<Vec<String>>,
}

impl RoleChange {
    fn capabilities(&self) -> Option<&str> {
        self.capabilities.as_ref()?.as_deref()
    }
}

impl App {
    /// Roles, oldest first.
    ///
    /// # Errors
    /// When the store fails.
    pub async fn role_list(
        &self,
        actor: &Actor,
        include_archived: bool,
        page: Page<RoleId>,
    ) -> Result<Vec<Role>, Error> {
        let filter = RoleFilter { include_archived, provider: None };
        self.store().read(actor.organization(), move |tx| Ok(tx.role_list(&filter, &page)?)).await
    }

    /// One role.
    ///
    /// # Errors
    /// When there is none.
    pub async fn role_view(&self, actor: &Actor, id: RoleId) -> Result<Role, Error> {
        self.store().read(actor.organization(), move |tx| find(tx, id)).await
    }

    /// Creates a role.
    ///
    /// # Errors
    /// When the caller may not, a field is not acceptable, the provider is missing or archived, or the name is taken.
    pub async fn role_create(
        &self,
        actor: &Actor,
        new: RoleNew,
        request: Option<Once<Role>>,
    ) -> Result<Outcome<Role>, Error> {
        actor.reach(Right::ConfigWrite)?;
        let written = policy::read(new.rest.capabilities()).await;
        let (actor, name) = (actor.clone(), new.name.clone());
        let created = self.store().write(actor.organization(), move |tx| {
            let now = now();
            once(tx, &actor, now, request, |tx| create(tx, &actor, new, written, now))
        });
        match created.await {
            // Not looked up before: the database looks anyway.
            Err(Error::Store(error)) if error.is_duplicate(ROLE_NAME_KEY) => {
                Err(Error::NameTaken { thing: Thing::Role, name })
            }
            created => created,
        }
    }

    /// Changes a role.
    ///
    /// # Errors
    /// When the caller may not, there is none, a field is not acceptable, or the new provider is missing or archived.
    pub async fn role_update(&self, actor: &Actor, id: RoleId, change: RoleChange) -> Result<Role, Error> {
        actor.reach(Right::ConfigWrite)?;
        let cause = Cause::caller(actor);
        let written = policy::read(change.capabilities()).await;
        let changed = self
            .store()
            .write(actor.organization(), move |tx| {
                let document = check(&change, written)?;
                let mut role = find(tx, id)?;
                if let Some(provider) = change.provider_id {
                    usable_provider(tx, provider)?;
                }
                let fields = apply(&mut role, change);
                role.updated_at = now();
                tx.role_update(&role)?;
                let mut detail = json!({ "role_id": id, "name": role.name, "fields": fields });
                policy::note_digest(role.capabilities.as_deref(), &mut detail);
                policy::note_missing(tx, document.as_ref(), &mut detail)?;
                audit::append(tx, &cause, EventType::RoleUpdated, detail, role.updated_at)?;
                Ok::<_, Error>(role)
            })
            .await?;
        self.ports().policy.changed(PolicyChange::Role(id)).await;
        Ok(changed)
    }

    /// Archives a role.
    ///
    /// # Errors
    /// When the caller may not, there is none, or workspaces are running under it.
    pub async fn role_archive(&self, actor: &Actor, id: RoleId) -> Result<(), Error> {
        actor.reach(Right::ConfigWrite)?;
        let cause = Cause::caller(actor);
        self.store()
            .write(actor.organization(), move |tx| {
                let role = find(tx, id)?;
                if role.archived_at.is_some() {
                    return Ok(());
                }
                match workspaces_active(tx, id)? {
                    0 => archive_row(tx, &cause, role, now()),
                    count => Err(Error::WorkspacesActive { count }),
                }
            })
            .await
    }

    /// Unarchives a role.
    ///
    /// # Errors
    /// When the caller may not, there is none, it is not archived, or its provider is.
    pub async fn role_unarchive(&self, actor: &Actor, id: RoleId) -> Result<(), Error> {
        actor.reach(Right::ConfigWrite)?;
        let cause = Cause::caller(actor);
        self.store()
            .write(actor.organization(), move |tx| {
                let mut role = find(tx, id)?;
                if role.archived_at.take().is_none() {
                    return Err(Error::NotArchived(Thing::Role));
                }
                usable_provider(tx, role.provider_id)?;
                role.updated_at = now();
                tx.role_update(&role)?;
                let detail = json!({ "role_id": id, "name": role.name });
                audit::append(tx, &cause, EventType::RoleUnarchived, detail, role.updated_at)
            })
            .await
    }

    /// Stops every workspace under the role; answers how many began to stop.
    ///
    /// # Errors
    /// When the caller may not, or there is no such role.
    pub async fn role_stop_workspaces(&self, actor: &Actor, id: RoleId) -> Result<u32, Error> {
        actor.reach(Right::WorkspaceWriteAll)?;
        self.store().read(actor.organization(), move |tx| find(tx, id)).await?;
        self.stop_many(actor, Some(id)).await
    }
}

pub(crate) fn find(tx: &mut OrgRead<'_>, id: RoleId) -> Result<Role, Error> {
    tx.role_view(id)?.ok_or(Error::NotFound(Thing::Role))
}

/// The role that a request names by id, by name, or by both alike; neither it nor its provider is archived.
pub(crate) fn usable(tx: &mut OrgRead<'_>, id: Option<RoleId>, name: Option<&str>) -> Result<Role, Error> {
    let role = match (id, name) {
        (None, None) => {
            return Err(Error::field("role_name", "one of `role_id` and `role_name` is required"));
        }
        (Some(id), None) => find(tx, id)?,
        (None, Some(name)) => by_name(tx, name)?,
        (Some(id), Some(name)) => {
            let role = by_name(tx, name)?;
            if role.id != id {
                return Err(Error::field("role_id", "names another role than `role_name`"));
            }
            role
        }
    };
    if role.archived_at.is_some() {
        return Err(Error::RoleArchived);
    }
    usable_provider(tx, role.provider_id)?;
    Ok(role)
}

pub(crate) fn by_name(tx: &mut OrgRead<'_>, name: &str) -> Result<Role, Error> {
    tx.role_by_name(name)?.ok_or(Error::NotFound(Thing::Role))
}

fn usable_provider(tx: &mut OrgRead<'_>, id: ProviderId) -> Result<(), Error> {
    match provider::find(tx, id)?.archived_at {
        None => Ok(()),
        Some(_) => Err(Error::ProviderArchived),
    }
}

fn create(
    tx: &mut OrgTx<'_>,
    actor: &Actor,
    new: RoleNew,
    written: Written,
    now: Timestamp,
) -> Result<Role, Error> {
    let RoleNew { name, provider_id, rest } = new;
    let document = check(&rest, written)?;
    usable_provider(tx, provider_id)?;
    let mut role = Role {
        id: RoleId::from_uuid(new_uuid()),
        organization_id: actor.organization(),
        name,
        display_name: None,
        description: None,
        provider_id,
        model: None,
        capabilities: None,
        environment: Environment::Development,
        environment_description: None,
        task_timeout_seconds: None,
        idle_timeout_seconds: None,
        thinking_effort: None,
        max_continuations: None,
        max_context_tokens: None,
        pool_policy: PoolPolicy::None,
        pool_size: None,
        pool_max_size: None,
        pack_ids: Vec::new(),
        created_at: now,
        updated_at: now,
        archived_at: None,
    };
    apply(&mut role, rest);
    tx.role_insert(&role)?;
    let mut detail = json!({ "role_id": role.id, "name": role.name, "provider_id": provider_id });
    policy::note_digest(role.capabilities.as_deref(), &mut detail);
    policy::note_missing(tx, document.as_ref(), &mut detail)?;
    audit::append(tx, &Cause::caller(actor), EventType::RoleCreated, detail, now)?;
    Ok(role)
}

/// Refuses what is not built yet, and a policy that cannot be read; answers the policy that is written, if one is.
fn check(change: &RoleChange, written: Written) -> Result<Option<Document>, Error> {
    const NO_POOL: &str = "warm pods are not built yet";
    let mut fields = Fields::default();
    fields.refuse(
        change.pool_policy.is_some_and(|policy| policy != PoolPolicy::None),
        "pool_policy",
        NO_POOL,
    );
    fields.refuse(change.pool_size.unwrap_or(0) != 0, "pool_size", NO_POOL);
    fields.refuse(change.pool_max_size.unwrap_or(0) != 0, "pool_max_size", NO_POOL);
    let packs = change.pack_ids.as_ref().is_some_and(|packs| !packs.is_empty());
    fields.refuse(packs, "pack_ids", "packs are not built yet");
    let document = policy::accepted(&mut fields, written);
    fields.check()?;
    Ok(document)
}

/// Applies the change and answers the names of the fields it has.
fn apply(role: &mut Role, change: RoleChange) -> Vec<&'static str> {
    let mut fields = Vec::new();
    set(&mut role.display_name, change.display_name, "display_name", &mut fields);
    set(&mut role.description, change.description, "description", &mut fields);
    set(&mut role.provider_id, change.provider_id, "provider_id", &mut fields);
    set(&mut role.model, change.model, "model", &mut fields);
    set(&mut role.capabilities, change.capabilities, "capabilities", &mut fields);
    set(&mut role.environment, change.environment, "environment", &mut fields);
    let description = change.environment_description;
    set(&mut role.environment_description, description, "environment_description", &mut fields);
    set(&mut role.task_timeout_seconds, change.task_timeout_seconds, "task_timeout_seconds", &mut fields);
    set(&mut role.idle_timeout_seconds, change.idle_timeout_seconds, "idle_timeout_seconds", &mut fields);
    set(&mut role.thinking_effort, change.thinking_effort, "thinking_effort", &mut fields);
    set(&mut role.max_continuations, change.max_continuations, "max_continuations", &mut fields);
    set(&mut role.max_context_tokens, change.max_context_tokens, "max_context_tokens", &mut fields);
    fields
}

/// Archives the role's row; that nothing runs under it was seen before, in the same transaction.
pub(crate) fn archive_row(
    tx: &mut OrgTx<'_>,
    cause: &Cause,
    mut role: Role,
    now: Timestamp,
) -> Result<(), Error> {
    (role.archived_at, role.updated_at) = (Some(now), now);
    tx.role_update(&role)?;
    let detail = json!({ "role_id": role.id, "name": role.name });
    audit::append(tx, cause, EventType::RoleArchived, detail, now)
}
