//! What the tests need from the machine, and how it gets there: Debian packages.

use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::bail;

use crate::{execute, say};

/// How long apt-get waits for another package manager to finish, in seconds.
const APT_LOCK_WAIT_SECONDS: u32 = 120;

/// One program that tests run.
struct Need {
    program: &'static str,
    /// The Debian package that has it.
    package: &'static str,
    without: Without,
}

/// What is lost without it.
enum Without {
    /// Tests fail.
    Fails,
    /// Tests check less than they could, as the text says.
    Less(&'static str),
}

const TRUST: &str = "one program fewer shows that it trusts the platform's CA inside a pod";

const CLIENTS: &str = "fewer unmodified clients are seen to work through the proxy";

const NEEDS: &[Need] = &[
    // Tests start private servers of their own, never the system's.
    Need { program: "initdb", package: "postgresql", without: Without::Fails },
    Need { program: "curl", package: "curl", without: Without::Fails },
    // For a certified authorization server; its packages are installed by `npm.rs`.
    Need { program: "node", package: "nodejs", without: Without::Fails },
    Need { program: "npm", package: "npm", without: Without::Fails },
    Need {
        program: "ip",
        package: "iproute2",
        without: Without::Less("the live demo finds the vendors by configuration, not by a name server"),
    },
    Need { program: "perl", package: "perl", without: Without::Less(TRUST) },
    Need { program: "git", package: "git", without: Without::Less(TRUST) },
    Need { program: "python3", package: "python3", without: Without::Less(TRUST) },
    Need { program: "pip3", package: "python3-pip", without: Without::Less(CLIENTS) },
    Need { program: "npm", package: "npm", without: Without::Less(CLIENTS) },
];

/// Installs what is missing, as root on a Debian machine.
///
/// # Errors
/// When something is missing still that the tests cannot do without; the error says what to type.
pub fn install() -> anyhow::Result<()> {
    let missing = missing();
    if missing.is_empty() {
        return Ok(());
    }
    let packages: Vec<&str> = missing.iter().map(|need| need.package).collect();
    if is_root() && has("apt-get") {
        say(&format!("installing {}", packages.join(", ")));
        if let Err(error) = apt_install(&packages) {
            say(&format!("warning: {error:#}"));
        }
    }
    check()
}

/// Sees whether the tests can run, and says what they will leave out.
///
/// # Errors
/// When something is missing that the tests cannot do without; the error says what to type.
pub fn check() -> anyhow::Result<()> {
    let missing = missing();
    for need in &missing {
        if let Without::Less(less) = need.without {
            say(&format!("note: no `{}`: {less} (package {})", need.program, need.package));
        }
    }
    let required: Vec<&Need> =
        missing.into_iter().filter(|need| matches!(need.without, Without::Fails)).collect();
    if required.is_empty() { Ok(()) } else { bail!(instructions(&required)) }
}

fn missing() -> Vec<&'static Need> {
    NEEDS.iter().filter(|need| !has(need.program)).collect()
}

fn instructions(required: &[&Need]) -> String {
    let programs: Vec<String> = required.iter().map(|need| format!("`{}`", need.program)).collect();
    let packages: Vec<&str> = required.iter().map(|need| need.package).collect();
    format!(
        "the tests need {}; on Debian or Ubuntu type\n\n    sudo apt-get update && sudo apt-get install --no-install-recommends {}\n\n\
         and elsewhere install what provides them, then run this again",
        programs.join(", "),
        packages.join(" ")
    )
}

/// Whether `program` can be run. Debian keeps PostgreSQL's server programs off the path, one folder a version.
fn has(program: &str) -> bool {
    if program == "initdb" && debian_postgresql(Path::new("/usr/lib/postgresql")) {
        return true;
    }
    let mut command = Command::new(program);
    command
        .arg(if program == "ip" { "-Version" } else { "--version" })
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    command.status().is_ok_and(|status| status.success())
}

fn debian_postgresql(versions: &Path) -> bool {
    let Ok(folders) = std::fs::read_dir(versions) else { return false };
    folders.flatten().any(|folder| folder.path().join("bin/initdb").exists())
}

fn apt_install(packages: &[&str]) -> anyhow::Result<()> {
    if !has_lists(Path::new("/var/lib/apt/lists")) {
        execute(&mut apt_get("update"))?;
        return execute(apt_get("install").args(packages));
    }
    // Lists that are there may be old, and name files that the archive no longer has: one more try with new ones.
    execute(apt_get("install").args(packages)).or_else(|_| {
        execute(&mut apt_get("update"))?;
        execute(apt_get("install").args(packages))
    })
}

fn has_lists(folder: &Path) -> bool {
    let Ok(files) = std::fs::read_dir(folder) else { return false };
    files.flatten().any(|file| file.file_name().to_string_lossy().contains("_Packages"))
}

fn apt_get(verb: &str) -> Command {
    let mut command = Command::new("apt-get");
    command.args([verb, "--yes", "-o", &format!("DPkg::Lock::Timeout={APT_LOCK_WAIT_SECONDS}")]);
    if verb == "install" {
        command.arg("--no-install-recommends");
    }
    command.env("DEBIAN_FRONTEND", "noninteractive").stdin(Stdio::null());
    command
}

#[cfg(unix)]
fn is_root() -> bool {
    use std::os::unix::fs::MetadataExt;
    // The owner of a process's own folder is its effective user.
    std::fs::metadata("/proc/self").is_ok_and(|own| own.uid() == 0)
}

#[cfg(not(unix))]
fn is_root() -> bool {
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_instructions_name_programs_and_packages() {
        let text = instructions(&[&NEEDS[0], &NEEDS[1]]);
        assert!(text.contains("`initdb`, `curl`"));
        assert!(text.contains("&& sudo apt-get install --no-install-recommends postgresql curl\n"));
    }

    #[test]
    fn a_program_that_is_not_there_is_missing() {
        assert!(has("true"));
        assert!(!has("freehold-no-such-program"));
    }

    #[test]
    fn folders_that_are_not_there_hold_nothing() {
        assert!(!debian_postgresql(Path::new("/nonexistent")));
        assert!(!has_lists(Path::new("/nonexistent")));
    }
}
