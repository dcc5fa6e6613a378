//! The pod's first process: it runs the loop of `turn`, journals through pod-api, calls the model through egress like
//! everything else, and has tools run by another user.
//!
//! ```text
//!   control plane <--pod-api--> agent (one thread, one loop) --socket--> tool host --> shell, files, web
//!                                 |
//!                                 +--https--> egress --> model
//! ```
//!
//! Invariants:
//! - The agent keeps nothing of its own: after a restart the journal says where it stands.
//! - What a step needs durable is acknowledged before the step (held by `turn`); what was not acknowledged is appended
//!   again after a reconnect, and the same event twice is one.
//! - Nothing of the agent is inherited by tools: no descriptor but one socket, no variable that was not chosen, no
//!   capability; its memory cannot be read by them.

mod agent;
mod journal;
mod link;
mod model;
mod options;
mod prompt;
mod session;
mod tool_host;
mod tools;
mod view;

use std::{ffi::OsString, process::ExitCode};

use options::Mode;
use tools::{Confinement, ToolHost};

pub use options::{Error, POD_ID_VARIABLE};

/// Runs `freehold agent` with what stands after those words on the command line: nothing in a pod; `--pod-api PATH` to
/// reach the control plane by another socket, `--model-url URL` to call the model elsewhere than at its provider's
/// domain, `--data DIR` instead of `/data`, `--cancel-grace-ms MS` for how long a step may go on after a cancellation;
/// `tool-host` for the process in which tools run, which the agent starts itself.
///
/// To be called first thing in the process, before anything is opened or any thread is started.
pub fn main(arguments: impl IntoIterator<Item = OsString>) -> ExitCode {
    match options::read(arguments) {
        Ok(Mode::ToolHost) => tool_host::main(),
        Ok(Mode::Agent(options)) => {
            // Before anything worth reading is in memory.
            let hidden =
                rustix::process::set_dumpable_behavior(rustix::process::DumpableBehavior::NotDumpable);
            // A program that logs already keeps its way of doing so.
            let _ = tracing_subscriber::fmt()
                // It would say so on standard error, and panic where that is full too.
                .log_internal_errors(false)
                .with_writer(std::io::stderr)
                .with_ansi(false)
                .with_max_level(tracing::Level::INFO)
                .try_init();
            let run = hidden.map_err(std::io::Error::from).and_then(|()| run(*options));
            match run {
                Ok(()) => ExitCode::SUCCESS,
                Err(error) => {
                    tracing::error!(%error, "the agent cannot run");
                    ExitCode::FAILURE
                }
            }
        }
        Err(error) => {
            // No subscriber yet, and none needed for one line.
            use std::io::Write;
            let _ = writeln!(std::io::stderr(), "freehold agent: {error}");
            ExitCode::from(2)
        }
    }
}

fn run(options: options::Options) -> std::io::Result<()> {
    let cgroups = tools::take_inherited(&options.tool_cgroups)?;
    let (program, mut arguments) = tools::own_program("agent")?;
    arguments.push(options::TOOL_HOST.into());
    let tool_host = ToolHost::new(Confinement {
        program,
        arguments,
        uid: options.tool_uid,
        cgroups,
        rlimits: options.tool_rlimits.clone(),
        environment: options.tool_environment.clone(),
    });
    // The ambient set would be kept by every program started from here.
    rustix::thread::clear_ambient_capability_set()?;
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().max_blocking_threads(2).build()?;
    runtime.block_on(agent::Agent::new(options, tool_host).run())
}
