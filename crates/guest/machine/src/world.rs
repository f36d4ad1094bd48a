//! The guest's world: where its memory is, its page tables, its boot record.
#![allow(unsafe_code)]

use kiln_abi::BootInfo;
use kiln_abi::boot::MemoryKind;

use crate::clock::Features;
use crate::cmdline::{self, Word};
use crate::cpu::{Parts, SUPERVISOR, Supervisor};
use crate::enter::enter;
use crate::firmware::{MAX_REGIONS, Region};
use crate::image::{GUEST, Image};
use crate::memory::{MAX_FREE, Range};
use crate::paging::{PAGE, Table, Tables, access};
use crate::place::{self, Places};
use crate::reach;
use crate::record::{self, Facts};
use crate::start::{Failure, Start};

/// Bytes of stack for a program that does not say how many it wants, and the least for one that does.
const DEFAULT_STACK: u64 = 256 * 1024;
const LEAST_STACK: u64 = 2 * kiln_abi::call::STACK_NEEDED as u64;
/// Bytes of the stack for traps.
const TRAP_STACK: u64 = 16 * 1024;
/// The first address of the machine part.
const MACHINE: u64 = 0x10_0000;

/// Physical memory behind the image, given away from its start on.
#[derive(Clone, Copy, Debug, Default)]
pub struct Frames {
    next: u64,
    end: u64,
}

impl Frames {
    /// Memory from `next` to `end`.
    pub fn new(next: u64, end: u64) -> Self {
        Self { next, end }
    }

    /// Whole pages for `len` bytes.
    ///
    /// # Errors
    /// If there is too little.
    pub fn take(&mut self, len: u64) -> Result<u64, Failure> {
        let start = self.next;
        let end = len
            .checked_next_multiple_of(PAGE)
            .and_then(|len| start.checked_add(len));
        self.next = end
            .filter(|end| *end <= self.end)
            .ok_or("too little memory")?;
        Ok(start)
    }
}

/// Where the guest begins.
#[derive(Debug)]
pub struct Ready {
    /// Physical address of its page tables.
    pub tables: u64,
    /// Its first instruction.
    pub entry: u64,
    /// Its boot record.
    pub boot: u64,
    /// The upper end of its stack.
    pub stack_top: u64,
}

/// Physical addresses and lengths of what the guest's world is made of.
#[derive(Clone, Copy, Debug)]
struct Plan {
    /// The drivers' memory.
    drivers: (u64, u64),
    boot: (u64, u64),
    trap_stack: (u64, u64),
    stack: (u64, u64),
    /// Page tables, of which so many are for the start; the others are there to split large pages.
    tables: (u64, u64),
    first_tables: u64,
    /// The list of the program's mappings.
    #[cfg(feature = "program")]
    list: (u64, u64),
}

/// Memory behind the image, piece by piece.
fn behind(regions: &[Region], image_end: u64) -> impl Iterator<Item = Region> {
    let above = move |region: &Region| Region {
        // What lies below the image is the machine part's and the firmware's.
        start: if region.start <= GUEST {
            image_end
        } else {
            region.start
        },
        end: region.end,
    };
    regions.iter().take(MAX_FREE).map(above)
}

