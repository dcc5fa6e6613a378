//! The server on a real socket: what the vendors check, answers in one piece, and the documents' scenarios.

#![expect(clippy::unwrap_used, reason = "a step that fails fails the test")]

use freehold_sim_model::{DEMO, Handle, REQUEST_BYTES_MAX, Scenario, serve};
use http::Request;
use http_body_util::BodyExt;
use hyper_util::client::legacy::Client;
use hyper_util::rt::TokioExecutor;
use serde_json::{Value, json};
use tokio::net::TcpListener;

async fn model(scenario: &str) -> Handle {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    serve(listener, Scenario::parse(scenario).unwrap(), None).unwrap()
}

/// Posts `body` with `headers`; gives the status and the body as text.
async fn post(model: &Handle, path: &str, headers: &[(&str, &str)], body: String) -> (u16, String) {
    let mut request = Request::post(format!("http://{}{path}", model.address()));
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let client = Client::builder(TokioExecutor::new()).build_http::<String>();
    let response = client.request(request.body(body).unwrap()).await.unwrap();
    let status = response.status().as_u16();
    let body = response.into_body().collect().await.unwrap().to_bytes();
    (status, String::from_utf8(body.to_vec()).unwrap())
}

const VERSION: (&str, &str) = ("anthropic-version", "2023-06-01");

fn hello() -> String {
    json!({"model": "m", "max_tokens": 9, "messages": [{"role": "user", "content": "hi"}]}).to_string()
}

#[tokio::test]
async fn an_answer_in_one_piece_says_the_same_on_each_wire() {
    let model = model("default: {steps: [{text: hello}, {tool: {name: t, arguments: {a: 1}}}], usage: {input: 3, output: 4}}").await;
    let read = async |path, body: Value| -> Value {
        let (status, text) = post(&model, path, &[VERSION], body.to_string()).await;
        assert_eq!(status, 200, "{text}");
        serde_json::from_str(&text).unwrap()
    };
    let messages = json!([{"role": "user", "content": "hi"}]);
    let anthropic = read("/v1/messages", json!({"model": "m", "max_tokens": 9, "messages": messages})).await;
    assert_eq!(anthropic["content"][0], json!({"type": "text", "text": "hello"}));
    assert_eq!(anthropic["content"][1]["input"], json!({"a": 1}));
    assert_eq!(
        (&anthropic["stop_reason"], &anthropic["usage"]["input_tokens"]),
        (&json!("tool_use"), &json!(3))
    );
    let chat = read("/v1/chat/completions", json!({"model": "m", "messages": messages})).await;
    assert_eq!(chat["choices"][0]["message"]["content"], "hello");
    assert_eq!(chat["choices"][0]["message"]["tool_calls"][0]["function"]["arguments"], r#"{"a":1}"#);
    assert_eq!(chat["usage"]["total_tokens"], 7);
    let responses = read("/v1/responses", json!({"model": "m", "input": "hi"})).await;
    assert_eq!(responses["output"][0]["content"][0]["text"], "hello");
    assert_eq!(responses["output"][1]["arguments"], r#"{"a":1}"#);
    assert_eq!(responses["status"], "completed");
    assert_eq!(model.requests(), 3);
}

#[tokio::test]
async fn a_request_is_refused_as_the_vendor_refuses_it() {
    let model = model("require_key: right").await;
    let bare = json!({"model": "m", "max_tokens": 9, "messages": []}).to_string();
    let key = ("x-api-key", "right");
    for (headers, body, status, says) in [
        (vec![VERSION], hello(), 401, "authentication_error"),
        (vec![VERSION, ("x-api-key", "wrong")], hello(), 401, "invalid x-api-key"),
        (vec![key], hello(), 400, "anthropic-version"),
        (vec![VERSION, key], "{".to_owned(), 400, "not JSON"),
        (vec![VERSION, key], bare, 400, "at least one message"),
        (vec![VERSION, key], hello().replace("max_tokens", "max"), 400, "max_tokens: Field required"),
        (vec![VERSION, key], hello(), 200, "ok"),
    ] {
        let (got, text) = post(&model, "/v1/messages", &headers, body).await;
        assert_eq!(got, status, "{text}");
        assert!(text.contains(says), "{text}");
    }
    let (status, text) = post(&model, "/v1/responses", &[("authorization", "Bearer wrong")], hello()).await;
    assert_eq!((status, text.contains("invalid_api_key")), (401, true), "{text}");
}

#[tokio::test]
async fn a_body_over_the_limit_is_refused() {
    let model = model("{}").await;
    // One byte more, so that all of it is read before the answer.
    let body = " ".repeat(REQUEST_BYTES_MAX + 1);
    let (status, text) = post(&model, "/v1/messages", &[VERSION], body).await;
    assert_eq!((status, text.contains("request_too_large")), (413, true), "{text}");
}

#[test]
fn every_scenario_of_the_documents_loads() {
    let page = include_str!("../../../docs/sim-model.md");
    let blocks: Vec<&str> =
        page.split("```yaml\n").skip(1).map(|rest| rest.split("```").next().unwrap()).collect();
    assert_eq!(blocks.len(), 2);
    for yaml in blocks.into_iter().chain([DEMO]) {
        Scenario::parse(yaml).unwrap();
    }
}
