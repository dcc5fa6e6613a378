//! The repository as a value: its text files, and its crates as their manifests declare them.
//!
//! Invariant: the rules of `tidy` see only this value, so that a test can hand them a repository that breaks one.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::process::Command;

use anyhow::{Context, bail};
use toml::{Table, Value};

/// Everything that the rules look at.
#[derive(Debug, Default)]
pub struct Repository {
    /// Text by path from the root, with `/` between folders. Ignored files and files that are not UTF-8 are left out.
    pub files: BTreeMap<String, String>,
    pub crates: Vec<Crate>,
    /// The names of the packages that a build for this machine compiles, tests included. `Cargo.lock` names more: optional
    /// and foreign-platform dependencies that no build of ours turns on.
    pub built: BTreeSet<String>,
}

/// One package of the workspace.
#[derive(Debug)]
pub struct Crate {
    pub name: String,
    /// Its folder from the root, `crates/model`.
    pub folder: String,
    pub manifest: Table,
    pub dependencies: Vec<Dependency>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Dependency {
    /// The package's name, whatever the crate calls it.
    pub package: String,
    /// The name in the crate's code.
    pub identifier: String,
    pub kind: Kind,
    /// Whether its version stands in the root manifest.
    pub of_workspace: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Normal,
    Build,
    Development,
}

const TABLES: [(&str, Kind); 3] = [
    ("dependencies", Kind::Normal),
    ("build-dependencies", Kind::Build),
    ("dev-dependencies", Kind::Development),
];

impl Repository {
    /// Reads the repository at `root`.
    ///
    /// # Errors
    /// When a file or manifest cannot be read, or cargo cannot resolve the workspace.
    pub fn load(root: &Path) -> anyhow::Result<Self> {
        let mut repository = Self::from_files(text_files(root)?)?;
        repository.built = built(root)?;
        Ok(repository)
    }

    /// Makes a repository of the text files given.
    ///
    /// # Errors
    /// When a manifest is not valid.
    pub fn from_files(files: BTreeMap<String, String>) -> anyhow::Result<Self> {
        let root: Table = files.get("Cargo.toml").map_or(Ok(Table::new()), |text| text.parse())?;
        let versions = table(&root, "workspace").and_then(|workspace| table(workspace, "dependencies"));
        let mut crates = Vec::new();
        for (path, text) in &files {
            let Some(folder) = path.strip_suffix("/Cargo.toml") else { continue };
            let manifest: Table = text.parse().with_context(|| format!("failed to parse `{path}`"))?;
            // A peer that is measured stands in a workspace of its own: what it needs must not be in our tree.
            if table(&manifest, "workspace").is_some() {
                continue;
            }
            let name =
                table(&manifest, "package").and_then(|package| package.get("name")).and_then(Value::as_str);
            let Some(name) = name else { bail!("`{path}` has no package name") };
            let dependencies = dependencies(&manifest, versions.unwrap_or(&Table::new()));
            crates.push(Crate { name: name.to_owned(), folder: folder.to_owned(), manifest, dependencies });
        }
        Ok(Self { files, crates, built: BTreeSet::new() })
    }

    /// The Rust files below `folder`, with their text.
    pub fn rust_below<'a>(&'a self, folder: &'a str) -> impl Iterator<Item = (&'a str, &'a str)> {
        let files = self.files.iter().map(|(path, text)| (path.as_str(), text.as_str()));
        files.filter(move |(path, _)| {
            path.strip_prefix(folder).is_some_and(|rest| rest.starts_with('/')) && path.ends_with(".rs")
        })
    }
}

/// Whether a Rust file holds nothing but tests, by where it is.
pub fn is_test_file(path: &str) -> bool {
    let mut folders = path.split('/');
    let file = folders.next_back().unwrap_or_default();
    file == "tests.rs"
        || file.ends_with("_tests.rs")
        || folders.any(|folder| folder == "tests" || folder == "benches")
}

/// The table `key` of `parent`, if it is one.
pub fn table<'a>(parent: &'a Table, key: &str) -> Option<&'a Table> {
    parent.get(key).and_then(Value::as_table)
}

