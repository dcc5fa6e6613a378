//! The arrows between crates point down: the table of tiers, and the few arrows allowed inside one.

use super::Finding;
use crate::repository::{Crate, Kind, Repository};

/// The tiers, lowest first. A crate depends on lower tiers, and within its own only by [`ARROWS`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Tier {
    /// Values and total functions.
    Pure,
    /// Types and traits that parts share.
    Contract,
    /// One kind of I/O each.
    Part,
    /// Wires the parts.
    Binary,
    /// For people who build Freehold; no production code depends on it.
    Tool,
}
use Tier::{Binary, Contract, Part, Pure, Tool};

const TIERS: &[(&str, Tier)] = &[
    ("freehold-model", Pure),
    ("freehold-access", Pure),
    ("freehold-policy", Pure),
    ("freehold-turn", Pure),
    ("freehold-api", Contract),
    ("freehold-pod-api", Contract),
    ("freehold-driver", Contract),
    ("freehold-store", Part),
    ("freehold-app", Part),
    ("freehold-http", Part),
    ("freehold-reconcile", Part),
    ("freehold-snapshot", Part),
    ("freehold-vault", Part),
    ("freehold-broker", Part),
    ("freehold-egress", Part),
    ("freehold-llm", Part),
    ("freehold-agent", Part),
    ("freehold-driver-local", Part),
    ("freehold-driver-kube", Part),
    ("freehold-driver-sim", Part),
    ("freehold-sim-model", Part),
    ("freehold-client", Part),
    ("freehold-cli", Part),
    ("freehold", Binary),
    ("freehold-testkit", Tool),
    ("freehold-bench", Tool),
    ("freehold-fuzz", Tool),
    ("xtask", Tool),
];

/// The arrows allowed between crates of one tier.
const ARROWS: &[(&str, &str)] = &[
    ("freehold-access", "freehold-model"),
    ("freehold-policy", "freehold-model"),
    ("freehold-turn", "freehold-model"),
    ("freehold-http", "freehold-app"),
    ("freehold-app", "freehold-store"),
    ("freehold-reconcile", "freehold-app"),
    ("freehold-agent", "freehold-llm"),
    ("freehold-cli", "freehold-client"),
    ("freehold-bench", "freehold-testkit"),
];

/// Parts that see less than their tier allows: all of ours that each may name, and why.
const NARROW: &[(&str, &[&str], &str)] = &[
    ("freehold-egress", &["freehold-model", "freehold-policy"], "egress knows nothing of the control plane"),
    ("freehold-driver-local", DRIVERS_SEE, "a driver reports what it sees and concludes nothing"),
    ("freehold-driver-kube", DRIVERS_SEE, "a driver reports what it sees and concludes nothing"),
    ("freehold-driver-sim", DRIVERS_SEE, "a driver reports what it sees and concludes nothing"),
    ("freehold-client", CLIENTS_SEE, "clients have no door but the public API"),
    ("freehold-cli", CLI_SEES, "clients have no door but the public API"),
];
const DRIVERS_SEE: &[&str] = &["freehold-model", "freehold-driver"];
const CLIENTS_SEE: &[&str] = &["freehold-model", "freehold-access", "freehold-api", "freehold-client"];
/// And the language of policy, which is pure: a document is checked and tried without a server.
const CLI_SEES: &[&str] =
    &["freehold-model", "freehold-access", "freehold-api", "freehold-client", "freehold-policy"];

/// What the pure crates may use of others' work: values and parsing, nothing that runs, waits, reads or draws lots.
const PURE_MAY_USE: &[&str] = &[
    "apollo-parser",
    "base64",
    "globset",
    "hex",
    "indexmap",
    "jiff",
    // Without its resolvers, which are features: a schema has nothing but itself.
    "jsonschema",
    "regex",
    "serde",
    "serde-saphyr",
    "serde_json",
    "sha2",
    "strsim",
    "subtle",
    "thiserror",
    "url",
    "uuid",
];

pub(super) fn check(repository: &Repository) -> Vec<Finding> {
    let mut findings = Vec::new();
    for from in &repository.crates {
        let place = format!("{}/Cargo.toml", from.folder);
        let Some(tier) = tier(&from.name) else {
            findings.push(Finding::new(
                place,
                format!("`{}` has no tier; say which in tidy/arrows.rs", from.name),
            ));
            continue;
        };
        let wrong = from.dependencies.iter().filter_map(|dependency| match dependency.kind {
            Kind::Normal | Kind::Build => refusal(from, tier, &dependency.package),
            Kind::Development => development_refusal(from, tier, &dependency.package),
        });
        findings.extend(wrong.map(|reason| Finding::new(place.clone(), reason)));
    }
    findings
}

