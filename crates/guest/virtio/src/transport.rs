//! The way to a device's registers.
//!
//! [`Transport`] is one type over both buses, so that each driver exists once in an image.

use crate::mmio::Mmio;
use crate::pci::Pci;
use crate::queue::{Queue, Used};
use crate::registers::Registers;
use crate::{Error, Platform};

/// What a device is (section 5).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DeviceType(pub u32);

impl DeviceType {
    /// A network card.
    pub const NET: Self = Self(1);
    /// A disk.
    pub const BLOCK: Self = Self(2);
    /// A console.
    pub const CONSOLE: Self = Self(3);
    /// A source of random numbers.
    pub const ENTROPY: Self = Self(4);
    /// A memory balloon.
    pub const BALLOON: Self = Self(5);
}

/// Features that any device can have (section 6).
pub(crate) mod feature {
    pub const INDIRECT: u64 = 1 << 28;
    pub const EVENT_INDEX: u64 = 1 << 29;
    pub const VERSION_1: u64 = 1 << 32;
    /// The device's addresses are those of the platform, which for us are physical ones.
    pub const ACCESS_PLATFORM: u64 = 1 << 33;
    /// Barriers must suit real devices. On x86 they are the same for ordinary memory.
    pub const ORDER_PLATFORM: u64 = 1 << 36;
    /// What every driver here takes.
    pub const COMMON: u64 = INDIRECT | EVENT_INDEX | VERSION_1 | ACCESS_PLATFORM | ORDER_PLATFORM;
}

/// Bits of the device status (section 2.1).
mod status {
    pub const ACKNOWLEDGE: u8 = 1;
    pub const DRIVER: u8 = 2;
    pub const DRIVER_OK: u8 = 4;
    pub const FEATURES_OK: u8 = 8;
    pub const FAILED: u8 = 128;
}

/// How often the status is read until the device has been reset. Virtual ones mostly have been at once.
const RESET_PATIENCE: u32 = 100_000;

/// How often the configuration is read until it stays the same meanwhile.
const CONFIG_PATIENCE: u32 = 64;

/// Where the parts of a queue lie, by physical address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct QueueAddresses {
    /// The descriptor table.
    pub descriptors: u64,
    /// The available ring ("driver area").
    pub available: u64,
    /// The used ring ("device area").
    pub used: u64,
}

/// A device's registers, on either bus.
#[derive(Debug)]
pub enum Transport {
    /// Memory-mapped.
    Mmio(Mmio),
    /// PCI.
    Pci(Pci),
}

impl From<Mmio> for Transport {
    fn from(mmio: Mmio) -> Self {
        Self::Mmio(mmio)
    }
}

impl From<Pci> for Transport {
    fn from(pci: Pci) -> Self {
        Self::Pci(pci)
    }
}

macro_rules! on_both {
    ($self:ident, $transport:ident => $call:expr) => {
        match $self {
            Transport::Mmio($transport) => $call,
            Transport::Pci($transport) => $call,
        }
    };
}

impl Transport {
    /// What the device is.
    pub fn device_type(&self) -> DeviceType {
        on_both!(self, transport => transport.device_type())
    }

    /// The device status.
    pub fn status(&self) -> u8 {
        on_both!(self, transport => transport.status())
    }

    /// Sets the device status.
    pub fn set_status(&mut self, status: u8) {
        on_both!(self, transport => transport.set_status(status));
    }

    /// Resets the device: it forgets its queues and touches no memory any more.
    ///
    /// # Errors
    /// [`Error::Stuck`].
    pub fn reset(&mut self) -> Result<(), Error> {
        self.set_status(0);
        for _ in 0..RESET_PATIENCE {
            if self.status() == 0 {
                return Ok(());
            }
            core::hint::spin_loop();
        }
        Err(Error::Stuck)
    }

    /// The features that the device offers.
    pub fn offered(&self) -> u64 {
        on_both!(self, transport => transport.offered())
    }

    /// Tells the device which features the driver has chosen.
    pub fn choose(&mut self, features: u64) {
        on_both!(self, transport => transport.choose(features));
    }

    /// The greatest size of a queue; 0 if there is no such queue.
    pub fn queue_limit(&mut self, queue: u16) -> u16 {
        on_both!(self, transport => transport.queue_limit(queue))
    }

