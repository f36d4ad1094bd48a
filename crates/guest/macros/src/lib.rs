//! The attribute macros of the kiln crate
