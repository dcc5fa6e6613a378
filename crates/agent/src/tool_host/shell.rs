//! The persistent shell: working directory, variables and background processes stay from one command to the next.
//!
//! The shell reads commands from a socket as its standard input and answers there when one has ended, with a random
//! mark. Commands themselves run with `/dev/null` as standard input, so neither the socket nor the mark is theirs;
//! their output goes another way, through one pipe for both streams, in the order it was written.

use std::{io, os::fd::OwnedFd, path::Path, process::Stdio, time::Duration};

use freehold_model::event::ToolStatus;
use rustix::process::{Pid, Signal, kill_process_group};
use serde::Deserialize;
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader},
    net::{
        UnixStream,
        unix::{OwnedReadHalf, OwnedWriteHalf, pipe},
    },
    process::{Child, Command},
};
use uuid::Uuid;

use super::{Outcome, output::Output, work_folder};
use crate::tools::{BASH_TIMEOUT_DEFAULT, BASH_TIMEOUT_MAX};

/// The most bytes of a command.
const COMMAND_BYTES_MAX: usize = 128 * 1024;

/// How long a killed shell may take to be gone.
const KILL_WAIT: Duration = Duration::from_secs(5);

/// The longest line a shell may say on its control socket; a longer one is not ours.
const CONTROL_BYTES_MAX: u64 = 4096;

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Bash {
    command: String,
    timeout_seconds: Option<u64>,
    #[serde(default)]
    restart: bool,
}

/// Runs a command in the shell, which is started when there is none.
pub(super) async fn bash(slot: &mut Option<Shell>, arguments: Bash) -> Outcome {
    let Bash { command, timeout_seconds, restart } = arguments;
    let timeout = timeout_seconds.map_or(BASH_TIMEOUT_DEFAULT, Duration::from_secs);
    if timeout.is_zero() || timeout > BASH_TIMEOUT_MAX {
        let most = BASH_TIMEOUT_MAX.as_secs();
        return Outcome::error(format!("`timeout_seconds` is from 1 to {most}. Nothing was done."));
    }
    if command.len() > COMMAND_BYTES_MAX || command.contains('\0') {
        let most = COMMAND_BYTES_MAX;
        return Outcome::error(format!("A command has at most {most} bytes and no NUL. Nothing was done."));
    }
    if restart {
        *slot = None;
    }
    // Taken out, so that dropping this future in the middle of a command drops the shell, which kills it.
    let mut shell = match slot.take().map_or_else(Shell::start, Ok) {
        Ok(shell) => shell,
        Err(error) => return Outcome::error(format!("The shell could not be started: {error}.")),
    };
    match tokio::time::timeout(timeout, shell.run(&command)).await {
        Ok(Ok(End::Exit(code))) => {
            let text = shell.output.take();
            *slot = Some(shell);
            ended(code, &text)
        }
        Ok(Ok(End::ShellGone)) => {
            let status = shell.gone().await;
            let text = shell.output.take();
            let note = format!(
                "{text}\n[the shell itself ended ({status}); the next command starts a new one: working directory, \
                 variables and background processes are lost]"
            );
            Outcome { status: ToolStatus::Error, text: note }
        }
        Ok(Err(error)) => {
            Outcome::error(format!("The shell was lost: {error}. The next command starts a new one."))
        }
        Err(_) => {
            shell.drain_now();
            let text = shell.output.take();
            let note = format!(
                "{text}\n[timed out after {} s; the command was killed and its shell with it: the next command starts \
                 a new one, without working directory, variables and background processes of the old]",
                timeout.as_secs()
            );
            Outcome { status: ToolStatus::Timeout, text: note }
        }
    }
}

fn ended(code: i32, text: &str) -> Outcome {
    let text = text.trim_end_matches('\n');
    match (code, text.is_empty()) {
        (0, true) => Outcome::success("[no output; exit code 0]"),
        (0, false) => Outcome::success(text),
        (_, true) => Outcome::error(format!("[no output; exit code {code}]")),
        (_, false) => Outcome::error(format!("{text}\n[exit code {code}]")),
    }
}

enum End {
    Exit(i32),
    ShellGone,
}

/// A running shell. Dropping it kills it and everything in its process group.
#[derive(Debug)]
pub(super) struct Shell {
    child: Child,
    group: Option<Pid>,
    said: BufReader<OwnedReadHalf>,
    say: OwnedWriteHalf,
    pipe: pipe::Receiver,
    output: Output,
}

