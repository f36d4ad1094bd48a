//! The kiln command
