//! The check of capabilities when they are written: a policy that cannot be read is never stored. One that names a
//! credential or a secret which is not there yet is, and the audit row says so: until it is, what needs it is denied.

use freehold_policy::Document;
use freehold_store::OrgRead;
use serde_json::Value;
use sha2::{Digest, Sha256};

use crate::{Error, error::Fields};

/// The most names of credentials, and of secrets, that are looked up for one document.
const NAMES_MAX: usize = 100;

/// Capabilities that are to be written, if there are any: the document, or every problem of the text, a line each, in the
/// order of their places.
pub(crate) type Written = Option<Result<Document, String>>;

/// Reads capabilities that are to be written. A long text takes a while: neither the database's only writer nor a thread
/// that serves others waits for it.
pub(crate) async fn read(capabilities: Option<&str>) -> Written {
    let text = capabilities?.to_owned();
    let read = apart(move || {
        freehold_policy::parse(&text).map_err(|mut problems| {
            problems.sort_by_key(|problem| (problem.line, problem.column));
            problems.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n")
        })
    });
    Some(read.await)
}

/// The document; absent when there is none, and when the field `capabilities` is refused for its problems.
pub(crate) fn accepted(fields: &mut Fields, written: Written) -> Option<Document> {
    match written? {
        Ok(document) => Some(document),
        Err(problems) => {
            fields.add("capabilities", problems);
            None
        }
    }
}

/// Runs what takes a while on a thread for such work. A panic there is one here.
pub(crate) async fn apart<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    match tokio::task::spawn_blocking(work).await {
        Ok(done) => done,
        Err(failed) => std::panic::resume_unwind(failed.into_panic()),
    }
}

/// Adds to the detail of a row which document is in force: `capabilities_digest`, of the text as the API shows it, where there is
/// one.
pub(crate) fn note_digest(capabilities: Option<&str>, detail: &mut Value) {
    if let Some(text) = capabilities {
        detail["capabilities_digest"] = format!("sha256:{}", hex::encode(Sha256::digest(text))).into();
    }
}

/// Adds to the detail of a row what the document names and the organization does not have: `missing_credentials` and
/// `missing_secrets`, where there are any.
pub(crate) fn note_missing(
    tx: &mut OrgRead<'_>,
    document: Option<&Document>,
    detail: &mut Value,
) -> Result<(), Error> {
    let Some(document) = document else { return Ok(()) };
    let mut missing: [(&str, Vec<&str>); 2] =
        [("missing_credentials", Vec::new()), ("missing_secrets", Vec::new())];
    for name in document.credentials().into_iter().take(NAMES_MAX) {
        if tx.credential_by_name(name)?.is_none() {
            missing[0].1.push(name);
        }
    }
    for name in document.secrets().into_iter().take(NAMES_MAX) {
        if tx.secret_by_name(name)?.is_none() {
            missing[1].1.push(name);
        }
    }
    for (field, names) in missing.into_iter().filter(|(_, names)| !names.is_empty()) {
        detail[field] = names.into();
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn problems_are_a_line_each_in_the_order_of_their_places() {
        // An unknown field is found after the known ones are read.
        let text = "- wrong: 1\n  name: a\n  type: nothing\n- name: b\n  type: http\n  allow: 3\n";
        let mut fields = Fields::default();
        assert_eq!(accepted(&mut fields, read(Some(text)).await), None);
        let said = format!("{:?}", fields.check());
        let places: Vec<usize> = ["1:3: ", "3:", "6:"].map(|place| said.find(place).unwrap()).to_vec();
        assert!(places.is_sorted() && said.contains("\\n"), "{said}");
    }
}
