//! From the first instruction of ring 3 to the guest's first: the order of things.
//!
//! 1. [`cpu`]'s tables, and an identity map of the first 4 GiB.
//! 2. What the loader tells: memory, command line, ACPI tables.
//! 3. Interrupts and clocks; devices (`attach`), for which drivers wait by looking again and again.
//! 4. The guest's world (`world`), and over to it.
#![allow(unsafe_code)]

use core::arch::asm;

use crate::acpi::{self, Acpi, Sleep};
#[cfg(feature = "virtio")]
use crate::attach::{Found, MAX_FOUND};
use crate::clean;
use crate::clock::{Beginning, Features};
use crate::cmdline::{self, Word};
use crate::cpu::{self, Parts, Shared, vector};
use crate::end;
pub use crate::firmware::PVH_MAGIC;
use crate::firmware::{Firmware, MAX_REGIONS, Region};
use crate::image::{GUEST, HEADERS, Image};
use crate::interrupts::{self, Timer};
use crate::paging::{PAGE, Table, Tables, access};
use crate::physical::{Identity, Physical};
#[cfg(feature = "virtio")]
use crate::state::Slot;
use crate::state::{State, state};
use crate::windows::Windows;
use crate::world::{Frames, Ready, usable};

/// Global interrupt number of the first serial port.
const SERIAL_INTERRUPT: u32 = 4;

/// Why there is no guest, in words, and the name of what it is about.
#[derive(Clone, Copy, Debug)]
pub struct Failure(pub &'static str, pub [u8; 24]);

impl From<&'static str> for Failure {
    fn from(what: &'static str) -> Self {
        Self(what, [0; 24])
    }
}

/// What only the start needs, too large for its stack. The tables come first: they lie on whole pages.
#[repr(C)]
struct Scratch {
    tables: [Table; 24],
    firmware: Firmware,
    acpi: Acpi,
    windows: Windows,
    #[cfg(feature = "virtio")]
    found: [Slot<Found>; MAX_FOUND],
}

static SCRATCH: Shared<Scratch> = Shared::new(Scratch {
    tables: [[0; 512]; 24],
    firmware: Firmware::EMPTY,
    acpi: Acpi::EMPTY,
    windows: Windows::EMPTY,
    #[cfg(feature = "virtio")]
    found: [const { Slot::EMPTY }; MAX_FOUND],
});

/// The first function in ring 3. `info` is what the loader left in `ebx`, `magic` says what that is.
///
/// # Safety
/// Called once, by the entry, on the stack of the start, with the linker's addresses.
pub unsafe extern "C" fn start(info: u32, magic: u32, parts: &Parts) -> ! {
    // SAFETY: nobody else runs yet; the entry's page tables make all of the first 2 MiB writable.
    let (scratch, state) = unsafe {
        cpu::install(parts);
        cpu::set_system_call(parts.system_call);
        (&mut *SCRATCH.get(), state())
    };
    state.code_end = parts.code_end;
    let base = (&raw const scratch.tables) as u64;
    let mut tables = Tables::new(&mut scratch.tables, base);
    if tables.map(0, 0, 1 << 32, access::ALL).is_some() {
        #[cfg(feature = "program")]
        tables.alias(crate::reach::FIRST_REGION, 0);
        // SAFETY: an identity map, as before, only larger.
        unsafe { cpu::switch(tables.root(), 0) };
    }
    // SAFETY: the first thing on the start's tables, which allow ring 3 and ring 0 everything.
    #[cfg(feature = "program")]
    unsafe {
        crate::program::allow_system_calls(state, parts);
    }
    state.console.start();
    // SAFETY: the identity map is in force until `leave`, behind which nothing of this is used; nobody writes to what
    // firmware and loader have left.
    let memory = unsafe { Identity::new() };
    let read = scratch.firmware.read(&memory, magic, info.into());
    acpi::read(&mut scratch.acpi, &memory, scratch.firmware.rsdp);
    let mut start = Start {
        state,
        tables,
        windows: &mut scratch.windows,
        firmware: &scratch.firmware,
        acpi: &scratch.acpi,
        #[cfg(feature = "virtio")]
        ecam: 0,
        #[cfg(feature = "virtio")]
        found: &mut scratch.found,
        #[cfg(feature = "virtio")]
        found_count: 0,
        frames: Frames::default(),
        dirty: Region::default(),
    };
    let ready = match read {
        Ok(()) => start.prepare(&memory, parts),
        Err(what) => Err(what.into()),
    };
    match ready {
        Ok((ready, cr4)) => leave(start.state, &ready, cr4, start.dirty),
        Err(Failure(what, name)) => end::before_start(start.state, what, &name),
    }
}

