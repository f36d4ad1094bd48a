//! The hardened heap of Kiln guests
