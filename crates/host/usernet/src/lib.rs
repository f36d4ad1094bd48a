//! Rootless network address translation for Kiln guests
