//! Turns stored credentials into what egress injects.
