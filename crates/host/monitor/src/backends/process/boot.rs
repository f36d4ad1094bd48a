//! Building the boot record.

use kiln_abi::boot::{Backend, MAGIC, MemoryKind};
use kiln_abi::layout::Record;
use kiln_abi::{BootInfo, DeviceInfo, MemoryRange, VERSION};
use kiln_gate::state::Range;

use super::blob::Blob;
use super::layout::Layout;
use crate::backend::Launch;

/// The most ranges that are told.
const RANGES: usize = 6;

/// Bytes the boot record and everything it points to will take.
pub fn size(launch: &Launch) -> u64 {
    let strings = |list: &[String]| list.iter().map(|s| s.len() + 1).sum::<usize>();
    let devices = launch.devices.len() * DeviceInfo::SIZE;
    let fixed = BootInfo::SIZE + RANGES * MemoryRange::SIZE;
    (fixed + devices + strings(launch.args) + strings(launch.env)) as u64
}

/// What only the host knows.
#[derive(Clone, Copy, Debug)]
pub struct HostFacts {
    /// Monotonic nanoseconds.
    pub now: u64,
    /// Nanoseconds since 1970.
    pub wall: u64,
    /// See [`BootInfo::tsc_hz`].
    pub tsc_hz: u64,
    /// See [`BootInfo::entropy`].
    pub entropy: [u8; 64],
}

/// The bytes of the boot record, to lie at `layout.boot`.
pub fn record(launch: &Launch, layout: &Layout, blob: &Blob, facts: &HostFacts) -> Vec<u8> {
    let mut tail = Vec::with_capacity(size(launch) as usize);
    let start = layout.boot.start + BootInfo::SIZE as u64;
    let mut ranges = vec![
        range(layout.image, MemoryKind::Image),
        range(layout.boot, MemoryKind::Boot),
        range(layout.stack, MemoryKind::Stack),
        range(layout.trap_stack, MemoryKind::TrapStack),
        range(layout.free, MemoryKind::Free),
    ];
    if layout.root.end > layout.root.start {
        ranges.push(range(layout.root, MemoryKind::Root));
    }
    ranges.sort_by_key(|r| r.start);
    let memory = start;
    for range in &ranges {
        tail.extend_from_slice(range.as_bytes());
    }
    let devices = start + tail.len() as u64;
    for device in &launch.devices {
        tail.extend_from_slice(device.info.as_bytes());
    }
    let mut strings = |list: &[String]| {
        let address = start + tail.len() as u64;
        let before = tail.len();
        for string in list {
            tail.extend_from_slice(string.as_bytes());
            tail.push(0);
        }
        (address, (tail.len() - before) as u32)
    };
    let (args, args_size) = strings(launch.args);
    let (env, env_size) = strings(launch.env);
    let mut name = [0; 24];
    let len = launch.name.len().min(name.len() - 1);
    name[..len].copy_from_slice(&launch.name.as_bytes()[..len]);
    let root = launch.image.root().filter(|_| layout.root.start != 0);
    let info = BootInfo {
        magic: MAGIC,
        version: VERSION,
        size: BootInfo::SIZE as u32,
        features: BootInfo::FEATURE_TICK | BootInfo::FEATURE_RELEASE,
        enter: layout.enter(blob),
        backend: if layout.has_machine() {
            Backend::Kvm as u32
        } else {
            Backend::Process as u32
        },
        generation: 0,
        image_start: layout.image.start,
        image_size: layout.image.end - layout.image.start,
        memory,
        memory_count: ranges.len() as u32,
        device_count: launch.devices.len() as u32,
        devices,
        args,
        args_size,
        args_count: launch.args.len() as u32,
        env,
        env_size,
        env_count: launch.env.len() as u32,
        tsc_hz: facts.tsc_hz,
        now: facts.now,
        wall: facts.wall,
        // Asking the processor costs 4 us a question on a virtual machine, with every start. The few guests that want
        // to know ask themselves.
        cpu: 0,
        entropy: facts.entropy,
        stack_top: layout.stack.end,
        trap_stack_top: layout.trap_stack.end,
        name,
        root: layout.root.start,
        root_size: root.map_or(0, |root| root.len),
        reserved: 0,
    };
    let mut bytes = info.as_bytes().to_vec();
    bytes.append(&mut tail);
    bytes
}

fn range(range: Range, kind: MemoryKind) -> MemoryRange {
    MemoryRange {
        start: range.start,
        len: range.end - range.start,
        kind: kind as u32,
        flags: 0,
    }
}
