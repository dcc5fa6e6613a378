//! The client verbs and the demo.
