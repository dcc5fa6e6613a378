//! From the model to the wire.

use freehold_access::{Actor, Kind};
use freehold_api as api;
use freehold_model as model;
use freehold_model::{credential, member::Member, secret, task};

pub(crate) fn provider(provider: model::provider::Provider) -> api::provider::Provider {
    api::provider::Provider {
        id: provider.id,
        org_id: provider.organization_id,
        name: provider.name,
        kind: provider.kind,
        display_name: provider.display_name,
        domain: provider.domain,
        credential_name: provider.credential_name,
        default_model: provider.default_model,
        capabilities: provider.capabilities,
        config: provider.config,
        created_at: provider.created_at,
        updated_at: provider.updated_at,
        archived_at: provider.archived_at,
    }
}

pub(crate) fn role(role: model::role::Role) -> api::role::Role {
    api::role::Role {
        id: role.id,
        org_id: role.organization_id,
        name: role.name,
        display_name: role.display_name,
        description: role.description,
        provider_id: role.provider_id,
        model: role.model,
        capabilities: role.capabilities,
        environment: role.environment,
        environment_description: role.environment_description,
        task_timeout_seconds: role.task_timeout_seconds,
        idle_timeout_seconds: role.idle_timeout_seconds,
        thinking_effort: role.thinking_effort,
        max_continuations: role.max_continuations,
        max_context_tokens: role.max_context_tokens,
        pool_policy: role.pool_policy,
        pool_size: role.pool_size,
        pool_max_size: role.pool_max_size,
        pack_ids: role.pack_ids,
        created_at: role.created_at,
        updated_at: role.updated_at,
        archived_at: role.archived_at,
    }
}

pub(crate) fn workspace(workspace: model::workspace::Workspace) -> api::workspace::Workspace {
    api::workspace::Workspace {
        pack_status: pack_status(&workspace),
        id: workspace.id,
        org_id: workspace.organization_id,
        role_id: workspace.role_id,
        environment: workspace.environment,
        status: workspace.phase,
        created_by_user_id: workspace.created_by.map(|member| member.to_string()),
        snapshot_ref: workspace.snapshot_ref,
        last_snapshot_error: workspace.last_snapshot_error,
        parent_workspace_id: workspace.parent_id.map(|parent| parent.to_string()),
        fork_source_snapshot_ref: workspace.fork_source_snapshot_ref,
        fork_point_task_count: workspace.fork_point_task_count,
        started_with: workspace.backend.map(|backend| api::workspace::StartedWith {
            provider_id: backend.provider_id(),
            domain: backend.domain().to_owned(),
            credential_name: backend.credential_name().map(str::to_owned),
            credential_id: backend.credential_id(),
            model: backend.model().map(str::to_owned),
        }),
        created_at: workspace.created_at,
        updated_at: workspace.updated_at,
        archived_at: workspace.archived_at,
    }
}

/// Whether the running pod has its role's packs. A role cannot have packs yet, and neither can a pod: a running one is
/// current.
fn pack_status(workspace: &model::workspace::Workspace) -> api::workspace::PackStatus {
    match model::workspace::agent_expected(workspace.phase) {
        Ok(()) => api::workspace::PackStatus::Current,
        Err(_) => api::workspace::PackStatus::Unknown,
    }
}

pub(crate) fn task(task: task::Task) -> api::task::Task {
    let duration = task.completed_at.map(|completed| completed.duration_since(task.created_at).as_secs_f64());
    api::task::Task {
        id: task.id,
        org_id: task.organization_id,
        workspace_id: task.workspace_id,
        description: task.description,
        status: task.phase,
        created_at: task.created_at,
        completed_at: task.completed_at,
        duration_seconds: duration,
        reason: task.reason,
        metadata: task.metadata,
    }
}

pub(crate) fn task_submitted(task: &task::Task) -> Vec<u8> {
    bytes(&api::task::TaskSubmitted {
        task_id: task.id,
        workspace_id: task.workspace_id,
        status: task.phase.to_string(),
    })
}

