//! Makes what is desired so: pods, deliveries, agents' connections.
