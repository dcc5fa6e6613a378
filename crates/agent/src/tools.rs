//! The tools as the model sees them, and the agent's end of the tool host.

mod confine;

use std::{io, path::PathBuf, process::Child, sync::Arc, time::Duration};

use freehold_llm::ToolSpec;
use freehold_model::event::{ToolCall, ToolStatus};
use freehold_pod_api::Connection;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tokio::net::UnixStream;

pub(crate) use self::confine::{Confinement, own_program, take_inherited};

/// How long a command may run when the model does not say.
pub(crate) const BASH_TIMEOUT_DEFAULT: Duration = Duration::from_secs(120);
/// How long a command may run at most.
pub(crate) const BASH_TIMEOUT_MAX: Duration = Duration::from_secs(1800);
/// How long any tool may take before its host is taken for dead.
const TOOL_WAIT_MAX: Duration = Duration::from_secs(1800 + 60);

/// The names of the tools, in the order they are offered.
pub(crate) const NAMES: [&str; 5] = ["bash", "read_file", "write_file", "edit_file", "web_fetch"];

/// The tools, for the model.
pub(crate) fn specs() -> Vec<ToolSpec> {
    let spec = |name: &str, description: &str, properties: Value, required: &[&str]| ToolSpec {
        name: name.into(),
        description: description.into(),
        input_schema: json!({
            "type": "object", "properties": properties, "required": required, "additionalProperties": false,
        }),
    };
    let path = json!({"type": "string", "description": "The file; relative to /workspace, or absolute."});
    vec![
        spec(
            NAMES[0],
            "Runs a command in a shell that persists: working directory, variables and background processes stay from \
             one call to the next. Standard input is empty; standard output and error come together. Long output \
             loses its middle. What background processes write appears with the next command. A command that exceeds \
             its time is killed, and its shell with it.",
            json!({
                "command": {"type": "string", "description": "What to run."},
                "timeout_seconds": {"type": "integer", "minimum": 1, "maximum": BASH_TIMEOUT_MAX.as_secs(),
                    "description": format!("Default {}.", BASH_TIMEOUT_DEFAULT.as_secs())},
                "restart": {"type": "boolean", "description": "Begin with a fresh shell."},
            }),
            &["command"],
        ),
        spec(
            NAMES[1],
            "Reads lines of a text file.",
            json!({
                "path": path,
                "first_line": {"type": "integer", "minimum": 1, "description": "Where to begin; default 1."},
                "line_count": {"type": "integer", "minimum": 1, "description": "How many; default 2000."},
            }),
            &["path"],
        ),
        spec(
            NAMES[2],
            "Writes a file in one piece, replacing what was there; makes missing folders.",
            json!({"path": path, "content": {"type": "string"}}),
            &["path", "content"],
        ),
        spec(
            NAMES[3],
            "Replaces a piece of a text file by another. The old text must occur exactly once, unless replace_all.",
            json!({
                "path": path,
                "old": {"type": "string", "description": "Exactly as it is in the file."},
                "new": {"type": "string"},
                "replace_all": {"type": "boolean"},
            }),
            &["path", "old", "new"],
        ),
        spec(
            NAMES[4],
            "Sends an HTTP request and returns status, headers and text. Policy decides which requests leave the \
             workspace; a denied one says so.",
            json!({
                "url": {"type": "string"},
                "method": {"type": "string", "enum": crate::tool_host::METHODS, "description": "Default GET."},
                "headers": {"type": "object", "additionalProperties": {"type": "string"}},
                "body": {"type": "string"},
            }),
            &["url"],
        ),
    ]
}

/// What the agent asks of the tool host.
#[derive(Debug, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub(crate) enum ToHost {
    /// Do this; answered by [`FromHost`].
    Run { id: u64, job: Job },
    /// Stop doing it; not answered.
    Stop { id: u64 },
}

/// A job of the tool host.
#[derive(Debug, Serialize, Deserialize)]
#[serde(tag = "job", rename_all = "snake_case")]
pub(crate) enum Job {
    /// A tool call of the model.
    Tool { name: String, arguments: Value },
    /// Put a piece of a file that came with the task.
    Put { path: PathBuf, offset: u64, base64: String },
}

/// What became of a job.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct FromHost {
    pub(crate) id: u64,
    pub(crate) status: ToolStatus,
    pub(crate) result: String,
}

/// The agent's end of the tool host, which is started when it is first needed, and again after it died.
#[derive(Debug)]
pub(crate) struct ToolHost {
    confinement: Arc<Confinement>,
    running: Option<Running>,
    last_id: u64,
    /// The job that was sent and neither answered nor stopped.
    open: Option<u64>,
    /// A message may be half written.
    is_sending: bool,
    died: bool,
}