pub(crate) fn session(session: model::session::Session) -> api::session::Session {
    let summary = session.summary;
    api::session::Session {
        id: session.id,
        organization_id: session.organization_id,
        agent_id: session.role_id,
        workspace_id: session.workspace_id,
        capabilities: Vec::new(),
        model_id: None,
        // A finished session rests, whatever its last event was.
        status: if session.finished_at.is_some() { model::session::Status::Idle } else { summary.status },
        title: session.title,
        preview: summary.preview,
        output_preview: summary.output_preview,
        tags: session.tags,
        usage: summary.usage,
        created_at: session.created_at,
        updated_at: session.updated_at,
        started_at: summary.started_at,
        finished_at: session.finished_at,
    }
}

pub(crate) fn secret(secret: secret::Secret) -> api::secret::Secret {
    let member = |id: Option<freehold_model::MemberId>| id.map(|id| id.to_string());
    api::secret::Secret {
        name: secret.name,
        created_by_user_id: member(secret.created_by),
        updated_by_user_id: member(secret.updated_by),
        created_at: secret.created_at,
        updated_at: secret.updated_at,
    }
}

pub(crate) fn credential(kept: freehold_app::credential::Kept) -> api::credential::Credential {
    let freehold_app::credential::Kept { credential, elsewhere } = kept;
    let to_consent = credential.kind == credential::Kind::Oauth2AuthorizationCode
        && credential.status == credential::Status::NeedsReauth;
    api::credential::Credential {
        next: to_consent.then(|| format!("/v1/credentials/{}/oauth/start", credential.id)),
        durable_ref: elsewhere.unwrap_or_else(|| format!("vault/{}", credential.id)),
        id: credential.id,
        org_id: credential.organization_id,
        user_id: credential.member_id.map(|member| member.to_string()),
        name: credential.name,
        provider: credential.provider,
        kind: credential.kind,
        scopes: credential.scopes,
        provider_config: credential.provider_config,
        last_minted_at: credential.last_minted_at,
        last_minted_status: credential.last_minted_status,
        allow_user_override: credential.allow_user_override,
        status: credential.status,
        created_at: credential.created_at,
        updated_at: credential.updated_at,
    }
}

pub(crate) fn api_key(key: model::api_key::ApiKey) -> api::api_key::ApiKey {
    api::api_key::ApiKey {
        id: key.id,
        org_id: key.organization_id,
        label: key.label,
        prefix: key.prefix,
        permission_set: key.permission_set,
        created_at: key.created_at,
    }
}

pub(crate) fn approval(approval: model::approval::Approval) -> api::approval::Approval {
    let field = |field: model::approval::Field| api::approval::HeldField {
        name: field.name,
        value: field.value,
        hidden_chars: field.hidden_chars,
    };
    let shown = approval.shown;
    api::approval::Approval {
        id: approval.id,
        org_id: approval.organization_id,
        workspace_id: approval.workspace_id,
        task_id: approval.task_id,
        status: approval.status,
        reason: approval.reason,
        rule: api::approval::ApprovalRule {
            origin: approval.origin,
            capability: approval.capability,
            name: approval.rule,
        },
        request: api::approval::HeldRequest {
            method: shown.method,
            destination: shown.destination,
            path: shown.path,
            query: shown.query.into_iter().map(field).collect(),
            headers: shown.headers.into_iter().map(field).collect(),
            body: shown.body.map(|body| api::approval::HeldBody {
                bytes: body.bytes,
                is_whole: body.is_whole,
                json: body.json,
                text: body.text,
            }),
            trailers: shown.trailers.into_iter().map(field).collect(),
            is_cut: shown.is_cut,
        },
        abandonment: approval.abandonment,
        scope: approval.scope,
        until: approval.until,
        decided_by: approval.decided_by,
        decided_at: approval.decided_at,
        comment: approval.comment,
        created_at: approval.created_at,
        expires_at: approval.expires_at,
    }
}

pub(crate) fn audit_event(event: model::audit::AuditEvent) -> api::audit::AuditEvent {
    api::audit::AuditEvent {
        id: event.id,
        org_id: event.org_id,
        user_id: event.user_id,
        timestamp: event.timestamp,
        event_type: event.event_type,
        category: event.category,
        actor: event.actor,
        workspace_id: event.workspace_id,
        task_id: event.task_id,
        agent_role: event.agent_role,
        agent_provider: event.agent_provider,
        destination: event.destination,
        method: event.method,
        path: event.path,
        decision: event.decision,
        reason: event.reason,
        latency_ms: event.latency_ms,
        transforms_applied: event.transforms_applied,
        validations_applied: event.validations_applied,
        capability_name: event.capability_name,
        phase: event.phase,
        policy_type: event.policy_type,
        detail: event.detail,
        auth_applied: event.auth_applied,
        auth_failures: event.auth_failures,
        transforms_failed: event.transforms_failed,
        budget_snapshot: event.budget_snapshot,
        budget_ceilings: event.budget_ceilings,
    }
}

