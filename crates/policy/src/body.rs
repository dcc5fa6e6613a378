//! Bodies: what is known of one, and what a rule asks of it.

use crate::{
    content::{ReadBody, Unreadable},
    decide::Reason,
    media::{MediaPattern, MediaType},
    schema::{BodySchema, SchemaMiss},
};

/// Up to how many bytes a body is read where a rule that looks into it does not say (`body.max_bytes`).
pub const BODY_READ_BYTES_DEFAULT: u64 = 1024 * 1024;
/// Up to how many bytes a body is read at most. A rule that only bounds a body, and does not look into it, may name more.
pub const BODY_READ_BYTES_MAX: u64 = 8 * 1024 * 1024;

/// What is known of the body of a request, or of a response.
#[derive(Debug, Clone, Copy)]
pub struct Body<'a> {
    /// `Content-Type` as it was sent; `None` when there is none, or more than one.
    pub content_type: Option<&'a str>,
    /// Its length in bytes, when that is known before it was read: 0 when there is none.
    pub length: Option<u64>,
    /// What stands in it. `None`: nobody has read it, because nobody asked ([`crate::Policy::body_wanted`]).
    pub read: Option<&'a ReadBody>,
}

impl Body<'_> {
    /// No body.
    pub const NONE: Body<'static> = Body { content_type: None, length: Some(0), read: None };

    /// Its length, when it is known.
    pub fn length(&self) -> Option<u64> {
        self.read.and_then(ReadBody::length).or(self.length)
    }

    /// Whether there is none. One whose length is not known is there.
    pub fn is_empty(&self) -> bool {
        self.length() == Some(0)
    }

    /// Whether there is one, and nothing is known of what stands in it.
    pub fn is_unknown(&self) -> bool {
        !self.is_empty() && self.read.and_then(ReadBody::value).is_none()
    }

    /// Its media type; `None` for what programs read in different ways.
    pub(crate) fn media_type(&self) -> Option<MediaType> {
        self.content_type.and_then(MediaType::parse)
    }

    /// Whether reading it would show a value: JSON, or a form.
    pub(crate) fn is_readable(&self) -> bool {
        !self.is_empty() && self.media_type().is_some_and(|media| media.is_json() || media.is_form())
    }

    /// Why it cannot be told what stands in it, if that is so.
    pub(crate) fn unreadable(&self) -> Option<Reason> {
        match self.read {
            Some(read) => match read.unreadable()? {
                Unreadable::TooLong => Some(Reason::BodyTooLarge),
                _ => Some(Reason::BodyUnreadable),
            },
            None if self.is_readable() => Some(Reason::BodyUnreadable),
            None => None,
        }
    }
}

/// What a rule asks of the body of a request. All of it must hold.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct BodyRule {
    /// What it may be; empty for anything. A request without a body has none that could be wrong.
    pub content_types: Vec<MediaPattern>,
    /// Its greatest length in bytes. Never in a rule that denies.
    pub max_bytes: Option<u64>,
    /// What its value, JSON or the fields of a form, must look like. A request without a body has no value.
    pub schema: Option<BodySchema>,
}

impl BodyRule {
    /// For a rule that allows: `Ok` when the body is as it must be, as far as is known. Where its length is not known the
    /// permit bounds it.
    pub(crate) fn allows(&self, body: &Body<'_>) -> Result<(), Reason> {
        if !body.is_empty() && !types_hold(&self.content_types, body) {
            return Err(Reason::ContentTypeNotAllowed);
        }
        if self.max_bytes.zip(body.length()).is_some_and(|(max, length)| length > max) {
            return Err(Reason::BodyTooLarge);
        }
        let Some(schema) = &self.schema else { return Ok(()) };
        if let Some(reason) = body.unreadable() {
            return Err(reason);
        }
        let Some(read) = body.read else { return Err(Reason::BodyInvalid) };
        schema.check(read).map_err(|miss| match miss {
            SchemaMiss::Invalid => Reason::BodyInvalid,
            SchemaMiss::Unclear => Reason::BodyUnreadable,
        })
    }

    /// For a rule that denies: whether the body is one of these, or may be.
    pub(crate) fn denies(&self, body: &Body<'_>) -> Result<(), Reason> {
        if body.is_empty() {
            return Err(Reason::BodyInvalid);
        }
        // What has no type, or two, may be anything to the server.
        if body.media_type().is_some() && !types_hold(&self.content_types, body) {
            return Err(Reason::ContentTypeNotAllowed);
        }
        match (&self.schema, body.read) {
            (Some(schema), Some(read)) if read.value().is_some() => match schema.check(read) {
                Err(SchemaMiss::Invalid) => Err(Reason::BodyInvalid),
                Ok(()) | Err(SchemaMiss::Unclear) => Ok(()),
            },
            _ => Ok(()),
        }
    }
}

/// Whether the body's type is one of these; none stand for any.
pub(crate) fn types_hold(patterns: &[MediaPattern], body: &Body<'_>) -> bool {
    patterns.is_empty()
        || body.media_type().is_some_and(|media| patterns.iter().any(|pattern| pattern.matches(&media)))
}