impl Start<'_> {
    /// Makes the guest's world, of `regions` of memory and with the devices attached so far.
    ///
    /// # Errors
    /// If there is too little memory for it.
    pub fn world(
        &mut self,
        image: &Image<'_>,
        regions: &[Region],
        line: &[u8],
        features: &Features,
        parts: &Parts,
    ) -> Result<Ready, Failure> {
        let plan = self.plan(image, regions, line)?;
        let places = place::choose(
            &mut self.state.pool,
            image.size(),
            [plan.boot.1, plan.trap_stack.1, plan.stack.1],
            regions.last().map_or(0, |r| r.end),
        );
        let pool = self.place(image, regions, &plan, &places, most(line))?;
        // SAFETY: memory of nobody's, from behind the image, mapped where it is.
        let (pages, record) = unsafe {
            (
                core::slice::from_raw_parts_mut(
                    plan.tables.0 as *mut Table,
                    plan.first_tables as usize,
                ),
                core::slice::from_raw_parts_mut(plan.boot.0 as *mut u8, plan.boot.1 as usize),
            )
        };
        let mut tables = Tables::new(pages, plan.tables.0);
        self.map(&mut tables, image, parts, regions, &plan)
            .ok_or("not enough page tables")?;
        #[cfg(feature = "program")]
        // SAFETY: the list was taken for it, the pool is what was given to nobody; `map` maps all memory behind the image.
        unsafe {
            let dirty = self.dirty;
            self.state
                .give_program(tables.root(), plan.list, pool, dirty);
        }
        #[cfg(not(feature = "program"))]
        let [..] = pool;
        let reserve = &mut self.state.reserve;
        reserve.root = tables.root();
        reserve.next = plan.tables.0 + tables.used() as u64 * PAGE;
        reserve.end = plan.tables.0 + plan.tables.1;
        self.record(record, line, features)?;
        Ok(Ready {
            tables: tables.root(),
            entry: places.image + image.needs.entry,
            boot: places.others[0],
            stack_top: places.others[2] + plan.stack.1,
        })
    }

    /// Decides how large everything is, and takes the memory for it.
    fn plan(
        &mut self,
        image: &Image<'_>,
        regions: &[Region],
        line: &[u8],
    ) -> Result<Plan, Failure> {
        let total = regions.iter().map(|r| r.end - r.start).sum::<u64>();
        if total < image.needs.min_memory {
            return Err("too little memory".into());
        }
        let stack = match image.needs.stack_size {
            0 => DEFAULT_STACK,
            wanted => wanted.min(total).max(LEAST_STACK).next_multiple_of(PAGE),
        };
        let boot = record::size_limit(line, self.state.device_count) as u64;
        let windows = self.windows.pages().len() as u64;
        let first_tables = 32 + 2 * windows + ((image.size() + stack) >> 21) + (total >> 30);
        // All memory is mapped twice.
        #[cfg(feature = "program")]
        let first_tables = first_tables + (total >> 30) + 4 * MAX_FREE as u64;
        let drivers = GUEST + image.size();
        let drivers = (drivers, self.frames.next - drivers);
        let mut take = |len: u64| {
            let len = len.next_multiple_of(PAGE);
            Ok::<_, Failure>((self.frames.take(len)?, len))
        };
        Ok(Plan {
            drivers,
            boot: take(boot)?,
            trap_stack: take(TRAP_STACK)?,
            stack: take(stack)?,
            tables: take((first_tables + (total >> 21)) * PAGE)?,
            first_tables,
            #[cfg(feature = "program")]
            list: take(crate::program::list_size(total))?,
        })
    }

    /// Fills in the guest's memory.
    fn place(
        &mut self,
        image: &Image<'_>,
        regions: &[Region],
        plan: &Plan,
        places: &Places,
        most: u64,
    ) -> Result<[Region; MAX_FREE], Failure> {
        let layout = &mut self.state.layout;
        layout.add(MemoryKind::Image, places.image, GUEST, image.size());
        let [boot, trap_stack, stack] = places.others;
        for (kind, at, (physical, len)) in [
            (MemoryKind::Boot, boot, plan.boot),
            (MemoryKind::TrapStack, trap_stack, plan.trap_stack),
            (MemoryKind::Stack, stack, plan.stack),
        ] {
            layout.add(kind, at, physical, len);
        }
        let part = |(start, end)| Range {
            start: places.image + start,
            len: end - start,
            ..Range::default()
        };
        layout.data = part(image.range_of(|s| s.writable));
        layout.text = part(image.range_of(|s| s.executable));
        let data = layout.data.len.next_multiple_of(PAGE);
        let fixed = data + plan.boot.1 + plan.trap_stack.1 + plan.stack.1;
        let mut left = most.saturating_sub(fixed);
        #[cfg(feature = "program")]
        let mut share = {
            let all = behind(regions, self.frames.next).map(|r| r.end.saturating_sub(r.start));
            crate::program::share(all.sum::<u64>().min(left))
        };
        #[cfg(not(feature = "program"))]
        let mut share = u64::MAX;
        let mut pool = [Region::default(); MAX_FREE];
        let mut free = 0;
        for (region, pool) in behind(regions, self.frames.next).zip(&mut pool) {
            let start = region.start;
            let all = region.end.saturating_sub(start).min(left);
            let len = all.min(share);
            if len > 0 {
                layout.add(MemoryKind::Free, places.free + start, start, len);
                free += len;
            }
            left -= all;
            share -= len;
            pool.start = start + len;
            pool.end = start + all;
        }
        if free == 0 {
            return Err("too little memory".into());
        }
        #[cfg(feature = "program")]
        {
            let root = self.firmware.module;
            if !root.start.is_multiple_of(PAGE) {
                return Err("the root image does not begin at a page".into());
            }
            let len = root.end.saturating_sub(root.start) & !(PAGE - 1);
            if len > 0 {
                layout.add(MemoryKind::Root, places.root + root.start, root.start, len);
            }
        }
        Ok(pool)
    }

    /// Writes the boot record.
    fn record(&mut self, to: &mut [u8], line: &[u8], features: &Features) -> Result<(), Failure> {
        let state = &mut *self.state;
        let now = state.clock.now();
        #[cfg(feature = "virtio")]
        let release = state.balloon.get().is_some();
        #[cfg(not(feature = "virtio"))]
        let release = false;
        let released = if release {
            BootInfo::FEATURE_RELEASE
        } else {
            0
        };
        let facts = Facts {
            features: BootInfo::FEATURE_TICK | released,
            enter: enter as *const () as u64,
            tsc_hz: state.clock.tsc_hz,
            now,
            wall: state.clock.wall_at(now),
            cpu: features.cpu,
            entropy: state.pool.block(),
        };
        to.fill(0);
        let devices = state.infos.iter().take(state.device_count).copied();
        record::write(to, &state.layout, devices, line, &facts)
            .ok_or_else(|| "the boot record does not fit".into())
    }

    /// The guest's page tables: the machine part where it is, the windows, and the guest's memory.
    fn map(
        &self,
        tables: &mut Tables<'_>,
        image: &Image<'_>,
        parts: &Parts,
        regions: &[Region],
        plan: &Plan,
    ) -> Option<()> {
        let mut same = |start: u64, end: u64, access: u64| {
            tables.map(start, start, end.checked_sub(start)?, access)
        };
        let data = parts.code_end.next_multiple_of(PAGE);
        let ring0 = SUPERVISOR.get() as u64;
        let ring0_end = ring0 + (size_of::<Supervisor>() as u64).next_multiple_of(PAGE);
        same(parts.code_start, data, access::CODE)?;
        same(data, ring0, access::DATA)?;
        same(ring0, ring0 + PAGE, access::CODE0)?;
        same(ring0 + PAGE, ring0_end, access::DATA0)?;
        same(ring0_end, parts.end.next_multiple_of(PAGE), access::DATA)?;
        self.map_reach(tables, regions, plan)?;
        for &(start, end) in self.windows.pages() {
            tables.map(reach::at(start), start, end - start, access::DEVICE)?;
        }
        for range in self.state.layout.ranges() {
            if range.kind == MemoryKind::Image as u32 {
                for segment in image.loaded() {
                    let access = match (segment.writable, segment.executable) {
                        (true, _) => access::DATA,
                        (false, true) => access::CODE,
                        (false, false) => access::CONSTANT,
                    };
                    let (start, len) = (segment.start, segment.end - segment.start);
                    tables.map(range.start + start, range.physical + start, len, access)?;
                }
            } else if range.kind == MemoryKind::Boot as u32 || range.kind == MemoryKind::Root as u32
            {
                tables.map(range.start, range.physical, range.len, access::CONSTANT)?;
            } else {
                tables.map(range.start, range.physical, range.len, access::DATA)?;
            }
        }
        Some(())
    }
}

