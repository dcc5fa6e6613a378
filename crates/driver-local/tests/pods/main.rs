//! Pods of this machine, made for real and looked at from inside. As root these tests run a second time as an ordinary
//! user; see `as_user`.

mod as_user;
mod common;
mod inside;
mod life;
mod limits;
mod network;
