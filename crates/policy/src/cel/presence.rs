//! Whether a request has an attribute (`has`). Where none is understood, and some server may find one, nobody knows: what asks
//! first shall not take that for none.

use super::{
    evaluate::{Fault, Scope, Work, lookup},
    schema::Attribute,
    value::Value,
};
use crate::{content::MCP_CALL, graphql};

pub(super) fn is_present(scope: &dyn Scope, work: &Work, attribute: Attribute) -> Result<bool, Fault> {
    if scope.get(attribute).is_some() {
        return Ok(true);
    }
    let body = scope.get(Attribute::RequestBody);
    match attribute {
        // It is there unless servers read it in different ways.
        Attribute::RequestQuery => Err(Fault::Unclear),
        _ if attribute.is_understood() && scope.has_unknown_body() => Err(Fault::Unclear),
        _ if attribute.is_graphql() => {
            // Servers take an operation from the URL too, with a body or without.
            let query = scope.get(Attribute::RequestQuery).ok_or(Fault::Unclear)?;
            Ok(may_have(work, Some(query), graphql::signs())? || may_have(work, body, graphql::signs())?)
        }
        Attribute::RequestMcpMethod => may_have(work, body, ["method"]),
        Attribute::RequestMcpTool | Attribute::RequestMcpArguments => {
            let key = if attribute == Attribute::RequestMcpTool { "name" } else { "arguments" };
            match (scope.get(Attribute::RequestMcpMethod), body) {
                (Some(Value::Text(method)), Some(Value::Map(body))) if method.as_str() == MCP_CALL => {
                    may_have(work, lookup(work, body, "params")?, [key])
                }
                (Some(_), _) => Ok(false),
                (None, body) => may_have(work, body, ["method"]),
            }
        }
        _ => Ok(false),
    }
}

/// `false` when a value has none of these names, and else nobody knows; a list may be a batch, and have any.
fn may_have<'n>(
    work: &Work,
    value: Option<Value<'_>>,
    names: impl IntoIterator<Item = &'n str>,
) -> Result<bool, Fault> {
    match value {
        Some(Value::List(_)) => Err(Fault::Unclear),
        Some(Value::Map(map)) => {
            for name in names {
                if lookup(work, map, name)?.is_some() {
                    return Err(Fault::Unclear);
                }
            }
            Ok(false)
        }
        _ => Ok(false),
    }
}
