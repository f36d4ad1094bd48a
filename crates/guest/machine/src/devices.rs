//! The operations, by drivers and page tables.
#![allow(unsafe_code)]

use kiln_abi::NetHeader;
use kiln_abi::op::{OpError, Protection, Segment, Stream};
use kiln_abi::perform::Devices;
#[cfg(feature = "program")]
use kiln_abi::user::{UserAccess, UserAdvice, UserBacking};
#[cfg(feature = "block")]
use kiln_virtio::Block;
#[cfg(feature = "virtio")]
use kiln_virtio::Buffers;
#[cfg(feature = "net")]
use kiln_virtio::Net;

use crate::cpu;
use crate::paging::{self, ADDRESS, LARGE_PAGE, PAGE, flag};
use crate::reach;
#[cfg(feature = "block")]
use crate::state::Driver;
use crate::state::State;
#[cfg(feature = "virtio")]
use crate::wait::Host;

/// The most bytes of one console write; longer ones are cut, which the guest sees in the result.
const MAX_CONSOLE: u64 = 64 * 1024;

/// Time stamps that stand in for randomness where there is none.
const JITTER: u32 = 64;

/// The devices of the machine.
#[derive(Debug)]
pub struct MachineDevices<'a>(pub &'a mut State);

impl MachineDevices<'_> {
    #[cfg(feature = "net")]
    fn link(&mut self, device: u32) -> Result<&mut Net, OpError> {
        self.0.link(device as usize).ok_or(OpError::NoDevice)
    }

    /// A disk, and what its driver asks of the machine.
    #[cfg(feature = "block")]
    fn disk(&mut self, device: u32) -> Result<(&mut Block, Host<'_>), OpError> {
        let host = Host {
            layout: &self.0.layout,
            clock: &self.0.clock,
            timer: &self.0.timer,
        };
        match self
            .0
            .devices
            .get_mut(device as usize)
            .and_then(|slot| slot.get())
        {
            Some(Driver::Block(disk)) => Ok((disk, host)),
            _ => Err(OpError::NoDevice),
        }
    }
}

/// The guest's buffers, for a driver.
#[cfg(feature = "virtio")]
pub(crate) fn buffers(segments: &[Segment]) -> Buffers<'_> {
    // SAFETY: the walk through the batch has checked that they are the guest's memory, which no driver's overlaps; the guest
    // waits. Should it have taken its own access away, the fault ends it.
    unsafe { Buffers::new(segments) }
}

