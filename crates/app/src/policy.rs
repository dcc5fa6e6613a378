//! The check of capabilities when they are written: a policy that cannot be read is never stored.

use crate::error::Fields;

/// Refuses the field `capabilities` with every problem of the text, a line each, in the order of their places.
pub(crate) fn check(fields: &mut Fields, capabilities: Option<&str>) {
    let Some(text) = capabilities else { return };
    if let Err(mut problems) = freehold_policy::parse(text) {
        problems.sort_by_key(|problem| (problem.line, problem.column));
        let problems: Vec<String> = problems.iter().map(ToString::to_string).collect();
        fields.add("capabilities", problems.join("\n"));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn problems_are_a_line_each_in_the_order_of_their_places() {
        let mut fields = Fields::default();
        // An unknown field is found after the known ones are read.
        check(
            &mut fields,
            Some("- wrong: 1\n  name: a\n  type: nothing\n- name: b\n  type: http\n  allow: 3\n"),
        );
        let said = format!("{:?}", fields.check());
        let places: Vec<usize> = ["1:3: ", "3:", "6:"].map(|place| said.find(place).unwrap()).to_vec();
        assert!(places.is_sorted() && said.contains("\\n"), "{said}");
    }
}
