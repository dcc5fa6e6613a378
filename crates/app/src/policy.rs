//! The check of capabilities when they are written: a policy that cannot be read is never stored.

use crate::error::Fields;

/// Every problem of capabilities that are to be written, a line each, in the order of their places. A long text takes a
/// while to read: neither the database's only writer nor a thread that serves others waits for it.
pub(crate) async fn problems(capabilities: Option<&str>) -> Option<String> {
    let text = capabilities?.to_owned();
    apart(move || {
        let mut problems = freehold_policy::parse(&text).err()?;
        problems.sort_by_key(|problem| (problem.line, problem.column));
        Some(problems.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n"))
    })
    .await
}

/// Refuses the field `capabilities` for its problems.
pub(crate) fn refuse(fields: &mut Fields, problems: Option<String>) {
    if let Some(problems) = problems {
        fields.add("capabilities", problems);
    }
}

/// Runs what takes a while on a thread for such work. A panic there is one here.
pub(crate) async fn apart<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    match tokio::task::spawn_blocking(work).await {
        Ok(done) => done,
        Err(failed) => std::panic::resume_unwind(failed.into_panic()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn problems_are_a_line_each_in_the_order_of_their_places() {
        // An unknown field is found after the known ones are read.
        let text = "- wrong: 1\n  name: a\n  type: nothing\n- name: b\n  type: http\n  allow: 3\n";
        let mut fields = Fields::default();
        refuse(&mut fields, problems(Some(text)).await);
        let said = format!("{:?}", fields.check());
        let places: Vec<usize> = ["1:3: ", "3:", "6:"].map(|place| said.find(place).unwrap()).to_vec();
        assert!(places.is_sorted() && said.contains("\\n"), "{said}");
    }
}
