//! Pods in memory with scripted faults, for tests and simulation only.
