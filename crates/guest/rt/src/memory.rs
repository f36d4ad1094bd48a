//! The heap behind `alloc`.

use core::sync::atomic::{AtomicBool, Ordering};

use kiln_heap::Heap;
pub use kiln_heap::Statistics;

#[cfg_attr(kiln_guest, global_allocator)]
static HEAP: Heap = Heap::new();

/// What the heap holds, in bytes and numbers of allocations.
pub fn statistics() -> Statistics {
    HEAP.statistics()
}

/// Bytes of the heap in pages that hold nothing: [`Statistics::free`] without the rest, which is cheaper to ask for.
pub fn free() -> usize {
    HEAP.free_bytes()
}

static ENDS_PLAINLY: AtomicBool = AtomicBool::new(false);

/// From now on an allocation that fails ends the guest with one line and exit code 137, and not as a panic with a backtrace: for a library OS that
/// runs programs of others, whose doing it is.
pub fn end_plainly_when_exhausted() {
    ENDS_PLAINLY.store(true, Ordering::Relaxed);
}

/// Ends the guest if this message of a panic is that of an allocation that has failed, and that is to be told plainly.
#[cfg(kiln_guest)]
pub(crate) fn end_if_exhausted(message: &str) {
    if !ENDS_PLAINLY.load(Ordering::Relaxed) || !message.contains("\nmemory allocation of ") {
        return;
    }
    let mut text = crate::panic::Text::new();
    let megabytes = HEAP.statistics().capacity >> 20;
    let _ = core::fmt::write(
        &mut text,
        format_args!(
            "the program has had the library OS keep all of its {megabytes} MiB: raise them with --memory"
        ),
    );
    crate::start::end(kiln_abi::ExitReason::OutOfMemory, 137, &[], text.as_str())
}

/// Gives free memory back to the host now, as far as it is whole free pages.
pub fn release_free() {
    HEAP.release_free();
}

/// Gives the heap the guest's free memory.
///
/// # Safety
/// Called once, before the first allocation; nobody else uses the free range.
#[cfg(kiln_guest)]
pub(crate) unsafe fn install(info: &kiln_abi::BootInfo) {
    use kiln_abi::boot::MemoryKind;
    use kiln_abi::op::{Op, Segment};
    use kiln_abi::{ExitReason, MemoryRange};
    use kiln_heap::{HeapError, Hooks};

    fn release(start: *mut u8, len: usize) -> bool {
        let range = Segment {
            addr: start as u64,
            len: len as u64,
        };
        let mut op = [Op::MemoryRelease { range }.encode()];
        crate::monitor::perform(&mut op);
        op[0].outcome().is_ok()
    }

    fn corrupted(error: HeapError) -> ! {
        let mut message = crate::panic::Text::new();
        let _ = core::fmt::write(&mut message, format_args!("{error}"));
        let frames = crate::backtrace::here();
        crate::start::end(
            ExitReason::Corrupted,
            134,
            frames.as_slice(),
            message.as_str(),
        )
    }

    // SAFETY: the monitor's promise: an array of ranges.
    let ranges = unsafe {
        core::slice::from_raw_parts(
            info.memory as *const MemoryRange,
            info.memory_count as usize,
        )
    };
    let mut secret = [0; 16];
    secret.copy_from_slice(&info.entropy[48..]);
    let mut first = true;
    for range in ranges.iter().filter(|r| r.kind == MemoryKind::Free as u32) {
        let (start, len) = (range.start as *mut u8, range.len as usize);
        let hooks = Hooks {
            corrupted,
            release: Some(release),
        };
        // SAFETY: free ranges are zeroed, writable, and the guest's to use; each is given away once.
        let added = unsafe {
            if core::mem::take(&mut first) {
                HEAP.init(start, len, secret, hooks)
            } else {
                HEAP.add_region(start, len)
            }
        };
        if added.is_err() {
            break;
        }
    }
}
