//! What the store needs of a disk.

use core::fmt;

/// A disk. Offsets and lengths are whole sectors, in bytes.
///
/// What the store relies on: after a crash each sector has the content it had at the last flush or that of a later
/// write, never a mixture. Nothing is assumed about the order in which writes between two flushes arrive.
#[allow(
    async_fn_in_trait,
    reason = "one executor, one thread: nobody asks for Send"
)]
pub trait Storage {
    /// Bytes that are written whole or not at all.
    fn sector_size(&self) -> usize;

    /// Size in bytes.
    fn capacity(&self) -> u64;

    /// Fills the buffer.
    ///
    /// # Errors
    /// [`Fault`].
    async fn read(&self, offset: u64, buffer: &mut [u8]) -> Result<(), Fault>;

    /// Writes; durable after the next [`flush`](Self::flush).
    ///
    /// # Errors
    /// [`Fault`]. Some of the sectors may have been written then.
    async fn write(&self, offset: u64, data: &[u8]) -> Result<(), Fault>;

    /// Returns when everything written is on stable storage.
    ///
    /// # Errors
    /// [`Fault`]. What was written since the last flush may be there or not then.
    async fn flush(&self) -> Result<(), Fault>;
}

/// What can go wrong with a disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// No space behind the disk.
    Full,
    /// The disk is read-only.
    ReadOnly,
    /// Everything else.
    Io,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Full => "the host has no space left for the disk",
            Self::ReadOnly => "the disk is read-only",
            Self::Io => "the disk failed",
        })
    }
}

impl core::error::Error for Fault {}
