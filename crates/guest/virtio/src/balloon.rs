//! The memory balloon (section 5.5), of which only free page reporting is used: giving pages back to the host.

use kiln_abi::OpError;

use crate::Error;
use crate::memory::{Platform, Region};
use crate::queue::{Piece, Queue};
use crate::transport::{DeviceType, Transport};

const STATS: u64 = 1 << 1;
const FREE_PAGE_HINT: u64 = 1 << 3;
const REPORTING: u64 = 1 << 5;

const SIZE: u16 = 2;
const RINGS: usize = Queue::memory_needed(SIZE, 0);

const _: () = assert!(RINGS <= Balloon::MEMORY);

/// The longest range reported at once, in bytes: a multiple of all page sizes.
const MOST: u64 = 1 << 30;

/// A balloon that takes reports of free pages.
#[derive(Debug)]
pub struct Balloon {
    transport: Transport,
    queue: Queue,
}

impl Balloon {
    /// The least memory in bytes for [`new`](Self::new).
    pub const MEMORY: usize = 256;

    /// Starts the device.
    ///
    /// # Errors
    /// [`Error::Features`] if the device does not take reports; and see [`Error`].
    pub fn new(mut transport: Transport, memory: Region) -> Result<Self, Error> {
        // Statistics and hints are taken but not used: they decide the number of the queue for reports, and devices do
        // not agree on whether it is offering or choosing that counts.
        let features =
            transport.negotiate(DeviceType::BALLOON, STATS | FREE_PAGE_HINT | REPORTING)?;
        if features & REPORTING == 0 {
            return Err(Error::Features);
        }
        let has = |feature: u64| u16::from(features & feature != 0);
        let index = 2 + has(STATS) + has(FREE_PAGE_HINT);
        let queue = Queue::new(&mut transport, index, (SIZE, 1), 0, features, memory)?;
        transport.start();
        Ok(Self { transport, queue })
    }

    /// Tells the host that the content of `len` bytes from the guest's address `start` on, whole pages, is not needed any
    /// more. Returns when the host has taken note, from when on the pages may be used again. They hold zeros then or what
    /// they held before: not every host gives back every page.
    ///
    /// # Errors
    /// [`OpError::BadAddress`] if the range is not memory; [`OpError::Io`] if the device broke its queue.
    pub fn release(
        &mut self,
        start: u64,
        len: u64,
        platform: &mut dyn Platform,
    ) -> Result<(), OpError> {
        let (mut address, mut left) = (start, len);
        while left != 0 {
            let (phys, together) = platform.translate(address).ok_or(OpError::BadAddress)?;
            let part = left.min(together).min(MOST);
            if part == 0 {
                return Err(OpError::BadAddress);
            }
            self.queue.add(&[Piece {
                phys,
                len: part as u32,
                writable: true,
            }]);
            self.transport
                .complete(&mut self.queue, platform)
                .ok_or(OpError::Io)?;
            address = address.wrapping_add(part);
            left -= part;
        }
        Ok(())
    }
}
