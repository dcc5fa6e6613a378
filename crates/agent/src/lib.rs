//! The pod's first process: the agent loop, its tools and its journal.
