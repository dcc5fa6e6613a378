//! `cargo xtask gen`: files made from what the code or other files say, checked in so that a change of them is seen.

use std::fmt::Write as _;
use std::path::Path;

use anyhow::{Context, bail};

use crate::say;

/// One generated file.
struct Generated {
    /// From the root.
    path: &'static str,
    /// Makes its whole text from the repository.
    make: fn(&Path) -> anyhow::Result<String>,
}

/// Every generated file. To add one, write a function that returns its text, and a line here.
const GENERATED: &[Generated] = &[
    Generated {
        path: "docs/caps.schema.json",
        make: |_| Ok(format!("{:#}\n", freehold_policy::language_schema())),
    },
    Generated { path: "docs/decisions/README.md", make: decisions },
    Generated { path: "openapi/freehold.json", make: |_| Ok(format!("{:#}\n", freehold_api::openapi())) },
];

/// Everything after this line of `docs/decisions/README.md` is generated.
const DECISIONS_BELOW: &str = "<!-- below this line: cargo xtask gen -->\n";

/// Writes every generated file that is out of date.
///
/// # Errors
/// When a generator fails or a file cannot be written.
pub fn write(root: &Path) -> anyhow::Result<()> {
    for (path, text) in outdated(root, GENERATED)? {
        let file = root.join(path);
        if let Some(folder) = file.parent() {
            std::fs::create_dir_all(folder)
                .with_context(|| format!("failed to create `{}`", folder.display()))?;
        }
        std::fs::write(&file, text).with_context(|| format!("failed to write `{path}`"))?;
        say(&format!("wrote {path}"));
    }
    Ok(())
}

/// Compares every generated file with what would be written.
///
/// # Errors
/// When a generator fails or a file is out of date; the error says where each first differs.
pub fn check(root: &Path) -> anyhow::Result<()> {
    let outdated = outdated(root, GENERATED)?;
    if outdated.is_empty() {
        say(&format!("gen: {} files, all up to date", GENERATED.len()));
        return Ok(());
    }
    let mut message =
        String::from("generated files are out of date; run `cargo xtask gen` and commit what it writes");
    for (path, text) in outdated {
        let present = std::fs::read_to_string(root.join(path)).unwrap_or_default();
        write!(message, "\n{path}: {}", first_difference(&present, &text))?;
    }
    bail!(message)
}

fn outdated(root: &Path, generated: &[Generated]) -> anyhow::Result<Vec<(&'static str, String)>> {
    let mut outdated = Vec::new();
    for file in generated {
        let text = (file.make)(root).with_context(|| format!("failed to generate `{}`", file.path))?;
        if std::fs::read_to_string(root.join(file.path)).ok().as_ref() != Some(&text) {
            outdated.push((file.path, text));
        }
    }
    Ok(outdated)
}

/// The first line at which two texts part.
fn first_difference(present: &str, wanted: &str) -> String {
    let mut lines = (1..).zip(present.lines().map(Some).chain(std::iter::repeat(None)).zip(wanted.lines()));
    let difference = lines.find(|(_, (have, want))| *have != Some(*want));
    difference.map_or_else(
        || "it has more at its end than it should".to_owned(),
        |(number, (have, want))| {
            format!("line {number} is `{}`, should be `{want}`", have.unwrap_or_default())
        },
    )
}

/// The page on decision records, with the list of all of them.
fn decisions(root: &Path) -> anyhow::Result<String> {
    let folder = root.join("docs/decisions");
    let page = std::fs::read_to_string(folder.join("README.md")).context("failed to read the page")?;
    let Some((written, _)) = page.split_once(DECISIONS_BELOW) else {
        bail!("the page has no line `{}`", DECISIONS_BELOW.trim());
    };
    let mut names = Vec::new();
    for entry in std::fs::read_dir(&folder).context("failed to list the records")? {
        names.push(entry?.file_name().to_string_lossy().into_owned());
    }
    names.retain(|name| name.ends_with(".md") && name != "README.md");
    names.sort();
    let mut text = format!("{written}{DECISIONS_BELOW}\n");
    for name in names {
        let record = std::fs::read_to_string(folder.join(&name))
            .with_context(|| format!("failed to read `{name}`"))?;
        let title = record.lines().next().and_then(|line| line.strip_prefix("# "));
        let title = title.with_context(|| format!("`{name}` does not begin with its title"))?;
        writeln!(text, "- [{title}]({name})")?;
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn generated_files_are_up_to_date() {
        check(crate::root()).unwrap();
    }

    #[test]
    fn a_file_that_differs_or_is_missing_is_outdated() {
        let file = Generated { path: "no/such/file", make: |_| Ok("a\n".to_owned()) };
        assert_eq!(outdated(crate::root(), &[file]).unwrap(), [("no/such/file", "a\n".to_owned())]);
        let file = Generated { path: "LICENSE", make: |_| Ok("a\n".to_owned()) };
        assert_eq!(outdated(crate::root(), &[file]).unwrap().len(), 1);
    }

    #[test]
    fn the_first_difference_is_named() {
        assert_eq!(first_difference("a\nb\n", "a\nc\n"), "line 2 is `b`, should be `c`");
        assert_eq!(first_difference("a\n", "a\nc\n"), "line 2 is ``, should be `c`");
        assert_eq!(first_difference("a\nb\n", "a\n"), "it has more at its end than it should");
    }
}
