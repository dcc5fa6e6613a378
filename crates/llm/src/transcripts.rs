//! The decoders against transcripts of the real wires, cut into pieces in every way.

use bytes::Bytes;
use freehold_model::event::{ContentPart, StopReason, ToolCall, Usage};
use futures::stream;
use proptest::prelude::*;
use serde_json::{Value, json};

use crate::read::{self, Decode};
use crate::{Answer, Delta, Error, Item, Request, Written, anthropic, chat, responses};

const ANTHROPIC: &str = include_str!("../fixtures/anthropic.sse");
const RESPONSES: &str = include_str!("../fixtures/responses.sse");
const CHAT: &str = include_str!("../fixtures/chat.sse");

#[derive(Debug, Clone, Copy)]
enum Wire {
    Anthropic,
    Responses,
    Chat,
}

const WIRES: [(Wire, &str); 3] =
    [(Wire::Anthropic, ANTHROPIC), (Wire::Responses, RESPONSES), (Wire::Chat, CHAT)];

fn decoder(wire: Wire) -> Box<dyn Decode> {
    match wire {
        Wire::Anthropic => Box::<anthropic::Decoder>::default(),
        Wire::Responses => Box::<responses::Decoder>::default(),
        Wire::Chat => Box::<chat::Decoder>::default(),
    }
}

/// Decodes pieces; gives the answer and the progress told on the way.
fn decode(wire: Wire, pieces: &[&[u8]]) -> (Result<Answer, Error>, String) {
    let mut told = String::new();
    let mut tell = |delta: Delta<'_>| match delta {
        Delta::Text(text) => told.push_str(text),
        Delta::Reasoning(text) => told.extend(["<", text, ">"]),
        Delta::ToolCallStarted { name, .. } => told.extend(["[", name, "]"]),
    };
    let pieces = stream::iter(pieces.iter().map(|piece| Ok(Bytes::copy_from_slice(piece))));
    let answer = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .build()
        .unwrap()
        .block_on(read::answer(pieces, &mut *decoder(wire), &mut tell));
    (answer, told)
}

fn whole(wire: Wire, transcript: &str) -> Answer {
    decode(wire, &[transcript.as_bytes()]).0.unwrap()
}

fn text(text: &str) -> ContentPart {
    ContentPart::Text { text: text.to_owned() }
}

fn call(id: &str, name: &str, arguments: Value) -> ContentPart {
    ContentPart::ToolCall(ToolCall { id: id.to_owned(), name: name.to_owned(), arguments })
}

const USAGE: Usage =
    Usage { input_tokens: 2_640, output_tokens: 89, cache_read_tokens: 2_048, cache_creation_tokens: 0 };

#[test]
fn an_anthropic_answer_is_read_in_full() {
    let (answer, told) = decode(Wire::Anthropic, &[ANTHROPIC.as_bytes()]);
    let thinking = "I have to look up the weather in Zürich, 苏黎世.";
    let signature = "EqQBCgIYAhIM1gbcDa9GJwZA2b3hGgxBdjrkzLoky3dl1pkiMOYds";
    let redacted = "EmwKAhgBEgy3va3pzix/LafPsn4aDFIT2Xlxh0L5L8rLVyIwxtE3rAFBa8cr3qpP";
    assert_eq!(
        answer.unwrap(),
        Answer {
            content: vec![
                ContentPart::Reasoning {
                    text: thinking.to_owned(),
                    replay: Some(json!({"anthropic": {"type": "thinking", "signature": signature}})),
                },
                ContentPart::Reasoning {
                    text: String::new(),
                    replay: Some(json!({"anthropic": {"type": "redacted_thinking", "data": redacted}})),
                },
                text("Let me check the weather 🌦."),
                call(
                    "toolu_01T1x1fJ34qAmk2tNTrN7Up6",
                    "get_weather",
                    json!({"location": "Zürich", "unit": "celsius"})
                ),
            ],
            stop_reason: StopReason::ToolUse,
            usage: Usage { cache_creation_tokens: 120, ..USAGE },
            model: "claude-opus-4-6".to_owned(),
        }
    );
    assert_eq!(
        told,
        "<I have to look up the weather ><in Zürich, 苏黎世.>Let me check the weather 🌦.[get_weather]"
    );
}

