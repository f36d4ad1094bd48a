//! Where everything lies in a guest's process: chosen at random for every boot.
//!
//! ```text
//!   image      text and constants shared with the page cache, writable segments from the guest's memory
//!   ...
//!   machine    on the `kvm` backend: the virtual CPU's record, the machine's own pages, a list of the program's chunks
//!   window     boot record | stack | trap stack | free memory, with unmapped pages between
//!   ...
//!   report     shared with the supervisor; a way behind it, for some guests, the ring of copied frames
//!   ...
//!   gate       code, state
//!   ...
//!   root       the root image of a guest that runs a program
//! ```
//! The image of such a guest lies above the user range ([`kiln_abi::user`]), which is empty at first and then the guest's own.
//!
//! The parts lie in regions far from each other and from where Linux puts the monitor itself. Behind each
//! lie at least 4 GiB without any mapping, so that the seccomp filter need compare only the start and the length.

use kiln_abi::PAGE_SIZE;
use kiln_abi::note::AbiNote;
use kiln_abi::user::USER_END;
use kiln_image::{Access, Image, LoadSegment};

use super::Error;
use super::blob::Blob;
use super::child::TIMER;
use super::filter::{ProgramRules, Rules};
use crate::backends::kvm;
use kiln_gate::state::{DeviceState, Range, program_fds};
use kiln_gate::traffic::RING_SIZE;
use kiln_gate::vcpu::vcpu_fd;

/// Bytes of stack for traps. The handler formats a message and walks the stack.
const TRAP_STACK: u64 = 16 * 1024;
/// Bytes of stack unless the image asks for another size, for guests with little and with enough memory.
const STACK_SMALL: u64 = 64 * 1024;
const STACK: u64 = 256 * 1024;
const SMALL_MEMORY: u64 = 4 * 1024 * 1024;
/// The least stack: what a call to the gate needs, and as much again for the guest.
const MIN_STACK: u64 = 2 * kiln_abi::call::STACK_NEEDED as u64;
/// The least free memory with which a guest's heap can do anything.
const MIN_FREE: u64 = 64 * 1024;
/// Unmapped space below each part of the window.
const GUARD: u64 = 16 * PAGE_SIZE;

/// First address of a region and the number of random page positions in it.
type Region = (u64, u64);

/// The regions of the parts.
struct Regions {
    image: Region,
    window: Region,
    report: Region,
    gate: Region,
    root: Region,
}

/// Those of a guest that has all addresses for itself.
const ALONE: Regions = Regions {
    image: (0x1000_0000_0000, 1 << 33),
    window: (0x3100_0000_0000, 1 << 33),
    report: (0x5200_0000_0000, 1 << 31),
    gate: (0x5b00_0000_0000, 1 << 32),
    root: (0x7500_0000_0000, 1 << 30),
};

/// Those of a guest that runs a program: above the user range, and below where Linux usually puts the monitor's own libraries. They begin 8 GiB
/// behind the user range: the filter looks at the sum of a start's and a length's upper halves only.
const ABOVE_PROGRAM: Regions = Regions {
    image: (USER_END + (2 << 32), 1 << 29),
    window: (0x7300_0000_0000, 1 << 29),
    report: (0x7700_0000_0000, 1 << 28),
    gate: (0x7810_0000_0000, 1 << 29),
    root: (0x7b40_0000_0000, 1 << 29),
};

/// The most pages between the machine's part and the window.
const MACHINE_GAP: u64 = 256;

/// From the report to the ring of copied frames.
const RING_AT: u64 = 1 << 24;

/// `bytes` rounded up to whole pages.
pub fn page_up(bytes: u64) -> u64 {
    bytes.next_multiple_of(PAGE_SIZE)
}

/// Bytes of the main stack.
fn stack_size(image: &Image, memory: u64) -> u64 {
    match image.abi().stack_size {
        0 if memory < SMALL_MEMORY => STACK_SMALL,
        0 => STACK,
        asked => asked
            .checked_next_multiple_of(PAGE_SIZE)
            .unwrap_or(u64::MAX)
            .max(MIN_STACK),
    }
}

/// Addresses of one boot, and offsets in the guest's memory file.
#[derive(Clone, Debug)]
pub struct Layout {
    /// What is added to the image's addresses.
    pub bias: u64,
    /// The image's whole span.
    pub image: Range,
    /// The image's writable segments, from the first to the end of the last; empty if there are none.
    pub image_data: Range,
    /// The image's executable segments.
    pub text: Range,
    /// Boot record.
    pub boot: Range,
    /// Main stack.
    pub stack: Range,
    /// Stack for traps.
    pub trap_stack: Range,
    /// Memory for the guest's heap.
    pub free: Range,
    /// The report shared with the supervisor.
    pub report: u64,
    /// The gate.
    pub gate: Range,
    /// What a virtual machine needs; empty if there is none.
    pub machine: Range,
    /// The guest runs a program.
    pub program: bool,
    /// The root image, in whole pages; empty if there is none.
    pub root: Range,
}

