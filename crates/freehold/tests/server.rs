//! The whole of it: the real server process with real pods, a scripted model behind real TLS, and the public API.
#![expect(clippy::unwrap_used, clippy::print_stderr, reason = "a test that cannot go on shows why and ends")]

#[path = "server/support.rs"]
mod support;

#[path = "server/approvals.rs"]
mod approvals;
#[path = "server/attack.rs"]
mod attack;
#[path = "server/budgets.rs"]
mod budgets;
#[path = "server/clients.rs"]
mod clients;
#[path = "server/credentials.rs"]
mod credentials;
#[path = "server/exec.rs"]
mod exec;
#[path = "server/full_disk.rs"]
mod full_disk;
#[path = "server/hostile.rs"]
mod hostile;
#[path = "server/leak.rs"]
mod leak;
#[path = "server/operators.rs"]
mod operators;
#[path = "server/policy.rs"]
mod policy;
#[path = "server/proof.rs"]
mod proof;
#[path = "server/restarts.rs"]
mod restarts;
#[path = "server/tasks.rs"]
mod tasks;
#[path = "server/vault.rs"]
mod vault;
#[path = "server/walls.rs"]
mod walls;
