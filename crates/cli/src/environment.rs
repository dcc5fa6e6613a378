//! What the verbs know of the process they run in.

use std::{
    fmt,
    io::{IsTerminal, Read, Write},
    path::PathBuf,
    sync::Mutex,
};

use freehold_client::Key;

use crate::{Scene, output::Console};

/// The environment of a verb: variables, standard streams, and what only the binary has.
pub struct Environment {
    /// The whole command line, for shell completions.
    pub command: clap::Command,
    /// What the demo plays.
    pub scene: Scene,
    /// `FREEHOLD_API_KEY`.
    pub api_key: Option<Key>,
    /// `FREEHOLD_URL`.
    pub url: Option<String>,
    /// `ANTHROPIC_API_KEY`, for `demo --live`.
    pub anthropic_api_key: Option<Key>,
    /// `OPENAI_API_KEY`, for `demo --live`.
    pub openai_api_key: Option<Key>,
    /// Where the user's configuration is: `XDG_CONFIG_HOME`, or `~/.config`.
    pub config_dir: Option<PathBuf>,
    /// Whether stdin is a terminal, where questions can be asked.
    pub stdin_is_terminal: bool,
    /// Whether stdout is a terminal, whose columns are few.
    pub stdout_is_terminal: bool,
    /// Whether stdout takes colours.
    pub stdout_colour: bool,
    /// Whether stderr takes colours.
    pub stderr_colour: bool,
    /// The standard streams, taken by the verb that runs.
    pub streams: Mutex<Option<Streams>>,
}

/// The standard streams.
pub struct Streams {
    /// Standard input.
    pub stdin: Box<dyn Read + Send>,
    /// Standard output.
    pub stdout: Box<dyn Write + Send>,
    /// Standard error.
    pub stderr: Box<dyn Write + Send>,
}

impl fmt::Debug for Environment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Environment").field("url", &self.url).finish_non_exhaustive()
    }
}

impl Environment {
    /// The environment of this process. `command` is the whole command line, `scene` what the demo plays.
    pub fn of_process(command: clap::Command, scene: Scene) -> Self {
        #[expect(clippy::disallowed_methods, reason = "the client verbs are where their environment is read")]
        let variable = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty());
        let text = |name: &str| variable(name).and_then(|value| value.into_string().ok());
        let key = |name: &str| text(name).map(Key::new);
        let home = variable("HOME").or_else(|| variable("USERPROFILE")).map(PathBuf::from);
        // https://no-color.org: any value but the empty one means no colour.
        let colour = variable("NO_COLOR").is_none() && text("TERM").is_none_or(|term| term != "dumb");
        Self {
            command,
            scene,
            api_key: key("FREEHOLD_API_KEY"),
            url: text("FREEHOLD_URL"),
            anthropic_api_key: key("ANTHROPIC_API_KEY"),
            openai_api_key: key("OPENAI_API_KEY"),
            config_dir: variable("XDG_CONFIG_HOME")
                .map(PathBuf::from)
                .or(home.map(|home| home.join(".config"))),
            stdin_is_terminal: std::io::stdin().is_terminal(),
            stdout_is_terminal: std::io::stdout().is_terminal(),
            stdout_colour: colour && std::io::stdout().is_terminal(),
            stderr_colour: colour && std::io::stderr().is_terminal(),
            streams: Mutex::new(Some(Streams {
                stdin: Box::new(std::io::stdin()),
                stdout: Box::new(std::io::stdout()),
                stderr: Box::new(std::io::stderr()),
            })),
        }
    }

    /// The streams, dressed for writing. Empty ones when they were taken already.
    pub(crate) fn console(&self) -> Console {
        let streams = self.streams.lock().ok().and_then(|mut streams| streams.take());
        let streams = streams.unwrap_or_else(|| Streams {
            stdin: Box::new(std::io::empty()),
            stdout: Box::new(std::io::sink()),
            stderr: Box::new(std::io::sink()),
        });
        let mut console =
            Console::new(streams, self.stdin_is_terminal, self.stdout_colour, self.stderr_colour);
        console.stdout_is_terminal = self.stdout_is_terminal;
        console
    }
}

/// Resolves when this process's stdin ends. A child of the demo awaits it beside its signals: the demo holds the other end
/// of the pipe, which closes however the demo ends, `kill -9` included.
pub async fn stdin_closed() {
    let mut sink = [0; 1024];
    let mut stdin = tokio::io::stdin();
    while matches!(tokio::io::AsyncReadExt::read(&mut stdin, &mut sink).await, Ok(1..)) {}
}
