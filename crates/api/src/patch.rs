//! Fields of a `PATCH`: absent leaves alone, `null` clears, a value sets.

use serde::{Deserialize, Deserializer};

/// Reads a field that is present: `null` becomes `Some(None)`. Use with `#[serde(default)]`, which makes an absent one `None`.
///
/// # Errors
/// What reading a `T` yields.
pub fn present<'de, D: Deserializer<'de>, T: Deserialize<'de>>(
    deserializer: D,
) -> Result<Option<Option<T>>, D::Error> {
    Option::deserialize(deserializer).map(Some)
}
