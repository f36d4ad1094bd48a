//! Kiln image files: build, check, read, symbolise
