//! The client against a real server on a real socket, which plays scripted answers and faults.

#![expect(clippy::unwrap_used, reason = "a step that fails fails the test")]

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use freehold_llm::{Answer, Client, Delta, Error, Item, Options, Request, Timeouts, ToolSpec, Wire};
use freehold_model::event::{ContentPart, StopReason};
use freehold_model::role::ThinkingEffort;
use freehold_sim_model::{Handle, Scenario, serve, tls};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

const WIRES: [Wire; 3] = [Wire::AnthropicMessages, Wire::OpenAiResponses, Wire::OpenAiChat];

async fn model(scenario: &str) -> Handle {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    serve(listener, Scenario::parse(scenario).unwrap(), None).unwrap()
}

fn options(wire: Wire, base_url: &str) -> Options {
    Options {
        wire,
        base_url: base_url.parse().unwrap(),
        api_key: "the-key".to_owned(),
        roots: None,
        timeouts: Timeouts::default(),
    }
}

fn client(wire: Wire, model: &Handle) -> Client {
    Client::new(options(wire, &format!("http://{}", model.address())))
}

async fn ask(client: &Client, items: &[Item<'_>]) -> Result<Answer, Error> {
    let tools = [ToolSpec {
        name: "bash".to_owned(),
        description: "Runs a command".to_owned(),
        input_schema: json!({"type": "object", "properties": {"command": {"type": "string"}}}),
    }];
    let request = Request {
        model: "scripted",
        system: "You are scripted.",
        items,
        tools: &tools,
        thinking_effort: Some(ThinkingEffort::Low),
        max_output_tokens: 4_096,
    };
    client.ask(&request, &mut |_| {}).await
}

fn said(text: &str) -> Vec<ContentPart> {
    vec![ContentPart::Text { text: text.to_owned() }]
}

/// Plays a conversation to its end, answering each tool call with `result`.
async fn play(client: &Client, user: &str, result: impl Fn(&str, &Value) -> String) -> Vec<Answer> {
    let user = said(user);
    let mut answers: Vec<Answer> = Vec::new();
    let mut results: Vec<Vec<(String, String, String)>> = Vec::new();
    for _ in 0..32 {
        let mut items = vec![Item::User(&user)];
        for (answer, results) in answers.iter().zip(&results) {
            items.push(Item::Assistant(&answer.content));
            items.extend(results.iter().map(|(id, name, text)| Item::ToolResult {
                call_id: id,
                name,
                text,
                is_error: false,
            }));
        }
        let answer = ask(client, &items).await.unwrap();
        let calls = answer.content.iter().filter_map(|part| match part {
            ContentPart::ToolCall(call) => {
                Some((call.id.clone(), call.name.clone(), result(&call.name, &call.arguments)))
            }
            _ => None,
        });
        results.push(calls.collect());
        let ended = answer.stop_reason != StopReason::ToolUse;
        answers.push(answer);
        if ended {
            return answers;
        }
    }
    panic!("the conversation does not end");
}

#[tokio::test]
async fn a_conversation_with_reasoning_and_tools_goes_to_its_end_on_every_wire() {
    let scenario = r#"
require_key: the-key
rules:
  - when: {user: "*first*", model: "scr*"}
    answers:
      - chunk_chars: 3
        steps:
          - reasoning: "Let me think: müßig."
          - text: "I'll ask two tools."
          - tool: {name: bash, arguments: {command: "echo {{user}}"}}
          - tool: {name: bash, arguments: {command: "second"}}
      - steps: [{tool: {name: bash, arguments: {command: "{{result 1}} and {{result}}"}}}]
        usage: {input: 10, output: 20, cache_read: 30}
      - steps: [{text: "All done: {{result}}"}]
"#;
    let model = model(scenario).await;
    for wire in WIRES {
        let answers = play(&client(wire, &model), "the first", |_, args| {
            format!("ran {}", args["command"].as_str().unwrap())
        })
        .await;
        assert_eq!(answers.len(), 3, "{wire:?}");
        assert!(
            matches!(&answers[0].content[0], ContentPart::Reasoning { text, .. } if text == "Let me think: müßig.")
        );
        assert_eq!(answers[0].content.len(), 4);
        assert_eq!(answers[1].usage.input_tokens, 40);
        assert_eq!(answers[1].usage.cache_read_tokens, 30);
        assert_eq!(answers[1].usage.output_tokens, 20);
        let last = "All done: ran ran echo the first and ran second";
        assert_eq!(answers[2].content, said(last), "{wire:?}");
    }
}

#[tokio::test]
async fn progress_is_told_as_it_comes() {
    let model = model("default: {chunk_chars: 2, steps: [{text: hello}, {tool: {name: bash}}]}").await;
    for wire in WIRES {
        let client = client(wire, &model);
        let mut told = Vec::new();
        let user = said("hi");
        let request = Request {
            model: "m",
            system: "",
            items: &[Item::User(&user)],
            tools: &[],
            thinking_effort: None,
            max_output_tokens: 100,
        };
        let mut tell = |delta: Delta<'_>| match delta {
            Delta::Text(text) => told.push(text.to_owned()),
            Delta::ToolCallStarted { name, .. } => told.push(format!("[{name}]")),
            Delta::Reasoning(_) => {}
        };
        client.ask(&request, &mut tell).await.unwrap();
        assert_eq!(told, ["he", "ll", "o", "[bash]"], "{wire:?}");
    }
}