#[test]
fn a_responses_answer_is_read_in_full() {
    let (answer, told) = decode(Wire::Responses, &[RESPONSES.as_bytes()]);
    let item = json!({
        "id": "rs_68af4030baa48193b0b43b4c2a176a1a05438e46b5f69a3b", "type": "reasoning",
        "encrypted_content": "gAAAAABotgE0kq7pDrvQ",
        "summary": [{"type": "summary_text", "text": "**Checking the weather** in Zürich"}],
    });
    assert_eq!(
        answer.unwrap(),
        Answer {
            content: vec![
                ContentPart::Reasoning {
                    text: "**Checking the weather** in Zürich".to_owned(),
                    replay: Some(json!({ "openai_responses": item })),
                },
                text("Let me check 🌦."),
                call("call_12345xyz", "get_weather", json!({"location": "Zürich"})),
            ],
            stop_reason: StopReason::ToolUse,
            usage: USAGE,
            model: "gpt-5-2025-08-07".to_owned(),
        }
    );
    assert_eq!(told, "<**Checking the weather** in Zürich>Let me check 🌦.[get_weather]");
}

#[test]
fn a_chat_answer_is_read_in_full() {
    let (answer, told) = decode(Wire::Chat, &[CHAT.as_bytes()]);
    assert_eq!(
        answer.unwrap(),
        Answer {
            content: vec![
                text("Let me check 🌦."),
                call("call_DdmO9pD3xa9XTPNJ32zg2hcA", "get_weather", json!({"location": "Zürich"})),
                call("call_Xx2", "now", json!({})),
            ],
            stop_reason: StopReason::ToolUse,
            usage: USAGE,
            model: "gpt-4.1-2025-04-14".to_owned(),
        }
    );
    assert_eq!(told, "Let me check 🌦.[get_weather][now]");
}

#[test]
fn an_answer_is_the_same_wherever_its_bytes_are_split() {
    for (wire, transcript) in WIRES {
        let expected = whole(wire, transcript);
        let bytes = transcript.as_bytes();
        for at in 0..bytes.len() {
            let (first, second) = bytes.split_at(at);
            assert_eq!(decode(wire, &[first, second]).0.unwrap(), expected, "{wire:?} split at {at}");
        }
    }
}

#[test]
fn an_answer_cut_anywhere_is_never_taken_for_a_finished_one() {
    for (wire, transcript) in WIRES {
        let bytes = transcript.as_bytes();
        for at in 0..bytes.len() {
            let (answer, _) = decode(wire, &[&bytes[..at]]);
            let error = answer.expect_err("a cut answer");
            assert!(matches!(error, Error::Unavailable { .. }), "{wire:?} cut at {at}: {error}");
        }
    }
}

proptest! {
    #[test]
    fn an_answer_is_the_same_however_its_bytes_are_split(mut cuts in prop::collection::vec(0_usize..4_000, 0..64)) {
        cuts.sort_unstable();
        for (wire, transcript) in WIRES {
            let bytes = transcript.as_bytes();
            let mut pieces = Vec::new();
            let mut from = 0;
            for to in cuts.iter().copied().chain([bytes.len()]) {
                let to = to.clamp(from, bytes.len());
                pieces.push(&bytes[from..to]);
                from = to;
            }
            prop_assert_eq!(decode(wire, &pieces).0.unwrap(), whole(wire, transcript));
        }
    }

    #[test]
    fn no_bytes_make_a_decoder_panic(bytes in prop::collection::vec(any::<u8>(), 0..512), at in 0_usize..4_000) {
        for (wire, transcript) in WIRES {
            let at = at.min(transcript.len());
            let (before, after) = transcript.as_bytes().split_at(at);
            _ = decode(wire, &[before, &bytes, after]);
        }
    }
}

