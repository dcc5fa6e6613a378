//! The process in which tools run: another user than the agent where the pod allows it, without capabilities, with the
//! limits of tools. It owns the shell and everything that touches files and the network on the model's behalf.
//!
//! It speaks JSON lines with the agent over its standard input, a socket, and serves one call after the other: the
//! calls of one answer often build on each other, and the shell is one.
//!
//! Invariant: nothing of a tool's output can be taken for a message, nor for the end of a command.

mod files;
mod output;
mod shell;
mod web;

pub(crate) use web::METHODS;

use std::{io, os::fd::AsFd, os::unix::net::UnixStream, process::ExitCode};

use base64::Engine;
use freehold_model::event::ToolStatus;
use freehold_pod_api::Connection;
use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::tools::{FromHost, Job, ToHost};
use shell::Shell;

/// What a tool call came to.
pub(crate) struct Outcome {
    pub(crate) status: ToolStatus,
    pub(crate) text: String,
}

impl Outcome {
    fn success(text: impl Into<String>) -> Self {
        Self { status: ToolStatus::Success, text: text.into() }
    }

    fn error(text: impl Into<String>) -> Self {
        Self { status: ToolStatus::Error, text: text.into() }
    }
}

/// Runs the tool host until the agent closes its end.
pub(crate) fn main() -> ExitCode {
    // Commands run as this same user: they must not read or steer this process.
    let hidden = rustix::process::set_dumpable_behavior(rustix::process::DumpableBehavior::NotDumpable);
    let stream = hidden.map_err(io::Error::from).and_then(|()| {
        let stream = UnixStream::from(io::stdin().as_fd().try_clone_to_owned()?);
        stream.set_nonblocking(true)?;
        Ok(stream)
    });
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().max_blocking_threads(2).build();
    match (stream, runtime) {
        (Ok(stream), Ok(runtime)) => match runtime.block_on(serve(stream)) {
            Ok(()) => ExitCode::SUCCESS,
            Err(_) => ExitCode::FAILURE,
        },
        (Err(_), _) | (_, Err(_)) => ExitCode::FAILURE,
    }
}

async fn serve(stream: UnixStream) -> Result<(), freehold_pod_api::Error> {
    let stream = tokio::net::UnixStream::from_std(stream).map_err(freehold_pod_api::Error::Io)?;
    let (mut reader, mut writer) = Connection::new(stream).split();
    let mut host = Host { shell: None, web: web::Web::default() };
    loop {
        let message = tokio::select! {
            message = reader.receive::<ToHost>() => message?,
            // A background process must not block on a full pipe.
            () = host.drain() => continue,
        };
        let (id, job) = match message {
            None => return Ok(()),
            Some(ToHost::Stop { .. }) => continue,
            Some(ToHost::Run { id, job }) => (id, job),
        };
        let stopped = async {
            loop {
                match reader.receive::<ToHost>().await {
                    Ok(Some(ToHost::Stop { id: stopped })) if stopped == id => break Ok(()),
                    // The agent asks for one thing at a time.
                    Ok(Some(ToHost::Stop { .. } | ToHost::Run { .. })) => {}
                    Ok(None) => break Err(None),
                    Err(error) => break Err(Some(error)),
                }
            }
        };
        tokio::select! {
            outcome = host.run(job) => {
                writer.send(&FromHost { id, status: outcome.status, result: outcome.text }).await?;
            }
            // Dropping the call ends it: a running command is killed, and its shell with it.
            end = stopped => match end {
                Ok(()) => {}
                Err(None) => return Ok(()),
                Err(Some(error)) => return Err(error),
            },
        }
    }
}

struct Host {
    shell: Option<Shell>,
    web: web::Web,
}

impl Host {
    async fn drain(&mut self) {
        match &mut self.shell {
            Some(shell) => shell.drain().await,
            None => std::future::pending().await,
        }
    }

    async fn run(&mut self, job: Job) -> Outcome {
        match job {
            Job::Tool { name, arguments } => self.call(&name, arguments).await,
            Job::Put { path, offset, base64 } => {
                let bytes = base64::engine::general_purpose::STANDARD.decode(base64);
                match bytes.map_err(io::Error::other).and_then(|bytes| files::put(&path, offset, &bytes)) {
                    Ok(()) => Outcome::success(""),
                    Err(error) => Outcome::error(error.to_string()),
                }
            }
        }
    }

    async fn call(&mut self, name: &str, arguments: Value) -> Outcome {
        let outcome = match name {
            "bash" => match parse(arguments) {
                Ok(arguments) => Ok(shell::bash(&mut self.shell, arguments).await),
                Err(refused) => Err(refused),
            },
            "read_file" => parse(arguments).map(|arguments| files::read_file(&arguments)),
            "write_file" => parse(arguments).map(|arguments| files::write_file(&arguments)),
            "edit_file" => parse(arguments).map(|arguments| files::edit_file(&arguments)),
            "web_fetch" => match parse(arguments) {
                Ok(arguments) => Ok(self.web.fetch(arguments).await),
                Err(refused) => Err(refused),
            },
            _ => Err(Outcome::error(format!("There is no tool `{name}`."))),
        };
        outcome.unwrap_or_else(|refused| refused)
    }
}

fn parse<T: DeserializeOwned>(arguments: Value) -> Result<T, Outcome> {
    serde_json::from_value(arguments).map_err(|error| {
        Outcome::error(format!("The arguments do not fit the tool's schema: {error}. Nothing was done."))
    })
}

/// The folder relative paths and the shell start from.
fn work_folder() -> &'static std::path::Path {
    let workspace = std::path::Path::new("/workspace");
    if workspace.is_dir() { workspace } else { std::path::Path::new(".") }
}
