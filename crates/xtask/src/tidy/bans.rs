//! The bans of `deny.toml`, held without a download, and the origin of every locked package.
//!
//! `cargo deny` reads the same list; it is written once, there.

use std::collections::BTreeMap;

use toml::{Table, Value};

use super::Finding;
use crate::repository::{Kind, Repository, table};

/// The only registry a locked package may come from, so that every machine builds the same.
const REGISTRY: &str = "registry+https://github.com/rust-lang/crates.io-index";

pub(super) fn check(repository: &Repository) -> Vec<Finding> {
    let mut findings = Vec::new();
    let read = |path: &str, findings: &mut Vec<Finding>| {
        let parsed = repository.files.get(path).map_or(Ok(Table::new()), |text| text.parse::<Table>());
        parsed.unwrap_or_else(|error| {
            findings.push(Finding::new(path, format!("not readable: {error}")));
            Table::new()
        })
    };
    let lock = read("Cargo.lock", &mut findings);
    let deny = read("deny.toml", &mut findings);
    let cargo = read(".cargo/config.toml", &mut findings);
    findings.extend(banned(repository, &deny, &lock));
    findings.extend(foreign(&lock));
    if cargo.contains_key("source") {
        findings.push(Finding::new(
            ".cargo/config.toml",
            "sources are the machine's business, not the repository's",
        ));
    }
    findings
}

fn banned(repository: &Repository, deny: &Table, lock: &Table) -> Vec<Finding> {
    let mut findings = Vec::new();
    let dependents = dependents(repository, lock);
    let bans = table(deny, "bans").and_then(|bans| bans.get("deny")).and_then(Value::as_array);
    for ban in bans.into_iter().flatten().filter_map(Value::as_table) {
        let Some(package) = ban.get("crate").and_then(Value::as_str) else {
            findings.push(Finding::new("deny.toml", "a ban names no `crate`"));
            continue;
        };
        let Some(wrappers) = ban.get("wrappers").and_then(Value::as_array) else {
            if repository.built.contains(package) {
                findings.push(Finding::new("deny.toml", format!("`{package}` is banned, and built")));
            }
            continue;
        };
        for dependent in dependents.get(package).into_iter().flatten() {
            if !wrappers.iter().any(|wrapper| wrapper.as_str() == Some(dependent)) {
                findings.push(Finding::new("deny.toml", format!("`{dependent}` may not use `{package}`")));
            }
        }
    }
    findings
}

/// Who depends on each package: ours by their manifests, tests left out; others by the lock file.
fn dependents<'a>(repository: &'a Repository, lock: &'a Table) -> BTreeMap<&'a str, Vec<&'a str>> {
    let mut dependents: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for ours in &repository.crates {
        for dependency in ours.dependencies.iter().filter(|dependency| dependency.kind != Kind::Development) {
            dependents.entry(&dependency.package).or_default().push(&ours.name);
        }
    }
    for package in packages(lock).filter(|package| package.contains_key("source")) {
        let Some(name) = package.get("name").and_then(Value::as_str) else { continue };
        if !repository.built.contains(name) {
            continue;
        }
        let listed = package.get("dependencies").and_then(Value::as_array).into_iter().flatten();
        for dependency in listed.filter_map(Value::as_str).filter_map(|entry| entry.split(' ').next()) {
            dependents.entry(dependency).or_default().push(name);
        }
    }
    dependents
}

fn foreign(lock: &Table) -> Vec<Finding> {
    let sources = packages(lock).filter_map(|package| package.get("source").and_then(Value::as_str));
    let foreign = sources.filter(|source| *source != REGISTRY);
    foreign.map(|source| Finding::new("Cargo.lock", format!("a package comes from `{source}`"))).collect()
}

fn packages(lock: &Table) -> impl Iterator<Item = &Table> {
    lock.get("package").and_then(Value::as_array).into_iter().flatten().filter_map(Value::as_table)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tidy::fixture::{found, manifest, repository};

    const DENY: &str =
        "[bans]\ndeny = [{ crate = \"ring\" }, { crate = \"rcgen\", wrappers = [\"freehold-egress\"] }]";

    fn uses_rcgen(name: &str, table: &str) -> Vec<String> {
        let text = manifest(name, &format!("[{table}]\nrcgen = \"1\""));
        found(check, &[("deny.toml", DENY), ("crates/x/Cargo.toml", &text)])
    }

    #[test]
    fn only_the_wrappers_may_use_a_wrapped_package_outside_tests() {
        assert_eq!(uses_rcgen("freehold-egress", "dependencies"), [""; 0]);
        assert_eq!(uses_rcgen("freehold-app", "dev-dependencies"), [""; 0]);
        assert_eq!(
            uses_rcgen("freehold-app", "dependencies"),
            ["deny.toml: `freehold-app` may not use `rcgen`"]
        );
    }

    #[test]
    fn a_package_of_others_may_not_bring_in_a_wrapped_one() {
        let lock =
            format!("[[package]]\nname = \"z\"\nsource = \"{REGISTRY}\"\ndependencies = [\"rcgen 1.0.0\"]");
        let mut repository = repository(&[("deny.toml", DENY), ("Cargo.lock", &lock)]);
        assert_eq!(check(&repository), []);
        repository.built.insert("z".to_owned());
        assert_eq!(check(&repository), [Finding::new("deny.toml", "`z` may not use `rcgen`")]);
    }

    #[test]
    fn a_banned_package_may_not_be_built() {
        let mut repository = repository(&[("deny.toml", DENY)]);
        assert_eq!(check(&repository), []);
        repository.built.insert("ring".to_owned());
        assert_eq!(check(&repository), [Finding::new("deny.toml", "`ring` is banned, and built")]);
    }

    #[test]
    fn packages_come_from_the_public_registry_only() {
        let lock = "[[package]]\nname = \"a\"\nsource = \"git+https://example.test/a\"";
        assert_eq!(
            found(check, &[("Cargo.lock", lock)]),
            ["Cargo.lock: a package comes from `git+https://example.test/a`"]
        );
        assert_eq!(
            found(check, &[(".cargo/config.toml", "[source.crates-io]\nreplace-with = \"m\"")]).len(),
            1
        );
    }

    #[test]
    fn an_unreadable_list_of_bans_is_found() {
        assert_eq!(found(check, &[("deny.toml", "[bans")]).len(), 1);
    }
}
