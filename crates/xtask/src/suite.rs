//! `cargo xtask test`: one command that passes on a machine with Debian's base packages and a Rust toolchain.

use std::path::Path;
use std::process::Command;

use anyhow::bail;

use crate::{clients, execute, needs, npm, say};

/// Whether what is missing may be installed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Install {
    WhenRoot,
    Never,
}

/// Sets up what the tests need, builds, and runs the whole suite; the runner's summary is the last thing printed.
///
/// # Errors
/// When the machine lacks something, the build fails, or a test does.
pub fn run(root: &Path, install: Install) -> anyhow::Result<()> {
    match install {
        Install::WhenRoot => needs::install()?,
        Install::Never => needs::check()?,
    }
    npm::install(root)?;
    clients::fetch(root);
    // The binary comes first, for tests run it and look for it beside themselves. It is built along with the tests, since
    // another selection of packages would mean other features, and so a second build of most of the tree.
    execute(cargo(root).args(["build", "--workspace", "--bins", "--examples", "--tests"]))?;
    let documentation = execute(cargo(root).args(["test", "--workspace", "--doc", "--quiet"]));
    let suite = if has_nextest(root) {
        execute(cargo(root).args(["nextest", "run", "--workspace", "--bins", "--tests", "--no-fail-fast"]))
    } else {
        say("note: with cargo-nextest installed, the tests of all crates run side by side");
        execute(cargo(root).args(["test", "--workspace", "--bins", "--tests", "--no-fail-fast"]))
    };
    match (suite, documentation) {
        (Ok(()), result) | (result, Ok(())) => result,
        (Err(suite), Err(documentation)) => bail!("{suite:#}, and {documentation:#}"),
    }
}

fn cargo(root: &Path) -> Command {
    let mut command = Command::new("cargo");
    command.current_dir(root);
    command
}

fn has_nextest(root: &Path) -> bool {
    cargo(root).args(["nextest", "--version"]).output().is_ok_and(|output| output.status.success())
}
