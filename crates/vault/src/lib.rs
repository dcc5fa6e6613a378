//! Secrets encrypted at rest under a master key.
