//! The session view; its shape is documented in `docs/pod-api.md`.

use freehold_model::{TaskId, event::Usage};
use freehold_pod_api::AgentConfig;
use freehold_turn::{Doing, State, TurnRecord};
use serde_json::{Value, json};

use crate::session::Session;

pub(crate) fn view(
    config: Option<&AgentConfig>,
    session: Option<&Session>,
    preparing: Option<TaskId>,
) -> Value {
    let state = session.map(|session| &session.state);
    let current = state
        .and_then(current)
        .or_else(|| preparing.map(|task_id| json!({"task_id": task_id, "activity": "preparing"})));
    json!({
        "agent": {"name": crate::agent::NAME, "version": env!("CARGO_PKG_VERSION")},
        "role": config.map(|config| &config.role),
        "model": config.map(|config| &config.model.model),
        "session_id": session.map(|session| session.id),
        "current_task": current,
        "task_history": state.map_or_else(Vec::new, |state| state.history().rev().map(record).collect()),
        "iterations": {
            "session": state.map_or(0, State::iterations),
            "task": state.and_then(|state| state.history().last()).map_or(0, |record| record.iterations),
            "task_max": state.map(|state| state.settings().iterations_max),
        },
        "context_window": {
            "tokens": state.map_or(0, |state| state.conversation().tokens()),
            "tokens_max": state.map(|state| state.settings().context_tokens_max),
            "messages": state.map_or(0, |state| state.conversation().message_count()),
            "compactions": state.map_or(0, State::compactions),
        },
    })
}

fn current(state: &State) -> Option<Value> {
    let (activity, tool) = match state.doing() {
        Doing::Nothing => return None,
        Doing::Journalling => ("journalling", None),
        Doing::CallingModel => ("calling_model", None),
        Doing::WaitingToRetry => ("waiting_to_retry", None),
        Doing::Compacting => ("compacting", None),
        Doing::RunningTool(name) => ("running_tool", Some(name)),
    };
    let task_id = state.open_task()?;
    Some(json!({"task_id": task_id, "activity": activity, "tool": tool}))
}

fn record(record: &TurnRecord) -> Value {
    let Usage { input_tokens, output_tokens, cache_read_tokens, cache_creation_tokens } = record.usage;
    json!({
        "task_id": record.task_id,
        "status": record.status.as_str(),
        "started_at": record.started_at,
        "ended_at": record.ended_at,
        "iterations": record.iterations,
        "usage": {
            "input_tokens": input_tokens,
            "output_tokens": output_tokens,
            "cache_read_tokens": cache_read_tokens,
            "cache_creation_tokens": cache_creation_tokens,
        },
        "error": record.error,
    })
}
