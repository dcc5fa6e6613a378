//! Where a setting stands in a file: what reads the configuration keeps no places.

use std::path::Path;

use toml::{
    Spanned,
    de::{DeTable, DeValue},
};

/// The line and column, each from 1, of the deepest of these keys that the file has.
pub(super) fn of(file: &Path, keys: &[String]) -> Option<(usize, usize)> {
    let text = std::fs::read_to_string(file).ok()?;
    let document = DeTable::parse(&text).ok()?;
    let mut at = None;
    let mut value: Option<&DeValue<'_>> = None;
    for key in keys {
        let table = match value {
            None => document.get_ref(),
            Some(value) => match value.as_table() {
                Some(table) => table,
                None => break,
            },
        };
        let Some((name, inner)) = table.iter().find(|(name, _)| *name.get_ref() == key.as_str()) else {
            break;
        };
        at = Some(Spanned::span(name).start);
        value = Some(inner.get_ref());
    }
    let before = text.get(..at?)?;
    let line = before.matches('\n').count() + 1;
    let column = before.rsplit('\n').next().map_or(0, |start| start.chars().count()) + 1;
    Some((line, column))
}
