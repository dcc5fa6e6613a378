//! Providers: model backends.

use std::collections::{BTreeMap, HashSet};

use freehold_access::{Actor, Right};
use freehold_model::{
    ProviderId, RoleId, Timestamp,
    audit::EventType,
    provider::{Kind, Provider},
    workspace::{Phase, Workspace, is_active},
};
use freehold_policy::Document;
use freehold_store::{Error as StoreError, OrgRead, OrgTx, Page, RoleFilter, WorkspaceFilter};
use serde_json::json;

use crate::{
    App, Error, Once, Outcome, Thing,
    audit::{self, Cause},
    error::Fields,
    new_uuid, now,
    once::once,
    policy::{self, Written},
    ports::PolicyChange,
};

/// Rows read in one step where all are wanted.
const STEP_ROWS: u32 = 500;
/// Keys of a provider's `config` at most.
const CONFIG_KEYS_MAX: usize = 16;

/// A provider to create.
#[derive(Debug, Clone)]
pub struct ProviderNew {
    /// Its name.
    pub name: String,
    /// Its wire format.
    pub kind: Kind,
    /// The upstream host.
    pub domain: String,
    /// A label for people.
    pub display_name: Option<String>,
    /// The credential that is injected, by name.
    pub credential_name: Option<String>,
    /// The model of roles that name none.
    pub default_model: Option<String>,
    /// Base capabilities.
    pub capabilities: Option<String>,
    /// Settings of the kind.
    pub config: BTreeMap<String, String>,
}

/// What to change of a provider; none leaves alone, some none clears.
#[derive(Debug, Clone, Default)]
pub struct ProviderChange {
    /// The upstream host.
    pub domain: Option<String>,
    /// A label for people.
    pub display_name: Option<Option<String>>,
    /// The credential that is injected, by name.
    pub credential_name: Option<Option<String>>,
    /// The model of roles that name none.
    pub default_model: Option<Option<String>>,
    /// Base capabilities.
    pub capabilities: Option<Option<String>>,
    /// Settings of the kind, merged key by key.
    pub config: BTreeMap<String, Option<String>>,
}

impl App {
    /// Providers, oldest first.
    ///
    /// # Errors
    /// When the store fails.
    pub async fn provider_list(
        &self,
        actor: &Actor,
        include_archived: bool,
        page: Page<ProviderId>,
    ) -> Result<Vec<Provider>, Error> {
        self.store()
            .read(actor.organization(), move |tx| Ok(tx.provider_list(include_archived, &page)?))
            .await
    }

    /// One provider.
    ///
    /// # Errors
    /// When there is none.
    pub async fn provider_view(&self, actor: &Actor, id: ProviderId) -> Result<Provider, Error> {
        self.store().read(actor.organization(), move |tx| find(tx, id)).await
    }

    /// Creates a provider.
    ///
    /// # Errors
    /// When the caller may not, a field is not acceptable, or the name is taken.
    pub async fn provider_create(
        &self,
        actor: &Actor,
        new: ProviderNew,
        request: Option<Once<Provider>>,
    ) -> Result<Outcome<Provider>, Error> {
        actor.reach(Right::ConfigWrite)?;
        let written = policy::read(new.capabilities.as_deref()).await;
        let actor = actor.clone();
        self.store()
            .write(actor.organization(), move |tx| {
                let now = now();
                once(tx, &actor, now, request, |tx| create(tx, &actor, new, written, now))
            })
            .await
    }

    /// Changes a provider.
    ///
    /// # Errors
    /// When the caller may not, there is none, or a field is not acceptable.
    pub async fn provider_update(
        &self,
        actor: &Actor,
        id: ProviderId,
        change: ProviderChange,
    ) -> Result<Provider, Error> {
        actor.reach(Right::ConfigWrite)?;
        let cause = Cause::caller(actor);
        let written = policy::read(change.capabilities.as_ref().and_then(Option::as_deref)).await;
        let changed = self
            .store()
            .write(actor.organization(), move |tx| {
                let mut provider = find(tx, id)?;
                let fields = apply(&mut provider, change);
                let document = check(tx, &provider, written)?;
                provider.updated_at = now();
                tx.provider_update(&provider)?;
                let mut detail = json!({ "provider_id": id, "name": provider.name, "fields": fields });
                policy::note_digest(provider.capabilities.as_deref(), &mut detail);
                policy::note_missing(tx, document.as_ref(), &mut detail)?;
                audit::append(tx, &cause, EventType::ProviderUpdated, detail, provider.updated_at)?;
                Ok::<_, Error>(provider)
            })
            .await?;
        self.ports().policy.changed(PolicyChange::Provider(id)).await;
        Ok(changed)
    }

