//! Random turns, cut at every event of their journal: whatever the model says and wherever the agent dies, a resumed
//! turn ends, runs nothing twice and leaves a conversation that is well-formed.

mod support;

use std::{collections::HashMap, time::Duration};

use freehold_model::event::{ContentPart, MessageRole, Payload, SessionEvent, ToolCall, ToolStatus};
use freehold_turn::{
    Effect, Failure, FailureKind, Input, Item, MODEL_ATTEMPTS_MAX, ModelRequest, RequestKind, Resume,
    Settings, ToolOutcome,
};
use proptest::prelude::*;
use support::{World, answer, begin, settings};

/// The most steps of one run, so that a loop that does not end fails the test.
const STEPS_MAX: usize = 2000;

#[derive(Debug, Clone)]
enum Reply {
    Answer { text: bool, calls: Vec<(u8, u8)>, tokens: u64 },
    Failure { kind: u8, again: bool },
}

#[derive(Debug, Clone)]
struct Script {
    replies: Vec<Reply>,
    context_tokens_max: u64,
    /// At which of its effects the turn is cancelled, or its time is up.
    stop: Option<(u8, usize)>,
}

fn scripts() -> impl Strategy<Value = Script> {
    let calls = proptest::collection::vec((0..4_u8, 0..4_u8), 0..4);
    let reply = prop_oneof![
        4 => (any::<bool>(), calls, 0..400_u64)
            .prop_map(|(text, calls, tokens)| Reply::Answer { text, calls, tokens }),
        1 => (0..5_u8, any::<bool>()).prop_map(|(kind, again)| Reply::Failure { kind, again }),
    ];
    (proptest::collection::vec(reply, 0..12), 50..400_u64, proptest::option::of((0..3_u8, 0..20_usize)))
        .prop_map(|(replies, context_tokens_max, stop)| Script { replies, context_tokens_max, stop })
}

impl Script {
    fn settings(&self) -> Settings {
        Settings { iterations_max: 8, context_tokens_max: self.context_tokens_max, ..settings() }
    }

    fn reply(&self, index: usize) -> Input {
        let Some(reply) = self.replies.get(index) else {
            return Input::ModelAnswered(answer(index as u128, "the end", Vec::new(), None));
        };
        match reply {
            Reply::Answer { text, calls, tokens } => {
                let calls = calls.iter().map(|&(id, kind)| ToolCall {
                    id: if id == 0 { String::new() } else { format!("call-{id}") },
                    name: ["bash", "read_file", "nonsense", "bash"][usize::from(kind)].into(),
                    arguments: if kind == 3 { "not json".into() } else { serde_json::json!({"n": id}) },
                });
                let text = if *text { "some words" } else { "" };
                let tokens = (*tokens > 0).then_some((*tokens, 10));
                Input::ModelAnswered(answer(index as u128, text, calls.collect(), tokens))
            }
            Reply::Failure { kind, again } => Input::ModelFailed(Failure {
                kind: [
                    FailureKind::RateLimited,
                    FailureKind::Unavailable,
                    FailureKind::TooLong,
                    FailureKind::Misconfigured,
                    FailureKind::Refused,
                ][usize::from(*kind)],
                message: "no".into(),
                retry_in: again.then_some(Duration::from_millis(1)),
                duration_ms: 1,
            }),
        }
    }
}

/// What one process did: tools and model calls, with the length of the durable journal when it did.
struct Run {
    world: World,
    tools: Vec<(usize, String)>,
    finished: bool,
}

fn check_request(request: &ModelRequest) {
    if request.kind == RequestKind::Compact {
        return;
    }
    let mut open: Vec<&str> = Vec::new();
    let mut last_was_cut_answer = false;
    for item in &request.items {
        match item {
            Item::Result(result) => {
                let index = open.iter().position(|id| *id == result.tool_call_id);
                open.remove(index.expect("a result of no open call"));
                last_was_cut_answer = false;
            }
            Item::Message(message) => {
                assert!(open.is_empty(), "calls without results: {open:?}");
                assert!(!(last_was_cut_answer && message.role == MessageRole::Agent));
                open = message
                    .content
                    .iter()
                    .filter_map(|part| match part {
                        ContentPart::ToolCall(call) => Some(call.id.as_str()),
                        _ => None,
                    })
                    .collect();
                last_was_cut_answer = message.role == MessageRole::Agent && open.is_empty();
            }
            Item::Note(_) => last_was_cut_answer = false,
        }
    }
    assert!(open.is_empty() && !last_was_cut_answer, "the request ends with the model's own words");
}

fn payloads(world: &World) -> impl DoubleEndedIterator<Item = &Payload> {
    world.journal.iter().map(|event| &event.payload)
}

/// Whether the journal announced this model call and nothing else since.
fn is_announced(world: &World, kind: RequestKind) -> bool {
    let last = payloads(world).rfind(|payload| !matches!(payload, Payload::LlmRetrying { .. }));
    match kind {
        RequestKind::Reason => matches!(last, Some(Payload::ReasonStarted { .. })),
        RequestKind::Compact => matches!(last, Some(Payload::ContextCompacting { .. })),
    }
}

