//! Conversions from what the rows say to what an agent is told.

use base64::Engine;
use freehold_app::fleet::{Order, Ready};
use freehold_model::WorkspaceId;
use freehold_pod_api::{AgentConfig, FileOrder, ModelBackend, PROTOCOL, SessionPosition, TaskOrder, ToAgent};

pub(crate) fn welcome(workspace_id: WorkspaceId, ready: Ready) -> ToAgent {
    let Ready { role, provider, environment, settings, session_id, last_sequence, journal_after, task } =
        ready;
    let config = AgentConfig {
        role: role.name,
        description: role.description,
        environment,
        environment_description: role.environment_description,
        model: ModelBackend {
            kind: provider.kind,
            domain: provider.domain,
            model: role.model.or(provider.default_model).unwrap_or_default(),
            config: provider.config,
        },
        thinking_effort: role.thinking_effort,
        max_continuations: Some(settings.max_continuations),
        max_context_tokens: Some(settings.max_context_tokens),
    };
    ToAgent::Welcome {
        protocol: PROTOCOL,
        workspace_id,
        config: Box::new(config),
        session: SessionPosition { session_id, last_sequence, journal_after },
        task: task.map(|order| Box::new(self::order(order))),
    }
}

pub(crate) fn order(order: Order) -> TaskOrder {
    let Order { task, uploads, last_sequence, journal_after, time_left_ms } = order;
    TaskOrder {
        task_id: task.id,
        session: SessionPosition { session_id: task.session_id, last_sequence, journal_after },
        description: task.description,
        thinking_effort: task.overrides.thinking_effort,
        max_continuations: task.overrides.max_continuations,
        max_context_tokens: task.overrides.max_context_tokens,
        time_left_ms,
        files: uploads
            .into_iter()
            .map(|upload| FileOrder { upload_id: upload.id, name: upload.name, size: upload.size })
            .collect(),
        cancel_requested: task.cancel_requested,
    }
}

/// A chunk that is not there is empty and the last one: the agent then has fewer bytes than were announced, and
/// rejects the task.
pub(crate) fn chunk(request: u64, chunk: Option<(Vec<u8>, bool)>) -> ToAgent {
    let (bytes, end) = chunk.unwrap_or((Vec::new(), true));
    ToAgent::Chunk { request, base64: base64::engine::general_purpose::STANDARD.encode(bytes), end }
}
