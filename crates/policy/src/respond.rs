//! What a rule asks of the response.

use std::fmt;

use crate::{
    body::{BODY_READ_BYTES_DEFAULT, BODY_READ_BYTES_MAX, Body, types_hold},
    cel::{Attribute, Scope, Work},
    decide::Reason,
    document::Condition,
    media::MediaPattern,
};

/// What must hold of a response before the pod sees it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ResponseRule {
    /// Its status; empty for any.
    pub status: Vec<StatusPattern>,
    /// What its body may be; empty for anything. A response without a body has none that could be wrong.
    pub content_types: Vec<MediaPattern>,
    /// The greatest length of its body in bytes.
    pub max_bytes: Option<u64>,
    /// What must hold besides.
    pub when: Vec<Condition>,
}

/// Statuses that a rule names: one, or a class (`4xx`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StatusPattern {
    /// This one.
    Code(u16),
    /// All that begin with this digit.
    Class(u16),
}

/// What is known of a response.
#[derive(Debug, Clone, Copy)]
pub struct Reply<'a> {
    /// The status.
    pub status: u16,
    /// Its body. Of the answer to HEAD, and of others that have none, the length is 0 whatever their head says.
    pub body: Body<'a>,
}

impl ResponseRule {
    /// Whether it looks into bodies.
    pub fn reads_body(&self) -> bool {
        self.asks(|attribute| attribute == Attribute::ResponseBody)
    }

    /// Whether, and up to how many bytes, the body must be read before [`check`](Self::check). `None`: the head is enough.
    pub fn body_wanted(&self, reply: &Reply<'_>) -> Option<u64> {
        let looks = self.reads_body() && reply.body.is_readable();
        looks.then(|| self.max_bytes.unwrap_or(BODY_READ_BYTES_DEFAULT).min(BODY_READ_BYTES_MAX))
    }

    /// The greatest length of the body in bytes, which egress holds to where it is not known beforehand.
    pub const fn max_bytes(&self) -> Option<u64> {
        self.max_bytes
    }

    /// Whether the response may be passed on. `scope` sees the request and the response.
    ///
    /// # Errors
    /// What does not hold: a reason that begins with `response_`.
    pub fn check(&self, reply: &Reply<'_>, scope: &dyn Scope) -> Result<(), Reason> {
        self.check_head(reply)?;
        let body = &reply.body;
        // A condition that asks whether there is a value would take what cannot be told for none.
        if self.reads_body()
            && let Some(reason) = body.unreadable()
        {
            let is_long = reason == Reason::BodyTooLarge;
            return Err(if is_long { Reason::ResponseTooLarge } else { Reason::ResponseUnreadable });
        }
        let work = Work::default();
        if self.when.iter().all(|one| one.expression().holds(scope, &work) == Ok(true)) {
            Ok(())
        } else {
            Err(Reason::ResponseConditionNotMet)
        }
    }

    /// Whether the head alone shows that it may not be passed on: then its body need not be read.
    pub fn refuses_head(&self, reply: &Reply<'_>) -> bool {
        self.check_head(reply).is_err()
    }

    fn check_head(&self, reply: &Reply<'_>) -> Result<(), Reason> {
        let body = &reply.body;
        if !self.status.is_empty() && !self.status.iter().any(|pattern| pattern.matches(reply.status)) {
            return Err(Reason::ResponseStatusNotAllowed);
        }
        if !body.is_empty() && !types_hold(&self.content_types, body) {
            return Err(Reason::ResponseContentTypeNotAllowed);
        }
        if self.max_bytes.zip(body.length()).is_some_and(|(max, length)| length > max) {
            return Err(Reason::ResponseTooLarge);
        }
        Ok(())
    }

    /// Whether a condition asks for such an attribute.
    pub(crate) fn asks(&self, which: impl Fn(Attribute) -> bool) -> bool {
        self.when.iter().any(|one| one.expression().attributes().iter().any(|&attribute| which(attribute)))
    }
}

impl StatusPattern {
    /// Parses `200` or `2xx`. The problem is text for the author.
    pub fn parse(text: &str) -> Result<Self, String> {
        let parsed = match text.strip_suffix("xx") {
            Some(class) => class.parse().ok().filter(|class| (1..=5).contains(class)).map(Self::Class),
            None => text.parse().ok().filter(|code| (100..=599).contains(code)).map(Self::Code),
        };
        parsed
            .filter(|_| text.len() == 3)
            .ok_or_else(|| "expected a status from 100 to 599, or a class such as `4xx`".to_owned())
    }

    const fn matches(self, status: u16) -> bool {
        match self {
            Self::Code(code) => code == status,
            Self::Class(class) => class == status / 100,
        }
    }
}

impl fmt::Display for StatusPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Code(code) => write!(f, "{code}"),
            Self::Class(class) => write!(f, "{class}xx"),
        }
    }
}
