//! What the tests need from npm, installed where they look for it. A second time nothing is asked of the registry.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::Context;

use crate::{execute, say};

/// Folders with a `package.json` and the lock file that says what exactly it stands for.
const FOLDERS: &[&str] = &["crates/testkit/issuer"];

/// Installs what the lock files name, unless that was done before.
///
/// # Errors
/// When npm cannot be run or does not get a package.
pub fn install(root: &Path) -> anyhow::Result<()> {
    for folder in FOLDERS {
        let folder = root.join(folder);
        let lock = fs::read(folder.join("package-lock.json")).context("cannot read package-lock.json")?;
        if fs::read(stamp(&folder)).is_ok_and(|installed| installed == lock) {
            continue;
        }
        say(&format!("installing the packages of {}", folder.display()));
        let mut npm = Command::new("npm");
        npm.args([
            "ci",
            "--prefer-offline",
            "--ignore-scripts",
            "--no-audit",
            "--no-fund",
            "--loglevel=error",
        ]);
        execute(npm.current_dir(&folder))?;
        // Last: what was cut short is installed again.
        fs::write(stamp(&folder), lock).context("cannot write what is installed")?;
    }
    Ok(())
}

/// A copy of the lock file that was installed.
fn stamp(folder: &Path) -> PathBuf {
    folder.join("node_modules/.installed")
}
