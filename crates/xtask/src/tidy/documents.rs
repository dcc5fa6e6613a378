//! Documents, examples and stray words: records are numbered, links lead somewhere, examples are tested, and no machine
//! of ours is named.

use std::collections::BTreeMap;

use super::Finding;
use crate::repository::{Repository, is_test_file};

/// Where the decision records are.
const DECISIONS: &str = "docs/decisions/";

/// Text that no file may hold, and why. Each is written in two pieces, so that this file does not hold it.
const NOWHERE: &[(&str, &str)] = &[
    (concat!("/work", "/"), "a path of one machine"),
    (concat!("../sha", "red"), "a path outside the repository"),
    (concat!("/root/", ".cargo"), "a path of one machine"),
    (concat!("/root/", ".rustup"), "a path of one machine"),
    (concat!("/root/", ".pyenv"), "a path of one machine"),
    (concat!("<<<<", "<<< "), "an unfinished merge"),
    (concat!(">>>>", ">>> "), "an unfinished merge"),
];

pub(super) fn check(repository: &Repository) -> Vec<Finding> {
    let rules = [numbers, links, examples, words];
    rules.iter().flat_map(|rule| rule(repository)).collect()
}

/// Decision records are called `NNNN-title.md`, each number once.
fn numbers(repository: &Repository) -> Vec<Finding> {
    let mut findings = Vec::new();
    let mut taken: BTreeMap<&str, &str> = BTreeMap::new();
    for path in repository.files.keys() {
        let Some(name) = path.strip_prefix(DECISIONS).filter(|name| *name != "README.md") else { continue };
        let Some(number) = record_number(name) else {
            findings.push(Finding::new(path, "a decision record is called `NNNN-title.md`"));
            continue;
        };
        if let Some(other) = taken.insert(number, path) {
            findings.push(Finding::new(path, format!("has the number of `{other}`")));
        }
    }
    findings
}

/// The number of a decision record's file, if it is named as one.
fn record_number(name: &str) -> Option<&str> {
    let (number, title) = name.strip_suffix(".md")?.split_once('-')?;
    let digits = number.len() == 4 && number.bytes().all(|byte| byte.is_ascii_digit());
    let slug =
        !title.is_empty() && title.bytes().all(|byte| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'-'));
    (digits && slug).then_some(number)
}

/// A link from one document to a file of the repository leads to one.
fn links(repository: &Repository) -> Vec<Finding> {
    let mut findings = Vec::new();
    for (path, text) in repository.files.iter().filter(|(path, _)| path.ends_with(".md")) {
        let folder = path.rsplit_once('/').map_or("", |(folder, _)| folder);
        for (index, line) in text.lines().enumerate() {
            for target in line.split("](").skip(1).filter_map(|rest| rest.split([')', '#', ' ']).next()) {
                // Pictures and other bytes are not among the text files; the web is not ours to check.
                let checked =
                    [".md", ".rs", ".toml", ".json", ".yaml", ".svg"].iter().any(|end| target.ends_with(end));
                if checked && !target.contains("://") && !repository.files.contains_key(&join(folder, target))
                {
                    findings.push(Finding::at(
                        path,
                        index + 1,
                        format!("the link to `{target}` leads nowhere"),
                    ));
                }
            }
        }
    }
    findings
}

fn join(folder: &str, target: &str) -> String {
    let mut parts: Vec<&str> = if target.starts_with('/') { Vec::new() } else { folder.split('/').collect() };
    for part in target.split('/') {
        match part {
            "" | "." => {}
            ".." => drop(parts.pop()),
            _ => parts.push(part),
        }
    }
    parts.retain(|part| !part.is_empty());
    parts.join("/")
}

/// A file under `examples/` is loaded by a test, which names it or one of its folders.
fn examples(repository: &Repository) -> Vec<Finding> {
    let tests: Vec<&String> = repository
        .files
        .iter()
        .filter(|(path, text)| path.ends_with(".rs") && (is_test_file(path) || text.contains("#[cfg(test)]")))
        .map(|(_, text)| text)
        .collect();
    let mut findings = Vec::new();
    for path in
        repository.files.keys().filter(|path| path.starts_with("examples/") && !path.ends_with("README.md"))
    {
        let folders = path.match_indices('/').skip(1).map(|(end, _)| &path[..end]);
        let named = folders.chain([path.as_str()]).any(|name| tests.iter().any(|test| test.contains(name)));
        if !named {
            findings.push(Finding::new(path, "no test loads this example"));
        }
    }
    findings
}

fn words(repository: &Repository) -> Vec<Finding> {
    let mut findings = Vec::new();
    for (path, text) in &repository.files {
        for (index, line) in text.lines().enumerate() {
            for (word, why) in NOWHERE.iter().filter(|(word, _)| stands_alone(line, word)) {
                findings.push(Finding::at(path, index + 1, format!("`{word}`: {why}")));
            }
        }
    }
    findings
}

/// Whether `line` holds `word` where it is not the tail of a longer path.
fn stands_alone(line: &str, word: &str) -> bool {
    let before = |start: usize| line[..start].chars().next_back();
    let longer =
        |before: char| before.is_alphanumeric() || matches!(before, '_' | '-' | '.' | '}' | ')' | '<' | '>');
    line.match_indices(word).any(|(start, _)| !before(start).is_some_and(longer))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tidy::fixture::found;

    #[test]
    fn decision_records_are_numbered_once() {
        let one = "docs/decisions/0001-a.md";
        assert_eq!(found(check, &[("docs/decisions/README.md", ""), (one, "")]), [""; 0]);
        assert_eq!(
            found(check, &[(one, ""), ("docs/decisions/0001-b.md", "")]),
            ["docs/decisions/0001-b.md: has the number of `docs/decisions/0001-a.md`"]
        );
        for name in ["docs/decisions/1-a.md", "docs/decisions/0002.md", "docs/decisions/0002-A b.md"] {
            assert_eq!(found(check, &[(name, "")]).len(), 1, "{name}");
        }
    }

    #[test]
    fn a_link_that_leads_nowhere_is_found() {
        let link = |target: &str| {
            let text = format!("See [this]({target}).");
            found(check, &[("docs/a/b.md", &text), ("docs/c.md", "")]).len()
        };
        assert_eq!(
            [link("../c.md"), link("../c.md#part"), link("https://example.test/x.md"), link("b.md")],
            [0; 4]
        );
        assert_eq!([link("c.md"), link("../../c.md")], [1; 2]);
    }

    #[test]
    fn an_example_that_no_test_loads_is_found() {
        let example = ("examples/policies/a.yaml", "");
        assert_eq!(found(check, &[example]), ["examples/policies/a.yaml: no test loads this example"]);
        assert_eq!(found(check, &[example, ("crates/a/tests/b.rs", "\"../../examples/policies\"")]), [""; 0]);
        assert_eq!(found(check, &[example, ("crates/a/src/b.rs", "// examples/policies/a.yaml")]).len(), 1);
    }

    #[test]
    fn the_paths_of_one_machine_are_found() {
        let path = concat!("/work", "/main/x");
        assert_eq!(found(check, &[("a.txt", &format!("see {path}"))]).len(), 1);
        assert_eq!(found(check, &[("a.txt", &format!("{path} and `{path}`"))]).len(), 1);
        assert_eq!(found(check, &[("a.txt", &format!("upper{path} {{pod}}{path} /workspace/x"))]), [""; 0]);
    }
}