#[tokio::test]
async fn a_fault_is_an_error_of_its_class_on_every_wire() {
    for (answer, class) in [
        ("{http: {status: 429, headers: {retry-after: \"7\"}}}", "RateLimited { after: Some(7s)"),
        ("{http: {status: 529}}", "Unavailable"),
        (
            "{http: {status: 503, headers: {retry-after-ms: \"1500\"}, body: busy}}",
            "Unavailable { after: Some(1.5s)",
        ),
        ("{http: {status: 400}}", "Refused { status: 400"),
        ("{http: {status: 307, headers: {location: \"http://127.0.0.1:1/\"}}}", "Refused { status: 307"),
        ("{http: {status: 403, body: {error: {code: egress_denied, message: no rule}}}}", "Denied"),
        ("{steps: [{text: a}, {error: {kind: overloaded_error}}]}", "Unavailable"),
        ("{steps: [{text: a}, {error: {kind: rate_limit_error}}]}", "RateLimited"),
        ("{steps: [{text: a}, cut]}", "Unavailable"),
        ("{steps: [{text: a}, end]}", "Unavailable"),
        ("{cut_after_bytes: 150, steps: [{text: a}]}", "Unavailable"),
        ("{cut_after_bytes: 0, steps: [{text: a}]}", "Unavailable"),
        ("{steps: [{garbage: \"data: {not json\\n\\n\"}]}", "Garbage"),
        ("{steps: [{garbage: \"data: [1]\\n\\n\"}]}", "Garbage"),
    ] {
        let model = model(&format!("default: {answer}")).await;
        for wire in WIRES {
            let error = ask(&client(wire, &model), &[Item::User(&said("x"))]).await.unwrap_err();
            assert!(format!("{error:?}").starts_with(class), "{wire:?} {answer}: {error:?}");
        }
    }
}

#[tokio::test]
async fn a_stall_ends_at_its_limit() {
    let limit = Duration::from_millis(100);
    let model = model("default: {steps: [{text: a}, stall]}").await;
    for wire in WIRES {
        let mut options = options(wire, &format!("http://{}", model.address()));
        options.timeouts.between_chunks = limit;
        let begun = Instant::now();
        let error = ask(&Client::new(options), &[Item::User(&said("x"))]).await.unwrap_err();
        assert!(matches!(error, Error::Unavailable { .. }), "{error:?}");
        assert!(begun.elapsed() >= limit);
    }
    // A server that accepts and never answers.
    let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let mut options = options(Wire::OpenAiChat, &format!("http://{}", silent.local_addr().unwrap()));
    options.timeouts.first_byte = limit;
    let error = ask(&Client::new(options), &[Item::User(&said("x"))]).await.unwrap_err();
    assert!(matches!(error, Error::Unavailable { .. }), "{error:?}");
}

#[tokio::test]
async fn arguments_that_are_not_json_and_unknown_tools_are_passed_on() {
    let scenario = r"
rules:
  - answers:
      - steps: [{tool: {name: bash, raw_arguments: '{oops'}}, {tool: {name: no_such_tool}}]
      - steps: [{text: 'sorry'}]
";
    let model = model(scenario).await;
    for wire in WIRES {
        let answers = play(&client(wire, &model), "go", |name, args| format!("{name} {args}")).await;
        let [ContentPart::ToolCall(bad), ContentPart::ToolCall(unknown)] = &answers[0].content[..] else {
            panic!("{:?}", answers[0])
        };
        assert_eq!(bad.arguments, Value::String("{oops".to_owned()));
        assert_eq!((unknown.name.as_str(), &unknown.arguments), ("no_such_tool", &json!({})));
        assert_eq!(answers[1].content, said("sorry"));
    }
}

#[tokio::test]
async fn a_conversation_too_long_for_the_model_is_known_as_such() {
    let model = model("context_tokens: 1000").await;
    let long = said(&"x".repeat(8_000));
    for wire in WIRES {
        let error = ask(&client(wire, &model), &[Item::User(&long)]).await.unwrap_err();
        assert!(matches!(error, Error::ContextTooLong { .. }), "{wire:?} {error:?}");
    }
}

