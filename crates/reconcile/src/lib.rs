//! Makes what is desired so. It looks at the rows and at what the driver sees, plans ([`plan`]), and acts; it serves
//! the agents' connections and hands them their tasks.
//!
//! Invariants:
//! - Work takes no input: a signal or a timer only says "look again", so a lost signal costs time and never data.
//! - Whatever an agent appends is acknowledged after it is committed, in the order it came.
//! - One workspace is worked on by one look at a time; a look that is asked for meanwhile follows.

mod agents;
mod orders;
mod plan;
mod push;
mod service;

pub use agents::{AgentUnreachable, Agents};
pub use plan::{Action, Current, Desired, Plan, Seen, Waiting, plan};
pub use service::{Error, Gate, GateLinks, Handle, Options, Service};
