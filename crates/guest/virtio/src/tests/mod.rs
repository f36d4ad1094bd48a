//! The drivers against devices made of software.
//!
//! [`device`] is the other side of the specification: registers, and queues that check whatever the driver puts into them.
//! [`fronts`] puts it behind MMIO or PCI, [`bus`] leads register accesses there, [`memory`] is what both share, and
//! [`models`] are the devices. The other modules are the tests.

pub(crate) mod bus;
mod device;
mod fronts;
mod memory;
mod models;

mod block;
mod hostile;
mod net;
mod queue;
mod small;
mod transport;
