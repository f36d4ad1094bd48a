//! The sealed code between a guest and the host kernel in the process backend
