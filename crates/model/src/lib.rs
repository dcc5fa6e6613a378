//! The words of Freehold as types: ids, resources, lifecycles and the session's event log.
//!
//! Invariant: this crate performs no I/O and reads no clock, random source or environment; time and ids come in as
//! arguments. A phase (workspace, task, session, credential) changes only in the `next` function of its module.
//!
//! `serde` is derived where a value is stored or sent as it is (ids, status slugs, the session's events): those
//! shapes *are* the journal's format, and a second set of types would be a second place for one fact.

pub mod api_key;
pub mod approval;
pub mod audit;
pub mod budget;
pub mod checkpoint;
pub mod credential;
pub mod event;
pub mod id;
pub mod issuer;
pub mod member;
pub mod name;
pub mod provider;
pub mod role;
pub mod secret;
pub mod session;
pub mod task;
pub mod upload;
pub mod workspace;

pub use id::*;
pub use jiff::Timestamp;

/// The answer of a lifecycle's `next` to an event it accepts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Next<S> {
    /// The phase changes to this one.
    Go(S),
    /// The event was already accounted for (repeated or late): nothing changes, and nothing is wrong.
    Ignore,
}

/// Declares a closed set of slugs: the same spelling in rows, on the wire and in text.
macro_rules! slugs {
    ($(#[$meta:meta])* $name:ident { $($(#[$vmeta:meta])* $variant:ident => $slug:literal,)+ }) => {
        $(#[$meta])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, serde::Serialize, serde::Deserialize)]
        pub enum $name { $($(#[$vmeta])* #[serde(rename = $slug)] $variant,)+ }
        impl $name {
            /// Every value, in the order of declaration.
            pub const ALL: &'static [Self] = &[$(Self::$variant,)+];
            /// The value's spelling in rows, on the wire and in text.
            pub const fn as_str(self) -> &'static str { match self { $(Self::$variant => $slug,)+ } }
        }
        impl std::fmt::Display for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result { f.pad(self.as_str()) }
        }
        impl std::str::FromStr for $name {
            type Err = $crate::UnknownSlug;
            fn from_str(text: &str) -> Result<Self, Self::Err> {
                match text { $($slug => Ok(Self::$variant),)+ _ => Err($crate::UnknownSlug { expected: stringify!($name) }) }
            }
        }
    };
}
pub(crate) use slugs;

/// A text that is none of a closed set's slugs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not a known {expected}")]
pub struct UnknownSlug {
    /// The name of the set.
    pub expected: &'static str,
}
