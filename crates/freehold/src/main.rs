//! The binary: configuration, wiring, signals.

fn main() {}
