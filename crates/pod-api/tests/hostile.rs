//! Bytes that no honest peer sends: an error or a message, never a panic, never more memory than a line may take.

#![expect(clippy::unwrap_used, reason = "a helper of tests fails by panicking")]

use freehold_model::PodId;
use freehold_pod_api::{AgentInfo, Connection, Error, FRAME_BYTES_MAX, FromAgent, ToAgent};
use proptest::prelude::*;
use serde::de::DeserializeOwned;
use tokio::io::AsyncWriteExt;
use uuid::Uuid;

/// The most messages that are read from one stream.
const MESSAGES_MAX: usize = 1_000;

/// Reads messages until the first error or the end.
async fn read_all<T: DeserializeOwned>(bytes: Vec<u8>) -> (Vec<T>, Option<Error>) {
    let (mut raw, there) = tokio::io::duplex(4_096);
    let writing = async move {
        // A reader that gave up closes the stream.
        let _ = raw.write_all(&bytes).await;
    };
    let reading = async move {
        let mut connection = Connection::new(there);
        let mut messages = Vec::new();
        for _ in 0..MESSAGES_MAX {
            match connection.receive().await {
                Ok(Some(message)) => messages.push(message),
                Ok(None) => return (messages, None),
                Err(error) => return (messages, Some(error)),
            }
        }
        panic!("more messages than were sent")
    };
    tokio::join!(writing, reading).1
}

fn block<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(future)
}

fn from_agent() -> impl Strategy<Value = FromAgent> {
    prop_oneof![
        (proptest::collection::vec(any::<u32>(), 0..4), ".{0,20}", any::<u128>()).prop_map(
            |(protocols, name, pod)| FromAgent::Hello {
                protocols,
                agent: AgentInfo { name, version: "1".to_owned() },
                pod_id: PodId::from_uuid(Uuid::from_u128(pod)),
            }
        ),
        (any::<u64>(), any::<u128>(), any::<u64>()).prop_map(|(request, session, after_sequence)| {
            FromAgent::History {
                request,
                session_id: freehold_model::SessionId::from_uuid(Uuid::from_u128(session)),
                after_sequence,
            }
        }),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    #[test]
    fn no_bytes_make_it_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
        block(read_all::<FromAgent>(bytes.clone()));
        block(read_all::<ToAgent>(bytes));
    }

    #[test]
    fn messages_arrive_as_they_were_sent(messages in proptest::collection::vec(from_agent(), 0..8)) {
        let lines: Vec<u8> =
            messages.iter().flat_map(|message| [serde_json::to_vec(message).unwrap(), b"\n".to_vec()].concat()).collect();
        let (received, error) = block(read_all::<FromAgent>(lines));
        prop_assert!(error.is_none());
        prop_assert_eq!(received, messages);
    }

    #[test]
    fn a_damaged_message_is_an_error_or_another_message(
        message in from_agent(),
        damage in proptest::collection::vec((0_usize..200, any::<u8>()), 1..4),
    ) {
        let mut line = serde_json::to_vec(&message).unwrap();
        for (at, byte) in damage {
            let at = at % line.len();
            line[at] = byte;
        }
        line.push(b'\n');
        let (received, error) = block(read_all::<FromAgent>(line.clone()));
        // A line feed may cut it in two; the first error ends the connection.
        let lines = line.iter().filter(|byte| **byte == b'\n').count();
        prop_assert!(received.len() + usize::from(error.is_some()) <= lines);
        prop_assert!(error.is_some() || received.len() == lines);
    }
}

#[tokio::test]
async fn a_line_that_never_ends_is_given_up_at_the_limit() {
    let (received, error) = read_all::<FromAgent>(vec![b' '; FRAME_BYTES_MAX + 2]).await;
    assert!(received.is_empty() && matches!(error, Some(Error::TooLong)), "{error:?}");
}

#[tokio::test]
async fn deep_nesting_is_an_error() {
    let deep = format!("{{\"type\":\"view\",\"request\":1,\"view\":{}\n", "[".repeat(200_000));
    let (received, error) = read_all::<FromAgent>(deep.into_bytes()).await;
    assert!(received.is_empty() && matches!(error, Some(Error::Malformed(_))), "{error:?}");
}

#[tokio::test]
async fn a_half_sent_message_at_the_end_of_the_stream_is_no_message() {
    let (received, error) = read_all::<FromAgent>(b"{\"type\":\"history\",\"request\":1".to_vec()).await;
    assert!(received.is_empty() && error.is_some(), "{error:?}");
}
