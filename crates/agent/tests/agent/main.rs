//! The agent as a process, against a control plane in memory and a real model server.

mod support;
mod tasks;
mod tools;
