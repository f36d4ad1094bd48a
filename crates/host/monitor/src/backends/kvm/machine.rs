//! Making a virtual machine: memory slots, page tables, one virtual CPU and its first state.
//!
//! All of it happens in the child, for a virtual machine belongs to the address space that made it.

use std::cell::Cell;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

use kiln_abi::PAGE_SIZE;
use kiln_gate::paging::{Access, Tables};
use kiln_gate::state::Range;
use kiln_gate::vcpu::{Chunks, Machine, Rest, Run, SYNC_REGS};
use kiln_image::Access as Segment;
use kvm_bindings::{
    Msrs, kvm_dtable, kvm_msr_entry, kvm_regs, kvm_segment, kvm_userspace_memory_region, kvm_xcr,
    kvm_xcrs,
};
use kvm_ioctls::{Kvm, VcpuFd, VmFd};

use super::layout::{
    CHUNK_LIST, DESCRIPTORS, EXCEPTION_STACK, FIXED_PAGES, Physical, STUBS, SUPERVISOR_STACK,
    divided, window,
};
use super::processor::{self, Virtualization};
use super::stub::{self, selector};
use crate::backend::Launch;
use crate::backends::process::layout::Layout;

/// What came of it: what the gate needs to know, and the virtual CPU.
#[derive(Debug)]
pub struct Made {
    /// For the gate.
    pub machine: Machine,
    /// The virtual CPU.
    pub vcpu: OwnedFd,
    /// The machine itself.
    pub vm: VmFd,
    /// Ticks of the time-stamp counter per second, 0 if it cannot be relied on.
    pub tsc_hz: u64,
}

/// Control registers (Intel SDM volume 3, section 2.5) and `EFER`.
mod control {
    /// Protection, monitor coprocessor, extension type, numeric error, write protect, alignment mask, paging.
    pub const CR0: u64 = 0x8005_0033;
    /// Physical address extension, FXSAVE, SSE exceptions.
    pub const CR4: u64 = 1 << 5 | 1 << 9 | 1 << 10;
    /// Long mode enabled and active, no-execute.
    pub const EFER: u64 = 1 << 8 | 1 << 10 | 1 << 11;
    pub const MSR_STAR: u32 = 0xc000_0081;
    pub const MSR_LSTAR: u32 = 0xc000_0082;
    pub const MSR_FMASK: u32 = 0xc000_0084;
    /// `EFER`: the `syscall` instruction is on.
    pub const SYSCALL: u64 = 1;
    /// Trap, direction, nested-task and alignment-check flag.
    pub const MASKED_FLAGS: u64 = 1 << 8 | 1 << 10 | 1 << 14 | 1 << 18;
}

