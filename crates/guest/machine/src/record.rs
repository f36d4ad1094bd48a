//! Writing the boot record.

use kiln_abi::boot::{Backend, MAGIC, MemoryKind};
use kiln_abi::layout::Record;
use kiln_abi::{BootInfo, DeviceInfo, MemoryRange, VERSION};

use crate::cmdline::{self, Word};
use crate::memory::{Layout, MAX_RANGES};

/// The name of an instance that got none.
const NAME: &[u8] = b"kiln";

/// Bytes that the record, and everything it points to, takes at the most.
pub fn size_limit(command_line: &[u8], devices: usize) -> usize {
    // What arguments and variables become is shorter than what they are; but there may be none, and then the name is one.
    let strings = command_line.len() + NAME.len() + 1;
    BootInfo::SIZE + MAX_RANGES * MemoryRange::SIZE + devices * DeviceInfo::SIZE + strings
}

/// What the record tells besides the memory and the command line.
#[derive(Clone, Copy, Debug)]
pub struct Facts {
    /// As in [`BootInfo`].
    pub features: u64,
    /// As in [`BootInfo`].
    pub enter: u64,
    /// As in [`BootInfo`].
    pub tsc_hz: u64,
    /// As in [`BootInfo`].
    pub now: u64,
    /// As in [`BootInfo`].
    pub wall: u64,
    /// As in [`BootInfo`].
    pub cpu: u64,
    /// As in [`BootInfo`].
    pub entropy: [u8; 64],
}

/// Bytes written one behind the other.
struct Writer<'a> {
    bytes: &'a mut [u8],
    start: u64,
    used: usize,
}

impl Writer<'_> {
    fn byte(&mut self, byte: u8) -> Option<()> {
        *self.bytes.get_mut(self.used)? = byte;
        self.used += 1;
        Some(())
    }

    fn all(&mut self, bytes: &[u8]) -> Option<()> {
        bytes.iter().try_for_each(|&byte| self.byte(byte))
    }

    fn address(&self) -> u64 {
        self.start + self.used as u64
    }
}

/// The instance's name, NUL-padded.
fn name(command_line: &[u8]) -> [u8; 24] {
    let mut name = [0; 24];
    let given = cmdline::words(command_line).find_map(|word| match word {
        Word::Name(name) => Some(name),
        _ => None,
    });
    let text = cmdline::decode(given.unwrap_or(NAME));
    for (to, from) in name.iter_mut().take(23).zip(text) {
        *to = from;
    }
    name
}