fn drive(mut world: World, script: &Script, first: Input, mut replies: usize) -> Run {
    let mut tools = Vec::new();
    let mut effects = std::collections::VecDeque::from(world.step(first));
    let mut finished = false;
    for count in 0..STEPS_MAX {
        let Some(effect) = effects.pop_front() else { break };
        if let Some((kind, at)) = script.stop
            && count == at
        {
            let input = [Input::CancelAsked, Input::GraceOver, Input::TimeUp][usize::from(kind)].clone();
            let more = world.step(input);
            let aborted = more.contains(&Effect::Abort);
            effects.extend(more);
            if aborted && !matches!(effect, Effect::Append { .. } | Effect::Finished(_)) {
                continue;
            }
        }
        let more = match effect {
            Effect::Append { .. } => world.acknowledge(),
            Effect::CallModel(request) => {
                check_request(&request);
                assert!(world.pending.is_empty() && is_announced(&world, request.kind));
                assert!(request.attempt <= MODEL_ATTEMPTS_MAX);
                replies += 1;
                world.step(script.reply(replies - 1))
            }
            Effect::RunTool(call) => {
                let announced = payloads(&world).any(
                    |payload| matches!(payload, Payload::ToolStarted { tool_call } if tool_call.id == call.id),
                );
                assert!(announced, "{} ran before it was journalled", call.id);
                tools.push((world.journal.len(), call.id));
                let (status, result) = (ToolStatus::Success, "ok".into());
                world.step(Input::ToolEnded(ToolOutcome { status, result, duration_ms: 1 }))
            }
            Effect::Wait { .. } => world.step(Input::WaitOver),
            Effect::Abort => Vec::new(),
            Effect::Finished(_) => {
                finished = true;
                Vec::new()
            }
        };
        effects.extend(more);
    }
    Run { world, tools, finished }
}

/// How many events come before the first message that the last compaction kept.
fn journal_after(journal: &[SessionEvent]) -> Option<usize> {
    let compacted = journal.iter().enumerate().rev().find_map(|(index, event)| match &event.payload {
        Payload::ContextCompacted { first_kept_message_id, checkpoint: Some(_), .. } => {
            Some((index, *first_kept_message_id))
        }
        _ => None,
    });
    let (index, first_kept) = compacted?;
    let Some(first_kept) = first_kept else { return Some(index) };
    journal.iter().position(|event| match &event.payload {
        Payload::InputMessage { message } | Payload::OutputMessageCompleted { message, .. } => {
            message.id == first_kept
        }
        _ => false,
    })
}

fn check_journal(world: &World) {
    let mut calls: HashMap<&str, (u32, u32)> = HashMap::new();
    let mut reasons = 0_i32;
    let mut endings = 0;
    for payload in payloads(world) {
        match payload {
            Payload::ToolStarted { tool_call } => calls.entry(&tool_call.id).or_default().0 += 1,
            Payload::ToolCompleted { tool_call_id, .. } => calls.entry(tool_call_id).or_default().1 += 1,
            Payload::ReasonStarted { .. } => reasons += 1,
            Payload::ReasonCompleted { .. } => reasons -= 1,
            Payload::TurnCompleted { .. } | Payload::TurnFailed { .. } | Payload::TurnCancelled { .. } => {
                endings += 1
            }
            _ => {}
        }
        assert!((0..=1).contains(&reasons));
    }
    assert_eq!((reasons, endings), (0, 1));
    for (id, (started, completed)) in calls {
        assert!(started <= 1 && completed == 1, "{id}: started {started} times, completed {completed} times");
    }
    assert!(matches!(payloads(world).next_back(), Some(Payload::SessionIdled { .. })));
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_turn_cut_at_any_event_is_resumed_and_runs_nothing_twice(script in scripts()) {
        let whole = drive(World::default(), &script, begin("do it", script.settings()), 0);
        prop_assert!(whole.finished, "the turn does not end");
        check_journal(&whole.world);

        for cut in 0..=whole.world.journal.len() {
            let world = whole.world.restarted(cut);
            let open = world.state.open_task().is_some();
            let resume = Resume { settings: script.settings(), cancel_requested: false };
            let replies = whole.world.journal[..cut].iter()
                .filter(|event| matches!(event.payload, Payload::OutputMessageCompleted { .. })).count();
            let script = Script { stop: None, ..script.clone() };
            let resumed = drive(world, &script, Input::Resume(resume), replies);
            prop_assert_eq!(resumed.finished, open, "cut at {}", cut);
            if open {
                check_journal(&resumed.world);
            }
            for (length, id) in &whole.tools {
                let again = resumed.tools.iter().any(|(_, other)| other == id);
                prop_assert!(*length > cut || !again, "{} ran twice, cut at {}", id, cut);
            }
        }
    }

    #[test]
    fn a_folded_journal_is_the_state_that_wrote_it(script in scripts()) {
        let whole = drive(World::default(), &script, begin("do it", script.settings()), 0);
        let folded = whole.world.restarted(whole.world.journal.len());
        prop_assert_eq!(folded.state.conversation(), whole.world.state.conversation());
        prop_assert!(folded.state.history().eq(whole.world.state.history()));
        prop_assert_eq!(folded.state.iterations(), whole.world.state.iterations());
    }

    #[test]
    fn a_journal_read_from_its_last_compaction_is_the_journal(script in scripts()) {
        let whole = drive(World::default(), &script, begin("do it", script.settings()), 0).world;
        for cut in 0..=whole.journal.len() {
            let Some(after) = journal_after(&whole.journal[..cut]) else { continue };
            let (folded, tail) = (whole.restarted(cut), whole.restarted_after(after, cut));
            prop_assert_eq!(tail.state.conversation(), folded.state.conversation(), "{}..{}", after, cut);
            prop_assert!(tail.state.history().eq(folded.state.history()));
            prop_assert_eq!(tail.state.iterations(), folded.state.iterations());
            prop_assert_eq!(tail.state.compactions(), folded.state.compactions());
            prop_assert_eq!(tail.state.context(), folded.state.context());
            prop_assert_eq!(tail.state.open_task(), folded.state.open_task());
            let resume = || Input::Resume(Resume { settings: script.settings(), cancel_requested: false });
            prop_assert_eq!(Clone::clone(&tail.state).step(whole.now(), resume()),
                Clone::clone(&folded.state).step(whole.now(), resume()));
        }
    }
}
