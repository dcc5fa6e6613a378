//! The agent loop as a pure step function.
