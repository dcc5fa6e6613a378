//! The policy language: parsed, checked, compiled once, and decided purely.
