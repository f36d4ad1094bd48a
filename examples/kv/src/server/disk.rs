//! The guest's disk as the store's.

use kiln::block::{Disk, Error};
use kv::storage::{Fault, Storage};

/// The disk that the store has for itself.
pub struct Data(pub Disk);

fn fault(error: Error) -> Fault {
    match error {
        Error::NoSpace => Fault::Full,
        Error::ReadOnly => Fault::ReadOnly,
        _ => Fault::Io,
    }
}

impl Storage for Data {
    fn sector_size(&self) -> usize {
        self.0.sector_size()
    }

    fn capacity(&self) -> u64 {
        self.0.capacity()
    }

    async fn read(&self, offset: u64, buffer: &mut [u8]) -> Result<(), Fault> {
        self.0.read(offset, buffer).await.map_err(fault)
    }

    async fn write(&self, offset: u64, data: &[u8]) -> Result<(), Fault> {
        self.0.write(offset, data).await.map_err(fault)
    }

    async fn flush(&self) -> Result<(), Fault> {
        self.0.flush().await.map_err(fault)
    }
}
