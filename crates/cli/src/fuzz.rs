//! Entrances for the fuzz targets (`fuzz/`); no part of the API.

use crate::proof::{Pins, Verifier};

/// The lines of an exported audit log from whoever hands it in: a line is good or it is not, and without the key no bytes
/// but those of a server are a whole log with rows. What is found good is found good again.
pub fn audit_export(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    let check = || {
        let mut verifier = Verifier::new(Pins::default());
        text.split_terminator('\n').try_for_each(|line| verifier.line(line))?;
        let seq = verifier.seq();
        verifier.finish().inspect(|report| assert_eq!(report.seq, seq, "another row is the last"))
    };
    let found = check();
    assert_eq!(check(), found, "the same lines are read in two ways");
    let Ok(report) = found else { return };
    assert!(report.seq >= report.after, "ends before it begins");
    if report.seq > report.after {
        assert!(report.checkpoint.is_some() && !report.keys.is_empty(), "rows that nobody signed");
    }
}