#[derive(Debug)]
struct Running {
    child: Child,
    connection: Connection<UnixStream>,
}

impl ToolHost {
    pub(crate) fn new(confinement: Confinement) -> Self {
        Self {
            confinement: Arc::new(confinement),
            running: None,
            last_id: 0,
            open: None,
            is_sending: false,
            died: false,
        }
    }

    /// Runs a tool call. Dropping the future leaves the job open: the next one stops it first.
    pub(crate) async fn call(&mut self, call: ToolCall) -> (ToolStatus, String) {
        let is_shell = call.name == NAMES[0];
        let job = Job::Tool { name: call.name, arguments: call.arguments };
        match self.job(job).await {
            Ok(answer) => {
                let lost = is_shell && std::mem::take(&mut self.died);
                let note = if lost {
                    "[the tools were restarted since the last command: the shell is new, without working directory, \
                     variables and background processes of the old]\n"
                } else {
                    ""
                };
                (answer.status, format!("{note}{}", answer.result))
            }
            Err(error) => (
                ToolStatus::Error,
                format!(
                    "The tools' process was lost while this ran ({error}). How far it came is unknown. The next call \
                     starts it anew, with a new shell."
                ),
            ),
        }
    }

    /// Puts a piece of a file that came with a task.
    pub(crate) async fn put(&mut self, path: PathBuf, offset: u64, base64: String) -> Result<(), String> {
        match self.job(Job::Put { path, offset, base64 }).await {
            Ok(answer) if answer.status == ToolStatus::Success => Ok(()),
            Ok(answer) => Err(answer.result),
            Err(error) => Err(error.to_string()),
        }
    }

    /// Stops what is under way: a running command is killed.
    pub(crate) async fn stop(&mut self) {
        if self.is_sending {
            return self.end();
        }
        if let (Some(id), Some(running)) = (self.open.take(), &mut self.running)
            && running.connection.send(&ToHost::Stop { id }).await.is_err()
        {
            self.end();
        }
    }

    async fn job(&mut self, job: Job) -> io::Result<FromHost> {
        self.stop().await;
        let answer = match tokio::time::timeout(TOOL_WAIT_MAX, self.exchange(job)).await {
            Ok(answer) => answer,
            Err(_) => Err(io::Error::new(io::ErrorKind::TimedOut, "it did not answer")),
        };
        self.open = None;
        if answer.is_err() {
            self.end();
        }
        answer
    }

    async fn exchange(&mut self, job: Job) -> io::Result<FromHost> {
        self.last_id += 1;
        let id = self.last_id;
        let message = ToHost::Run { id, job };
        // A host that died while idle is noticed by the first write, before anything ran.
        if self.running.as_mut().is_some_and(|running| !matches!(running.child.try_wait(), Ok(None))) {
            self.end();
        }
        let running = match &mut self.running {
            Some(running) => running,
            None => {
                let (child, stream) = self.confinement.spawn()?;
                self.running.insert(Running { child, connection: Connection::new(stream) })
            }
        };
        self.is_sending = true;
        running.connection.send(&message).await.map_err(io::Error::other)?;
        self.is_sending = false;
        self.open = Some(id);
        loop {
            match running.connection.receive::<FromHost>().await.map_err(io::Error::other)? {
                // Late answers of stopped jobs are nobody's.
                Some(answer) if answer.id == id => return Ok(answer),
                Some(_) => {}
                None => return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "it died")),
            }
        }
    }

    fn end(&mut self) {
        if let Some(mut running) = self.running.take() {
            self.died = true;
            self.open = None;
            self.is_sending = false;
            // As pid 1 the reaper may have been faster, and the number may be another's by now.
            if matches!(running.child.try_wait(), Ok(None)) {
                let _ = running.child.kill();
                let _ = running.child.wait();
            }
        }
    }
}

impl Drop for ToolHost {
    fn drop(&mut self) {
        self.end();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_tool_has_a_schema_of_an_object() {
        let specs = specs();
        assert_eq!(specs.iter().map(|spec| spec.name.as_str()).collect::<Vec<_>>(), NAMES);
        for spec in specs {
            assert_eq!(spec.input_schema["type"], "object", "{}", spec.name);
            let properties = spec.input_schema["properties"].as_object().unwrap();
            for required in spec.input_schema["required"].as_array().unwrap() {
                assert!(properties.contains_key(required.as_str().unwrap()), "{}", spec.name);
            }
        }
    }
}
