//! What is refused while memory runs low.
//!
//! The library OS keeps what programs make it keep: files in memory, descriptors, what has been sent and not received. An allocation of its own that
//! fails would end the machine, so part of the memory is kept free: whoever is about to make something for a program asks here first, and
//! the call fails as Linux lets it fail when a limit or the memory is used up. *Content* (files, what lies in pipes and sockets) is refused
//! first, so that a program whose files fill the memory can still open them and tell; *objects* (descriptors, timers) may take half of what is kept, and
//! mappings another quarter. The rest is for what no call can be refused for: running and ending.
//!
//! What is asked for is compared with free pages, and not accounted for: no list of makers and owners can be out of date.

use crate::platform;
use crate::{Errno, Result};

/// One part of so many of the memory is kept free of content.
const PART: u64 = 8;
/// Bounds of that, in bytes.
const LEAST: u64 = 1 << 20;
const MOST: u64 = 256 << 20;

/// Bytes that are kept free of content.
fn reserve() -> u64 {
    let kernel = crate::kernel();
    let known = kernel.reserve.get();
    if known != 0 {
        return known;
    }
    let reserve = (platform::memory().0 / PART).clamp(LEAST, MOST);
    kernel.reserve.set(reserve);
    reserve
}

/// Asks for `bytes` of content.
///
/// # Errors
/// `error` if less than the reserve would be left.
pub fn content(bytes: u64, error: Errno) -> Result {
    if platform::free_memory() < reserve().saturating_add(bytes) {
        return Err(error);
    }
    Ok(())
}

/// Asks for a small object: a few hundred bytes, and what belongs to it.
///
/// # Errors
/// `error` if less than half of the reserve is left.
pub fn object(error: Errno) -> Result {
    if platform::free_memory() < reserve() / 2 {
        return Err(error);
    }
    Ok(())
}

/// Asks for a mapping of memory: what a program that is told of a lack may need to go on.
///
/// # Errors
/// `ENOMEM` if less than a quarter of the reserve is left.
pub fn mapping() -> Result {
    if platform::free_memory() < reserve() / 4 {
        return Err(Errno::ENOMEM);
    }
    Ok(())
}

/// Asks for room that a call needs while it lasts: `bytes` of it.
///
/// # Errors
/// `ENOMEM` if it would take of the last half of the reserve.
pub fn room(bytes: u64) -> Result {
    if platform::free_memory() < (reserve() / 2).saturating_add(bytes) {
        return Err(Errno::ENOMEM);
    }
    Ok(())
}
