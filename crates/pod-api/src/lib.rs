//! Control plane and agent: what they say to each other.
