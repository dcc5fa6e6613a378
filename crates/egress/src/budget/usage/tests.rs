//! Answers as providers give them, whole and cut anywhere.

use proptest::prelude::*;

use super::*;

fn tap(media: &str) -> Tap {
    let mut headers = HeaderMap::new();
    headers.insert(header::CONTENT_TYPE, media.parse().unwrap());
    Tap::new(&headers)
}

const JSON: &str = "application/json; charset=utf-8";
const EVENTS: &str = "text/event-stream";

const fn tokens(input: u64, output: u64, cache_read: u64, cache_write: u64) -> Tokens {
    Tokens { input, output, cache_read, cache_write }
}

/// Media type, answer, model, tokens.
fn answers() -> Vec<(&'static str, String, Option<&'static str>, Option<Tokens>)> {
    vec![
        (
            JSON,
            r#"{"id":"msg_1","model":"claude-sonnet-4-5","content":[{"type":"tool_use","input":{"usage":{"input_tokens":9999},"model":"x"}},{"type":"text","text":"\"usage\":{\"input_tokens\":7777}"}],
            "usage":{"input_tokens":10,"cache_creation_input_tokens":3,"cache_read_input_tokens":4,"cache_creation":{"ephemeral_5m_input_tokens":3},"output_tokens":20,"server_tool_use":{"input_tokens":555}}}"#
                .to_owned(),
            Some("claude-sonnet-4-5"),
            Some(tokens(10, 20, 4, 3)),
        ),
        (
            EVENTS,
            "event: message_start\ndata: {\"type\":\"message_start\",\"message\":{\"model\":\"claude-opus-4-5\",\"usage\":{\"input_tokens\":25,\"output_tokens\":1}}}\n\n\
             event: ping\ndata: {\"type\": \"ping\"}\n\n\
             event: content_block_delta\ndata: {\"type\":\"content_block_delta\",\"delta\":{\"text\":\"usage\"}}\n\n\
             event: message_delta\ndata: {\"type\":\"message_delta\",\"delta\":{},\"usage\":{\"output_tokens\":15}}\n\n"
                .to_owned(),
            Some("claude-opus-4-5"),
            Some(tokens(25, 15, 0, 0)),
        ),
        (
            JSON,
            r#"{"object":"chat.completion","model":"gpt-4o","choices":[{"message":{"content":"hi"}}],"usage":{"prompt_tokens":19,"completion_tokens":10,"total_tokens":29,"prompt_tokens_details":{"cached_tokens":5,"audio_tokens":0},"completion_tokens_details":{"reasoning_tokens":0}}}"#.to_owned(),
            Some("gpt-4o"),
            Some(tokens(14, 10, 5, 0)),
        ),
        (
            EVENTS,
            "data: {\"model\":\"gpt-4o\",\"choices\":[{\"delta\":{\"content\":\"Hel\"}}],\"usage\":null}\r\n\r\n\
             data: {\"model\":\"gpt-4o\",\"choices\":[],\"usage\":{\"prompt_tokens\":7,\"completion_tokens\":2}}\r\n\r\n\
             data: [DONE]\r\n\r\n"
                .to_owned(),
            Some("gpt-4o"),
            Some(tokens(7, 2, 0, 0)),
        ),
        (
            EVENTS,
            "event: response.created\ndata: {\"type\":\"response.created\",\"response\":{\"model\":\"o3\",\"usage\":null}}\n\n\
             event: response.completed\ndata: {\"type\":\"response.completed\",\"response\":{\"model\":\"o3\",\"output\":[{\"content\":[]}],\"usage\":{\"input_tokens\":37,\"input_tokens_details\":{\"cached_tokens\":30},\"output_tokens\":11,\"output_tokens_details\":{\"reasoning_tokens\":3}}}}\n\n"
                .to_owned(),
            Some("o3"),
            Some(tokens(7, 11, 30, 0)),
        ),
        (
            JSON,
            r#"{"candidates":[{"content":{"parts":[{"text":"x"}]}}],"usageMetadata":{"promptTokenCount":8,"candidatesTokenCount":4,"thoughtsTokenCount":6,"cachedContentTokenCount":3,"totalTokenCount":18,"promptTokensDetails":[{"modality":"TEXT","tokenCount":8}]},"modelVersion":"gemini-2.5-pro"}"#.to_owned(),
            Some("gemini-2.5-pro"),
            Some(tokens(5, 10, 3, 0)),
        ),
        (
            JSON,
            "[{\"usageMetadata\":{\"promptTokenCount\":8,\"candidatesTokenCount\":1}}\n,\n{\"usageMetadata\":{\"promptTokenCount\":8,\"candidatesTokenCount\":9},\"modelVersion\":\"gemini-2.5-flash\"}]".to_owned(),
            Some("gemini-2.5-flash"),
            Some(tokens(8, 9, 0, 0)),
        ),
        (JSON, r#"{"object":"list","model":"text-embedding-3-small","data":[{"embedding":[0.1,-2e-3]}],"usage":{"prompt_tokens":8,"total_tokens":8}}"#.to_owned(),
            Some("text-embedding-3-small"), Some(tokens(8, 0, 0, 0))),
        (JSON, r#"{"error":{"type":"invalid_request_error","message":"no"}}"#.to_owned(), None, None),
        (JSON, r#"{"usage":{"input_tokens":1.5,"output_tokens":-3}}"#.to_owned(), None, None),
        (JSON, "no JSON at all ]]}}{\"".to_owned(), None, None),
        ("application/octet-stream", r#"{"usage":{"input_tokens":1}}"#.to_owned(), None, None),
    ]
}

#[test]
fn what_every_provider_says_is_read_whole_and_byte_by_byte() {
    for (media, answer, model, expected) in answers() {
        for size in [1, 2, 3, 7, answer.len()] {
            let mut tap = tap(media);
            answer.as_bytes().chunks(size).for_each(|part| tap.look(part));
            assert_eq!(tap.usage.tokens(), expected, "{size}: {answer}");
            assert_eq!(tap.usage.model.as_deref(), model, "{size}: {answer}");
        }
    }
}

#[test]
fn an_event_of_several_lines_is_one_wherever_it_is_cut() {
    let answer = "data: {\"usage\":\r\ndata: {\"input_tokens\": 5}}\r\ndata\r\n\r\n";
    for at in 0..=answer.len() {
        let (mut tap, (first, second)) = (tap(EVENTS), answer.split_at(at));
        tap.look(first.as_bytes());
        tap.look(second.as_bytes());
        assert_eq!(tap.usage.tokens(), Some(tokens(5, 0, 0, 0)), "{at}");
    }
}

#[test]
fn a_coded_answer_is_not_read() {
    let mut headers = HeaderMap::new();
    headers.insert(header::CONTENT_TYPE, JSON.parse().unwrap());
    headers.insert(header::CONTENT_ENCODING, "gzip".parse().unwrap());
    assert!(Tap::new(&headers).is_blind());
    headers.insert(header::CONTENT_ENCODING, "identity".parse().unwrap());
    assert!(!Tap::new(&headers).is_blind());
}

#[test]
fn a_request_says_its_model_in_its_body_or_its_path() {
    let model = |path, body: &str| Wish::read(path, body.as_bytes()).model;
    let named = |name: &str| Some(name.to_owned());
    assert_eq!(
        model("/v1/messages", r#"{"model":"claude-sonnet-4-5","max_tokens":9}"#),
        named("claude-sonnet-4-5")
    );
    assert_eq!(model("/v1beta/models/gemini-2.5-pro:streamGenerateContent", "{}"), named("gemini-2.5-pro"));
    assert_eq!(model("/openai/deployments/gpt-4o/chat/completions", "{}"), named("gpt-4o"));
    assert_eq!(model("/v1/messages", r#"{"messages":[{"model":"gpt-5-nano"}]}"#), None);
    // Two answers to one question are none.
    assert_eq!(model("/v1/messages", r#"{"model":"gpt-5-nano","model":"o3"}"#), named(""));
    assert_eq!(Wish::read("/", br#"{"max_tokens":9}"#).output_max, Some(9));
}

proptest! {
    #[test]
    fn cuts_change_nothing(which in 0..11usize, cuts in proptest::collection::vec(1..40usize, 1..40)) {
        let (media, answer, model, expected) = answers().swap_remove(which);
        let (mut tap, mut rest) = (tap(media), answer.as_bytes());
        for cut in cuts {
            let (part, after) = rest.split_at(cut.min(rest.len()));
            tap.look(part);
            rest = after;
        }
        tap.look(rest);
        prop_assert_eq!(tap.usage.tokens(), expected);
        prop_assert_eq!(tap.usage.model.as_deref(), model);
    }

    #[test]
    fn no_bytes_make_it_fail(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
        for media in [JSON, EVENTS] {
            let mut tap = tap(media);
            bytes.chunks(5).for_each(|part| tap.look(part));
        }
    }

    /// What a model says stands in texts, or deeper.
    #[test]
    fn nothing_that_a_model_says_counts(said in "[\"\\\\{}:,a-z0-9]{0,60}") {
        let answer = serde_json::json!({
            "content": [{ "text": said, "input": { "usage": { "input_tokens": 1_000_000 } } }],
            "usage": { "input_tokens": 5, "output_tokens": 6 },
        });
        let mut tap = tap(JSON);
        tap.look(answer.to_string().as_bytes());
        prop_assert_eq!(tap.usage.tokens(), Some(tokens(5, 6, 0, 0)));
    }
}
