//! `cargo xtask fuzz`: searches for inputs that break a target, guided by coverage, on the pinned toolchain.

use std::path::Path;
use std::process::Command;

use anyhow::Context;

use crate::execute;

/// How long a target is searched when nothing is said.
const SECONDS_DEFAULT: u32 = 60;
/// The longest input that is tried, in bytes.
const INPUT_BYTES_MAX: u32 = 4096;
/// What makes the compiler count the edges a run takes. It is what `cargo fuzz` asks for, without the address sanitizer,
/// which needs another toolchain and would find little in code that is safe.
const FLAGS: &[&str] = &[
    "--cfg=fuzzing",
    "-Cpasses=sancov-module",
    "-Cllvm-args=-sanitizer-coverage-level=4",
    "-Cllvm-args=-sanitizer-coverage-inline-8bit-counters",
    "-Cllvm-args=-sanitizer-coverage-pc-table",
    "-Cllvm-args=-sanitizer-coverage-trace-compares",
    "-Ccodegen-units=1",
    "-Cdebug-assertions",
    "-Coverflow-checks",
];

/// Runs one target; what breaks it is left under `target/fuzz/TARGET`, as is what the search has learnt.
///
/// # Errors
/// When the target does not exist, cannot be built, or was broken.
pub fn run(root: &Path, target: &str, seconds: Option<&str>) -> anyhow::Result<()> {
    let seconds = seconds.map_or(Ok(SECONDS_DEFAULT), str::parse).context("SECONDS is a number")?;
    let seeds = root.join("fuzz/seeds").join(target);
    anyhow::ensure!(seeds.is_dir(), "no target `{target}`; the folders of fuzz/seeds are the targets");
    let build = root.join("target/fuzz");
    let learnt = build.join(target);
    std::fs::create_dir_all(&learnt).with_context(|| format!("failed to create {}", learnt.display()))?;
    let mut command = Command::new("cargo");
    command
        .current_dir(root)
        .args(["run", "--release", "--package", "freehold-fuzz", "--target-dir"])
        .arg(&build)
        .env("CARGO_ENCODED_RUSTFLAGS", FLAGS.join("\u{1f}"))
        // Optimisation at link time takes minutes, and coverage is counted before it.
        .env("CARGO_PROFILE_RELEASE_LTO", "off")
        .env("FREEHOLD_FUZZ_TARGET", target)
        .arg("--")
        .args([&learnt, &seeds])
        .args([format!("-max_total_time={seconds}"), format!("-max_len={INPUT_BYTES_MAX}")])
        .args(["-timeout=10".to_owned(), format!("-artifact_prefix={}/broken-", learnt.display())]);
    execute(&mut command)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_unknown_target_is_an_error_that_says_where_the_targets_are() {
        let error = run(crate::root(), "nothing", None).unwrap_err();
        assert!(error.to_string().contains("fuzz/seeds"), "{error:#}");
    }
}
