//! Each file of `transcripts/` says what happened; the snapshot beside it says what the loop wanted done.

mod support;

use std::{fmt::Write, time::Duration};

use freehold_model::event::{Payload, StopReason, ToolCall, ToolStatus};
use freehold_turn::{Effect, Failure, FailureKind, Input, Item, Resume, Settings, ToolOutcome};
use serde::Deserialize;
use serde_json::Value;
use support::{World, answer, begin, settings};

#[derive(Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
enum Line {
    Begin {
        text: String,
        iterations_max: Option<u32>,
        context_tokens_max: Option<u64>,
        #[serde(default)]
        cancel_requested: bool,
    },
    Ack,
    Answer {
        #[serde(default)]
        text: String,
        #[serde(default)]
        calls: Vec<(String, String, Value)>,
        tokens: Option<(u64, u64)>,
        stop: Option<StopReason>,
    },
    Fail {
        kind: String,
        retry_in_ms: Option<u64>,
    },
    Tool {
        status: ToolStatus,
        result: String,
    },
    WaitOver,
    Cancel,
    GraceOver,
    TimeUp,
    GiveUp,
    /// The process dies and a new one reads what was durable.
    Crash {
        #[serde(default)]
        cancel_requested: bool,
    },
}

fn failure_kind(name: &str) -> FailureKind {
    match name {
        "rate_limited" => FailureKind::RateLimited,
        "unavailable" => FailureKind::Unavailable,
        "too_long" => FailureKind::TooLong,
        "misconfigured" => FailureKind::Misconfigured,
        "refused" => FailureKind::Refused,
        other => panic!("unknown failure {other}"),
    }
}

fn run(world: &mut World, line: Line, number: u128) -> Vec<Effect> {
    let input = match line {
        Line::Begin { text, iterations_max, context_tokens_max, cancel_requested } => {
            let default = settings();
            let settings = Settings {
                iterations_max: iterations_max.unwrap_or(default.iterations_max),
                context_tokens_max: context_tokens_max.unwrap_or(default.context_tokens_max),
                ..default
            };
            match begin(&text, settings) {
                Input::Begin(begin) => Input::Begin(freehold_turn::Begin { cancel_requested, ..begin }),
                other => other,
            }
        }
        Line::Ack => return world.acknowledge(),
        Line::Answer { text, calls, tokens, stop } => {
            let calls = calls.into_iter().map(|(id, name, arguments)| ToolCall { id, name, arguments });
            let mut answer = answer(number, &text, calls.collect(), tokens);
            answer.stop_reason = stop.unwrap_or(answer.stop_reason);
            Input::ModelAnswered(answer)
        }
        Line::Fail { kind, retry_in_ms } => Input::ModelFailed(Failure {
            message: kind.replace('_', " "),
            kind: failure_kind(&kind),
            retry_in: retry_in_ms.map(Duration::from_millis),
            duration_ms: 3,
        }),
        Line::Tool { status, result } => Input::ToolEnded(ToolOutcome { status, result, duration_ms: 7 }),
        Line::WaitOver => Input::WaitOver,
        Line::Cancel => Input::CancelAsked,
        Line::GraceOver => Input::GraceOver,
        Line::TimeUp => Input::TimeUp,
        Line::GiveUp => Input::GiveUp,
        Line::Crash { cancel_requested } => {
            let settings = world.state.settings().clone();
            *world = world.restarted(world.journal.len());
            Input::Resume(Resume { settings, cancel_requested })
        }
    };
    world.step(input)
}

fn show(text: &mut String, effect: &Effect) {
    match effect {
        Effect::Append { batch, payloads } => {
            let _ = writeln!(text, "    append {batch}");
            for payload in payloads {
                let _ = writeln!(text, "      {} {}", payload.type_name(), detail(payload));
            }
        }
        Effect::CallModel(request) => {
            let _ = writeln!(text, "    call the model: {:?}, attempt {}", request.kind, request.attempt);
            for item in &request.items {
                let item = match item {
                    Item::Message(message) => {
                        format!("{:?} {}", message.role, serde_json::json!(message.content))
                    }
                    Item::Result(result) => {
                        format!("Result {} {:?} {}", result.tool_call_id, result.status, result.text)
                    }
                    Item::Note(note) => format!("Note {note:?}"),
                };
                let _ = writeln!(text, "      {item}");
            }
        }
        Effect::RunTool(call) => {
            let _ = writeln!(text, "    run {} {} {}", call.id, call.name, call.arguments);
        }
        Effect::Wait { delay } => {
            let _ = writeln!(text, "    wait {delay:?}");
        }
        Effect::Abort => text.push_str("    abort\n"),
        Effect::Finished(outcome) => {
            let _ = writeln!(text, "    finished: {outcome:?}");
        }
    }
}

fn detail(payload: &Payload) -> String {
    serde_json::to_value(payload).expect("payloads serialize")["data"].to_string()
}

#[test]
fn transcripts_lead_to_the_effects_of_their_snapshots() {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/transcripts");
    let mut count = 0;
    for file in std::fs::read_dir(folder).unwrap() {
        let path = file.unwrap().path();
        if path.extension().is_none_or(|extension| extension != "jsonl") {
            continue;
        }
        let (mut world, mut shown) = (World::default(), String::new());
        for (number, line) in std::fs::read_to_string(&path).unwrap().lines().enumerate() {
            let _ = writeln!(shown, "{line}");
            let parsed =
                serde_json::from_str(line).unwrap_or_else(|error| panic!("{path:?}:{}: {error}", number + 1));
            for effect in run(&mut world, parsed, number as u128) {
                show(&mut shown, &effect);
            }
        }
        let name = path.file_stem().unwrap().to_string_lossy().into_owned();
        insta::with_settings!({ snapshot_path => "transcripts", prepend_module_to_snapshot => false, omit_expression => true }, {
            insta::assert_snapshot!(name, shown);
        });
        count += 1;
    }
    assert!(count > 10, "only {count} transcripts were found");
}