/// The work of the start.
#[derive(Debug)]
pub struct Start<'a> {
    /// What stays.
    pub state: &'a mut State,
    /// What is mapped now.
    pub tables: Tables<'a>,
    /// What the guest's page tables are to map for devices.
    pub windows: &'a mut Windows,
    /// What the loader told.
    pub firmware: &'a Firmware,
    /// What ACPI tells.
    pub acpi: &'a Acpi,
    /// Physical address of PCI's memory-mapped configuration space, 0 for access by ports.
    #[cfg(feature = "virtio")]
    pub ecam: u64,
    /// Devices for the guest.
    #[cfg(feature = "virtio")]
    pub found: &'a mut [Slot<Found>; MAX_FOUND],
    /// How many.
    #[cfg(feature = "virtio")]
    pub found_count: usize,
    /// Memory to take from.
    pub frames: Frames,
    /// Physical memory that may not be zeroes.
    pub dirty: Region,
}

impl Start<'_> {
    fn prepare(&mut self, memory: &impl Physical, parts: &Parts) -> Result<(Ready, u64), Failure> {
        let line = self.firmware.command_line();
        let (features, clock) = self.interrupts();
        let mut told = 0;
        for word in cmdline::words(line) {
            match word {
                Word::Now(now) => told = now,
                Word::Report(token) => {
                    self.state.token.set(token);
                    // Whoever waits for a report codes what is typed.
                    #[cfg(feature = "program")]
                    {
                        self.state.console.input.coded = true;
                    }
                }
                Word::Exit(port) => self.state.power.exit_port = port,
                _ => {}
            }
        }
        let image = Image::parse(memory.bytes(GUEST, HEADERS).unwrap_or_default())?;
        let mut regions = [Region::default(); MAX_REGIONS];
        let regions = usable(&mut regions, self.firmware.regions());
        let end = GUEST + image.size();
        let home = regions.iter().find(|r| r.start <= GUEST && end < r.end);
        let home = home.ok_or("the image lies outside of memory")?;
        self.frames = Frames::new(end, home.end);
        #[cfg(feature = "program")]
        let low_end = self.low_end(regions, home);
        #[cfg(not(feature = "program"))]
        let low_end = home.end;
        self.dirty = clean::dirty(memory, self.firmware.magic, low_end);
        #[cfg(feature = "virtio")]
        {
            self.find_devices(line)?;
            self.attach(&image, line)?;
        }
        self.state.stir();
        self.state.acknowledge();
        let (clock, hz) = clock.finish(&features, told);
        self.state.clock = clock;
        self.state.timer = Timer::start(hz, features.tsc_deadline);
        self.state.pool.add(clock.wall_at(0));
        let ready = self.world(&image, regions, line, &features, parts)?;
        Ok((ready, features.cr4))
    }

    /// The end of memory below 4 GiB, in which the image lies. A root image may lie at it, and divide it.
    #[cfg(feature = "program")]
    fn low_end(&self, regions: &[Region], home: &Region) -> u64 {
        let ends = regions.iter().map(|region| region.end);
        let ends = ends.chain([self.firmware.module.end]);
        let low = ends.filter(|end| *end <= 1 << 32);
        low.max().unwrap_or(home.end)
    }

    /// Interrupts and power; the clock is begun.
    fn interrupts(&mut self) -> (Features, Beginning) {
        let state = &mut *self.state;
        interrupts::start();
        let features = Features::detect();
        let clock = Beginning::new(&features, self.acpi.timer);
        state.rdrand = features.rdrand;
        state.pool.add(cpu::tsc());
        let _ = self.windows.add(interrupts::LOCAL, PAGE);
        interrupts::route(self.acpi.controllers(), SERIAL_INTERRUPT, vector::CONSOLE);
        state.power.sleep = self.acpi.sleep;
        state.power.events = self.acpi.events;
        if self.acpi.events != 0 {
            state.power.listen(self.acpi.enable, self.acpi.control);
            interrupts::route(
                self.acpi.controllers(),
                self.acpi.interrupt.into(),
                vector::POWER,
            );
        }
        if let Sleep::Register {
            address,
            port: false,
            ..
        } = self.acpi.sleep
        {
            let _ = self.windows.add(address, 1);
        }
        (features, clock)
    }
}

/// Goes over to the guest.
fn leave(state: &mut State, ready: &Ready, cr4: u64, dirty: Region) -> ! {
    state.running = true;
    // SAFETY: the identity map is in force. The guest's page tables map the machine part where it is, and everything that
    // the guest was promised.
    unsafe {
        clean::mark();
        cpu::switch(ready.tables, cr4);
    }
    clean::clean(&state.layout, dirty);
    // SAFETY: the guest's first instruction, stack and boot record.
    unsafe {
        asm!(
            "mov rsp, {stack}",
            "push 0",
            "xor ebp, ebp",
            "cld",
            "jmp {entry}",
            stack = in(reg) ready.stack_top,
            entry = in(reg) ready.entry,
            in("rdi") ready.boot,
            options(noreturn),
        )
    }
}
