//! The check of capabilities when they are written: a policy that cannot be read is never stored.

use crate::error::Fields;

/// Refuses the field `capabilities` with every problem of the text, by line and column.
pub(crate) fn check(fields: &mut Fields, capabilities: Option<&str>) {
    let Some(text) = capabilities else { return };
    if let Err(problems) = freehold_policy::parse(text) {
        let problems: Vec<String> = problems.iter().map(ToString::to_string).collect();
        fields.add("capabilities", problems.join("; "));
    }
}
