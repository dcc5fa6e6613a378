//! Use cases: authorize, decide, write.