/// Whether a crate is of the pure tier.
pub(super) fn is_pure(name: &str) -> bool {
    tier(name) == Some(Pure)
}

fn tier(name: &str) -> Option<Tier> {
    TIERS.iter().find(|(listed, _)| *listed == name).map(|(_, tier)| *tier)
}

fn is_ours(package: &str) -> bool {
    package == "xtask" || package == "freehold" || package.starts_with("freehold-")
}

/// Why production code of `from` may not depend on `package`, if it may not.
fn refusal(from: &Crate, from_tier: Tier, package: &str) -> Option<String> {
    let name = from.name.as_str();
    if !is_ours(package) {
        let impure = from_tier == Pure && !PURE_MAY_USE.contains(&package);
        return impure.then(|| format!("`{name}` is pure and may not use `{package}`"));
    }
    let downward = tier(package).is_some_and(|to| to < from_tier);
    if !downward && !ARROWS.contains(&(name, package)) {
        return Some(format!("the arrow `{name}` -> `{package}` does not point down"));
    }
    let (_, seen, why) = NARROW.iter().find(|(narrow, ..)| *narrow == name)?;
    (!seen.contains(&package)).then(|| format!("`{name}` may not see `{package}`: {why}"))
}

/// Why tests of `from` may not depend on `package`, if they may not. Tests may wire parts, but those of the lower tiers
/// stay as free of parts as the code they test.
fn development_refusal(from: &Crate, from_tier: Tier, package: &str) -> Option<String> {
    let to = tier(package).filter(|_| is_ours(package))?;
    let upward = from_tier < Part && to > Contract && package != "freehold-testkit";
    (package == "xtask" || upward).then(|| format!("tests of `{}` may not use `{package}`", from.name))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tidy::fixture::{found, manifest};

    fn arrows(name: &str, table: &str, package: &str) -> Vec<String> {
        let text = manifest(name, &format!("[{table}]\n{package} = \"1\""));
        found(check, &[("crates/x/Cargo.toml", &text)])
    }

    #[test]
    fn an_arrow_down_or_listed_is_allowed() {
        assert_eq!(arrows("freehold-app", "dependencies", "freehold-model"), [""; 0]);
        assert_eq!(arrows("freehold-app", "dependencies", "freehold-store"), [""; 0]);
        assert_eq!(arrows("freehold", "dependencies", "freehold-http"), [""; 0]);
        assert_eq!(arrows("freehold-http", "dev-dependencies", "freehold-driver-sim"), [""; 0]);
        assert_eq!(arrows("freehold-model", "dev-dependencies", "proptest"), [""; 0]);
    }

    #[test]
    fn an_arrow_up_or_across_is_found() {
        let refused = [
            ("freehold-model", "dependencies", "freehold-access"),
            ("freehold-api", "dependencies", "freehold-store"),
            ("freehold-store", "build-dependencies", "freehold-app"),
            ("freehold-reconcile", "dependencies", "freehold-store"),
            ("freehold-http", "dependencies", "freehold-testkit"),
            ("freehold-model", "dev-dependencies", "freehold-store"),
            ("freehold-app", "dev-dependencies", "xtask"),
        ];
        for (from, table, to) in refused {
            assert_eq!(arrows(from, table, to).len(), 1, "{from} -> {to}");
        }
    }

    #[test]
    fn a_narrow_part_may_not_see_the_rest_of_the_lower_tiers() {
        let expected = "crates/x/Cargo.toml: `freehold-egress` may not see `freehold-api`: \
                        egress knows nothing of the control plane";
        assert_eq!(arrows("freehold-egress", "dependencies", "freehold-api"), [expected]);
    }

    #[test]
    fn a_pure_crate_may_not_use_a_runtime() {
        assert_eq!(
            arrows("freehold-turn", "dependencies", "tokio"),
            ["crates/x/Cargo.toml: `freehold-turn` is pure and may not use `tokio`"]
        );
        assert_eq!(arrows("freehold-turn", "dependencies", "serde"), [""; 0]);
    }

    #[test]
    fn a_crate_without_a_tier_is_found() {
        assert_eq!(arrows("freehold-new", "dependencies", "serde").len(), 1);
    }

    #[test]
    fn the_listed_arrows_join_crates_of_one_tier() {
        for (from, to) in ARROWS {
            assert_eq!(tier(from), tier(to), "{from} -> {to}");
        }
    }
}
