//! A plugin for QEMU's translator (TCG): counts executed guest instructions by address range, into a file that others read meanwhile.
//!
//! Arguments: `counts=PATH`, of at least 24 bytes, and up to two ends of ranges in ascending order, `end0=ADDRESS,end1=ADDRESS` (decimal). The file's
//! three numbers (u64, native) are the instructions below the first end, from there to below the second, and above.
//!
//! It speaks version 1 of the plugin interface (QEMU 4.2 to 8; `qemu-plugin.h`), whose functions QEMU itself exports. It is compiled by `rustc
//! --crate-type=cdylib`, without cargo, by the benchmark that uses it.

use std::ffi::{CStr, c_char, c_int, c_void};
use std::fs::OpenOptions;
use std::os::fd::AsRawFd;
use std::sync::atomic::{AtomicPtr, AtomicU64, Ordering};

type TranslateCallback = extern "C" fn(id: u64, block: *mut c_void);

const ADD: c_int = 0;

unsafe extern "C" {
    fn qemu_plugin_register_vcpu_tb_trans_cb(id: u64, callback: TranslateCallback);
    fn qemu_plugin_tb_n_insns(block: *const c_void) -> usize;
    fn qemu_plugin_tb_vaddr(block: *const c_void) -> u64;
    fn qemu_plugin_tb_get_insn(block: *const c_void, index: usize) -> *mut c_void;
    fn qemu_plugin_register_vcpu_insn_exec_inline(
        insn: *mut c_void,
        op: c_int,
        to: *mut c_void,
        value: u64,
    );
    fn mmap(
        at: *mut c_void,
        len: usize,
        protection: c_int,
        flags: c_int,
        fd: c_int,
        offset: i64,
    ) -> *mut c_void;
}

#[unsafe(no_mangle)]
pub static qemu_plugin_version: c_int = 1;

static COUNTS: AtomicPtr<u64> = AtomicPtr::new(std::ptr::null_mut());
static ENDS: [AtomicU64; 2] = [const { AtomicU64::new(u64::MAX) }; 2];

/// A block lies on one or two pages, and the ranges end far from all code: its first address tells.
extern "C" fn translated(_: u64, block: *mut c_void) {
    // SAFETY: QEMU's block, which lives as long as the call; the counters live as long as the process.
    unsafe {
        let address = qemu_plugin_tb_vaddr(block);
        let range = ENDS
            .iter()
            .filter(|end| end.load(Ordering::Relaxed) <= address)
            .count();
        let counter = COUNTS.load(Ordering::Relaxed).add(range);
        // One by one: a block may be left in the middle.
        for index in 0..qemu_plugin_tb_n_insns(block) {
            let insn = qemu_plugin_tb_get_insn(block, index);
            qemu_plugin_register_vcpu_insn_exec_inline(insn, ADD, counter.cast(), 1);
        }
    }
}

/// QEMU's entry.
///
/// # Safety
/// Called by QEMU, with `count` strings at `arguments`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn qemu_plugin_install(
    id: u64,
    _: *const c_void,
    count: c_int,
    arguments: *const *const c_char,
) -> c_int {
    let mut file = None;
    for index in 0..count.max(0) as usize {
        // SAFETY: the caller's.
        let argument = unsafe { CStr::from_ptr(*arguments.add(index)) };
        match argument.to_str().ok().and_then(|text| text.split_once('=')) {
            Some(("counts", path)) => {
                file = OpenOptions::new().read(true).write(true).open(path).ok()
            }
            Some(("end0", end)) => {
                ENDS[0].store(end.parse().unwrap_or(u64::MAX), Ordering::Relaxed)
            }
            Some(("end1", end)) => {
                ENDS[1].store(end.parse().unwrap_or(u64::MAX), Ordering::Relaxed)
            }
            _ => return -1,
        }
    }
    let Some(file) = file else { return -1 };
    const READ_WRITE: c_int = 3;
    const SHARED: c_int = 1;
    // SAFETY: a new mapping.
    let counts = unsafe {
        mmap(
            std::ptr::null_mut(),
            24,
            READ_WRITE,
            SHARED,
            file.as_raw_fd(),
            0,
        )
    };
    if counts.addr() as isize == -1 {
        return -1;
    }
    COUNTS.store(counts.cast(), Ordering::Relaxed);
    // SAFETY: the callback lives as long as the process.
    unsafe { qemu_plugin_register_vcpu_tb_trans_cb(id, translated) };
    0
}
