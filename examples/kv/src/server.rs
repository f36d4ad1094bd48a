//! What the clients share: the view of the store, the queue of changes, and the memory for commands.

pub mod client;
pub mod committer;
pub mod disk;

use core::cell::Cell;

use committer::Queue;
use kv::map::View;

/// The part of memory that commands longer than a small buffer may take while they arrive.
const COMMAND_SHARE: usize = 16;

/// The state of the server.
pub struct Server {
    view: View,
    queue: Queue,
    /// Bytes that are left for long commands.
    command_memory: Cell<usize>,
}

impl Server {
    pub fn new(view: View) -> Self {
        Self {
            view,
            queue: Queue::default(),
            command_memory: Cell::new(kiln::memory::statistics().capacity / COMMAND_SHARE),
        }
    }
}
