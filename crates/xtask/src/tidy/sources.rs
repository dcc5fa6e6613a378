//! What every Rust file keeps to: its size, its opening words, no escape from the lints, and purity where it is promised.

use super::{Finding, arrows};
use crate::repository::{Crate, Repository, is_test_file};
use crate::tokens::{Items, Tokens};

/// Lines of a file that is not for tests only. Longer ones hold more than one thing.
const FILE_LINES_MAX: usize = 800;

/// The crates that may hold `unsafe` code, and why.
const UNSAFE: &[(&str, &str)] = &[
    ("freehold-agent", "what the kernel demands of a first process: signals, users, dumpability"),
    ("freehold-driver-local", "clone, mount and descriptor passing have no safe form"),
];

/// Token patterns that no file may hold, and why.
const NOWHERE: &[(&[&str], &str)] = &[
    (&["#", "[", "allow", "("], "use `#[expect(…, reason = …)]`, which complains once it is needless"),
    (&["#", "!", "[", "allow", "("], "use `#![expect(…, reason = …)]`, which complains once it is needless"),
    (&["todo", "!"], "finish it, or leave it out"),
    (&["#", "[", "ignore"], "a test that does not run proves nothing"),
];

/// The modules of `std` that a pure crate may not use.
const IMPURE_MODULES: &[&str] = &["env", "fs", "os", "process", "thread"];

/// Token patterns that no pure crate may hold. Of `std::net`, addresses are values and sockets are not.
const IMPURE: &[&[&str]] = &[
    &["SystemTime"],
    &["Instant"],
    &[":", "now", "("],
    &["now_v7"],
    &["new_v4"],
    &["RandomState"],
    &["TcpListener"],
    &["TcpStream"],
    &["UdpSocket"],
    &["ToSocketAddrs"],
];

pub(super) fn check(repository: &Repository) -> Vec<Finding> {
    repository.crates.iter().flat_map(|one| of_crate(repository, one)).collect()
}

fn of_crate(repository: &Repository, one: &Crate) -> Vec<Finding> {
    let mut findings = Vec::new();
    for (path, text) in repository.rust_below(&one.folder) {
        if path.ends_with("/mod.rs") && !path.contains("/tests/") {
            findings.push(Finding::new(path, "name the file after the module: no mod.rs"));
        }
        if !is_test_file(path) {
            findings.extend(shape(path, text));
        }
        match Tokens::read(text, Items::All) {
            Ok(tokens) => findings.extend(code(one, path, &tokens)),
            Err(error) => findings.push(Finding::new(path, error.to_string())),
        }
        if arrows::is_pure(&one.name) && !is_test_file(path) {
            findings.extend(impure(path, text));
        }
    }
    findings
}

fn shape(path: &str, text: &str) -> Vec<Finding> {
    let mut findings = Vec::new();
    let lines = text.lines().count();
    if lines > FILE_LINES_MAX {
        findings.push(Finding::new(path, format!("{lines} lines, more than {FILE_LINES_MAX}: split it")));
    }
    if !text.starts_with("//! ") {
        findings.push(Finding::new(path, "does not open with `//!`: its job and its invariant"));
    }
    findings
}

fn code(one: &Crate, path: &str, tokens: &Tokens) -> Vec<Finding> {
    let mut findings = Vec::new();
    for (pattern, why) in NOWHERE {
        let shown = pattern.concat();
        findings
            .extend(tokens.find(pattern).map(|line| Finding::at(path, line, format!("`{shown}`: {why}"))));
    }
    if !UNSAFE.iter().any(|(name, _)| *name == one.name) {
        let lines = tokens.find(&["unsafe"]);
        findings.extend(
            lines.map(|line| Finding::at(path, line, format!("`{}` may not hold unsafe code", one.name))),
        );
    }
    findings
}

fn impure(path: &str, text: &str) -> Vec<Finding> {
    let Ok(tokens) = Tokens::read(text, Items::Production) else { return Vec::new() };
    let mut findings = Vec::new();
    for module in IMPURE_MODULES {
        let lines = tokens.find_std(module).into_iter();
        findings.extend(
            lines.map(|line| Finding::at(path, line, format!("a pure crate may not use `std::{module}`"))),
        );
    }
    for pattern in IMPURE {
        let shown = pattern.concat();
        let lines = tokens.find(pattern);
        findings
            .extend(lines.map(|line| Finding::at(path, line, format!("a pure crate may not use `{shown}`"))));
    }
    findings
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tidy::fixture::{found, manifest};

    fn file(name: &str, path: &str, text: &str) -> Vec<String> {
        found(check, &[("crates/a/Cargo.toml", &manifest(name, "")), (path, text)])
    }

    fn code_of(name: &str, code: &str) -> usize {
        file(name, "crates/a/src/lib.rs", &format!("//! A.\n{code}")).len()
    }

    #[test]
    fn a_production_file_has_a_limit_and_a_test_file_has_none() {
        let long = format!("//! A.\n{}", "\n".repeat(FILE_LINES_MAX));
        assert_eq!(
            file("a", "crates/a/src/b.rs", &long),
            ["crates/a/src/b.rs: 801 lines, more than 800: split it"]
        );
        assert_eq!(file("a", "crates/a/src/b/tests.rs", &long), [""; 0]);
    }

    #[test]
    fn a_file_opens_with_its_job_and_is_not_called_mod() {
        assert_eq!(file("a", "crates/a/src/b.rs", "fn a() {}").len(), 1);
        assert_eq!(file("a", "crates/a/src/b/mod.rs", "//! A.").len(), 1);
        assert_eq!(file("a", "crates/a/tests/common/mod.rs", ""), [""; 0]);
    }

    #[test]
    fn escapes_from_the_rules_are_found_in_tests_too() {
        for escape in [
            "#[allow(dead_code)]\nfn a() {}",
            "#![allow(dead_code)]",
            "fn a() { todo!() }",
            "#[cfg(test)]\nmod tests {\n#[test]\n#[ignore]\nfn a() {}\n}",
        ] {
            assert_eq!(code_of("a", escape), 1, "{escape}");
        }
        assert_eq!(code_of("a", "#[expect(dead_code, reason = \"#[allow(\")]\nfn allow() {}"), 0);
    }

    #[test]
    fn only_listed_crates_hold_unsafe_code() {
        let code = "fn a() { unsafe { b() } }";
        assert_eq!(code_of("freehold-app", code), 1);
        assert_eq!(code_of("freehold-driver-local", code), 0);
    }

    #[test]
    fn a_pure_crate_touches_nothing_outside_outside_its_tests() {
        for code in [
            "use std::fs;",
            "use std::{fmt, env};",
            "fn a() { std::thread::yield_now() }",
            "use std::time::Instant;",
            "use std::net::{IpAddr, UdpSocket};",
            "fn a() { jiff::Timestamp::now(); }",
            "fn a() { uuid::Uuid::now_v7(); }",
        ] {
            assert_eq!(code_of("freehold-turn", code), 1, "{code}");
            assert_eq!(code_of("freehold-app", code), 0, "{code}");
            assert_eq!(
                code_of("freehold-turn", &format!("#[cfg(test)]\nmod tests {{ {code} }}")),
                0,
                "{code}"
            );
        }
    }

    #[test]
    fn a_file_that_is_not_rust_is_found() {
        assert_eq!(code_of("a", "fn a( {"), 1);
    }
}
