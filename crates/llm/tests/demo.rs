//! The demo's scenario, played with tools that really run.

#![expect(clippy::unwrap_used, reason = "a step that fails fails the test")]

use std::path::Path;
use std::process::Command;

use freehold_llm::{Client, Item, Options, Request, Timeouts, Wire};
use freehold_model::event::{ContentPart, StopReason, ToolCall};
use freehold_sim_model::{DEMO, DEMO_TASK, Scenario, serve};
use tokio::net::TcpListener;

/// Runs a tool in `root`, which stands for `/workspace`; gives its output and whether it failed.
fn run(root: &Path, call: &ToolCall) -> (String, bool) {
    let local = |name: &str| {
        let text = call.arguments[name].as_str().unwrap();
        text.replace("/workspace", root.to_str().unwrap())
    };
    match call.name.as_str() {
        "write_file" => {
            std::fs::write(local("path"), local("content")).unwrap();
            ("written".to_owned(), false)
        }
        "read_file" => (std::fs::read_to_string(local("path")).unwrap(), false),
        "edit_file" => {
            let text = std::fs::read_to_string(local("path")).unwrap();
            assert_eq!(text.matches(&local("old")).count(), 1);
            std::fs::write(local("path"), text.replace(&local("old"), &local("new"))).unwrap();
            ("edited".to_owned(), false)
        }
        "bash" => {
            let output = Command::new("sh").args(["-c", &local("command")]).output().unwrap();
            let text = [output.stdout, output.stderr].concat();
            (String::from_utf8(text).unwrap(), !output.status.success())
        }
        "web_fetch" if local("url") == "https://facts.freehold.test/v1/fact" => ("a fact".to_owned(), false),
        "web_fetch" => ("403 egress_denied".to_owned(), true),
        other => panic!("the pod has no tool `{other}`"),
    }
}

#[tokio::test]
async fn the_demos_program_fails_is_mended_and_passes() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let model = serve(listener, Scenario::parse(DEMO).unwrap(), None).unwrap();
    let client = Client::new(Options {
        wire: Wire::AnthropicMessages,
        base_url: format!("http://{}", model.address()).parse().unwrap(),
        api_key: "freehold-placeholder".to_owned(),
        roots: None,
        timeouts: Timeouts::default(),
    });
    let root = tempfile::tempdir().unwrap();
    let user = [ContentPart::Text { text: DEMO_TASK.to_owned() }];
    let mut steps: Vec<(Vec<ContentPart>, ToolCall, String, bool)> = Vec::new();
    loop {
        let mut items = vec![Item::User(&user)];
        for (content, call, text, is_error) in &steps {
            items.push(Item::Assistant(content));
            items.push(Item::ToolResult { call_id: &call.id, name: &call.name, text, is_error: *is_error });
        }
        let request = Request {
            model: "scripted",
            system: "",
            items: &items,
            tools: &[],
            thinking_effort: None,
            max_output_tokens: 4_096,
        };
        let answer = client.ask(&request, &mut |_| {}).await.unwrap();
        let call = answer.content.iter().find_map(|part| match part {
            ContentPart::ToolCall(call) => Some(call.clone()),
            _ => None,
        });
        let Some(call) = call else {
            assert_eq!(answer.stop_reason, StopReason::EndTurn);
            break;
        };
        let (text, failed) = run(root.path(), &call);
        steps.push((answer.content, call, text, failed));
        assert!(steps.len() < 20, "the demo does not end");
    }
    let ran: Vec<(&str, bool)> = steps.iter().map(|(_, call, _, failed)| (&*call.name, *failed)).collect();
    assert_eq!(
        ran,
        [
            ("write_file", false),
            ("bash", true),
            ("read_file", false),
            ("edit_file", false),
            ("bash", false),
            ("web_fetch", false),
            ("web_fetch", true),
        ]
    );
    assert!(steps[4].2.contains("ok: all 15 primes below 50\n2 3 5 7"), "{}", steps[4].2);
}
