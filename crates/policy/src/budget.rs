//! Counters: how much of something may be used, by whom and in what time.

use crate::{
    cel::{Fault, Scope, Value, Work},
    document::Formula,
};

/// Millionths of a dollar in one: money is counted in whole ones of these.
pub const MICROS_PER_USD: u64 = 1_000_000;
/// The greatest limit, in the counter's unit; for money nine billion dollars.
pub const LIMIT_MAX: u64 = 9_000_000_000_000_000;
/// The longest window, in days.
pub const WINDOW_DAYS_MAX: u64 = 366;

/// A counter of a capability.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Counter {
    /// Its name, unique in its capability and its document.
    pub name: String,
    /// What it counts.
    pub unit: Unit,
    /// How much a request is, for [`Unit::Expression`] and for it alone.
    pub amount: Option<Formula>,
    /// Whose use is counted together.
    pub per: Per,
    /// In what time; `None` for the whole life of what it counts per.
    pub window: Option<Window>,
    /// How much there is, in the unit; money in [micro-dollars](MICROS_PER_USD).
    pub limit: u64,
    /// From how much on it is said that the limit is near; at most the limit.
    pub warn_at: Option<u64>,
    /// What happens to a request that would go beyond.
    pub on_limit: OnLimit,
    /// The names of the rules whose requests count; `None` for every rule of the capability.
    pub applies_to: Option<Vec<String>>,
}

impl Counter {
    /// How much a request is by the counter's own expression; 0 for units that have none.
    ///
    /// # Errors
    /// When the expression has no value, or a negative one: the request cannot be counted, and is denied.
    pub fn amount(&self, scope: &dyn Scope, work: &Work) -> Result<u64, Fault> {
        let Some(formula) = &self.amount else { return Ok(0) };
        match formula.expression().evaluate(scope, work)? {
            Value::Int(amount) => u64::try_from(amount).map_err(|_| Fault::Range),
            _ => Err(Fault::Type),
        }
    }
}

/// A closed set of words of the language.
macro_rules! words {
    ($(#[$doc:meta])* $name:ident { $($(#[$of:meta])* $variant:ident = $word:literal,)* }) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        pub enum $name { $($(#[$of])* $variant,)* }

        impl $name {
            /// Every word, in the order documented.
            pub const WORDS: &'static [&'static str] = &[$($word),*];

            /// The value of a word.
            pub fn parse(word: &str) -> Option<Self> {
                match word { $($word => Some(Self::$variant),)* _ => None }
            }

            /// Its word in the language.
            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $word,)* }
            }
        }
    };
}

words! {
    /// What a counter counts.
    Unit {
        /// Requests.
        Requests = "requests",
        /// Bytes of the bodies of requests.
        RequestBytes = "request_bytes",
        /// Bytes of the bodies of responses.
        ResponseBytes = "response_bytes",
        /// Tokens, as the model provider's answer says.
        Tokens = "tokens",
        /// Money for tokens, by the table of prices; in micro-dollars below the surface.
        Usd = "usd",
        /// What the counter's own expression says.
        Expression = "expression",
    }
}

words! {
    /// Whose use is counted together.
    Per {
        /// A task's. Traffic without a task is counted per workspace.
        Task = "task",
        /// A session's.
        Session = "session",
        /// A workspace's.
        Workspace = "workspace",
        /// That of all workspaces of a role.
        Role = "role",
        /// That of all workspaces of the organization.
        Organization = "organization",
    }
}

words! {
    /// What happens at the limit.
    OnLimit {
        /// The request is denied.
        Deny = "deny",
        /// A person is asked.
        Ask = "ask",
    }
}

/// A length of time. Windows follow one another from the Unix epoch on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Window {
    seconds: u64,
}

impl Window {
    /// Parses `<n>s`, `m`, `h` or `d`. The problem is text for the author.
    pub fn parse(text: &str) -> Result<Self, String> {
        let wrong = || {
            format!("expected a time from `1s` to `{WINDOW_DAYS_MAX}d`, such as `90s`, `15m`, `1h` or `30d`")
        };
        let (number, unit) = text.split_at_checked(text.len().saturating_sub(1)).ok_or_else(wrong)?;
        let unit = match unit {
            "s" => 1,
            "m" => 60,
            "h" => 3_600,
            "d" => 86_400,
            _ => return Err(wrong()),
        };
        let is_plain = !number.starts_with(['0', '+']);
        let seconds =
            number.parse::<u64>().ok().filter(|_| is_plain).and_then(|number| number.checked_mul(unit));
        seconds
            .filter(|seconds| *seconds <= WINDOW_DAYS_MAX * 86_400)
            .map(|seconds| Self { seconds })
            .ok_or_else(wrong)
    }

    /// Its length in seconds; at least 1.
    pub const fn seconds(self) -> u64 {
        self.seconds
    }
}