impl Layout {
    /// Chooses addresses by `random` and divides `memory` bytes.
    ///
    /// # Errors
    /// [`Error::MemoryTooSmall`], [`Error::ScatteredData`].
    pub fn new(
        image: &Image,
        memory: u64,
        boot_size: u64,
        blob: &Blob,
        machine: bool,
        random: [u64; 6],
    ) -> Result<Self, Error> {
        let pick = |(base, pages): Region, random: u64| base + (random % pages) * PAGE_SIZE;
        // The first segment has address 0.
        let program = image.abi().flags & AbiNote::PROGRAM != 0;
        let regions = if program { ABOVE_PROGRAM } else { ALONE };
        let bias = pick(regions.image, random[0]).next_multiple_of(image.alignment());
        let place = |start: u64, end: u64| Range {
            start: start + bias,
            end: end + bias,
        };
        let with = |access: Access| {
            let all = || image.segments().iter().filter(move |s| s.access == access);
            let start = all().map(|s| s.address).min()?;
            let end = all().map(LoadSegment::page_end).max()?;
            Some(place(start, end))
        };
        let image_data = with(Access::ReadWrite).unwrap_or_default();
        let text = with(Access::ReadExecute).unwrap_or_default();
        // The writable segments are one mapping of the guest's memory.
        let between = |s: &LoadSegment| {
            s.access != Access::ReadWrite && image_data.contains(s.address + bias, 1)
        };
        if image.segments().iter().any(between) {
            return Err(Error::ScatteredData);
        }

        let stack_size = stack_size(image, memory);
        let parts = [
            image_data.end - image_data.start,
            page_up(boot_size),
            stack_size,
            TRAP_STACK,
        ];
        let fixed = parts.into_iter().fold(0u64, u64::saturating_add);
        let needed = fixed.saturating_add(MIN_FREE).max(image.abi().min_memory);
        if memory < needed {
            return Err(Error::MemoryTooSmall { memory, needed });
        }
        let mut next = pick(regions.window, random[1]);
        let mut take = |len: u64| {
            let start = next + GUARD;
            next = start + len;
            Range { start, end: next }
        };
        let boot = take(page_up(boot_size));
        let stack = take(stack_size);
        let trap_stack = take(TRAP_STACK);
        let free = take(memory - fixed);
        let gate = pick(regions.gate, random[3]);
        // The filter compares the upper half of the instruction pointer once.
        let gate = if gate >> 32 == (gate + blob.size()) >> 32 {
            gate
        } else {
            gate - blob.size()
        };
        let root = image
            .root()
            .filter(|_| program)
            .map_or(Range::default(), |root| {
                let start = pick(regions.root, random[5]);
                Range {
                    start,
                    end: start + page_up(root.len),
                }
            });
        let machine = if machine {
            let (window, root) = (free.end - boot.start, root.end - root.start);
            let own = kvm::layout::machine_size(image.memory_size(), window, root, program);
            let list = if program { kvm::layout::CHUNK_LIST } else { 0 };
            let gap = GUARD + random[4] % MACHINE_GAP * PAGE_SIZE;
            let end = boot.start - gap;
            Range {
                start: end - (kvm::machine::RUN_SPACE + own + list),
                end,
            }
        } else {
            Range::default()
        };
        Ok(Self {
            program,
            root,
            bias,
            image: place(0, image.memory_size()),
            image_data,
            text,
            boot,
            stack,
            trap_stack,
            free,
            report: pick(regions.report, random[2]),
            gate: Range {
                start: gate / PAGE_SIZE * PAGE_SIZE,
                end: gate / PAGE_SIZE * PAGE_SIZE + blob.size(),
            },
            machine,
        })
    }

    /// Where the ring of copied frames lies if there is one.
    pub fn ring(&self) -> Range {
        let start = self.report + RING_AT;
        Range {
            start,
            end: start + RING_SIZE as u64,
        }
    }

    /// Where the free memory begins in the file of the guest's memory: behind everything else.
    pub fn free_offset(&self) -> u64 {
        let before = [self.image_data, self.boot, self.stack, self.trap_stack];
        before.iter().map(|part| part.end - part.start).sum()
    }

    /// Whether the guest gets a virtual machine.
    pub fn has_machine(&self) -> bool {
        self.machine.end > self.machine.start
    }

    /// What the guest calls.
    pub fn enter(&self, blob: &Blob) -> u64 {
        if self.has_machine() {
            self.gate.start + kvm::layout::STUBS + kvm::stub::user::ENTER
        } else {
            self.gate.start + blob.enter
        }
    }

    /// What the seccomp filter is to hold the gate to.
    pub fn rules<'a>(&self, blob: &Blob, devices: &'a [DeviceState]) -> Rules<'a> {
        Rules {
            gate: Range {
                start: self.gate.start,
                end: self.gate.start + blob.state,
            },
            protectable: Range {
                start: self.stack.start,
                end: self.free.end,
            },
            sealable: self.image_data,
            releasable: self.free,
            devices,
            timer: Some(TIMER.cast_unsigned()),
            vcpu: self
                .has_machine()
                .then(|| vcpu_fd(devices.len() as u32, self.program).cast_unsigned()),
            program: self.program.then(|| {
                let memory = program_fds(devices.len() as u32).cast_unsigned();
                ProgramRules {
                    memory,
                    free_offset: self.free_offset(),
                    root: (self.root.end > self.root.start).then_some(memory + 1),
                    input: memory + 2,
                }
            }),
        }
    }
}