/// Writes the record to `bytes`, which the guest will find in `layout`'s boot range. `None` if it does not fit.
pub fn write(
    bytes: &mut [u8],
    layout: &Layout,
    devices: impl Iterator<Item = DeviceInfo>,
    command_line: &[u8],
    facts: &Facts,
) -> Option<()> {
    let (head, tail) = bytes.split_at_mut_checked(BootInfo::SIZE)?;
    let mut tail = Writer {
        bytes: tail,
        start: layout.of(MemoryKind::Boot).start + BootInfo::SIZE as u64,
        used: 0,
    };
    let memory = tail.address();
    for range in layout.ranges() {
        let range = MemoryRange {
            start: range.start,
            len: range.len,
            kind: range.kind,
            flags: 0,
        };
        tail.all(range.as_bytes())?;
    }
    let devices_at = tail.address();
    let mut device_count = 0;
    for device in devices {
        tail.all(device.as_bytes())?;
        device_count += 1;
    }
    let name = name(command_line);
    let mut strings = |value: fn(Word<'_>) -> Option<&[u8]>, default: &[u8]| {
        let (address, before, mut count) = (tail.address(), tail.used, 0);
        for text in cmdline::words(command_line).filter_map(value) {
            for byte in cmdline::decode(text).filter(|&b| b != 0) {
                tail.byte(byte)?;
            }
            tail.byte(0)?;
            count += 1;
        }
        if count == 0 && !default.is_empty() {
            tail.all(default)?;
            tail.byte(0)?;
            count = 1;
        }
        Some((address, (tail.used - before) as u32, count))
    };
    let len = name.iter().position(|&b| b == 0).unwrap_or(0);
    let program = name.get(..len).unwrap_or_default();
    let (args, args_size, args_count) = strings(
        |word| match word {
            Word::Argument(text) => Some(text),
            _ => None,
        },
        program,
    )?;
    let (env, env_size, env_count) = strings(
        |word| match word {
            Word::Variable(text) => Some(text),
            _ => None,
        },
        &[],
    )?;
    let end = |kind| {
        let range = layout.of(kind);
        range.start + range.len
    };
    let image = layout.of(MemoryKind::Image);
    let info = BootInfo {
        magic: MAGIC,
        version: VERSION,
        size: BootInfo::SIZE as u32,
        features: facts.features,
        enter: facts.enter,
        backend: Backend::Virtio as u32,
        generation: 0,
        image_start: image.start,
        image_size: image.len,
        memory,
        memory_count: layout.count as u32,
        device_count,
        devices: devices_at,
        args,
        args_size,
        args_count,
        env,
        env_size,
        env_count,
        tsc_hz: facts.tsc_hz,
        now: facts.now,
        wall: facts.wall,
        cpu: facts.cpu,
        entropy: facts.entropy,
        stack_top: end(MemoryKind::Stack),
        trap_stack_top: end(MemoryKind::TrapStack),
        name,
        root: layout.of(MemoryKind::Root).start,
        root_size: layout.of(MemoryKind::Root).len,
        reserved: 0,
    };
    for (to, from) in head.iter_mut().zip(info.as_bytes()) {
        *to = *from;
    }
    Some(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::vec;

    fn written(line: &[u8], len: usize) -> Option<(BootInfo, std::vec::Vec<u8>)> {
        let mut layout = Layout::EMPTY;
        layout.add(MemoryKind::Boot, 0x10_0000, 0, 0x1000);
        layout.add(MemoryKind::Stack, 0x20_0000, 0, 0x1000);
        let facts = Facts {
            features: 0,
            enter: 7,
            tsc_hz: 0,
            now: 1,
            wall: 2,
            cpu: 0,
            entropy: [9; 64],
        };
        let mut bytes = vec![0; len];
        let device = DeviceInfo {
            capacity: 77,
            ..DeviceInfo::default()
        };
        write(&mut bytes, &layout, core::iter::once(device), line, &facts)?;
        Some((BootInfo::from_prefix(&bytes)?, bytes))
    }

    #[test]
    fn the_record_points_into_itself() {
        let line = b"kiln.arg=web kiln.env=A=b kiln.name=x%20y kiln.arg=-p%2080 kiln.arg=";
        let (info, bytes) = written(line, size_limit(line, 1)).unwrap();
        let at = |address: u64, len: u32| {
            let start = (address - 0x10_0000) as usize;
            &bytes[start..start + len as usize]
        };
        assert_eq!(at(info.args, info.args_size), b"web\0-p 80\0\0");
        assert_eq!(at(info.env, info.env_size), b"A=b\0");
        assert_eq!(
            (info.args_count, info.env_count, info.device_count),
            (3, 1, 1)
        );
        assert_eq!(
            DeviceInfo::from_prefix(at(info.devices, DeviceInfo::SIZE as u32))
                .unwrap()
                .capacity,
            77
        );
        assert_eq!(
            MemoryRange::from_prefix(at(info.memory, 24)).unwrap().start,
            0x10_0000
        );
        assert_eq!(
            (info.memory_count, info.stack_top, &info.name[..4]),
            (2, 0x20_1000, &b"x y\0"[..])
        );
    }

    #[test]
    fn without_arguments_the_name_is_the_first() {
        let (info, bytes) = written(b"", size_limit(b"", 1)).unwrap();
        let start = (info.args - 0x10_0000) as usize;
        assert_eq!(
            (&bytes[start..start + 5], info.args_count),
            (&b"kiln\0"[..], 1)
        );
    }

    #[test]
    fn what_does_not_fit_is_not_written() {
        for len in 0..400 {
            assert!(written(b"kiln.arg=0123456789012345678901234567890123456789", len).is_none());
        }
    }
}
