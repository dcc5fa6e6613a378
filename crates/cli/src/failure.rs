//! Failures as people and scripts see them: a sentence, a hint, and an exit code.

use freehold_client::Error;

/// Exit codes. They are part of the interface: `docs/cli.md` lists them for scripts.
pub mod exit {
    /// It worked.
    pub const OK: u8 = 0;
    /// The API refused for another reason than those below, or something else went wrong.
    pub const OTHER: u8 = 1;
    /// The command line is wrong, or a confirmation is missing.
    pub const USAGE: u8 = 2;
    /// No credential, or one that is not accepted.
    pub const NOT_SIGNED_IN: u8 = 3;
    /// There is no such thing.
    pub const NOT_FOUND: u8 = 4;
    /// The credential may not do this.
    pub const DENIED: u8 = 5;
    /// The thing is in a state that does not allow this.
    pub const CONFLICT: u8 = 6;
    /// The server cannot be reached, or the connection broke.
    pub const UNREACHABLE: u8 = 7;
    /// The followed task failed.
    pub const TASK_FAILED: u8 = 10;
    /// The followed task was cancelled.
    pub const TASK_CANCELLED: u8 = 11;
    /// The followed task could not be delivered.
    pub const TASK_DELIVERY_FAILED: u8 = 12;
    /// Ctrl-C ended it.
    pub const INTERRUPTED: u8 = 130;
    /// It was told to end, by SIGTERM.
    pub const TERMINATED: u8 = 143;
}

/// Why a verb failed.
#[derive(Debug)]
pub(crate) struct Failure {
    pub code: u8,
    pub message: String,
    /// Further lines: causes, refused fields.
    pub details: Vec<String>,
    pub hint: Option<String>,
}

impl Failure {
    pub fn new(code: u8, message: impl Into<String>) -> Self {
        Self { code, message: message.into(), details: Vec::new(), hint: None }
    }

    pub fn other(message: impl Into<String>) -> Self {
        Self::new(exit::OTHER, message)
    }

    pub fn usage(message: impl Into<String>) -> Self {
        Self::new(exit::USAGE, message)
    }

    pub fn io(what: impl Into<String>, error: &std::io::Error) -> Self {
        Self { details: vec![error.to_string()], ..Self::other(what) }
    }

    pub fn hint(self, hint: impl Into<String>) -> Self {
        Self { hint: Some(hint.into()), ..self }
    }

    /// The reader of stdout went away, as `head` does: nothing went wrong, and nobody is left to tell.
    pub fn stdout(error: &std::io::Error) -> Self {
        if error.kind() == std::io::ErrorKind::BrokenPipe {
            return Self::new(exit::OK, "");
        }
        Self::io("cannot write to stdout", error)
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        let code = match &error {
            Error::Api(api) => match api.status {
                401 => exit::NOT_SIGNED_IN,
                403 => exit::DENIED,
                404 => exit::NOT_FOUND,
                409 => exit::CONFLICT,
                _ => exit::OTHER,
            },
            Error::Unreachable { .. } | Error::Broken { .. } => exit::UNREACHABLE,
            Error::Address { .. } | Error::MalformedKey => exit::USAGE,
            _ => exit::OTHER,
        };
        let mut details = Vec::new();
        if let Some(api) = error.api() {
            details.extend(api.fields().into_iter().map(|(name, why)| match why.contains('\n') {
                true => format!("{name}:\n{why}"),
                false => format!("{name}: {why}"),
            }));
            if !api.request_id.is_empty() {
                details.push(format!("{} (request {})", api.code, api.request_id));
            }
        }
        let mut source = std::error::Error::source(&error);
        while let Some(cause) = source {
            details.push(cause.to_string());
            source = cause.source();
        }
        let hint = error.hint().map(str::to_owned);
        Self { code, message: error.to_string(), details, hint }
    }
}
