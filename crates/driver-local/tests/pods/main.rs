//! Pods of this machine, made for real and looked at from inside. As root these tests run a second time as an ordinary
//! user; see `as_user`.
#![expect(clippy::unwrap_used, clippy::print_stdout, reason = "helpers of tests are test code too")]

mod as_user;
mod common;
mod inside;
mod launcher;
mod life;
mod limits;
mod network;
