//! The client verbs and the demo.
//!
//! Invariants: everything goes through the public API, with the credential a person could use by hand; data goes to stdout
//! and everything else to stderr; a secret is never read from the command line (a login's key apart, on request) and never
//! printed, except once when it is made.

mod answer;
mod arguments;
mod context;
mod credentials;
mod demo;
mod environment;
mod failure;
mod follow;
#[doc(hidden)]
pub mod fuzz;
mod input;
mod missing;
mod output;
mod progress;
mod proof;
mod resolve;
mod terminal;
mod text;
mod verbs;

pub use arguments::verb_first;
pub use demo::{Egress, Scene, remove_dir};
pub use environment::{Environment, Streams, stdin_closed};
pub use failure::exit;
pub use output::{Format, plain_table};
pub use text::counted;
pub use verbs::Verb;

use std::process::ExitCode;

/// Runs a verb and answers with the code to exit with; see [`exit`].
pub async fn run(verb: Verb, environment: Environment) -> ExitCode {
    let mut console = environment.console();
    match verbs::run(verb, &environment, &mut console).await {
        Ok(code) => ExitCode::from(code),
        Err(mut failure) => {
            failure.details.extend(console.from_variables.told(failure.code).map(str::to_owned));
            console.failure(&failure);
            ExitCode::from(failure.code)
        }
    }
}
