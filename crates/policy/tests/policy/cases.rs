//! Data-driven: `tests/cases/*.yaml` hold a policy, requests and the decisions expected.

use std::{fmt::Write, fs, path::PathBuf};

use freehold_model::provider::Kind;
use freehold_policy::{Policy, ProviderGrant, compile, parse};
use serde::Deserialize;

use crate::support::decided;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Cases {
    provider: Provider,
    /// The provider's document.
    #[serde(default)]
    base: String,
    /// The role's document.
    role: String,
    cases: Vec<Case>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Provider {
    kind: String,
    domain: String,
    credential: Option<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Case {
    /// As [`crate::support::Request`] reads it, or `DNS name`.
    request: String,
    /// As [`crate::support::said`] says it.
    expect: String,
}

fn policy(cases: &Cases) -> Policy {
    let document = |text: &str| parse(text).unwrap_or_else(|problems| panic!("{problems:?}"));
    let provider = ProviderGrant {
        kind: cases.provider.kind.parse::<Kind>().unwrap(),
        domain: cases.provider.domain.clone(),
        credential: cases.provider.credential.clone(),
    };
    compile(&provider, &document(&cases.base), &document(&cases.role)).unwrap()
}

#[test]
fn every_case_is_decided_as_expected() {
    let dir = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/cases");
    let mut seen = 0;
    let mut wrong = String::new();
    for file in fs::read_dir(dir).unwrap() {
        let file = file.unwrap().path();
        let cases: Cases = serde_saphyr::from_str(&fs::read_to_string(&file).unwrap()).unwrap();
        let policy = policy(&cases);
        for case in &cases.cases {
            seen += 1;
            let decided = decided(&policy, &case.request);
            if decided != case.expect {
                let file = file.file_name().unwrap().display();
                writeln!(wrong, "{file}: {}: {decided}, expected {}", case.request, case.expect).unwrap();
            }
        }
    }
    assert!(wrong.is_empty(), "\n{wrong}");
    assert!(seen > 50, "the cases were not found");
}
