//! JSON Schemas of bodies: compiled once, without access to anything outside of themselves, and bounded in what they cost.

use std::{collections::HashSet, fmt, sync::Arc};

use jsonschema::{PatternOptions, Validator};
use serde_json::Value as Json;

use crate::{content::ReadBody, names::folded};

/// The longest schema, written as JSON, in bytes.
pub const SCHEMA_BYTES_MAX: usize = 64 * 1024;
/// The most steps that a body may take to be held against a schema: each of its values counts once for each part of the
/// schema, and each of its bytes eight times for each regular expression. A body that may take more is not looked at, and
/// denied (`body_unreadable`).
pub const VALIDATION_STEPS_MAX: u64 = 64_000_000;
/// A body of more values than these is told to be wrong, and not where.
const DETAIL_VALUES_MAX: usize = 1_000;
/// Bytes of the place in a body that is told.
const DETAIL_BYTES_MAX: usize = 256;
/// A regular expression that compiles to more, in bytes, is refused.
const REGEX_BYTES_MAX: usize = 256 * 1024;

/// A compiled schema. Two are equal when they are written alike. Cheap to clone.
#[derive(Clone)]
pub struct BodySchema(Arc<Compiled>);

struct Compiled {
    json: Json,
    validator: Validator,
    /// Parts, with what is referred to counted as often as it is.
    parts: u64,
    regexes: u64,
    /// Every name of a property, sorted: what of a body's names may be told.
    names: Vec<String>,
    /// The same, of which some servers do not tell apart what differs in case.
    folded: HashSet<String>,
    /// What is longer, in bytes, is none of them in any case: no character's other case is more than three times as long.
    name_bytes_max: usize,
}

/// Why a body is not as a schema says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum SchemaMiss {
    /// It is another.
    Invalid,
    /// It cannot be told: it would take too long, or it has a name that differs in case alone from one of the schema's, which
    /// some servers take for that.
    Unclear,
}

impl BodySchema {
    /// Compiles a schema that was [checked](crate::parse) to be one that may be.
    pub(crate) fn compile(
        json: Json,
        parts: u64,
        regexes: u64,
        names: Vec<String>,
    ) -> Result<Self, (String, String)> {
        let pattern = PatternOptions::regex().size_limit(REGEX_BYTES_MAX).dfa_size_limit(REGEX_BYTES_MAX);
        let options = jsonschema::draft202012::options()
            .with_pattern_options(pattern)
            .should_validate_formats(true)
            .should_ignore_unknown_formats(false)
            .offline();
        let validator =
            options.build(&json).map_err(|error| (error.instance_path().to_string(), error.to_string()))?;
        let folded: HashSet<_> = names.iter().map(|name| folded(name)).collect();
        let name_bytes_max = 3 * folded.iter().map(String::len).max().unwrap_or_default();
        Ok(Self(Arc::new(Compiled { json, validator, parts, regexes, names, folded, name_bytes_max })))
    }

    /// As it is written.
    pub fn json(&self) -> &Json {
        &self.0.json
    }

    /// Holds a body that was read against it.
    pub(crate) fn check(&self, body: &ReadBody) -> Result<(), SchemaMiss> {
        let Compiled { validator, parts, regexes, .. } = &*self.0;
        let value = body.value().ok_or(SchemaMiss::Invalid)?;
        let of_values = (body.values() as u64).saturating_mul(*parts);
        let of_bytes = body.length().unwrap_or(u64::MAX).saturating_mul(regexes.saturating_mul(8));
        if of_values.saturating_add(of_bytes) > VALIDATION_STEPS_MAX || self.0.is_misspelt(value) {
            return Err(SchemaMiss::Unclear);
        }
        if validator.is_valid(value) { Ok(()) } else { Err(SchemaMiss::Invalid) }
    }

    /// Where a body that is not as it says first differs, and in what: a JSON pointer in which names that the schema does not
    /// know are `*`, and the schema's keyword. Nothing of the body's content.
    pub(crate) fn detail(&self, body: &ReadBody) -> Option<String> {
        if body.values() > DETAIL_VALUES_MAX {
            return None;
        }
        let error = self.0.validator.validate(body.value()?).err()?;
        let pointer = error.instance_path().to_string();
        let mut place = String::new();
        for segment in pointer.split('/').skip(1) {
            let name = segment.replace("~1", "/").replace("~0", "~");
            let is_told =
                self.0.names.binary_search(&name).is_ok() || name.bytes().all(|b| b.is_ascii_digit());
            place.push('/');
            place.push_str(if is_told { segment } else { "*" });
            if place.len() > DETAIL_BYTES_MAX {
                return None;
            }
        }
        let keyword = error.kind().keyword();
        // Of the whole body, the keyword says it all.
        Some(if place.is_empty() { keyword.to_owned() } else { format!("{place}: {keyword}") })
    }
}

impl Compiled {
    /// Whether a name in the body differs in case alone from one that the schema knows. A body's depth is bounded.
    fn is_misspelt(&self, value: &Json) -> bool {
        let is_known = |name: &String| self.names.binary_search(name).is_ok();
        let is_like =
            |name: &String| name.len() <= self.name_bytes_max && self.folded.contains(&folded(name));
        match value {
            Json::Object(fields) => {
                fields.iter().any(|(name, value)| !is_known(name) && is_like(name) || self.is_misspelt(value))
            }
            Json::Array(items) => items.iter().any(|item| self.is_misspelt(item)),
            _ => false,
        }
    }
}

impl fmt::Debug for BodySchema {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.json.fmt(f)
    }
}

impl PartialEq for BodySchema {
    fn eq(&self, other: &Self) -> bool {
        self.0.json == other.0.json
    }
}

impl Eq for BodySchema {}
