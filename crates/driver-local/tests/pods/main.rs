//! Pods of this machine, made for real and looked at from inside.

mod common;
mod life;