impl Devices for MachineDevices<'_> {
    const LINKS: bool = cfg!(feature = "net");
    const DISKS: bool = cfg!(feature = "block");
    const PROGRAMS: bool = cfg!(feature = "program");

    fn console_write(&mut self, _: Stream, text: Segment) -> Result<u64, OpError> {
        let len = text.len.min(MAX_CONSOLE);
        // SAFETY: checked to be readable guest memory; the guest waits.
        let bytes = unsafe { core::slice::from_raw_parts(text.addr as *const u8, len as usize) };
        self.0.print(bytes);
        Ok(len)
    }

    #[cfg(feature = "net")]
    fn net_send(
        &mut self,
        device: u32,
        header: NetHeader,
        frame: &[Segment],
    ) -> Result<(), OpError> {
        self.link(device)?.send(header, buffers(frame))
    }

    #[cfg(feature = "net")]
    fn net_receive(&mut self, device: u32, into: &[Segment]) -> Result<(u64, NetHeader), OpError> {
        self.link(device)?.receive(buffers(into))
    }

    #[cfg(not(feature = "net"))]
    fn net_send(&mut self, _: u32, _: NetHeader, _: &[Segment]) -> Result<(), OpError> {
        Err(OpError::NoDevice)
    }

    #[cfg(not(feature = "net"))]
    fn net_receive(&mut self, _: u32, _: &[Segment]) -> Result<(u64, NetHeader), OpError> {
        Err(OpError::NoDevice)
    }

    #[cfg(feature = "block")]
    fn block_geometry(&self, device: u32) -> Result<(u64, u32), OpError> {
        let info = self.0.infos.get(device as usize).ok_or(OpError::NoDevice)?;
        if info.kind != kiln_abi::DeviceKind::Block as u32 {
            return Err(OpError::NoDevice);
        }
        Ok((info.capacity, info.sector_size))
    }

    #[cfg(feature = "block")]
    fn block_read(&mut self, device: u32, offset: u64, into: &[Segment]) -> Result<(), OpError> {
        let (disk, mut host) = self.disk(device)?;
        disk.read(offset, buffers(into), &mut host)
    }

    #[cfg(feature = "block")]
    fn block_write(&mut self, device: u32, offset: u64, from: &[Segment]) -> Result<(), OpError> {
        let (disk, mut host) = self.disk(device)?;
        disk.write(offset, buffers(from), &mut host)
    }

    #[cfg(feature = "block")]
    fn block_flush(&mut self, device: u32) -> Result<(), OpError> {
        let (disk, mut host) = self.disk(device)?;
        disk.flush(&mut host)
    }

    #[cfg(feature = "block")]
    fn block_discard(&mut self, device: u32, offset: u64, len: u64) -> Result<(), OpError> {
        let (disk, mut host) = self.disk(device)?;
        disk.discard(offset, len, &mut host)
    }

    #[cfg(not(feature = "block"))]
    fn block_geometry(&self, _: u32) -> Result<(u64, u32), OpError> {
        Err(OpError::NoDevice)
    }

    #[cfg(not(feature = "block"))]
    fn block_read(&mut self, _: u32, _: u64, _: &[Segment]) -> Result<(), OpError> {
        Err(OpError::NoDevice)
    }

    #[cfg(not(feature = "block"))]
    fn block_write(&mut self, _: u32, _: u64, _: &[Segment]) -> Result<(), OpError> {
        Err(OpError::NoDevice)
    }

    #[cfg(not(feature = "block"))]
    fn block_flush(&mut self, _: u32) -> Result<(), OpError> {
        Err(OpError::NoDevice)
    }

    #[cfg(not(feature = "block"))]
    fn block_discard(&mut self, _: u32, _: u64, _: u64) -> Result<(), OpError> {
        Err(OpError::NoDevice)
    }

    #[cfg(feature = "program")]
    fn ninep(&mut self, device: u32, request: Segment, reply: Segment) -> Result<u64, OpError> {
        let info = self.0.infos.get(device as usize).ok_or(OpError::NoDevice)?;
        if info.kind != kiln_abi::DeviceKind::Files as u32 {
            return Err(OpError::NoDevice);
        }
        self.0.ask_folder(device as usize, request, reply)
    }

    fn random(&mut self, buffer: Segment) -> Result<(), OpError> {
        // SAFETY: checked to be writable guest memory; the guest waits.
        let bytes =
            unsafe { core::slice::from_raw_parts_mut(buffer.addr as *mut u8, buffer.len as usize) };
        for piece in bytes.chunks_mut(64) {
            self.0.stir();
            for (to, from) in piece.iter_mut().zip(self.0.pool.block()) {
                *to = from;
            }
        }
        Ok(())
    }

    fn memory_release(&mut self, range: Segment) -> Result<(), OpError> {
        if range.len == 0 || !self.0.layout.is_free(range.addr, range.len) {
            return Err(OpError::Invalid);
        }
        let mut at = range.addr;
        let end = range.addr + range.len;
        while at < end {
            let (entry, size) = self.0.leaf(at)?;
            let len = (size - (at & (size - 1))).min(end - at);
            // SAFETY: the entry maps the guest's free memory.
            let old = unsafe { cpu::entry(entry) };
            let open = old | paging::access::DATA;
            // SAFETY: free guest memory, whose content the guest says it does not need; whatever the guest has made of its
            // access is so again afterwards.
            unsafe {
                if open != old {
                    cpu::set_entries(entry, open, at, 1);
                }
                core::ptr::write_bytes(at as *mut u8, 0, len as usize);
                if open != old {
                    cpu::set_entries(entry, old, at, 1);
                }
            }
            at += len;
        }
        #[cfg(feature = "virtio")]
        self.0.release(range);
        Ok(())
    }

    fn memory_protect(&mut self, range: Segment, protection: Protection) -> Result<(), OpError> {
        let layout = &self.0.layout;
        let image = layout.data.contains(range.addr, range.len);
        if range.len == 0
            || !layout.allows(range.addr, range.len, true)
            || (image && protection == Protection::ReadWrite)
        {
            return Err(OpError::Invalid);
        }
        let access = match protection {
            Protection::None => 0,
            Protection::Read => paging::access::CONSTANT,
            Protection::ReadWrite => paging::access::DATA,
        };
        let mut at = range.addr;
        let end = range.addr + range.len;
        while at < end {
            let (mut entry, mut size) = self.0.leaf(at)?;
            if size == LARGE_PAGE && (at & (size - 1) != 0 || end - at < size) {
                self.0.split(entry, at)?;
                (entry, size) = self.0.leaf(at)?;
            }
            // SAFETY: an entry of the guest's memory; the physical address in it stays.
            unsafe {
                let place = cpu::entry(entry) & (ADDRESS | flag::LARGE);
                // To the end of the table, or of the range. Entries of large pages do not count up by 4096.
                let count = if size == PAGE {
                    ((end - at) / PAGE).min(512 - at / PAGE % 512)
                } else {
                    1
                };
                cpu::set_entries(entry, place | access, at, count);
                at += count * size;
            }
        }
        // What was sealed at the start of the image's data is no place for a device to write to either.
        let data = &mut self.0.layout.data;
        if image && range.addr == data.start {
            data.start += range.len;
            data.len -= range.len;
        }
        Ok(())
    }

    fn tick(&mut self, period: u64) -> Result<(), OpError> {
        self.0.timer.set_period(period);
        Ok(())
    }

    #[cfg(feature = "program")]
    fn user_map(
        &mut self,
        range: Segment,
        access: UserAccess,
        backing: UserBacking,
        populate: bool,
    ) -> Result<(), OpError> {
        self.0.user_map(range, access, backing, populate)
    }

    #[cfg(feature = "program")]
    fn user_unmap(&mut self, range: Segment) -> Result<(), OpError> {
        let (pager, mut ground) = self.0.pager()?;
        pager.unmap(&mut ground, range)
    }

    #[cfg(feature = "program")]
    fn user_protect(&mut self, range: Segment, access: UserAccess) -> Result<(), OpError> {
        let (pager, mut ground) = self.0.pager()?;
        pager.protect(&mut ground, range, access)
    }

    #[cfg(feature = "program")]
    fn user_discard(&mut self, range: Segment) -> Result<(), OpError> {
        let (pager, mut ground) = self.0.pager()?;
        pager.discard(&mut ground, range)
    }

    #[cfg(feature = "program")]
    fn user_move(&mut self, range: Segment, to: u64) -> Result<(), OpError> {
        let (pager, mut ground) = self.0.pager()?;
        pager.relocate(&mut ground, range, to)
    }

    #[cfg(feature = "program")]
    fn user_advise(&mut self, range: Segment, advice: UserAdvice) -> Result<(), OpError> {
        let (pager, mut ground) = self.0.pager()?;
        pager.advise(&mut ground, range, advice)
    }

    #[cfg(feature = "program")]
    fn system_calls(&mut self, entry: u64, deferred: u64) -> Result<(), OpError> {
        self.0.take_calls(entry, deferred)
    }

    #[cfg(feature = "program")]
    fn console_read(&mut self, buffer: Segment) -> Result<u64, OpError> {
        // SAFETY: checked to be writable guest memory; the guest waits.
        let bytes =
            unsafe { core::slice::from_raw_parts_mut(buffer.addr as *mut u8, buffer.len as usize) };
        let count = self.0.console.read_input(bytes).ok_or(OpError::Again)?;
        Ok(count as u64)
    }

    fn set_trap(&mut self, entry: u64, stack: Segment) -> Result<(), OpError> {
        if !self.0.layout.text.contains(entry, 1) {
            return Err(OpError::Invalid);
        }
        self.0.trap_entry = entry;
        self.0.trap_stack = stack;
        Ok(())
    }
}