#[test]
fn an_error_in_the_stream_has_the_class_of_its_kind() {
    let anthropic = |kind| {
        format!(
            "event: error\ndata: {{\"type\":\"error\",\"error\":{{\"type\":\"{kind}\",\"message\":\"m\"}}}}\n\n"
        )
    };
    let flat = |code| {
        format!("event: error\ndata: {{\"type\":\"error\",\"code\":\"{code}\",\"message\":\"m\"}}\n\n")
    };
    let failed = |code| {
        format!(
            "data: {{\"type\":\"response.failed\",\"response\":{{\"status\":\"failed\",\"model\":\"m\",\"error\":{{\"code\":\"{code}\",\"message\":\"m\"}}}}}}\n\n"
        )
    };
    let chat = |code| format!("data: {{\"error\":{{\"code\":\"{code}\",\"message\":\"m\"}}}}\n\n");
    for (wire, event, expected) in [
        (Wire::Anthropic, anthropic("overloaded_error"), "Unavailable"),
        (Wire::Anthropic, anthropic("api_error"), "Unavailable"),
        (Wire::Anthropic, anthropic("rate_limit_error"), "RateLimited"),
        (Wire::Anthropic, anthropic("invalid_request_error"), "Refused"),
        (Wire::Responses, flat("server_error"), "Unavailable"),
        (Wire::Responses, flat("rate_limit_exceeded"), "RateLimited"),
        (Wire::Responses, failed("context_length_exceeded"), "ContextTooLong"),
        (Wire::Responses, failed("server_error"), "Unavailable"),
        (Wire::Chat, chat("invalid_api_key"), "Unauthorized"),
        (Wire::Chat, chat("unheard_of"), "Unavailable"),
    ] {
        let error = decode(wire, &[event.as_bytes()]).0.unwrap_err();
        assert!(format!("{error:?}").starts_with(expected), "{event}{error:?}");
    }
}

#[test]
fn an_answer_goes_back_as_it_came() {
    for (wire, transcript) in WIRES {
        let answer = whole(wire, transcript);
        let user = [text("What is the weather?")];
        let results: Vec<&str> = answer
            .content
            .iter()
            .filter_map(|part| if let ContentPart::ToolCall(call) = part { Some(&*call.id) } else { None })
            .collect();
        let mut items = vec![Item::User(&user), Item::Assistant(&answer.content)];
        items.extend(results.iter().map(|id| Item::ToolResult {
            call_id: id,
            name: "t",
            text: "12 °C",
            is_error: false,
        }));
        let request = Request {
            model: "m",
            system: "be brief",
            items: &items,
            tools: &[],
            thinking_effort: None,
            max_output_tokens: 1_000,
        };
        let body = match wire {
            Wire::Anthropic => anthropic::body(&request, &mut Written::default()),
            Wire::Responses => responses::body(&request, &mut Written::default()),
            Wire::Chat => chat::body(&request, &mut Written::default()),
        };
        let body: Value = serde_json::from_str(&body.unwrap().text()).unwrap();
        insta::assert_json_snapshot!(format!("{wire:?}"), body);
    }
}

#[test]
fn reasoning_of_another_wire_is_left_out() {
    let foreign = whole(Wire::Anthropic, ANTHROPIC).content;
    let request = Request {
        model: "m",
        system: "",
        items: &[Item::Assistant(&foreign[..2])],
        tools: &[],
        thinking_effort: None,
        max_output_tokens: 1_000,
    };
    let body: Value =
        serde_json::from_str(&responses::body(&request, &mut Written::default()).unwrap().text()).unwrap();
    assert_eq!(body["input"], json!([]));
}
