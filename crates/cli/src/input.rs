//! What verbs read: confirmations, secrets, files.

use std::{fs::File, io::Read, path::Path, time::Duration};

use freehold_client::Key;
use freehold_model::Timestamp;

use crate::{
    failure::Failure,
    output::{Console, read_text},
    terminal, text,
};

/// The most bytes of a secret.
const SECRET_BYTES_MAX: u64 = 64 * 1024;
/// The most bytes of a prompt or a policy; the API takes no longer ones.
const TEXT_BYTES_MAX: u64 = 1024 * 1024;
/// The most bytes of an answer to a question.
const REPLY_BYTES_MAX: usize = 16;
/// The most bytes of a line that is pasted.
const LINE_BYTES_MAX: usize = 16 * 1024;

/// Whether to ask first.
#[derive(Debug, Clone, Default, clap::Args)]
pub struct Confirm {
    /// Do not ask
    #[arg(long, short)]
    yes: bool,
}

impl Confirm {
    /// Whether it was said on the command line, so that nobody is asked.
    pub(crate) const fn is_given(&self) -> bool {
        self.yes
    }

    /// Goes on only when it was said, or is said now, that this is wanted.
    pub(crate) fn ask(&self, console: &mut Console, what: &str) -> Result<(), Failure> {
        self.ask_telling(console, what, "")
    }

    /// As [`Self::ask`], telling what it means, in sentences or with nothing.
    pub(crate) fn ask_telling(&self, console: &mut Console, what: &str, means: &str) -> Result<(), Failure> {
        if self.yes {
            return Ok(());
        }
        if !console.stdin_is_terminal {
            let refused = Failure::usage(format!("refusing to {what} without a confirmation"));
            let details = Some(means).filter(|means| !means.is_empty()).map(str::to_owned);
            return Err(Failure { details: details.into_iter().collect(), ..refused }
                .hint("pass --yes: nobody can be asked here, for standard input is no terminal"));
        }
        let means = if means.is_empty() { String::new() } else { format!("{}\n", text::harmless(means)) };
        console.note(&format!("About to {}.\n{means}Go on? [y/N] ", text::harmless(what)));
        // A terminal gives a line at a time; a longer one is no yes.
        let mut reply = [0; REPLY_BYTES_MAX];
        let length = console.stdin.read(&mut reply).unwrap_or(0);
        let reply = String::from_utf8_lossy(&reply[..length]).trim().to_ascii_lowercase();
        if matches!(reply.as_str(), "y" | "yes") {
            return Ok(());
        }
        Err(Failure::other("nothing was changed"))
    }
}

/// A secret from a file, or from stdin when there is none or it is `-`; a terminal does not show it and gives one line. One
/// line end after it is not part of it.
pub(crate) async fn secret(console: &mut Console, file: Option<&Path>, what: &str) -> Result<Key, Failure> {
    let file = file.filter(|file| *file != Path::new("-"));
    let text = if file.is_none() && console.stdin_is_terminal {
        let question = format!("{what} (not shown while you type): ");
        terminal::hidden_line(|| console.note(&question)).await?
    } else {
        read(console, file, SECRET_BYTES_MAX)?
    };
    let secret =
        text.strip_suffix('\n').map_or(text.as_str(), |text| text.strip_suffix('\r').unwrap_or(text));
    if secret.is_empty() {
        return Err(Failure::usage(format!("no {what} came")).hint("give it on stdin or in a file"));
    }
    Ok(Key::new(secret))
}

/// One line from stdin, which may be longer than what a person types.
pub(crate) fn line(console: &mut Console) -> Result<String, Failure> {
    let mut line = Vec::new();
    let mut byte = [0];
    while line.len() < LINE_BYTES_MAX {
        match console.stdin.read(&mut byte) {
            Ok(1) if byte[0] != b'\n' => line.push(byte[0]),
            Ok(_) => break,
            Err(error) => return Err(Failure::other(format!("standard input cannot be read: {error}"))),
        }
    }
    String::from_utf8(line).map_err(|_| Failure::usage("what came is no text"))
}

/// So long: a whole number with its unit, `s`, `m`, `h` or `d`.
pub(crate) fn span(text: &str) -> Option<Duration> {
    let (end, unit) = text.char_indices().next_back()?;
    let seconds = match unit {
        's' => 1,
        'm' => 60,
        'h' => 3_600,
        'd' => 86_400,
        _ => return None,
    };
    let count: u32 = text[..end].parse().ok()?;
    Some(Duration::from_secs(u64::from(count) * seconds))
}

/// Seconds, as a number of them or with a unit.
pub(crate) fn seconds(text: &str) -> Result<u32, String> {
    let with_unit = || u32::try_from(span(text)?.as_secs()).ok();
    text.parse()
        .ok()
        .or_else(with_unit)
        .ok_or_else(|| "say so many seconds, or so long as 90s, 30m, 2h or 7d".to_owned())
}

/// A time, or so long ago.
pub(crate) fn since(text: &str) -> Result<Timestamp, String> {
    let ago = || Timestamp::now().checked_sub(span(text)?).ok();
    text.parse()
        .ok()
        .or_else(ago)
        .ok_or_else(|| "say a time such as 2026-01-31T12:00:00Z, or so long ago as 30m, 2h or 7d".to_owned())
}

/// A text from a file, or from stdin for `-`.
pub(crate) fn text(console: &mut Console, file: &Path) -> Result<String, Failure> {
    let file = Some(file).filter(|file| *file != Path::new("-"));
    read(console, file, TEXT_BYTES_MAX)
}

fn read(console: &mut Console, file: Option<&Path>, limit_bytes: u64) -> Result<String, Failure> {
    let Some(path) = file else {
        return read_text(&mut console.stdin, limit_bytes)
            .map_err(|error| Failure::io("cannot read stdin", &error));
    };
    File::open(path).and_then(|mut file| read_text(&mut file, limit_bytes)).map_err(|error| {
        Failure::io(format!("cannot read {}", path.display()), &error)
            .hint("a file is named here; `-` reads standard input")
    })
}