impl State {
    /// Where the entry is found that maps an address of the guest's memory, and the size of its page.
    fn leaf(&self, address: u64) -> Result<(u64, u64), OpError> {
        let mut table = self.reserve.root;
        for level in (0..4).rev() {
            let at = table + (address >> (12 + 9 * level) & 511) * 8;
            // SAFETY: the guest's page tables are mapped for ring 0.
            let entry = unsafe { cpu::entry(reach::at(at)) };
            if level == 0 || entry & flag::LARGE != 0 {
                return Ok((reach::at(at), PAGE << (9 * level)));
            }
            table = entry & ADDRESS;
            if table == 0 {
                break;
            }
        }
        Err(OpError::BadAddress)
    }

    /// Makes a table of pages out of a large page. Only whether it can be accessed has to be kept: all its pages are alike.
    fn split(&mut self, entry: u64, address: u64) -> Result<(), OpError> {
        let table = self.reserve.next;
        if table >= self.reserve.end {
            return Err(OpError::NoSpace);
        }
        self.reserve.next += PAGE;
        // SAFETY: the table is nobody's yet. The new entries map what the old one did, and replace it at once.
        unsafe {
            let old = cpu::entry(entry);
            cpu::set_entries(
                reach::at(table),
                old & !flag::LARGE,
                address & !(LARGE_PAGE - 1),
                512,
            );
            cpu::set_entries(entry, table | paging::access::ALL, address, 1);
        }
        Ok(())
    }

    /// Offers free memory to the host.
    #[cfg(feature = "virtio")]
    fn release(&mut self, range: Segment) {
        let host = &mut Host {
            layout: &self.layout,
            clock: &self.clock,
            timer: &self.timer,
        };
        if let Some(balloon) = self.balloon.get() {
            // The pages hold zeroes, whether the host takes them or not.
            let _ = balloon.release(range.addr, range.len, host);
        }
    }

    /// Mixes in whatever randomness can be had now.
    pub fn stir(&mut self) {
        let mut good = self.stir_by_device();
        if self.rdrand {
            for _ in 0..4 {
                // SAFETY: there is `rdrand`.
                if let Some(number) = unsafe { cpu::hardware_random() } {
                    self.pool.add(number);
                    good = true;
                }
            }
        }
        // Without either, how long a look at a device takes, which the host decides.
        for _ in 0..if good { 1 } else { JITTER } {
            crate::interrupts::counted();
            self.pool.add(cpu::tsc());
        }
    }

    #[cfg(feature = "virtio")]
    fn stir_by_device(&mut self) -> bool {
        let mut host = Host {
            layout: &self.layout,
            clock: &self.clock,
            timer: &self.timer,
        };
        let Some(device) = self.entropy.get() else {
            return false;
        };
        let mut bytes = [0; 32];
        let good = device.fill(&mut bytes, &mut host).is_ok();
        self.pool.add_bytes(&bytes);
        good
    }

    #[cfg(not(feature = "virtio"))]
    #[allow(clippy::unused_self, reason = "there is none to ask")]
    fn stir_by_device(&mut self) -> bool {
        false
    }
}
