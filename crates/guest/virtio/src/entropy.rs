//! The source of random numbers (section 5.4).

use kiln_abi::OpError;

use crate::Error;
use crate::memory::{Platform, Region};
use crate::queue::{Piece, Queue};
use crate::transport::{DeviceType, Transport};

const REQUESTS: u16 = 0;
const SIZE: u16 = 2;

/// Bytes asked for at once.
const BUFFER: usize = 256;

const RINGS: usize = Queue::memory_needed(SIZE, 0);

const _: () = assert!(RINGS + BUFFER <= Entropy::MEMORY);

/// A source of random numbers.
#[derive(Debug)]
pub struct Entropy {
    transport: Transport,
    queue: Queue,
    buffer: Region,
}

impl Entropy {
    /// The least memory in bytes for [`new`](Self::new).
    pub const MEMORY: usize = 512;

    /// Starts the device.
    ///
    /// # Errors
    /// See [`Error`].
    pub fn new(mut transport: Transport, memory: Region) -> Result<Self, Error> {
        let features = transport.negotiate(DeviceType::ENTROPY, 0)?;
        let (rings, buffer) = memory.split(RINGS).ok_or(Error::Memory)?;
        if buffer.size() < BUFFER {
            return Err(Error::Memory);
        }
        let queue = Queue::new(&mut transport, REQUESTS, (SIZE, 1), 0, features, rings)?;
        transport.start();
        Ok(Self {
            transport,
            queue,
            buffer,
        })
    }

    /// Fills a buffer. Waits for the device.
    ///
    /// # Errors
    /// [`OpError::Io`] if the device gives nothing or broke its queue; the buffer may be filled in part then.
    pub fn fill(&mut self, bytes: &mut [u8], platform: &mut dyn Platform) -> Result<(), OpError> {
        let mut rest = bytes;
        while !rest.is_empty() {
            self.queue.add(&[Piece {
                phys: self.buffer.phys(),
                len: rest.len().min(BUFFER) as u32,
                writable: true,
            }]);
            let used = self
                .transport
                .complete(&mut self.queue, platform)
                .ok_or(OpError::Io)?;
            let given = used.len as usize;
            if given == 0 {
                return Err(OpError::Io);
            }
            let (part, behind) = rest.split_at_mut_checked(given).ok_or(OpError::Io)?;
            self.buffer.read(0, part);
            rest = behind;
        }
        Ok(())
    }
}
