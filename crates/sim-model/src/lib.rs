//! A scripted model server that speaks the real wires: Anthropic Messages, OpenAI Responses and Chat Completions,
//! streamed and not.
//!
//! It answers by a scenario file, whose format `docs/sim-model.md` tells. It keeps no conversation: which answer comes
//! next follows from the request alone, so that retries and any number of sessions work at once.

mod anthropic;
mod chat;
mod conversation;
mod play;
mod request;
mod responses;
mod run;
mod scenario;
mod server;
mod shape;
mod wire;

pub use run::{Args, RunError, run, tls};
pub use scenario::{
    Answer, Arguments, Body, Glob, Refusal, Rule, SCENARIO_BYTES_MAX, Scenario, ScenarioError, Service, Step,
    Stop, StreamError, Tokens, Tool, When,
};
pub use server::{CONNECTIONS_MAX, Handle, REQUEST_BYTES_MAX, serve};

/// The scenario of `freehold demo`: a program is written, fails, is mended; a service is called, another is denied.
pub const DEMO: &str = include_str!("../scenarios/demo.yaml");

/// A task that [`DEMO`] answers.
pub const DEMO_TASK: &str = "Write a small program that lists the primes below 50, with a test. Run the test, and mend the \
program until it passes. Then fetch a fact from https://facts.freehold.test/v1/fact to go with the list, and publish the \
result on https://forbidden.freehold.test/.";
