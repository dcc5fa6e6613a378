//! Names: slugs that are unique in their organization.

/// The longest name, in characters.
pub const NAME_MAX: usize = 64;

/// The pattern of a name, as a regular expression for schemas and documents.
pub const NAME_PATTERN: &str = "^[a-z0-9]+(-[a-z0-9]+)*$";

/// Whether `text` is a name: lowercase letters, digits and single hyphens between them, at most [`NAME_MAX`].
pub fn is_name(text: &str) -> bool {
    text.len() <= NAME_MAX
        && text.split('-').all(|part| {
            !part.is_empty() && part.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit())
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_slugs() {
        for good in ["a", "code-reviewer", "r2-d2", &"x".repeat(64)] {
            assert!(is_name(good), "{good}");
        }
        for bad in ["", "-a", "a-", "a--b", "A", "a_b", "a b", "é", &"x".repeat(65)] {
            assert!(!is_name(bad), "{bad}");
        }
    }
}
