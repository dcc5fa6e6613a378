//! The public API as Rust calls.
