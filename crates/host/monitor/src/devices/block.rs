//! Disks: a regular file or a block device of the host.
//!
//! A disk is locked (`flock(2)`) for as long as an instance has it: one writer, or any number of readers. The lock
//! belongs to the open file, so it goes away with the last process of the instance, however that ends.

use std::os::fd::OwnedFd;

use kiln_abi::{DeviceInfo, DeviceKind};
use rustix::fs::{FileType, FlockOperation, Mode, OFlags, SeekFrom};
use rustix::io::Errno;

use crate::Error;
use crate::backend::Device;
use crate::spec::BlockOption;

/// Sector size in bytes of every disk.
pub const SECTOR: u32 = 512;

/// Opens and locks a disk.
///
/// # Errors
/// [`Error::File`] if it cannot be opened; [`Error::Device`] if it is no disk, of a wrong size, or in use.
pub fn open(option: &BlockOption) -> Result<Device, Error> {
    let path = &option.file;
    let access = if option.read_only {
        OFlags::RDONLY
    } else {
        OFlags::RDWR
    };
    // Non-blocking, since opening a FIFO that somebody put there would wait for its other end.
    let host = rustix::fs::open(
        path,
        access | OFlags::CLOEXEC | OFlags::NONBLOCK | OFlags::NOCTTY,
        Mode::empty(),
    )
    .map_err(|error| match error {
        Errno::ISDIR => not_a_disk(option),
        error => Error::file("open the disk", path, error),
    })?;
    let capacity = capacity(option, &host)?;
    lock(option, &host)?;
    let info = DeviceInfo {
        kind: DeviceKind::Block as u32,
        flags: if option.read_only {
            DeviceInfo::READ_ONLY
        } else {
            0
        },
        name: super::padded(&option.device),
        capacity,
        sector_size: SECTOR,
        ..DeviceInfo::default()
    };
    Ok(Device {
        info,
        host,
        interface: None,
    })
}

fn capacity(option: &BlockOption, host: &OwnedFd) -> Result<u64, Error> {
    let path = &option.file;
    let stat =
        rustix::fs::fstat(host).map_err(|error| Error::file("look at the disk", path, error))?;
    let size = match FileType::from_raw_mode(stat.st_mode) {
        FileType::RegularFile => u64::try_from(stat.st_size).unwrap_or(0),
        FileType::BlockDevice => rustix::fs::seek(host, SeekFrom::End(0))
            .map_err(|error| Error::file("find the size of", path, error))?,
        _ => return Err(not_a_disk(option)),
    };
    let shown = path.display();
    if size == 0 {
        return Err(Error::Device(format!(
            "the disk {shown} is empty: give it a size, for example with `truncate -s 64M {shown}`"
        )));
    }
    if !size.is_multiple_of(u64::from(SECTOR)) {
        let rounded = size.next_multiple_of(u64::from(SECTOR));
        return Err(Error::Device(format!(
            "the disk {shown} has {size} bytes, not a multiple of {SECTOR}: use `truncate -s {rounded} {shown}`"
        )));
    }
    Ok(size)
}

fn lock(option: &BlockOption, host: &OwnedFd) -> Result<(), Error> {
    let how = if option.read_only {
        FlockOperation::NonBlockingLockShared
    } else {
        FlockOperation::NonBlockingLockExclusive
    };
    match rustix::fs::flock(host, how) {
        Ok(()) => Ok(()),
        Err(Errno::WOULDBLOCK) => Err(Error::Device(format!(
            "the disk {} is in use by another instance: stop that one, or use :ro in all of them",
            option.file.display()
        ))),
        Err(error) => Err(Error::file("lock the disk", &option.file, error)),
    }
}

fn not_a_disk(option: &BlockOption) -> Error {
    Error::Device(format!(
        "{} is neither a file nor a block device: --block takes a disk image",
        option.file.display()
    ))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::registry::testing::TempDir;

    fn create(path: &std::path::Path, size: u64) -> std::io::Result<()> {
        std::fs::File::create_new(path)?.set_len(size)
    }

    fn option(dir: &TempDir, file: &str, read_only: bool) -> BlockOption {
        BlockOption {
            device: "data".into(),
            file: dir.path().join(file),
            read_only,
        }
    }

    #[test]
    fn a_disk_is_opened_with_its_geometry() {
        let dir = TempDir::new();
        let writable = option(&dir, "disk", false);
        create(&writable.file, 1 << 20).unwrap();
        let device = open(&writable).unwrap();
        assert_eq!(device.info.capacity, 1 << 20);
        assert_eq!(device.info.sector_size, 512);
        assert_eq!(device.info.name(), Some("data"));
        assert_eq!(device.info.flags, 0);
    }

    #[test]
    fn one_writer_or_many_readers() {
        let dir = TempDir::new();
        let writable = option(&dir, "disk", false);
        create(&writable.file, 4096).unwrap();
        let held = open(&writable).unwrap();
        let error = open(&writable).unwrap_err().to_string();
        assert!(error.contains("in use by another instance"), "{error}");
        drop(held);
        let readable = option(&dir, "disk", true);
        let first = open(&readable).unwrap();
        let _second = open(&readable).unwrap();
        assert_eq!(first.info.flags, DeviceInfo::READ_ONLY);
        assert!(open(&writable).is_err());
    }

    #[test]
    fn wrong_sizes_are_told_with_the_actual_one() {
        let dir = TempDir::new();
        let odd = option(&dir, "odd", false);
        create(&odd.file, 1000).unwrap();
        let error = open(&odd).unwrap_err().to_string();
        assert!(error.contains("has 1000 bytes"), "{error}");
        assert!(error.contains("truncate -s 1024"), "{error}");
        let empty = option(&dir, "empty", false);
        create(&empty.file, 0).unwrap();
        assert!(open(&empty).unwrap_err().to_string().contains("is empty"));
    }

    #[test]
    fn what_is_no_disk_is_refused() {
        let dir = TempDir::new();
        for file in ["/dev/null", "/tmp"] {
            let error = open(&option(&dir, file, false)).unwrap_err().to_string();
            assert!(
                error.contains("neither a file nor a block device"),
                "{error}"
            );
        }
        let error = open(&option(&dir, "none", false)).unwrap_err().to_string();
        assert!(error.contains("no such file"), "{error}");
    }
}
