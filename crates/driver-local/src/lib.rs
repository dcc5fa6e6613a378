//! Pods from Linux primitives: namespaces, overlay, cgroups, seccomp, and no daemon.
