//! What every manifest declares: a description, the workspace's lints and versions, and no dependency that its code does
//! not name.

use std::collections::BTreeSet;

use toml::Value;

use super::Finding;
use crate::repository::{Crate, Dependency, Kind, Repository, is_test_file, table};
use crate::tokens::{Items, Tokens};

pub(super) fn check(repository: &Repository) -> Vec<Finding> {
    repository
        .crates
        .iter()
        .flat_map(|one| declared(one).into_iter().chain(unused(repository, one)))
        .collect()
}

fn declared(one: &Crate) -> Vec<Finding> {
    let place = format!("{}/Cargo.toml", one.folder);
    let mut findings = Vec::new();
    let description = table(&one.manifest, "package").and_then(|package| package.get("description"));
    if description.and_then(Value::as_str).is_none_or(str::is_empty) {
        findings.push(Finding::new(&place, "has no description"));
    }
    let lints =
        table(&one.manifest, "lints").and_then(|lints| lints.get("workspace")).and_then(Value::as_bool);
    if lints != Some(true) {
        findings.push(Finding::new(&place, "does not inherit the workspace's lints"));
    }
    for dependency in one.dependencies.iter().filter(|dependency| !dependency.of_workspace) {
        let what =
            format!("`{}` has a version of its own; versions stand in the root manifest", dependency.package);
        findings.push(Finding::new(&place, what));
    }
    findings
}

/// Dependencies whose name is nowhere in the crate's code; `[package.metadata.cargo-machete] ignored` lists those that
/// are there for another reason, for this check and for cargo-machete alike.
fn unused(repository: &Repository, one: &Crate) -> Vec<Finding> {
    let (mut production, mut build, mut all) = (Vec::new(), Vec::new(), Vec::new());
    for (path, text) in repository.rust_below(&one.folder) {
        let read = |items| Tokens::read(text, items).ok();
        if path.strip_prefix(&one.folder) == Some("/build.rs") {
            build.extend(read(Items::Production));
        } else if !is_test_file(path) {
            production.extend(read(Items::Production));
        }
        all.extend(read(Items::All));
    }
    if production.iter().all(Tokens::has_no_code) {
        return Vec::new();
    }
    let ignored = ignored(one);
    let used = |dependency: &Dependency| {
        let files = match dependency.kind {
            Kind::Normal => &production,
            Kind::Build => &build,
            Kind::Development => &all,
        };
        files.iter().any(|tokens| tokens.has(&dependency.identifier))
    };
    let unused = one.dependencies.iter().filter(|it| !ignored.contains(it.package.as_str()) && !used(it));
    let place = format!("{}/Cargo.toml", one.folder);
    unused
        .map(|it| {
            Finding::new(&place, format!("`{}` is not used by the code it is declared for", it.package))
        })
        .collect()
}

fn ignored(one: &Crate) -> BTreeSet<&str> {
    let list = table(&one.manifest, "package")
        .and_then(|package| table(package, "metadata"))
        .and_then(|metadata| table(metadata, "cargo-machete"))
        .and_then(|machete| machete.get("ignored"))
        .and_then(Value::as_array);
    list.into_iter().flatten().filter_map(Value::as_str).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tidy::fixture::{found, manifest};

    const ROOT: (&str, &str) = ("Cargo.toml", "[workspace.dependencies]\nhex = \"1\"");

    #[test]
    fn a_manifest_without_description_lints_or_shared_versions_is_found() {
        let text = "[package]\nname = \"a\"\n[dependencies]\nhex = \"1\"";
        assert_eq!(found(check, &[("crates/a/Cargo.toml", text)]).len(), 3);
        assert_eq!(found(check, &[("crates/a/Cargo.toml", &manifest("a", ""))]), [""; 0]);
    }

    fn hex(table: &str, code: &str) -> Vec<String> {
        let text = manifest("a", &format!("[{table}]\nhex.workspace = true"));
        found(check, &[ROOT, ("crates/a/Cargo.toml", &text), ("crates/a/src/lib.rs", code)])
    }

    #[test]
    fn a_dependency_that_no_code_names_is_found() {
        let unused = ["crates/a/Cargo.toml: `hex` is not used by the code it is declared for"];
        assert_eq!(hex("dependencies", "use hex::encode;"), [""; 0]);
        assert_eq!(hex("dependencies", "// hex\nfn a() {}"), unused);
        assert_eq!(hex("dependencies", "fn a() {}\n#[cfg(test)]\nmod tests { use hex::encode; }"), unused);
        assert_eq!(
            hex("dev-dependencies", "fn a() {}\n#[cfg(test)]\nmod tests { use hex::encode; }"),
            [""; 0]
        );
    }

    #[test]
    fn a_dependency_may_be_declared_as_used_otherwise() {
        let text = manifest(
            "a",
            "[package.metadata.cargo-machete]\nignored = [\"hex\"]\n[dependencies]\nhex.workspace = true",
        );
        assert_eq!(
            found(check, &[ROOT, ("crates/a/Cargo.toml", &text), ("crates/a/src/lib.rs", "fn a() {}")]),
            [""; 0]
        );
    }
}
