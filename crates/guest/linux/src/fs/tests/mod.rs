//! What programs see of files, call by call.

mod descriptors;
mod directory;
mod linux;
mod lock;
mod memory;
mod metadata;
mod root;
mod shortage;
mod transfer;
mod watch;
