//! The agent as a program of its own, called as the one binary calls it: `freehold-agent agent ...`.

use std::process::ExitCode;

fn main() -> ExitCode {
    freehold_agent::main(std::env::args_os().skip(2))
}