pub(crate) fn access_review(review: freehold_app::Review) -> api::audit::AccessReview {
    let entry = |entry: freehold_app::ReviewEntry| api::audit::AccessReviewEntry {
        destination: entry.destination,
        method: entry.method,
        path: entry.path,
        decision: entry.decision,
        reason: entry.reason,
        capability_name: entry.capability_name,
        count: entry.count,
        last_seen: entry.last_seen,
    };
    api::audit::AccessReview {
        entries: review.entries.into_iter().map(entry).collect(),
        complete_from: review.complete_from,
    }
}

pub(crate) fn checkpoint(signed: freehold_app::SignedCheckpoint) -> api::audit::AuditCheckpoint {
    api::audit::AuditCheckpoint {
        number: signed.number,
        seq: signed.seq,
        hash: hex::encode(signed.hash()),
        signature: hex::encode(signed.signature),
        payload: signed.payload,
    }
}

pub(crate) fn audit_key(key: freehold_app::proof::AuditKey) -> api::audit::AuditKey {
    api::audit::AuditKey {
        id: key.id,
        public_key: hex::encode(key.public_key),
        first_used_at: key.first_used_at,
        current: key.is_current,
    }
}

pub(crate) fn me(actor: &Actor, member: Option<&Member>) -> api::config::MeSession {
    let (email, role, label, set) = match actor.kind() {
        Kind::Member { email, role, .. } => (email.clone(), role.to_string(), None, None),
        Kind::ApiKey { label, permission_set, .. } => {
            (String::new(), String::new(), Some(label.clone()), Some(permission_set.to_string()))
        }
    };
    let memberships = member.map(|member| api::config::MeMembership {
        org_id: member.organization_id,
        role: member.role.to_string(),
        billing_status: "active".to_owned(),
        accepted_at: Some(member.created_at),
    });
    api::config::MeSession {
        user_id: actor.user_id(),
        org_id: actor.organization(),
        email,
        role,
        permissions: actor.scopes().iter().map(|scope| scope.to_string()).collect(),
        memberships: memberships.into_iter().collect(),
        api_key_label: label,
        api_key_permission_set: set,
    }
}

/// The body of an answer. Wire types have text keys only, so they always have a JSON form.
pub(crate) fn bytes<T: serde::Serialize>(value: &T) -> Vec<u8> {
    serde_json::to_vec(value).unwrap_or_default()
}

pub(crate) fn budget(budget: freehold_app::budget::Budget) -> api::budget::Budget {
    let freehold_app::budget::Budget { key, per, window, limit, warn_at, on_limit, is_money, used } = budget;
    let amount = |amount: u64| if is_money { dollars(amount) } else { amount.into() };
    let window_start = window.as_ref().and_then(|_| model::Timestamp::from_second(key.window_start).ok());
    api::budget::Budget {
        origin: key.origin.to_owned(),
        capability: key.capability.to_string(),
        name: key.counter.to_string(),
        unit: key.unit.to_owned(),
        per: per.to_owned(),
        subject: key.subject.to_string(),
        window,
        window_start,
        limit: amount(limit),
        used: amount(used),
        remaining: amount(limit.saturating_sub(used)),
        warn_at: warn_at.map(amount),
        on_limit: on_limit.to_owned(),
    }
}

/// Millionths in one.
const MICROS: u64 = 1_000_000;

/// Millionths of a dollar in dollars.
fn dollars(micros: u64) -> serde_json::Number {
    let (whole, part) = (micros / MICROS, micros % MICROS);
    if part == 0 {
        return whole.into();
    }
    #[expect(clippy::cast_precision_loss, reason = "limits, and what is counted up to them, are below 2^53")]
    let dollars = micros as f64 / MICROS as f64;
    serde_json::Number::from_f64(dollars).unwrap_or_else(|| whole.into())
}
