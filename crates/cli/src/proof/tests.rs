//! Mutations of an export: both verifiers find each.

use std::{fmt::Write as _, fs, path::Path, process::Command};

use aws_lc_rs::signature::{Ed25519KeyPair, KeyPair};
use proptest::prelude::*;
use serde_json::json;

use super::*;

const TOOL: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../tools/audit-verify.py");
const ORGANIZATION: &str = "org_01933b5a000070008000000000000001";

/// A signed log, as a server exports it.
struct Log {
    key: Ed25519KeyPair,
    /// Lines, without the last one.
    lines: Vec<String>,
    /// Hashes of its checkpoints.
    checkpoints: Vec<String>,
}

fn hash(before: Hash, text: &str) -> Hash {
    Sha256::new().chain_update(before).chain_update(text).finalize().into()
}

fn key_id(key: &Ed25519KeyPair) -> String {
    hex::encode(Sha256::digest(key.public_key()))
}

impl Log {
    /// Rows of these texts, with a checkpoint after every third row and after the last one.
    fn of(seed: u8, texts: &[&str]) -> Self {
        let key = Ed25519KeyPair::from_seed_unchecked(&[seed; 32]).unwrap();
        let public = hex::encode(key.public_key());
        let keys = json!([{ "id": key_id(&key), "public_key": public }]).to_string();
        let zeros = "0".repeat(64);
        let mut lines = vec![format!(
            r#"{{"freehold_audit":1,"organization":"{ORGANIZATION}","after":0,"previous":"{zeros}","keys":{keys}}}"#
        )];
        let (mut last, mut previous, mut checkpoints) = ([0; 32], zeros, Vec::new());
        for (seq, text) in (1..).zip(texts) {
            let row = serde_json::to_string(&json!({ "detail": text, "org_id": ORGANIZATION, "seq": seq }))
                .unwrap();
            last = hash(last, &row);
            lines.push(format!(r#"{{"hash":"{}","row":{row}}}"#, hex::encode(last)));
            if seq % 3 == 0 || seq == texts.len() {
                let payload = json!({
                    "format": "freehold-audit-checkpoint-1", "hash": hex::encode(last), "key_id": key_id(&key),
                    "number": checkpoints.len() + 1, "org_id": ORGANIZATION, "previous": previous, "seq": seq,
                    "timestamp": "2026-11-22T08:00:00Z",
                });
                let payload = serde_json::to_string(&payload).unwrap();
                previous = hex::encode(Sha256::digest(&payload));
                checkpoints.push(previous.clone());
                let signature = hex::encode(key.sign(payload.as_bytes()));
                lines.push(format!(r#"{{"checkpoint":{payload},"signature":"{signature}"}}"#));
            }
        }
        Self { key, lines, checkpoints }
    }

    fn some() -> Self {
        Self::of(1, &["a", "b\u{e9}", "{\"seq\":9}", "d", "e\\\"", "f", "g", "\u{1f600}"])
    }

    fn file(&self) -> Vec<u8> {
        sealed(&self.lines, rows(&self.lines))
    }
}

/// How many rows there are.
fn rows(lines: &[String]) -> u64 {
    lines.iter().filter(|line| line.starts_with("{\"hash\"")).count() as u64
}

/// The lines with a last one that fits them, as whoever changes a file can write it.
fn sealed(lines: &[String], seq: u64) -> Vec<u8> {
    let mut text = lines.iter().fold(String::new(), |mut text, line| {
        _ = writeln!(text, "{line}");
        text
    });
    let sha256 = hex::encode(Sha256::digest(&text));
    text.push_str(&end_line(seq, &sha256));
    text.push('\n');
    text.into_bytes()
}

/// What `freehold audit verify` does with a file.
fn verified(file: &[u8], pins: Pins) -> Result<Report, Bad> {
    let mut verifier = Verifier::new(pins);
    let mut lines: Vec<&[u8]> = file.split(|byte| *byte == b'\n').collect();
    let bad = |why: &str| Bad { line: 0, why: why.to_owned() };
    if lines.pop().is_some_and(|rest| !rest.is_empty()) {
        return Err(bad("cut"));
    }
    for line in lines {
        verifier.line(std::str::from_utf8(line).map_err(|_| bad("no UTF-8"))?)?;
    }
    verifier.finish()
}

/// What `tools/audit-verify.py` says of each file in a folder, all in one process: the names of those that verify.
fn verified_by_the_tool(folder: &Path, arguments: &[&str]) -> Vec<String> {
    const DRIVER: &str = "
import importlib.util, os, sys
spec = importlib.util.spec_from_file_location('tool', sys.argv[1])
tool = importlib.util.module_from_spec(spec)
spec.loader.exec_module(tool)
folder, rest = sys.argv[2], sys.argv[3:]
for name in sorted(os.listdir(folder)):
    sys.argv = ['audit-verify', os.path.join(folder, name)] + rest
    real, sys.stdout = sys.stdout, open(os.devnull, 'w')
    try:
        tool.main()
        verdict = True
    except SystemExit as said:
        verdict = False
    sys.stdout = real
    if verdict: print(name)
";
    let output = Command::new("python3")
        .args(["-B", "-c", DRIVER, TOOL])
        .arg(folder)
        .args(arguments)
        .output()
        .expect("python3 is there: `cargo xtask test` says what tests need");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap().lines().map(str::to_owned).collect()
}

#[test]
fn the_tool_says_in_one_line_what_is_wrong_with_its_arguments() {
    for arguments in [&["--checkpoint", "1", "x"][..], &["--checkpoint", "a:b", "x"], &[], &["--what", "x"]] {
        let output = Command::new("python3").args(["-B", TOOL]).args(arguments).output().unwrap();
        let said = String::from_utf8(output.stderr).unwrap();
        assert_eq!((output.status.code(), said.lines().count()), (Some(2), 1), "{arguments:?} {said}");
    }
}

/// Asserts that neither verifier takes any of these, and that both take `good`.
fn refused_by_both(good: &[u8], mutants: &[Vec<u8>], pins: &Pins) {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("good"), good).unwrap();
    for (n, mutant) in mutants.iter().enumerate() {
        let found = verified(mutant, pins.clone());
        assert!(found.is_err(), "mutant {n} verifies: {}", String::from_utf8_lossy(mutant));
        fs::write(folder.path().join(format!("mutant-{n:05}")), mutant).unwrap();
    }
    assert!(verified(good, pins.clone()).is_ok());
    let keys = pins.keys.iter().flat_map(|key| ["--signed-by".to_owned(), key.clone()]);
    let checkpoints = pins
        .checkpoints
        .iter()
        .flat_map(|(number, hash)| ["--checkpoint".to_owned(), format!("{number}:{hash}")]);
    let arguments: Vec<String> = keys.chain(checkpoints).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    assert_eq!(verified_by_the_tool(folder.path(), &arguments), ["good"]);
}

#[test]
fn a_whole_log_verifies_and_tells_how_far_it_goes() {
    let log = Log::some();
    let report = verified(&log.file(), Pins::default()).unwrap();
    assert_eq!((report.after, report.seq, report.keys), (0, 8, vec![key_id(&log.key)]));
    assert_eq!(report.checkpoint, Some((3, log.checkpoints[2].clone())));
    let empty = Log::of(1, &[]);
    assert_eq!(verified(&empty.file(), Pins::default()).unwrap().seq, 0);
}

#[test]
fn any_byte_that_is_changed_is_found() {
    let good = Log::some().file();
    let changed = |at: usize, with: u8| {
        let mut mutant = good.clone();
        mutant[at] ^= with;
        mutant
    };
    for at in 0..good.len() {
        for with in [0x01, 0x20, 0x80] {
            assert!(verified(&changed(at, with), Pins::default()).is_err(), "byte {at} xor {with}");
        }
    }
    let mutants: Vec<_> =
        (0..good.len()).step_by(5).map(|at| changed(at, [0x01, 0x20, 0x80][at % 3])).collect();
    refused_by_both(&good, &mutants, &Pins::default());
}

#[test]
fn a_log_that_says_it_goes_on_behind_the_last_number_there_is_is_found() {
    let log = Log::some();
    let from_the_end = |after: &str| {
        let mut lines = log.lines.clone();
        lines[0] = lines[0].replace("\"after\":0", &format!("\"after\":{after}"));
        lines[1] = lines[1].replace("\"seq\":1}", "\"seq\":0}");
        sealed(&lines, 8)
    };
    let mutants = ["18446744073709551615", "18446744073709551616", "-1"].map(from_the_end);
    refused_by_both(&log.file(), &mutants, &Pins::default());
}

#[test]
fn a_file_that_is_cut_anywhere_is_found() {
    let good = Log::some().file();
    let mutants: Vec<_> =
        (0..good.len()).step_by(7).chain([good.len() - 1]).map(|end| good[..end].to_vec()).collect();
    refused_by_both(&good, &mutants, &Pins::default());
}

#[test]
fn lines_that_are_dropped_doubled_moved_or_exchanged_are_found_though_the_last_line_fits() {
    let (log, other) = (Log::some(), Log::of(1, &["a", "b\u{e9}", "x", "d", "e\\\"", "f", "g", "h"]));
    let mut mutants = Vec::new();
    let mut add = |lines: &[String]| {
        let seqs = [rows(lines), 8, 7, 0];
        mutants.extend(seqs.map(|seq| sealed(lines, seq)));
    };
    for at in 0..log.lines.len() {
        let mut lines = log.lines.clone();
        let line = lines.remove(at);
        add(&lines);
        for to in [at, lines.len()] {
            let mut lines = log.lines.clone();
            lines.insert(to, line.clone());
            add(&lines);
        }
        if at + 1 < log.lines.len() {
            let mut lines = log.lines.clone();
            lines.swap(at, at + 1);
            add(&lines);
        }
        if other.lines[at] != log.lines[at] {
            let mut lines = log.lines.clone();
            lines[at].clone_from(&other.lines[at]);
            add(&lines);
        }
    }
    refused_by_both(&log.file(), &mutants, &Pins::default());
}

#[test]
fn a_row_that_is_changed_with_every_hash_after_it_is_found_by_the_signature() {
    let (log, forged) =
        (Log::some(), Log::of(9, &["a", "b\u{e9}", "{\"seq\":9}", "d", "E", "f", "g", "\u{1f600}"]));
    // The forger's rows and hashes, with the signatures that are there.
    let mut lines = forged.lines.clone();
    lines[0].clone_from(&log.lines[0]);
    for (at, line) in log.lines.iter().enumerate().filter(|(_, line)| line.starts_with("{\"checkpoint\"")) {
        lines[at].clone_from(line);
    }
    let mut mutants = vec![sealed(&lines, 8)];
    // The forger's checkpoints with the key's id and signatures that are there.
    for (at, line) in log.lines.iter().enumerate().filter(|(_, line)| line.starts_with("{\"checkpoint\"")) {
        let signature = line.rsplit_once(",\"signature\"").unwrap().1;
        let payload = forged.lines[at].rsplit_once(",\"signature\"").unwrap().0;
        let payload = payload.replace(&key_id(&forged.key), &key_id(&log.key));
        lines[at] = format!("{payload},\"signature\"{signature}");
    }
    mutants.push(sealed(&lines, 8));
    refused_by_both(&log.file(), &mutants, &Pins::default());
}

#[test]
fn a_log_that_another_key_signed_or_whose_end_is_cut_off_is_found_by_what_was_known_before() {
    let (log, forged) = (Log::some(), Log::of(9, &["a"]));
    let cut = Log::of(1, &["a", "b\u{e9}", "{\"seq\":9}"]);
    for unpinned in [&forged, &cut] {
        assert!(verified(&unpinned.file(), Pins::default()).is_ok());
    }
    let by_key = Pins { keys: vec![key_id(&log.key)], ..Pins::default() };
    refused_by_both(&log.file(), &[forged.file()], &by_key);
    let by_checkpoint = Pins { checkpoints: vec![(3, log.checkpoints[2].clone())], ..Pins::default() };
    let other = Log::of(1, &["a", "b", "c", "d", "e", "f", "g", "h"]);
    refused_by_both(&log.file(), &[forged.file(), cut.file(), other.file()], &by_checkpoint);
}

#[test]
fn the_first_bad_line_is_named() {
    let mut lines = Log::some().lines;
    lines.remove(2);
    let bad = verified(&sealed(&lines, 7), Pins::default()).unwrap_err();
    assert_eq!(bad.to_string(), "line 3: has row 3 where row 2 must be: rows are missing, moved or put in");
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]

    #[test]
    fn no_sequence_of_edits_is_taken_for_the_log(
        edits in proptest::collection::vec((0_u8..5, any::<prop::sample::Index>(), any::<prop::sample::Index>(), any::<u8>()), 1..4),
        reseals in any::<bool>(),
    ) {
        let log = Log::some();
        let mut lines = log.lines.clone();
        for (edit, at, to, with) in edits {
            if lines.is_empty() {
                break;
            }
            let (at, to) = (at.index(lines.len()), to.index(lines.len()));
            match edit {
                0 => drop(lines.remove(at)),
                1 => lines.insert(to, lines[at].clone()),
                2 => lines.swap(at, to),
                3 => lines.truncate(at),
                _ => {
                    let mut bytes = lines[at].clone().into_bytes();
                    let place = usize::from(with) % bytes.len();
                    bytes[place] = b' ' + (bytes[place] ^ with) % 94;
                    lines[at] = String::from_utf8_lossy(&bytes).into_owned();
                }
            }
        }
        prop_assume!(lines != log.lines);
        let pins = Pins { checkpoints: vec![(3, log.checkpoints[2].clone())], ..Pins::default() };
        let mutant = if reseals { sealed(&lines, rows(&lines)) } else {
            let good = log.file();
            let end = good.iter().rposition(|byte| *byte == b'{').unwrap_or(0);
            let end = good[..end].iter().rposition(|byte| *byte == b'\n').map_or(0, |at| at + 1);
            let mut mutant = lines.iter().flat_map(|line| [line.as_bytes(), b"\n"].concat()).collect::<Vec<u8>>();
            mutant.extend_from_slice(&good[end..]);
            mutant
        };
        prop_assert!(verified(&mutant, pins).is_err());
    }
}
