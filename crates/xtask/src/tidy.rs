//! The rules of the repository that no lint can check: who may depend on whom, sizes, bans, documents.
//!
//! Invariant: a rule is a pure function of a [`Repository`], and each has a test that shows it fail.

mod arrows;
mod bans;
mod documents;
mod manifests;
mod sources;

use std::fmt;
use std::path::Path;

use anyhow::bail;

use crate::repository::Repository;

/// One breach of one rule.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Finding {
    /// A file, or a file and a line.
    place: String,
    what: String,
}

impl Finding {
    fn new(place: impl Into<String>, what: impl Into<String>) -> Self {
        Self { place: place.into(), what: what.into() }
    }

    fn at(path: &str, line: usize, what: impl Into<String>) -> Self {
        Self::new(format!("{path}:{line}"), what)
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}: {}", self.place, self.what)
    }
}

type Rule = fn(&Repository) -> Vec<Finding>;

const RULES: [Rule; 5] = [arrows::check, bans::check, manifests::check, sources::check, documents::check];

/// Checks every rule and prints each breach.
///
/// # Errors
/// When a rule is broken, or the repository cannot be read.
pub fn run(root: &Path) -> anyhow::Result<()> {
    let repository = Repository::load(root)?;
    let findings = findings(&repository);
    for finding in &findings {
        crate::say(&finding.to_string());
    }
    if !findings.is_empty() {
        bail!("tidy: {} found", findings.len());
    }
    crate::say(&format!(
        "tidy: {} crates, {} files, all in order",
        repository.crates.len(),
        repository.files.len()
    ));
    Ok(())
}

fn findings(repository: &Repository) -> Vec<Finding> {
    RULES.iter().flat_map(|rule| rule(repository)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_repository_is_tidy() {
        let findings = findings(&Repository::load(crate::root()).unwrap());
        let list: Vec<String> = findings.iter().map(Finding::to_string).collect();
        assert!(list.is_empty(), "{} found:\n{}", list.len(), list.join("\n"));
    }
}

/// What the rules' tests share.
#[cfg(test)]
mod fixture {
    use super::{Finding, Repository, Rule};

    /// A repository of these files.
    pub fn repository(files: &[(&str, &str)]) -> Repository {
        let files = files.iter().map(|(path, text)| ((*path).to_owned(), (*text).to_owned()));
        Repository::from_files(files.collect()).unwrap()
    }

    /// What a rule finds in these files, one line each.
    pub fn found(rule: Rule, files: &[(&str, &str)]) -> Vec<String> {
        rule(&repository(files)).iter().map(Finding::to_string).collect()
    }

    /// The manifest of package `name`, followed by `rest`.
    pub fn manifest(name: &str, rest: &str) -> String {
        format!("[package]\nname = \"{name}\"\ndescription = \"x\"\n[lints]\nworkspace = true\n{rest}")
    }
}
