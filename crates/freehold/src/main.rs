//! The binary: configuration, wiring, signals.

mod config;

fn main() {}