    /// Archives a provider and its roles; answers how many roles.
    ///
    /// # Errors
    /// When the caller may not, there is none, or workspaces are running with it or under its roles.
    pub async fn provider_archive(&self, actor: &Actor, id: ProviderId) -> Result<u32, Error> {
        actor.reach(Right::ConfigWrite)?;
        let cause = Cause::caller(actor);
        self.store().write(actor.organization(), move |tx| archive(tx, &cause, id)).await
    }

    /// Unarchives a provider. Its roles stay archived.
    ///
    /// # Errors
    /// When the caller may not, there is none, or it is not archived.
    pub async fn provider_unarchive(&self, actor: &Actor, id: ProviderId) -> Result<(), Error> {
        actor.reach(Right::ConfigWrite)?;
        let cause = Cause::caller(actor);
        self.store()
            .write(actor.organization(), move |tx| {
                let mut provider = find(tx, id)?;
                if provider.archived_at.take().is_none() {
                    return Err(Error::NotArchived(Thing::Provider));
                }
                provider.updated_at = now();
                tx.provider_update(&provider)?;
                let detail = json!({ "provider_id": id, "name": provider.name });
                audit::append(tx, &cause, EventType::ProviderUnarchived, detail, provider.updated_at)
            })
            .await
    }
}

pub(crate) fn find(tx: &mut OrgRead<'_>, id: ProviderId) -> Result<Provider, Error> {
    tx.provider_view(id)?.ok_or(Error::NotFound(Thing::Provider))
}

fn create(
    tx: &mut OrgTx<'_>,
    actor: &Actor,
    new: ProviderNew,
    written: Written,
    now: Timestamp,
) -> Result<Provider, Error> {
    let ProviderNew {
        name,
        kind,
        domain,
        display_name,
        credential_name,
        default_model,
        capabilities,
        config,
    } = new;
    let provider = Provider {
        id: ProviderId::from_uuid(new_uuid()),
        organization_id: actor.organization(),
        name,
        kind,
        display_name,
        domain,
        credential_name,
        default_model,
        capabilities,
        config,
        created_at: now,
        updated_at: now,
        archived_at: None,
    };
    let document = check(tx, &provider, written)?;
    if tx.provider_by_name(&provider.name)?.is_some() {
        return Err(Error::NameTaken { thing: Thing::Provider, name: provider.name });
    }
    tx.provider_insert(&provider)?;
    let mut detail =
        json!({ "provider_id": provider.id, "name": provider.name, "kind": kind, "domain": provider.domain });
    policy::note_digest(provider.capabilities.as_deref(), &mut detail);
    policy::note_missing(tx, document.as_ref(), &mut detail)?;
    audit::append(tx, &Cause::caller(actor), EventType::ProviderCreated, detail, now)?;
    Ok(provider)
}

/// Applies the change and answers the names of the fields it has.
fn apply(provider: &mut Provider, change: ProviderChange) -> Vec<&'static str> {
    let ProviderChange { domain, display_name, credential_name, default_model, capabilities, config } =
        change;
    let mut fields = Vec::new();
    set(&mut provider.domain, domain, "domain", &mut fields);
    set(&mut provider.display_name, display_name, "display_name", &mut fields);
    set(&mut provider.credential_name, credential_name, "credential_name", &mut fields);
    set(&mut provider.default_model, default_model, "default_model", &mut fields);
    set(&mut provider.capabilities, capabilities, "capabilities", &mut fields);
    if !config.is_empty() {
        fields.push("config");
    }
    for (key, value) in config {
        match value {
            Some(value) => provider.config.insert(key, value),
            None => provider.config.remove(&key),
        };
    }
    fields
}

/// Sets a field that is to change, and notes its name.
pub(crate) fn set<T>(field: &mut T, to: Option<T>, name: &'static str, fields: &mut Vec<&'static str>) {
    if let Some(to) = to {
        *field = to;
        fields.push(name);
    }
}

