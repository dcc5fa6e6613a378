//! `cargo xtask release`: the program as it is published, laid out by what it does under load.
//!
//! A request passes some 300 KiB of code, several times what the first cache holds. A compiler that knows which way each branch goes
//! puts what is used beside each other: a third of a request's time (docs/decisions/0049).

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::Context;

use crate::{execute, say};

/// Where cargo's configuration keeps the flags of this target; those given here are added to its own.
const FLAGS_KEY: &str = r#"target.'cfg(all(target_os = "linux", target_env = "gnu"))'.rustflags"#;

/// What is built: the program, and the bench that makes it work.
const PACKAGES: [&str; 4] = ["--package", "freehold", "--package", "freehold-bench"];

/// The work that the program is laid out for: each row the arguments of a benchmark.
const LOADS: [&[&str]; 3] = [
    &[
        "proxy",
        "--no-mitmproxy",
        "--through=egress,egress-apart",
        "--rounds=2",
        "--seconds=2",
        "--requests=4000",
        "--large-mib=256",
        "--memory-requests=0",
        "--idle=0",
    ],
    &["turn", "--tasks=20"],
    &["api", "--seconds=1", "--skip-postgresql"],
];

/// Names under which distributions install the program that merges profiles, the newest first. It must read what the compiler's LLVM
/// writes; 19 reads what 22 does.
const MERGERS: [&str; 5] =
    ["llvm-profdata", "llvm-profdata-22", "llvm-profdata-21", "llvm-profdata-20", "llvm-profdata-19"];

/// Builds the program three times over: as one that counts, as that one under load, and by what was counted.
///
/// # Errors
/// When nothing can merge the counts, a build fails or a load does.
pub fn run(root: &Path) -> anyhow::Result<()> {
    let compiler = Compiler::ask()?;
    let merger = compiler.merger().context(
        "nothing here merges profiles: `rustup component add llvm-tools`, or install your distribution's LLVM 19 or later",
    )?;
    let folder = root.join("target/profiled");
    let counts = folder.join("counts");
    if counts.exists() {
        fs::remove_dir_all(&counts).with_context(|| format!("failed to empty {}", counts.display()))?;
    }
    say("1 of 3: a program that counts (some ten minutes, as long as any first release build)");
    let counting = build(root, &folder.join("counting"), &compiler, "generate", &counts)?;
    say("2 of 3: it works, and counts (two minutes)");
    for load in LOADS {
        let mut command = Command::new(counting.join("freehold-bench"));
        command.args(load).arg("--freehold").arg(counting.join("freehold"));
        // A file for each process: one that is killed as it writes spoils its own alone.
        command.env("LLVM_PROFILE_FILE", counts.join("%m-%p.profraw"));
        execute(command.arg("--out").arg(folder.join("out")))?;
    }
    let profile = folder.join("profile");
    let mut merge = Command::new(merger);
    merge.args(["merge", "--failure-mode=all"]);
    execute(merge.arg("--output").arg(&profile).args(files(&counts)?))?;
    say("3 of 3: the program (as long as the first)");
    let built = build(root, &folder.join("final"), &compiler, "use", &profile)?;
    say(&format!("{}\n{}", built.join("freehold").display(), built.join("freehold-bench").display()));
    Ok(())
}

/// Builds with a flag of the compiler's about profiles, and answers where the programs are.
fn build(
    root: &Path,
    folder: &Path,
    compiler: &Compiler,
    way: &str,
    profile: &Path,
) -> anyhow::Result<PathBuf> {
    let flags = format!("{FLAGS_KEY} = ['-Cprofile-{way}={}']", profile.display());
    let mut command = Command::new("cargo");
    command.current_dir(root).args(["build", "--release", "--locked"]).args(PACKAGES);
    execute(command.arg("--target-dir").arg(folder).arg("--config").arg(flags))?;
    Ok(folder.join(&compiler.host).join("release"))
}

/// What was counted, a file for each process.
fn files(folder: &Path) -> anyhow::Result<Vec<PathBuf>> {
    let files =
        fs::read_dir(folder).with_context(|| format!("nothing was counted in {}", folder.display()))?;
    files.map(|file| Ok(file?.path())).collect()
}

struct Compiler {
    /// The target that it builds for when none is named.
    host: String,
    /// Where it is installed.
    sysroot: PathBuf,
}

impl Compiler {
    fn ask() -> anyhow::Result<Self> {
        let ask = |argument: &str| {
            let answer = Command::new("rustc").args(["--print", argument]).output();
            let answer = answer.context("failed to start rustc")?.stdout;
            Ok::<_, anyhow::Error>(
                String::from_utf8(answer).context("rustc answers in UTF-8")?.trim().to_owned(),
            )
        };
        Ok(Self { host: ask("host-tuple")?, sysroot: ask("sysroot")?.into() })
    }

    /// The program that merges profiles: the compiler's own, or else the distribution's.
    fn merger(&self) -> Option<PathBuf> {
        let own = self.sysroot.join("lib/rustlib").join(&self.host).join("bin/llvm-profdata");
        let others = MERGERS.into_iter().map(PathBuf::from);
        std::iter::once(own).chain(others).find(|program| is_program(program))
    }
}

fn is_program(program: &Path) -> bool {
    Command::new(program).arg("--version").output().is_ok_and(|output| output.status.success())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_configuration_has_the_flags_that_a_profile_s_are_added_to() {
        let configuration = fs::read_to_string(crate::root().join(".cargo/config.toml")).unwrap();
        let configuration: toml::Table = configuration.parse().unwrap();
        let given: toml::Table = format!("{FLAGS_KEY} = []").parse().unwrap();
        let key = given["target"].as_table().unwrap().keys().next().unwrap();
        assert!(configuration["target"].get(key).is_some_and(|target| target.get("rustflags").is_some()));
    }

    #[test]
    fn the_compiler_says_what_it_builds_for() {
        let compiler = Compiler::ask().unwrap();
        assert!(compiler.sysroot.join("lib/rustlib").join(&compiler.host).is_dir());
    }
}
