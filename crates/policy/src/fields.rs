//! The fields of the language: one table for the parser, which refuses what is not in it, and for the JSON Schema that
//! [`crate::language_schema`] makes.

use crate::{
    budget::{OnLimit, Per, Unit},
    parse::{
        CONDITIONS_MAX, COUNTERS_MAX, EDITS_MAX, NAME_CHARS_MAX, PATTERNS_MAX, RULES_MAX, TRANSFORMS_MAX,
    },
};

/// A mapping of the language.
#[derive(Debug)]
pub(crate) struct Fields {
    /// What it is called in the schema.
    pub(crate) title: &'static str,
    pub(crate) fields: &'static [Field],
    /// One of these must be there; empty where none need be.
    pub(crate) at_least: &'static [&'static str],
}

/// One field.
#[derive(Debug)]
pub(crate) struct Field {
    pub(crate) name: &'static str,
    pub(crate) is_required: bool,
    pub(crate) shape: Shape,
    /// What it means, for editors that show it.
    pub(crate) doc: &'static str,
}

/// The names of capabilities: those that authors give, and the platform's own.
const CAPABILITY_NAME_PATTERN: &str = "^([A-Za-z][A-Za-z0-9_-]{0,63}|_provider)$";

/// What stands in a field.
#[derive(Debug)]
pub(crate) enum Shape {
    /// A name that the author gives.
    Name,
    /// Any text that is not empty, up to so many characters.
    Text(usize),
    Bool,
    /// One of these words.
    Word(&'static [&'static str]),
    /// A whole number of bytes.
    Bytes,
    /// A number from 0, whole but for money.
    Amount,
    /// A text of a form.
    Pattern(&'static str),
    /// A status, or a class of them.
    Status,
    Expression,
    /// At least one, up to so many.
    List(&'static Self, usize),
    /// As a list, which may be empty.
    Any(&'static Self, usize),
    /// One, or a list.
    OneOrMore(&'static Self, usize),
    /// Names that the author gives, with what they stand for; up to so many.
    Names(&'static Self, usize),
    Object(&'static Fields),
    /// A JSON Schema.
    Schema,
}

impl Fields {
    pub(crate) fn names(&self) -> impl Iterator<Item = &'static str> + '_ {
        self.fields.iter().map(|field| field.name)
    }
}

const fn must(name: &'static str, shape: Shape, doc: &'static str) -> Field {
    Field { name, is_required: true, shape, doc }
}

const fn may(name: &'static str, shape: Shape, doc: &'static str) -> Field {
    Field { name, is_required: false, shape, doc }
}

const NAME: Field = may("name", Shape::Name, "what audit rows and other parts of the document call it");
const DOMAINS: Field = must(
    "domains",
    Shape::List(&Shape::Text(320), PATTERNS_MAX),
    "hosts: names with `*` and `**`, IP addresses, with ports",
);
const PATHS: Field =
    may("paths", Shape::Any(&Shape::Pattern("^/"), PATTERNS_MAX), "paths with `*` and `**`; absent for any");
const WHEN: Field = may(
    "when",
    Shape::OneOrMore(&Shape::Expression, CONDITIONS_MAX),
    "CEL expressions over the request, all of which must hold",
);
const CONTENT_TYPES: Field = may(
    "content_types",
    Shape::List(&Shape::Pattern("^[^/;]+/[^/;]+$"), PATTERNS_MAX),
    "media types, such as `application/json`, `image/*` or `application/*+json`",
);
const MAX_BYTES: Field = may("max_bytes", Shape::Bytes, "the greatest length in bytes");
const APPLIES_TO: Field = may(
    "applies_to",
    Shape::List(&Shape::Name, RULES_MAX),
    "names of rules of the capability; absent for all of them",
);
const METHODS: Shape =
    Shape::List(&Shape::Word(&["GET", "POST", "PUT", "DELETE", "PATCH", "HEAD", "OPTIONS"]), PATTERNS_MAX);

pub(crate) const CAPABILITY: Fields = Fields {
    at_least: &["allow", "deny", "budgets"],
    title: "capability",
    fields: &[
        must(
            "name",
            Shape::Pattern(CAPABILITY_NAME_PATTERN),
            "unique in the document; `_provider` for budgets of the model's own calls",
        ),
        must("type", Shape::Word(&["http"]), "what it is about"),
        may("allow", Shape::List(&Shape::Object(&ALLOW_RULE), RULES_MAX), "what may go out"),
        may(
            "deny",
            Shape::List(&Shape::Object(&DENY_RULE), RULES_MAX),
            "what may not, whatever any rule allows",
        ),
        may(
            "transforms",
            Shape::List(&Shape::Object(&TRANSFORM), TRANSFORMS_MAX),
            "what is changed of requests, in order",
        ),
        may(
            "budgets",
            Shape::Names(&Shape::Object(&COUNTER), COUNTERS_MAX),
            "counters by name: how much may be used",
        ),
    ],
};

pub(crate) const ALLOW_RULE: Fields = Fields {
    at_least: &[],
    title: "rule",
    fields: &[
        NAME,
        DOMAINS,
        must("methods", METHODS, "methods, in upper case"),
        PATHS,
        may("allow_insecure", Shape::Bool, "whether plain HTTP is allowed beside HTTPS"),
        WHEN,
        may("body", Shape::Object(&BODY), "what the request's body must be"),
        may("response", Shape::Object(&RESPONSE), "what the response must be"),
        may("approval", Shape::Word(&["required"]), "whether a person must agree to each request"),
    ],
};

pub(crate) const DENY_RULE: Fields = Fields {
    at_least: &[],
    title: "denial",
    fields: &[
        NAME,
        DOMAINS,
        may("methods", METHODS, "methods, in upper case; absent for all of them"),
        PATHS,
        WHEN,
        may("body", Shape::Object(&DENIED_BODY), "which bodies; all of it must match"),
    ],
};

const SCHEMA: Field =
    may("schema", Shape::Schema, "a JSON Schema (2020-12) of the JSON, or of the form's fields");

pub(crate) const BODY: Fields = Fields {
    at_least: &["content_types", "max_bytes", "schema"],
    title: "body",
    fields: &[CONTENT_TYPES, MAX_BYTES, SCHEMA],
};

pub(crate) const DENIED_BODY: Fields =
    Fields { at_least: &["content_types", "schema"], title: "denied_body", fields: &[CONTENT_TYPES, SCHEMA] };

pub(crate) const RESPONSE: Fields = Fields {
    at_least: &["status", "content_types", "max_bytes", "when"],
    title: "response",
    fields: &[
        may(
            "status",
            Shape::List(&Shape::Status, PATTERNS_MAX),
            "statuses, such as `200`, or classes of them, such as `4xx`",
        ),
        CONTENT_TYPES,
        MAX_BYTES,
        may(
            "when",
            Shape::OneOrMore(&Shape::Expression, CONDITIONS_MAX),
            "CEL expressions over the request and the response, all of which must hold",
        ),
    ],
};

pub(crate) const TRANSFORM: Fields = Fields {
    at_least: &["auth", "headers", "query", "path", "body"],
    title: "transform",
    fields: &[
        must("name", Shape::Name, "unique among the capability's transforms"),
        APPLIES_TO,
        may("auth", Shape::Object(&AUTH), "a credential that is put on"),
        may("override", Shape::Bool, "whether it replaces what the client sent in its place"),
        may("mask", Shape::Bool, "`false`: what was put on is not struck out of the response"),
        may("headers", Shape::Object(&HEADER_EDITS), "headers"),
        may("query", Shape::Object(&QUERY_EDITS), "parameters of the query"),
        may("path", Shape::Expression, "the path, as a CEL expression of type text"),
        may("body", Shape::Object(&BODY_EDITS), "the body"),
    ],
};

pub(crate) const AUTH: Fields = Fields {
    at_least: &[],
    title: "auth",
    fields: &[must(
        "credential",
        Shape::Text(NAME_CHARS_MAX),
        "the name of a credential of the organization",
    )],
};

const SET: Field =
    may("set", Shape::Names(&Shape::Expression, EDITS_MAX), "CEL expressions of type text by name");
const REMOVE: Field = may("remove", Shape::List(&Shape::Text(NAME_CHARS_MAX), EDITS_MAX), "names");

pub(crate) const HEADER_EDITS: Fields =
    Fields { at_least: &["set", "remove"], title: "header_edits", fields: &[SET, REMOVE] };

pub(crate) const QUERY_EDITS: Fields =
    Fields { at_least: &["set", "remove"], title: "query_edits", fields: &[SET, REMOVE] };

pub(crate) const BODY_EDITS: Fields = Fields {
    at_least: &["set", "form"],
    title: "body_edits",
    fields: &[
        may(
            "set",
            Shape::Names(&Shape::Expression, EDITS_MAX),
            "CEL expressions by the JSON pointer of their place",
        ),
        may(
            "form",
            Shape::Names(&Shape::Expression, EDITS_MAX),
            "CEL expressions of type text by the form's field",
        ),
    ],
};

pub(crate) const COUNTER: Fields = Fields {
    at_least: &[],
    title: "counter",
    fields: &[
        must("unit", Shape::Word(Unit::WORDS), "what is counted"),
        may("amount", Shape::Expression, "with `unit: expression`: a CEL expression of type integer"),
        must("per", Shape::Word(Per::WORDS), "whose use is counted together"),
        may(
            "window",
            Shape::Pattern("^[1-9][0-9]*[smhd]$"),
            "in what time; absent for the life of what it counts per",
        ),
        must("limit", Shape::Amount, "how much there is; dollars may have a fraction"),
        may("warn_at", Shape::Amount, "from how much on the limit is near"),
        may("on_limit", Shape::Word(OnLimit::WORDS), "what happens beyond; `deny` when absent"),
        APPLIES_TO,
    ],
};
