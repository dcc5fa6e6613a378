//! The repository's own commands: what a person types to test it, and what holds its rules.
//!
//! Invariant: nothing here is needed to build or run Freehold, and no other crate depends on this one.

mod clients;
mod fuzz;
mod generate;
mod needs;
mod npm;
mod release;
mod repository;
mod suite;
mod tidy;
mod tokens;

use std::path::Path;
use std::process::{Command, ExitCode};

use anyhow::{Context, bail};

const USAGE: &str = "\
usage: cargo xtask COMMAND

  test [--skip-install]   install what the tests need (when root), then run every test
  clients                 fetch the packages that tests of unmodified clients use, as `test` does
  tidy                    check the rules of the repository that no lint can check
  gen [--check]           write the generated files, or fail when one is out of date
  release                 build the program as it is published, laid out by what it does under load (25 minutes; needs llvm-profdata)
  fuzz TARGET [SECONDS]   search for bytes that break a reader (needs a C++ compiler); the folders of fuzz/seeds are the targets";

#[expect(clippy::print_stderr, reason = "a command for people: what went wrong goes to the terminal")]
fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match run(root(), &arguments) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(root: &Path, arguments: &[&str]) -> anyhow::Result<()> {
    match arguments {
        ["test"] => suite::run(root, suite::Install::WhenRoot),
        ["test", "--skip-install"] => suite::run(root, suite::Install::Never),
        ["clients"] => {
            clients::fetch(root);
            Ok(())
        }
        ["tidy"] => tidy::run(root),
        ["gen"] => generate::write(root),
        ["gen", "--check"] => generate::check(root),
        ["release"] => release::run(root),
        ["fuzz", target] => fuzz::run(root, target, None),
        ["fuzz", target, seconds] => fuzz::run(root, target, Some(*seconds)),
        _ => bail!("unknown command\n\n{USAGE}"),
    }
}

/// The repository's root: two folders above this crate.
fn root() -> &'static Path {
    let crates = Path::new(env!("CARGO_MANIFEST_DIR")).parent();
    crates.and_then(Path::parent).unwrap_or(Path::new("."))
}

/// Says one line about what is being done.
#[expect(clippy::print_stdout, reason = "a command for people: progress goes to the terminal")]
fn say(line: &str) {
    println!("{line}");
}

/// Runs a command on the terminal, showing what is run.
///
/// # Errors
/// When the command cannot be started, or ends with anything but success.
fn execute(command: &mut Command) -> anyhow::Result<()> {
    let shown = shown(command);
    say(&format!("+ {shown}"));
    let status = command.status().with_context(|| format!("failed to start `{shown}`"))?;
    if !status.success() {
        bail!("`{shown}` failed: {status}");
    }
    Ok(())
}

fn shown(command: &Command) -> String {
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    words.map(|word| word.to_string_lossy()).collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_unknown_command_is_answered_with_the_usage() {
        let error = run(root(), &["tset"]).unwrap_err();
        assert!(error.to_string().contains("usage: cargo xtask"));
    }

    #[test]
    fn a_failed_command_is_an_error_that_names_it() {
        let error = execute(Command::new("false").arg("--really")).unwrap_err();
        assert!(error.to_string().starts_with("`false --really` failed"));
    }
}
