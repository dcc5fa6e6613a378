//! The document and the pages that are checked in are those that the code makes.

use std::{collections::BTreeSet, fmt::Write, fs, path::PathBuf};

use freehold_access::{Right, Scopes, member_scopes, permission_set_scopes};
use freehold_api::{Guard, error::ErrorCode, openapi, operations};
use freehold_model::{api_key::PermissionSet, member::MemberRole};

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../..")
}

#[test]
fn the_document_checked_in_is_the_one_the_code_makes() {
    let made = format!("{:#}\n", openapi());
    let path = root().join("openapi/freehold.json");
    let kept = fs::read_to_string(path).unwrap_or_default();
    assert!(made == kept, "openapi/freehold.json is stale: run `cargo xtask gen`");
}

#[test]
fn every_operation_has_a_name_a_summary_and_a_path_of_its_own() {
    let (mut ids, mut routes) = (BTreeSet::new(), BTreeSet::new());
    for operation in operations() {
        assert!(ids.insert(operation.id), "{} twice", operation.id);
        assert!(
            routes.insert((operation.method, operation.path)),
            "{} {} twice",
            operation.method.as_str(),
            operation.path
        );
        assert!(!operation.summary.is_empty() && !operation.tag.is_empty(), "{}", operation.id);
    }
}

#[test]
fn every_error_code_has_exactly_one_page_with_its_status_and_meaning() {
    let folder = root().join("docs/errors");
    let mut pages: BTreeSet<String> = fs::read_dir(&folder)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    pages.remove("README.md");
    for code in ErrorCode::ALL {
        let name = format!("{code}.md");
        assert!(pages.remove(&name), "docs/errors/{name} is missing");
        let page = fs::read_to_string(folder.join(&name)).unwrap();
        let head = format!("# {code}\n\nHTTP {}.{}\n", code.status(), code.meaning());
        assert!(page.starts_with(&head), "docs/errors/{name} should begin with:\n{head}");
        assert!(page.len() > head.len(), "docs/errors/{name} says nothing more");
    }
    assert!(pages.is_empty(), "pages of no code: {pages:?}");
}

#[test]
fn every_code_is_answered_by_an_operation_or_by_the_router() {
    let router = [ErrorCode::NotFound, ErrorCode::MethodNotAllowed];
    let answered: BTreeSet<&str> = operations()
        .flat_map(|operation| operation.error_codes())
        .chain(router)
        .map(ErrorCode::as_str)
        .collect();
    let all: BTreeSet<&str> = ErrorCode::ALL.iter().map(|code| code.as_str()).collect();
    assert_eq!(answered, all);
}

#[test]
fn schemas_compile_and_every_reference_resolves() {
    let document = openapi();
    for name in document["components"]["schemas"].as_object().unwrap().keys() {
        let schema = serde_json::json!({
            "$ref": format!("#/components/schemas/{name}"), "components": document["components"],
        });
        jsonschema::validator_for(&schema).unwrap_or_else(|error| panic!("{name}: {error}"));
    }
    for reference in references(&document) {
        assert!(document.pointer(&reference[1..]).is_some(), "{reference} leads nowhere");
    }
}

fn references(value: &serde_json::Value) -> Vec<String> {
    match value {
        serde_json::Value::Object(members) => members
            .iter()
            .flat_map(|(key, value)| match (key.as_str(), value.as_str()) {
                ("$ref", Some(reference)) => vec![reference.to_owned()],
                _ => references(value),
            })
            .collect(),
        serde_json::Value::Array(items) => items.iter().flat_map(references).collect(),
        _ => Vec::new(),
    }
}

#[test]
fn the_matrix_of_operations_and_callers_is_the_golden_one() {
    let callers: Vec<(&str, Scopes)> = MemberRole::ALL
        .iter()
        .map(|role| (role.as_str(), member_scopes(*role)))
        .chain(PermissionSet::ALL.iter().map(|set| (set.as_str(), permission_set_scopes(*set))))
        .collect();
    let mut table = format!("{:28}", "");
    for (name, _) in &callers {
        write!(table, " {name:14}").unwrap();
    }
    for operation in operations() {
        write!(table, "\n{:28}", operation.id).unwrap();
        for (_, scopes) in &callers {
            write!(table, " {:14}", reach(operation.guard, *scopes)).unwrap();
        }
    }
    let table: Vec<&str> = table.lines().map(str::trim_end).collect();
    insta::assert_snapshot!(table.join("\n"));
}

fn reach(guard: Guard, scopes: Scopes) -> &'static str {
    let rights = match guard {
        Guard::Public => return "public",
        Guard::SignedIn => return "yes",
        Guard::Rights(rights) => rights,
    };
    let own_at_most = |right: &Right| !scopes.contains(right.scopes().0);
    let denied =
        |right: &Right| own_at_most(right) && !right.scopes().1.is_some_and(|own| scopes.contains(own));
    if rights.iter().any(denied) {
        "-"
    } else if rights.iter().any(own_at_most) {
        "own"
    } else {
        "yes"
    }
}