impl Start<'_> {
    /// The drivers' memory, and the page tables for the stub.
    #[cfg(not(feature = "program"))]
    #[allow(clippy::unused_self, reason = "with a program it is all memory")]
    fn map_reach(&self, tables: &mut Tables<'_>, _: &[Region], plan: &Plan) -> Option<()> {
        for ((start, len), access) in [(plan.drivers, access::DATA), (plan.tables, access::DATA0)] {
            tables.map(start, start, len, access)?;
        }
        Some(())
    }

    /// All memory behind the image, and the root image. The drivers' memory, page tables and the pool are among it.
    #[cfg(feature = "program")]
    fn map_reach(&self, tables: &mut Tables<'_>, regions: &[Region], plan: &Plan) -> Option<()> {
        for region in behind(regions, plan.drivers.0) {
            let len = region.end.saturating_sub(region.start);
            tables.map(reach::at(region.start), region.start, len, access::DATA)?;
        }
        let root = self.state.root_image();
        tables.map(
            reach::at(root.physical),
            root.physical,
            root.len,
            access::CONSTANT,
        )
    }
}

/// The most memory that the guest may have for its variables, stacks and heap: `kiln.memory`.
fn most(line: &[u8]) -> u64 {
    let limit = cmdline::words(line).find_map(|word| match word {
        Word::Memory(bytes) => Some(bytes & !(PAGE - 1)),
        _ => None,
    });
    limit.unwrap_or(u64::MAX)
}

/// Sorts the regions above the first MiB.
pub fn usable<'r>(to: &'r mut [Region; MAX_REGIONS], regions: &[Region]) -> &'r [Region] {
    let mut left = 1 << 38;
    let mut count = 0;
    // The next in order each time: there are few.
    let mut from = MACHINE;
    while let Some(next) = regions
        .iter()
        .filter(|r| r.end > from)
        .min_by_key(|r| r.start.max(from))
    {
        let start = next.start.max(from);
        let end = next.end.min(start.saturating_add(left));
        from = next.end;
        let Some(slot) = to.get_mut(count).filter(|_| end > start) else {
            break;
        };
        *slot = Region { start, end };
        left -= end - start;
        count += 1;
    }
    to.get(..count).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn regions_are_sorted() {
        let region = |start, end| Region { start, end };
        let given = [
            region(1 << 32, 5 << 30),
            region(0, 0x9_f000),
            region(0x10_0000, 0xc000_0000),
            region(0x20_0000, 0x30_0000),
        ];
        let mut to = [Region::default(); MAX_REGIONS];
        assert_eq!(
            usable(&mut to, &given),
            [region(0x10_0000, 0xc000_0000), region(1 << 32, 5 << 30)]
        );
    }

    #[test]
    fn memory_can_be_limited() {
        assert_eq!(most(b"console=ttyS0"), u64::MAX);
        assert_eq!(most(b"kiln.memory=64M kiln.memory=1M"), 64 << 20);
        assert_eq!(most(b"kiln.memory=4097"), 4096);
    }
}
