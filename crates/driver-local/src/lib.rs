//! Pods from Linux primitives: namespaces, overlay, cgroups, seccomp, and no daemon.
#![cfg(target_os = "linux")]
#![expect(
    unsafe_code,
    reason = "a sandbox is made of system calls that no library wraps; each is justified at its place"
)]

mod client;
mod driver;
mod groups;
mod holder;
mod launch;
pub mod launcher;
mod layers;
mod oci;
mod plan;
mod report;
mod sweep;
mod sys;
mod trash;

pub use driver::{LocalDriver, Options, PodRoot};
#[doc(hidden)]
pub use plan::Interception;