fn dependencies(manifest: &Table, versions: &Table) -> Vec<Dependency> {
    let targets = table(manifest, "target").into_iter().flat_map(Table::values).filter_map(Value::as_table);
    let mut found = Vec::new();
    for parent in std::iter::once(manifest).chain(targets) {
        for (key, kind) in TABLES {
            for (identifier, entry) in table(parent, key).into_iter().flatten() {
                let of_workspace = entry.get("workspace").and_then(Value::as_bool).unwrap_or(false);
                let declared = if of_workspace { versions.get(identifier).unwrap_or(entry) } else { entry };
                let package = declared.get("package").and_then(Value::as_str).unwrap_or(identifier);
                found.push(Dependency {
                    package: package.to_owned(),
                    identifier: identifier.replace('-', "_"),
                    kind,
                    of_workspace,
                });
            }
        }
    }
    found
}

fn text_files(root: &Path) -> anyhow::Result<BTreeMap<String, String>> {
    let mut files = BTreeMap::new();
    let mut walk = ignore::WalkBuilder::new(root);
    // The repository's own `.gitignore` decides, with or without git, and whatever the user's settings are.
    walk.standard_filters(false)
        .git_ignore(true)
        .require_git(false)
        .filter_entry(|entry| entry.file_name() != ".git");
    for entry in walk.build() {
        let entry = entry.context("failed to list the repository")?;
        if !entry.file_type().is_some_and(|kind| kind.is_file()) {
            continue;
        }
        let path = entry.path();
        let bytes = std::fs::read(path).with_context(|| format!("failed to read `{}`", path.display()))?;
        let Ok(text) = String::from_utf8(bytes) else { continue };
        let from_root = path.strip_prefix(root).unwrap_or(path);
        let parts: Vec<_> = from_root.components().map(|part| part.as_os_str().to_string_lossy()).collect();
        files.insert(parts.join("/"), text);
    }
    Ok(files)
}

fn built(root: &Path) -> anyhow::Result<BTreeSet<String>> {
    let output = Command::new("cargo")
        .args([
            "tree",
            "--workspace",
            "--locked",
            "--edges",
            "normal,build,dev",
            "--prefix",
            "none",
            "--format",
            "{p}",
        ])
        .current_dir(root)
        .output()
        .context("failed to start `cargo tree`")?;
    if !output.status.success() {
        bail!("`cargo tree` failed: {}", String::from_utf8_lossy(&output.stderr).trim());
    }
    let listed = String::from_utf8(output.stdout).context("`cargo tree` printed what is not UTF-8")?;
    Ok(listed.lines().filter_map(|line| line.split(' ').next()).map(str::to_owned).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dependencies_are_found_in_every_table_under_their_real_name() {
        let root = "[workspace.dependencies]\nyaml = { package = \"serde-saphyr\", version = \"2\" }";
        let member = "[package]\nname = \"a\"\n[dependencies]\nyaml.workspace = true\n\
                      [target.'cfg(unix)'.dev-dependencies]\nhex-x = \"1\"";
        let files = [("Cargo.toml", root), ("crates/a/Cargo.toml", member)];
        let files = files.map(|(path, text)| (path.to_owned(), text.to_owned()));
        let repository = Repository::from_files(files.into()).unwrap();
        let found: Vec<_> = repository.crates[0]
            .dependencies
            .iter()
            .map(|it| (it.package.as_str(), it.identifier.as_str(), it.kind, it.of_workspace))
            .collect();
        assert_eq!(
            found,
            [("serde-saphyr", "yaml", Kind::Normal, true), ("hex-x", "hex_x", Kind::Development, false)]
        );
    }

    #[test]
    fn test_files_are_known_by_name_and_folder() {
        assert!(is_test_file("crates/a/src/b/tests.rs"));
        assert!(is_test_file("crates/a/src/b_tests.rs"));
        assert!(is_test_file("crates/a/tests/routes/b.rs"));
        assert!(!is_test_file("crates/a/src/attests.rs"));
    }
}