#[tokio::test]
async fn a_wrong_key_is_told_apart_and_never_shown() {
    let model = model("require_key: another").await;
    for wire in WIRES {
        let client = client(wire, &model);
        let error = ask(&client, &[Item::User(&said("x"))]).await.unwrap_err();
        assert!(matches!(error, Error::Unauthorized { status: 401, .. }), "{wire:?} {error:?}");
        assert!(!format!("{error:?} {error} {client:?}").contains("the-key"));
    }
}

#[tokio::test]
async fn a_retry_after_a_fault_gets_the_answer() {
    let scenario = "
rules:
  - when: {tries: 2}
    answers: [{http: {status: 429, headers: {retry-after-ms: \"1\"}}}]
";
    let model = model(scenario).await;
    for wire in WIRES {
        let client = client(wire, &model);
        let user = said("x");
        let mut failures = 0;
        while let Err(error) = ask(&client, &[Item::User(&user)]).await {
            failures += 1;
            assert!(error.pause(failures).is_some());
        }
        assert_eq!(failures, 2);
    }
}

#[tokio::test]
async fn calls_share_one_connection() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let upstream = model("default: {steps: [{text: ok}]}").await;
    let client =
        Client::new(options(Wire::AnthropicMessages, &format!("http://{}", listener.local_addr().unwrap())));
    // Passes one connection on and takes no second one.
    let relay = tokio::spawn(async move {
        let (mut near, _) = listener.accept().await.unwrap();
        drop(listener);
        let mut far = tokio::net::TcpStream::connect(upstream.address()).await.unwrap();
        _ = tokio::io::copy_bidirectional(&mut near, &mut far).await;
    });
    for _ in 0..3 {
        ask(&client, &[Item::User(&said("x"))]).await.unwrap();
    }
    drop(client);
    relay.await.unwrap();
}

#[tokio::test]
async fn an_answer_that_is_no_event_stream_is_garbage() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let server = tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        _ = stream.read(&mut [0; 4_096]).await.unwrap();
        let page = "HTTP/1.1 200 OK\r\ncontent-type: text/html\r\ncontent-length: 4\r\n\r\n<p/>";
        stream.write_all(page.as_bytes()).await.unwrap();
    });
    let client = Client::new(options(Wire::OpenAiResponses, &format!("http://{address}")));
    let error = ask(&client, &[Item::User(&said("x"))]).await.unwrap_err();
    assert!(matches!(error, Error::Garbage { .. }), "{error:?}");
    server.await.unwrap();
}

#[tokio::test]
async fn a_request_says_its_length_before_it_comes_however_long_it_is() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let server = tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        let (mut text, mut piece) = (String::new(), vec![0; 64 * 1024]);
        loop {
            let length = stream.read(&mut piece).await.unwrap();
            assert!(length > 0, "it ends early: {} bytes", text.len());
            text.push_str(std::str::from_utf8(&piece[..length]).unwrap());
            let Some((head, body)) = text.split_once("\r\n\r\n") else { continue };
            let length = head.lines().find_map(|line| line.strip_prefix("content-length: ")).unwrap();
            if body.len() == length.parse::<usize>().unwrap() {
                assert!(!head.contains("transfer-encoding"), "{head}");
                return serde_json::from_str::<Value>(body).unwrap();
            }
        }
    });
    let client = Client::new(options(Wire::OpenAiChat, &format!("http://{address}")));
    let text = "word ".repeat(100_000);
    // The connection ends without an answer.
    ask(&client, &[Item::User(&said("x")), Item::Assistant(&said(&text))]).await.unwrap_err();
    assert_eq!(server.await.unwrap()["messages"][2]["content"], text);
}

#[tokio::test]
async fn a_server_that_is_not_there_is_unavailable() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    drop(listener);
    let client = Client::new(options(Wire::OpenAiChat, &format!("http://{address}")));
    let error = ask(&client, &[Item::User(&said("x"))]).await.unwrap_err();
    assert!(matches!(error, Error::Unavailable { source: Some(_), .. }), "{error:?}");
}

/// Certificates made for this test alone: a root, a server under it, and a root of somebody else.
fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/tls").join(name)
}

#[tokio::test]
async fn only_the_given_roots_are_trusted() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let acceptor = tls(&fixture("server.pem"), &fixture("server.key")).unwrap();
    let model = serve(listener, Scenario::default(), Some(acceptor)).unwrap();
    let base = format!("https://{}", model.address());
    let user = said("x");
    for (roots, trusted) in [(Some("root.pem"), true), (Some("other.pem"), false), (None, false)] {
        let mut options = options(Wire::AnthropicMessages, &base);
        options.roots = roots.map(fixture);
        let answer = ask(&Client::new(options), &[Item::User(&user)]).await;
        assert_eq!(answer.is_ok(), trusted, "{roots:?}: {answer:?}");
    }
    let mut options = options(Wire::AnthropicMessages, &base);
    options.roots = Some(fixture("server.key"));
    let error = ask(&Client::new(options), &[Item::User(&user)]).await.unwrap_err();
    assert!(matches!(error, Error::Roots { .. }), "{error:?}");
}