impl Shell {
    fn start() -> io::Result<Self> {
        let (ours, theirs) = UnixStream::pair()?;
        let (reader, writer) = io::pipe()?;
        let theirs = OwnedFd::from(theirs.into_std()?);
        rustix::io::ioctl_fionbio(&theirs, false)?;
        let bash = Path::new("/bin/bash");
        let mut command = if bash.exists() {
            let mut command = Command::new(bash);
            command.args(["--noprofile", "--norc"]);
            command
        } else {
            Command::new("/bin/sh")
        };
        let child = command
            .current_dir(work_folder())
            .stdin(Stdio::from(theirs))
            .stdout(Stdio::from(writer.try_clone()?))
            .stderr(Stdio::from(writer))
            .process_group(0)
            .kill_on_drop(true)
            .spawn()?;
        let group = child.id().and_then(|id| Pid::from_raw(i32::try_from(id).ok()?));
        let (said, say) = ours.into_split();
        Ok(Self {
            child,
            group,
            said: BufReader::new(said),
            say,
            pipe: pipe::Receiver::from_owned_fd(reader.into())?,
            output: Output::default(),
        })
    }

    /// Runs one command to its end; its output is in `output`.
    async fn run(&mut self, command: &str) -> io::Result<End> {
        let mark = Uuid::now_v7().simple().to_string();
        let quoted = command.replace('\'', r"'\''");
        // `command` keeps a syntax error from ending a POSIX shell. The mark goes to the socket, which is the shell's
        // own standard input.
        let script = format!("command eval '{quoted}' </dev/null\nprintf '\\n%s %s\\n' {mark} \"$?\" >&0\n");
        let Self { said, say, pipe, output, .. } = self;
        let mut buffer = vec![0; 16 * 1024];
        let written = say.write_all(script.as_bytes());
        tokio::pin!(written);
        let mut is_written = false;
        let mut line = Vec::new();
        let mut is_open = true;
        loop {
            tokio::select! {
                result = &mut written, if !is_written => {
                    is_written = true;
                    if result.is_err() {
                        return Ok(End::ShellGone);
                    }
                }
                read = read_line(said, &mut line) => {
                    // A shell that ended before it read everything resets the socket.
                    if matches!(read, Ok(0) | Err(_)) {
                        drain_into(pipe, output);
                        return Ok(End::ShellGone);
                    }
                    let code = std::str::from_utf8(&line).ok().and_then(|line| line.trim_end().strip_prefix(&mark));
                    if let Some(code) = code.and_then(|code| code.trim().parse().ok()) {
                        // What the command wrote is in the pipe by now.
                        drain_into(pipe, output);
                        return Ok(End::Exit(code));
                    }
                    line.clear();
                }
                read = pipe.read(&mut buffer), if is_open => match read? {
                    0 => is_open = false,
                    length => output.push(&buffer[..length]),
                },
            }
        }
    }

    /// Reads what background processes write while no command runs. Never resolves once they are all gone.
    pub(super) async fn drain(&mut self) {
        let mut buffer = vec![0; 4096];
        match self.pipe.read(&mut buffer).await {
            Ok(length) if length > 0 => self.output.push(&buffer[..length]),
            Ok(_) | Err(_) => std::future::pending().await,
        }
    }

    fn drain_now(&mut self) {
        drain_into(&mut self.pipe, &mut self.output);
    }

    /// How a shell that ended by itself ended.
    async fn gone(&mut self) -> String {
        match tokio::time::timeout(KILL_WAIT, self.child.wait()).await {
            Ok(Ok(status)) => status.to_string(),
            Ok(Err(_)) | Err(_) => "its standard input was closed".into(),
        }
    }
}

impl Drop for Shell {
    fn drop(&mut self) {
        if let Some(group) = self.group {
            // It may be gone already.
            let _ = kill_process_group(group, Signal::KILL);
        }
    }
}

async fn read_line(from: &mut BufReader<OwnedReadHalf>, line: &mut Vec<u8>) -> io::Result<usize> {
    let room = CONTROL_BYTES_MAX.saturating_sub(line.len() as u64).max(1);
    AsyncReadExt::take(from, room).read_until(b'\n', line).await
}

fn drain_into(pipe: &mut pipe::Receiver, output: &mut Output) {
    let mut buffer = vec![0; 16 * 1024];
    // At most what a pipe holds: a background process that writes without end does not keep us.
    for _ in 0..64 {
        match pipe.try_read(&mut buffer) {
            Ok(0) | Err(_) => return,
            Ok(length) => output.push(&buffer[..length]),
        }
    }
}