/// Refuses what is not acceptable; answers the policy that is written, if one is.
fn check(tx: &mut OrgRead<'_>, provider: &Provider, written: Written) -> Result<Option<Document>, Error> {
    let mut fields = Fields::default();
    let known: &[(&str, &[&str])] = match provider.kind {
        Kind::Anthropic => &[],
        Kind::OpenAi => &[("wire", &["responses", "chat_completions"])],
        Kind::Gemini | Kind::Vertex | Kind::AzureOpenAi => &[],
    };
    fields.refuse(!provider.kind.has_wire(), "kind", "this server has no model wire of this kind yet");
    for (key, value) in provider.config.iter().take(CONFIG_KEYS_MAX) {
        match known.iter().find(|(name, _)| name == key) {
            None => fields.add(&format!("config.{key}"), "not a setting of this kind"),
            Some((_, values)) if !values.contains(&value.as_str()) => {
                fields.add(&format!("config.{key}"), format!("must be one of {}", values.join(", ")));
            }
            Some(_) => {}
        }
    }
    let port = provider.domain.rsplit_once(':').map(|(_, port)| port.parse::<u16>());
    fields.refuse(matches!(port, Some(Ok(0) | Err(_))), "domain", "has no valid port");
    let document = policy::accepted(&mut fields, written);
    if let Some(name) = &provider.credential_name {
        match tx.credential_by_name(name)? {
            None => fields.add("credential_name", "no credential of this organization has this name"),
            Some(credential) if credential.provider != provider.kind.as_str() => {
                let (of, kind) = (&credential.provider, provider.kind);
                fields.add(
                    "credential_name",
                    format!(
                        "the credential's `provider` is `{of}`, and this provider's `kind` is `{kind}`; delete the \
                         credential and create it with `--provider {kind}`"
                    ),
                );
            }
            Some(_) => {}
        }
    }
    fields.check()?;
    Ok(document)
}

fn archive(tx: &mut OrgTx<'_>, cause: &Cause, id: ProviderId) -> Result<u32, Error> {
    let mut provider = find(tx, id)?;
    if provider.archived_at.is_some() {
        return Ok(0);
    }
    let now = now();
    let (mut roles, mut after) = (HashSet::new(), None);
    loop {
        let filter = RoleFilter { include_archived: false, provider: Some(id) };
        let step = tx.role_list(&filter, &Page { after, limit: STEP_ROWS })?;
        let Some(last) = step.last() else { break };
        after = Some(last.id);
        for role in step {
            roles.insert(role.id);
            crate::role::archive_row(tx, cause, role, now)?;
        }
    }
    let cascaded = u32::try_from(roles.len()).unwrap_or(u32::MAX);
    let count = workspaces_using(tx, id, &roles)?;
    if count > 0 {
        return Err(Error::WorkspacesActive { count });
    }
    (provider.archived_at, provider.updated_at) = (Some(now), now);
    tx.provider_update(&provider)?;
    let detail = json!({ "provider_id": id, "name": provider.name, "cascaded_roles": cascaded });
    audit::append(tx, cause, EventType::ProviderArchived, detail, now)?;
    Ok(cascaded)
}

/// How many workspaces run that were started with the provider, whatever their roles have by now, or run under one of these
/// roles.
fn workspaces_using(
    tx: &mut OrgRead<'_>,
    id: ProviderId,
    roles: &HashSet<RoleId>,
) -> Result<usize, StoreError> {
    let (mut count, mut after) = (0, None);
    loop {
        let step = tx.workspace_list(&active(None), &Page { after, limit: STEP_ROWS })?;
        let Some(last) = step.last() else { return Ok(count) };
        after = Some(last.id);
        let uses = |workspace: &&Workspace| {
            let keeps = workspace.backend.as_ref().is_some_and(|backend| backend.provider_id() == id);
            keeps || roles.contains(&workspace.role_id)
        };
        count += step.iter().filter(uses).count();
    }
}

/// How many workspaces run under the role, as far as one step tells: enough to refuse, and to say how many to stop.
pub(crate) fn workspaces_active(tx: &mut OrgRead<'_>, role: RoleId) -> Result<usize, Error> {
    Ok(tx.workspace_list(&active(Some(role)), &Page::first(STEP_ROWS))?.len())
}

fn active(role: Option<RoleId>) -> WorkspaceFilter {
    let phases = Phase::ALL.iter().copied().filter(|phase| is_active(*phase)).collect();
    WorkspaceFilter { include_archived: true, role, created_by: None, phases }
}
