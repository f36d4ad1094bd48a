//! The console (section 5.3): one port, text out and single bytes in.

use kiln_abi::OpError;

use crate::Error;
use crate::memory::{Platform, Region};
use crate::queue::{Piece, Queue};
use crate::transport::{DeviceType, Transport};

const RECEIVE: u16 = 0;
const SEND: u16 = 1;

/// Entries of each queue, of which one is used.
const SIZE: u16 = 2;

/// Bytes taken from the device at once. What is typed while they wait is the device's to keep.
const INPUT: usize = 64;

const RINGS: usize = Queue::memory_needed(SIZE, 0);

const _: () = assert!(2 * RINGS + INPUT + 1024 <= Console::MEMORY);

/// A console.
#[derive(Debug)]
pub struct Console {
    transport: Transport,
    receive: Queue,
    send: Queue,
    input: Region,
    output: Region,
    /// How many bytes lie in `input`, and how many of them were taken.
    filled: usize,
    taken: usize,
}

impl Console {
    /// The least memory in bytes for [`new`](Self::new). More makes for longer pieces of text.
    pub const MEMORY: usize = 4096;

    /// Starts the device. Interrupts are off.
    ///
    /// # Errors
    /// See [`Error`].
    pub fn new(mut transport: Transport, memory: Region) -> Result<Self, Error> {
        let features = transport.negotiate(DeviceType::CONSOLE, 0)?;
        let (rings, memory) = memory.split(RINGS).ok_or(Error::Memory)?;
        let receive = Queue::new(&mut transport, RECEIVE, (SIZE, 1), 0, features, rings)?;
        let (rings, memory) = memory.split(RINGS).ok_or(Error::Memory)?;
        let send = Queue::new(&mut transport, SEND, (SIZE, 1), 0, features, rings)?;
        let (input, output) = memory.split(INPUT).ok_or(Error::Memory)?;
        if output.size() == 0 {
            return Err(Error::Memory);
        }
        transport.start();
        let mut console = Self {
            transport,
            receive,
            send,
            input,
            output,
            filled: 0,
            taken: 0,
        };
        console.ask();
        Ok(console)
    }

    /// Writes text and returns when the device has taken it all.
    ///
    /// # Errors
    /// [`OpError::Io`] if the device broke its queue.
    pub fn write(&mut self, text: &[u8], platform: &mut dyn Platform) -> Result<(), OpError> {
        for part in text.chunks(self.output.size().max(1)) {
            self.output.write(0, part);
            self.send.add(&[Piece {
                phys: self.output.phys(),
                len: part.len() as u32,
                writable: false,
            }]);
            self.transport
                .complete(&mut self.send, platform)
                .ok_or(OpError::Io)?;
        }
        Ok(())
    }

    /// The next byte typed, if there is one.
    pub fn read(&mut self) -> Option<u8> {
        if self.taken >= self.filled {
            let used = self.receive.pop()?;
            self.filled = used.len as usize;
            self.taken = 0;
        }
        let mut byte = [0];
        let found = self.taken < self.filled;
        if found {
            self.input.read(self.taken, &mut byte);
            self.taken += 1;
        }
        if self.taken >= self.filled {
            self.ask();
        }
        let [byte] = byte;
        found.then_some(byte)
    }

    /// Asks for an interrupt when something is typed, or asks for none. Returns whether there is something already.
    pub fn listen(&mut self, on: bool) -> bool {
        let used = self.receive.listen(on);
        on && !self.receive.is_broken() && (used || self.taken < self.filled)
    }

    /// Takes back an interrupt request, see [`Transport::acknowledge`].
    pub fn acknowledge(&self) {
        self.transport.acknowledge();
    }

    /// Lets the device write input.
    fn ask(&mut self) {
        self.receive.add(&[Piece {
            phys: self.input.phys(),
            len: INPUT as u32,
            writable: true,
        }]);
        self.transport.kick(&mut self.receive);
    }
}
