//! The packages of PyPI that the tests of unmodified clients use: pinned, verified by hash, fetched once.

use std::path::Path;
use std::process::Command;

use anyhow::Context;

use crate::{execute, say};

/// What is fetched, with the hashes.
const REQUIREMENTS: &str = "crates/freehold/tests/clients/requirements.txt";
/// What the servers of the tests import; clients install what they need inside the pod.
const SERVERS: &[&str] = &["grpcio", "websockets"];

/// Fetches what is not there yet, into `target/clients`. Without Python, pip or a registry the tests that need the packages
/// are skipped, and say so.
pub fn fetch(root: &Path) {
    if let Err(error) = fetch_new(root) {
        say(&format!("note: tests of clients from PyPI are skipped: {error:#}"));
    }
}

fn fetch_new(root: &Path) -> anyhow::Result<()> {
    let requirements = root.join(REQUIREMENTS);
    let wanted = std::fs::read(&requirements).with_context(|| format!("failed to read `{REQUIREMENTS}`"))?;
    let folder = root.join("target/clients");
    let (wheels, site, done) = (folder.join("wheels"), folder.join("site"), folder.join("fetched.txt"));
    if std::fs::read(&done).is_ok_and(|fetched| fetched == wanted) {
        return Ok(());
    }
    for old in [&wheels, &site] {
        if old.exists() {
            std::fs::remove_dir_all(old).with_context(|| format!("failed to remove `{}`", old.display()))?;
        }
    }
    // Pods see the machine's own interpreter, whatever else is on the path.
    let python = if Path::new("/usr/bin/python3").exists() { "/usr/bin/python3" } else { "python3" };
    let pip = |verb: &str| {
        let mut pip = Command::new(python);
        pip.args(["-m", "pip", verb, "--quiet", "--disable-pip-version-check", "--only-binary", ":all:"]);
        pip
    };
    execute(pip("download").args(["--require-hashes", "--dest"]).arg(&wheels).arg("-r").arg(&requirements))?;
    let from = ["--no-index", "--no-compile", "--root-user-action", "ignore", "--find-links"];
    execute(pip("install").args(from).arg(&wheels).arg("--target").arg(&site).args(SERVERS))?;
    std::fs::write(&done, wanted).with_context(|| format!("failed to write `{}`", done.display()))
}
