//! A turn under way: the effects of its steps.

use std::{sync::Arc, time::Duration};

use freehold_model::{
    EventId, MessageId, Timestamp,
    event::{SessionEvent, ToolCall},
};
use freehold_pod_api::{AgentConfig, TaskOrder};
use freehold_turn::{
    Begin, CONTEXT_TOKENS_DEFAULT, Effect, ITERATIONS_DEFAULT, Input, ModelRequest, Resume, Settings,
    ToolOutcome,
};
use tokio::{sync::Mutex, time::Instant};
use uuid::Uuid;

use super::{Agent, CLIENT_IDLE_MAX, Work, now};
use crate::{
    model::{self, Model, Unusable},
    prompt,
    tools::{self, ToolHost},
};

impl Agent {
    /// Begins the turn of a task, or goes on with it.
    pub(super) async fn start(&mut self, order: TaskOrder, received_at: Instant) {
        let (Some(config), Some(session)) = (&self.config, &self.session) else { return };
        let task_id = order.task_id;
        let settings = settings(config, &order);
        let cancel_requested = order.cancel_requested;
        let input = if session.state.open_task() == Some(task_id) {
            Input::Resume(Resume { settings, cancel_requested })
        } else if session.state.history().any(|record| record.task_id == task_id) {
            // Its ending is in the journal, and so known to the control plane.
            tracing::warn!(task.id = %task_id, "a task came again after it had ended");
            return;
        } else {
            Input::Begin(Begin {
                task_id,
                // One message begins one task: its id needs no other source.
                message_id: MessageId::from_uuid(task_id.uuid()),
                text: order.description.clone(),
                settings,
                cancel_requested,
            })
        };
        tracing::info!(task.id = %task_id, "working on a task");
        let grace = cancel_requested.then(|| Instant::now() + self.options.cancel_grace);
        let deadline = received_at + Duration::from_millis(order.time_left_ms);
        self.release_at = None;
        self.work = Some(Work { order, deadline, grace });
        self.step(input).await;
    }

    /// Gives the turn up. The conversation is read anew when it is needed: what we wrote last may not be in the journal.
    pub(super) async fn give_up(&mut self) {
        self.step(Input::GiveUp).await;
        self.work = None;
        self.session = None;
        self.journal.clear();
        self.idle();
    }

    /// One step of the turn and its effects.
    pub(super) async fn step(&mut self, input: Input) {
        let Some(session) = &mut self.session else { return };
        // One time for the step and its events: what is folded later is what was applied now.
        let ts = now();
        for effect in session.state.step(ts, input) {
            self.perform(effect, ts).await;
        }
    }

    async fn perform(&mut self, effect: Effect, ts: Timestamp) {
        match effect {
            Effect::Append { batch, payloads } => {
                let request = self.request();
                let Some(session) = &self.session else { return };
                let session_id = session.id;
                let event = |payload| SessionEvent {
                    id: EventId::from_uuid(Uuid::now_v7()),
                    session_id,
                    sequence: None,
                    ts,
                    context: session.state.context().clone(),
                    payload,
                };
                let events = payloads.into_iter().map(event).collect();
                let message = self.journal.append(request, batch, session_id, events);
                if self.is_welcome {
                    self.link.send(message.clone());
                }
            }
            Effect::CallModel(request) => match self.model() {
                Ok(model) => self.activity = Some(Box::pin(ask(model, request))),
                Err(error) => self.activity = Some(Box::pin(async move { model::unusable(&error) })),
            },
            Effect::RunTool(call) => self.activity = Some(Box::pin(run_tool(self.tools.clone(), call))),
            Effect::Wait { delay } => {
                self.activity = Some(Box::pin(async move {
                    tokio::time::sleep(delay).await;
                    Input::WaitOver
                }));
            }
            Effect::Abort => {
                self.activity = None;
                self.tools.lock().await.stop().await;
            }
            Effect::Finished(outcome) => {
                if let Some(work) = self.work.take() {
                    tracing::info!(task.id = %work.order.task_id, ?outcome, "the task has ended");
                }
                self.idle();
            }
        }
    }

    fn idle(&mut self) {
        self.release_at = Some(Instant::now() + CLIENT_IDLE_MAX);
        if let Some(model) = &mut self.model {
            // The prompt belongs to the task; client and connection stay for the next.
            model.system = Arc::from("");
        }
    }

    fn model(&mut self) -> Result<Model, Unusable> {
        let (Some(config), Some(work)) = (&self.config, &self.work) else {
            return Err(Unusable::NoConfig);
        };
        let model = match &mut self.model {
            Some(model) => model,
            empty => {
                let (url, roots) = (self.options.model_url.as_ref(), self.options.trust_file.clone());
                empty.insert(Model {
                    client: Arc::new(model::client(&config.model, url, roots)?),
                    name: config.model.model.as_str().into(),
                    system: Arc::from(""),
                    tools: tools::specs().into(),
                    thinking_effort: None,
                    output_tokens_max: model::output_tokens_max(&config.model)?,
                    sent: Arc::default(),
                })
            }
        };
        if model.system.is_empty() {
            model.system = prompt::system(config, &work.order, &self.options.data).into();
            model.thinking_effort = work.order.thinking_effort.or(config.thinking_effort);
        }
        Ok(model.clone())
    }
}

fn settings(config: &AgentConfig, order: &TaskOrder) -> Settings {
    let iterations_max = order.max_continuations.or(config.max_continuations);
    let context_tokens_max = order.max_context_tokens.or(config.max_context_tokens);
    Settings {
        iterations_max: iterations_max.unwrap_or(ITERATIONS_DEFAULT),
        context_tokens_max: context_tokens_max.unwrap_or(CONTEXT_TOKENS_DEFAULT),
        tools: tools::NAMES.into(),
    }
}

async fn ask(model: Model, request: ModelRequest) -> Input {
    model.ask(request).await
}

async fn run_tool(tools: Arc<Mutex<ToolHost>>, call: ToolCall) -> Input {
    let begun = std::time::Instant::now();
    let (status, result) = tools.lock().await.call(call).await;
    let duration_ms = u64::try_from(begun.elapsed().as_millis()).unwrap_or(u64::MAX);
    Input::ToolEnded(ToolOutcome { status, result, duration_ms })
}
