//! The contract of pod drivers, and the conformance suite that every driver passes.
