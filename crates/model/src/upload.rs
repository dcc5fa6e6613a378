//! Files that came with a task, put under `/data/uploads/<task_id>/` before the agent takes it.

use crate::{TaskId, UploadId};

/// One uploaded file. Its bytes are in the object store, under its id.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Upload {
    /// Its id, also its key in the object store.
    pub id: UploadId,
    /// The task it came with.
    pub task_id: TaskId,
    /// The file name inside the pod: one path component.
    pub name: String,
    /// Its length in bytes.
    pub size: u64,
}

/// The longest file name, in bytes.
pub const NAME_MAX: usize = 255;

/// Whether `name` is one harmless path component, and is read as it is written: marks that embed, override or isolate a
/// direction of text make `exe.txt` of what ends in `txt.exe`.
pub fn is_safe_name(name: &str) -> bool {
    !name.is_empty()
        && name.len() <= NAME_MAX
        && name != "."
        && name != ".."
        && !name.chars().any(|c| {
            matches!(c, '/' | '\\' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}') || c.is_control()
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_that_could_leave_its_folder_is_not_safe() {
        for bad in [
            "",
            ".",
            "..",
            "a/b",
            "/etc/passwd",
            "..\\x",
            "a\0b",
            "a\nb",
            "a\u{85}b",
            "a\u{202e}b",
            "\u{2067}b",
            &"x".repeat(256),
        ] {
            assert!(!is_safe_name(bad), "{bad:?}");
        }
        for good in ["a.txt", "...", "ä ö.csv", ".hidden", "\u{5e9}\u{5dc}.txt", "a\u{200f}b"] {
            assert!(is_safe_name(good), "{good:?}");
        }
    }
}
