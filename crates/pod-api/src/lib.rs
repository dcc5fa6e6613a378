//! What the control plane and the agent in a pod say to each other: one JSON value a line, over a byte stream that
//! the agent opens. The protocol is documented in `docs/pod-api.md`; the built-in agent is one implementation of it.
//!
//! Invariants:
//! - The agent speaks first, with [`FromAgent::Hello`]; nothing else is answered before a [`ToAgent::Welcome`].
//! - What the agent appends is durable once it is acknowledged; appending the same event again changes nothing, so an
//!   agent that lost its connection repeats whatever was not acknowledged.
//! - No message carries a secret.

mod connection;
mod message;

pub use connection::{Connection, Error, FRAME_BYTES_MAX, Reader, Writer};
pub use message::{
    AGENT_INFO_CHARS_MAX, APPEND_EVENTS_MAX, AgentConfig, AgentInfo, AppendRefusal, CHUNK_BYTES_MAX,
    EVENT_BYTES_MAX, FileOrder, FromAgent, ModelBackend, PAGE_EVENTS_MAX, POD_ID_VARIABLE, PROTOCOL,
    RejectReason, SessionPosition, TaskOrder, ToAgent,
};