/// Makes the virtual machine around memory that is mapped already. `layout.machine` says where its own pages go.
///
/// # Errors
/// Whatever KVM or the host's memory management answers.
pub fn make(kvm: &Kvm, launch: &Launch, layout: &Layout) -> io::Result<Made> {
    let own = layout.machine;
    let list = if layout.program { CHUNK_LIST } else { 0 };
    let system = Range {
        start: own.start + RUN_SPACE,
        end: own.end - list,
    };
    let physical = Physical::new(layout, system.start);
    let (head, rest) = divided(layout);
    let vm = kvm.create_vm().map_err(failed)?;
    let slots = [
        (
            physical.machine,
            Range {
                start: system.start,
                end: head.end,
            },
        ),
        (physical.image, layout.image),
        (physical.root, layout.root),
    ];
    for (slot, (guest, host)) in (0..).zip(slots) {
        if host.end > host.start {
            add_slot(&vm, slot, guest, host)?;
        }
    }
    // SAFETY: mapped by the caller for this, zeroed, and nobody else's.
    let pages = unsafe {
        std::slice::from_raw_parts_mut(system.start as *mut u8, (FIXED_PAGES * PAGE_SIZE) as usize)
    };
    // The guest sees the machine's own pages where this process has the gate.
    let base = layout.gate.start;
    stub::write(pages, base);
    let tables_physical = physical.machine + FIXED_PAGES * PAGE_SIZE;
    let tables = (system.start + FIXED_PAGES * PAGE_SIZE) as *mut u64;
    let table_pages = (system.end - system.start) / PAGE_SIZE - FIXED_PAGES;
    // SAFETY: likewise; the rest of the same mapping.
    let words = unsafe { std::slice::from_raw_parts_mut(tables, table_pages as usize * 512) };
    let mut tables_of = Tables::new(words, tables_physical, 1);
    map_guest(&mut tables_of, launch, layout, physical)
        .map_err(|_| io::Error::from(io::ErrorKind::OutOfMemory))?;
    let used = tables_of.used() as u64;

    let vcpu = vm.create_vcpu(0).map_err(failed)?;
    let facts = set_state(&vcpu, layout, launch, tables_physical, base)?;
    let tsc_hz = reliable_tsc(&vm, &vcpu);
    let run = map_run(&vcpu, kvm, own.start)?;
    // SAFETY: duplicated from a descriptor that is open.
    let fd = unsafe { libc::fcntl(vcpu.as_raw_fd(), libc::F_DUPFD_CLOEXEC, 3) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(Made {
        machine: Machine {
            run,
            tables,
            table_pages,
            tables_physical,
            tables_used: used.into(),
            exception_stack: stub::exception_stack(base),
            exception_frame: (system.start + EXCEPTION_STACK + PAGE_SIZE
                - kiln_gate::vcpu::FRAME_BYTES) as *const u64,
            flush: base + STUBS + stub::user::FLUSH,
            own: Range {
                start: base,
                end: base + FIXED_PAGES * PAGE_SIZE,
            },
            walks: facts.virtualization != Virtualization::None,
            stale: false.into(),
            calls: stub::system_call_words().map(|at| (system.start + at) as *mut u64),
            chunks: if layout.program {
                Chunks {
                    places: system.end as *mut Cell<u16>,
                    physical: physical.chunks,
                    slot: slots.len() as u32 + 1,
                    most: physical.most_chunks(facts.physical_bits),
                    used: 0.into(),
                }
            } else {
                Chunks::none()
            },
            rest: Rest {
                range: rest,
                physical: physical.window + (rest.start - window(layout).start),
                slot: slots.len() as u32,
                there: (rest.start == rest.end).into(),
            },
        },
        // SAFETY: just made, and ours.
        vcpu: unsafe { OwnedFd::from_raw_fd(fd) },
        vm,
        tsc_hz,
    })
}

/// Bytes kept free for the virtual CPU's record before the machine's own pages.
pub const RUN_SPACE: u64 = 16 * PAGE_SIZE;

fn failed(error: kvm_ioctls::Error) -> io::Error {
    io::Error::from_raw_os_error(error.errno())
}

fn add_slot(vm: &VmFd, slot: u32, guest: u64, host: Range) -> io::Result<()> {
    let region = kvm_userspace_memory_region {
        slot,
        flags: 0,
        guest_phys_addr: guest,
        memory_size: host.end - host.start,
        userspace_addr: host.start,
    };
    // SAFETY: the range is the guest's own memory (with unmapped gaps, which fault), for as long as the process lives.
    unsafe { vm.set_user_memory_region(region) }.map_err(failed)
}

fn map_guest(
    tables: &mut Tables<'_>,
    launch: &Launch,
    layout: &Layout,
    physical: Physical,
) -> Result<(), kiln_gate::paging::NoTable> {
    for segment in launch.image.segments() {
        let access = match segment.access {
            Segment::Read => Access::Read,
            Segment::ReadExecute => Access::ReadExecute,
            Segment::ReadWrite => Access::ReadWrite,
        };
        let len = segment.page_end() - segment.address;
        let virt = layout.image.start + segment.address;
        tables.map(virt, physical.image + segment.address, len, access, false)?;
    }
    let start = window(layout).start;
    let (head, rest) = divided(layout);
    let free = Range {
        start: layout.free.start,
        end: head.end,
    };
    for (range, access, huge) in [
        (layout.boot, Access::Read, false),
        (layout.stack, Access::ReadWrite, false),
        (layout.trap_stack, Access::ReadWrite, false),
        (free, Access::ReadWrite, true),
        (rest, Access::None, true),
    ] {
        let phys = physical.window + (range.start - start);
        tables.map(range.start, phys, range.end - range.start, access, huge)?;
    }
    let root = layout.root;
    tables.map(
        root.start,
        physical.root,
        root.end - root.start,
        Access::Read,
        true,
    )?;
    for (page, access) in [
        (DESCRIPTORS, Access::SupervisorReadExecute),
        (SUPERVISOR_STACK, Access::SupervisorReadWrite),
        (STUBS, Access::ReadExecute),
        (EXCEPTION_STACK, Access::ReadWrite),
    ] {
        tables.map(
            layout.gate.start + page,
            physical.machine + page,
            PAGE_SIZE,
            access,
            false,
        )?;
    }
    Ok(())
}

/// Puts the first state into the virtual CPU. Returns what its processor has.
fn set_state(
    vcpu: &VcpuFd,
    layout: &Layout,
    launch: &Launch,
    tables: u64,
    base: u64,
) -> io::Result<processor::Features> {
    let (cpuid, has) = processor::describe();
    vcpu.set_cpuid2(&cpuid).map_err(failed)?;
    let needed = control::CR4 | has.programs;
    // SMAP stays off: no code of ring 0 here touches a page of ring 3, but where an exception is delivered in software (a
    // KVM that works by page tables, QEMU up to version 9.0), its frame is written to the stack of ring 3 as if by ring 0.

    let mut sregs = vcpu.get_sregs().map_err(failed)?;
    sregs.cs = segment(selector::USER_CODE, 11, 1);
    let data = segment(selector::USER_DATA, 3, 0);
    (sregs.ds, sregs.es, sregs.fs, sregs.gs, sregs.ss) = (data, data, data, data, data);
    sregs.tr = kvm_segment {
        base: stub::tss_address(base),
        limit: stub::TSS_LIMIT,
        selector: selector::TASK,
        // Whether a task is busy is the descriptor's to say. Intel's processors want to hear it here too (SDM volume 3,
        // section 26.3.1.2), AMD's do not look (APM volume 2, section 15.5.1), and QEMU, where it plays one of AMD's,
        // checks ports against the map of a task that is not busy only.
        type_: match has.virtualization {
            Virtualization::Svm => 9,
            Virtualization::Vmx | Virtualization::None => 11,
        },
        present: 1,
        ..Default::default()
    };
    sregs.ldt = kvm_segment {
        unusable: 1,
        ..Default::default()
    };
    sregs.gdt = kvm_dtable {
        base: stub::gdt_address(base),
        limit: stub::GDT_LIMIT,
        padding: [0; 3],
    };
    sregs.idt = kvm_dtable {
        base: stub::idt_address(base),
        limit: stub::IDT_LIMIT,
        padding: [0; 3],
    };
    sregs.cr0 = control::CR0;
    sregs.cr3 = tables;
    // Where the instruction takes the processor to ring 0 it is on for programs only. To other guests it is unknown.
    let to_supervisor = layout.program && has.virtualization != Virtualization::None;
    sregs.efer = control::EFER;
    if to_supervisor {
        sregs.efer |= control::SYSCALL;
    }
    sregs.cr4 = needed | has.protections;
    // What the processor has, its KVM may lack.
    if vcpu.set_sregs(&sregs).is_err() {
        sregs.cr4 = needed;
        vcpu.set_sregs(&sregs).map_err(failed)?;
    }
    if has.xcr0 != 0 {
        set_extended_state(vcpu, has.xcr0)?;
    }
    let landing = if to_supervisor {
        stub::system_call_address(base)
    } else {
        // A KVM that works by page tables lets it through all the same, and leaves it in ring 3.
        base + STUBS + stub::user::SYSCALL
    };
    let star = u64::from(selector::SUPERVISOR_CODE) << 32 | 0x23 << 48;
    let msrs = Msrs::from_entries(&[
        msr(control::MSR_STAR, star),
        msr(control::MSR_LSTAR, landing),
        msr(control::MSR_FMASK, control::MASKED_FLAGS),
    ])
    .map_err(|_| io::Error::from(io::ErrorKind::InvalidInput))?;
    vcpu.set_msrs(&msrs).map_err(failed)?;
    let regs = kvm_regs {
        rip: launch.image.entry() + layout.bias,
        // Behind the zero that ends backtraces; the memory is zeroed.
        rsp: layout.stack.end - 8,
        rdi: layout.boot.start,
        rflags: 0x202,
        ..Default::default()
    };
    vcpu.set_regs(&regs).map_err(failed)?;
    Ok(has)
}

fn msr(index: u32, data: u64) -> kvm_msr_entry {
    kvm_msr_entry {
        index,
        data,
        ..Default::default()
    }
}

/// A flat segment of ring 3.
fn segment(selector: u16, type_: u8, long: u8) -> kvm_segment {
    kvm_segment {
        base: 0,
        limit: u32::MAX,
        selector,
        type_,
        present: 1,
        dpl: 3,
        db: 1 - long,
        s: 1,
        l: long,
        g: 1,
        ..Default::default()
    }
}

/// Switches on the components of the extended state.
fn set_extended_state(vcpu: &VcpuFd, value: u64) -> io::Result<()> {
    let mut xcrs = kvm_xcrs {
        nr_xcrs: 1,
        ..Default::default()
    };
    xcrs.xcrs[0] = kvm_xcr {
        xcr: 0,
        value,
        ..Default::default()
    };
    vcpu.set_xcrs(&xcrs).map_err(failed)
}

/// The time-stamp counter's frequency, if the host itself keeps its time by it.
fn reliable_tsc(vm: &VmFd, vcpu: &VcpuFd) -> u64 {
    const STABLE: u32 = 2;
    let stable = vm.get_clock().is_ok_and(|clock| clock.flags & STABLE != 0);
    let khz = if stable { vcpu.get_tsc_khz() } else { Ok(0) };
    u64::from(khz.unwrap_or(0)) * 1000
}

/// Maps the virtual CPU's record at `address` and asks for the general registers in it.
fn map_run(vcpu: &VcpuFd, kvm: &Kvm, address: u64) -> io::Result<*mut Run> {
    let size = kvm.get_vcpu_mmap_size().map_err(failed)?;
    if size as u64 > RUN_SPACE {
        return Err(io::ErrorKind::OutOfMemory.into());
    }
    // SAFETY: the layout keeps this place free; MAP_FIXED_NOREPLACE makes sure of it.
    let at = unsafe {
        libc::mmap(
            address as *mut libc::c_void,
            size,
            libc::PROT_READ | libc::PROT_WRITE,
            libc::MAP_SHARED | libc::MAP_FIXED_NOREPLACE,
            vcpu.as_raw_fd(),
            0,
        )
    };
    if at == libc::MAP_FAILED {
        return Err(io::Error::last_os_error());
    }
    let run: *mut Run = at.cast();
    // SAFETY: just mapped; the kernel reads the field on the next entry.
    unsafe { (*run).valid_registers = SYNC_REGS };
    Ok(run)
}

const _: () = assert!(
    core::mem::offset_of!(Run, registers) == core::mem::offset_of!(kvm_bindings::kvm_run, s)
);
const _: () = assert!(size_of::<kiln_gate::vcpu::Registers>() == size_of::<kvm_regs>());