    /// Tells the device where a queue lies and starts it. Returns where [`notify`](Self::notify) must write for it.
    ///
    /// # Errors
    /// [`Error::NoQueue`] if the queue's interrupt or notification cannot be had.
    pub fn enable_queue(
        &mut self,
        queue: u16,
        size: u16,
        at: QueueAddresses,
    ) -> Result<usize, Error> {
        on_both!(self, transport => transport.enable_queue(queue, size, at))
    }

    /// Tells the device that there is something new in a queue. `place` is what
    /// [`enable_queue`](Self::enable_queue) returned.
    pub fn notify(&self, queue: u16, place: usize) {
        on_both!(self, transport => transport.notify(queue, place));
    }

    /// Takes back the device's interrupt request. Returns its cause: bit 0 a queue, bit 1 the configuration. Not needed
    /// where interrupts are messages.
    pub fn acknowledge(&self) -> u8 {
        on_both!(self, transport => transport.acknowledge())
    }

    /// The window that holds the configuration, and the offset in it.
    fn config(&self, offset: usize) -> (&Registers, usize) {
        on_both!(self, transport => transport.config(offset))
    }

    /// Changes with each change of the configuration.
    fn generation(&self) -> u32 {
        on_both!(self, transport => transport.generation())
    }

    /// Reads one byte of the device's configuration.
    pub fn config8(&self, offset: usize) -> u8 {
        let (window, offset) = self.config(offset);
        window.read8(offset)
    }

    /// Reads two bytes of the device's configuration.
    pub fn config16(&self, offset: usize) -> u16 {
        let (window, offset) = self.config(offset);
        window.read16(offset)
    }

    /// Reads four bytes of the device's configuration.
    pub fn config32(&self, offset: usize) -> u32 {
        let (window, offset) = self.config(offset);
        window.read32(offset)
    }

    /// Reads eight bytes of the device's configuration, which is possible only by halves: again, when the configuration
    /// changed between them.
    pub fn config64(&self, offset: usize) -> u64 {
        let mut value = 0;
        for _ in 0..CONFIG_PATIENCE {
            let before = self.generation();
            value = u64::from(self.config32(offset)) | u64::from(self.config32(offset + 4)) << 32;
            if self.generation() == before {
                break;
            }
        }
        value
    }

    /// The first part of the initialisation (section 3.1): resets the device and returns what it offers.
    pub(crate) fn begin(&mut self, device: DeviceType) -> Result<u64, Error> {
        if self.device_type() != device {
            return Err(Error::WrongType);
        }
        self.reset()?;
        self.set_status(status::ACKNOWLEDGE);
        self.set_status(status::ACKNOWLEDGE | status::DRIVER);
        Ok(self.offered())
    }

    /// The second part: agrees on those of the features in `wanted` that are offered, and on what every driver takes.
    /// Returns them.
    pub(crate) fn agree(&mut self, offered: u64, wanted: u64) -> Result<u64, Error> {
        let features = offered & (wanted | feature::COMMON);
        let mut error = Error::Legacy;
        if features & feature::VERSION_1 != 0 {
            self.choose(features);
            self.set_status(status::ACKNOWLEDGE | status::DRIVER | status::FEATURES_OK);
            if self.status() & status::FEATURES_OK != 0 {
                return Ok(features);
            }
            error = Error::Features;
        }
        self.set_status(self.status() | status::FAILED);
        Err(error)
    }

    /// Both parts, for a driver that wants the same whatever is offered.
    pub(crate) fn negotiate(&mut self, device: DeviceType, wanted: u64) -> Result<u64, Error> {
        let offered = self.begin(device)?;
        self.agree(offered, wanted)
    }

    /// The last part, when the queues are there: from here on the device works.
    pub(crate) fn start(&mut self) {
        self.set_status(
            status::ACKNOWLEDGE | status::DRIVER | status::FEATURES_OK | status::DRIVER_OK,
        );
    }

    /// Notifies the device if it wants to know of what was added to the queue.
    pub(crate) fn kick(&self, queue: &mut Queue) {
        if queue.wants_notification() {
            self.notify(queue.index(), queue.place());
        }
    }

    /// Waits until the device has used a buffer. `None` if it broke the queue.
    pub(crate) fn complete(&self, queue: &mut Queue, platform: &mut dyn Platform) -> Option<Used> {
        self.kick(queue);
        loop {
            if let Some(used) = queue.pop() {
                queue.listen(false);
                return Some(used);
            }
            if queue.is_broken() {
                return None;
            }
            if !queue.listen(true) {
                platform.wait();
                self.acknowledge();
            }
        }
    }
}
