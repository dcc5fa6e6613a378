//! The policy proxy: every connection of every pod.
