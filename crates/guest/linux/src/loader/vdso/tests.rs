//! The library as the host's C library and processor see it.

use super::*;
use crate::platform::pretend;
use crate::user::UserAddr;
use std::ffi::{CString, c_int, c_void};

/// The page with the time and the library behind it, in executable memory of the test.
struct Loaded {
    base: *mut u8,
}

const LEN: usize = PAGE as usize + IMAGE_LEN;

impl Loaded {
    fn new(vdso: &Vdso) -> Self {
        // SAFETY: new memory, written before it becomes executable.
        unsafe {
            let access = libc::PROT_READ | libc::PROT_WRITE;
            let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
            let base = libc::mmap(core::ptr::null_mut(), LEN, access, flags, -1, 0);
            assert_ne!(base, libc::MAP_FAILED);
            let base: *mut u8 = base.cast();
            let data: *const u8 = (&raw const *vdso.data).cast();
            core::ptr::copy_nonoverlapping(data, base, PAGE as usize);
            let image = base.add(PAGE as usize);
            core::ptr::copy_nonoverlapping(vdso.bytes().as_ptr(), image, IMAGE_LEN);
            let access = libc::PROT_READ | libc::PROT_EXEC;
            assert_eq!(libc::mprotect(base.cast(), LEN, access), 0);
            Self { base }
        }
    }

    /// The address of a function, which is found by walking through the dynamic section as a C library does.
    fn symbol(&self, wanted: &str) -> *const c_void {
        // SAFETY: the library lies there.
        let image = unsafe { core::slice::from_raw_parts(self.base.add(PAGE as usize), IMAGE_LEN) };
        let word = |at: u64| {
            let at = at as usize;
            u64::from_le_bytes(image[at..at + 8].try_into().unwrap())
        };
        let half = |at: u64| word(at) as u32;
        let dynamic = word(64 + 56 + 16);
        let tag = |wanted: u64| {
            let mut at = dynamic;
            while word(at) != wanted {
                assert_ne!(word(at), 0);
                at += 16;
            }
            word(at + 8)
        };
        let (symbols, strings, hash) = (tag(6), tag(5), tag(4));
        let mut number = half(hash + 8);
        while number != 0 {
            let symbol = symbols + 24 * u64::from(number);
            let name = &image[(strings + u64::from(half(symbol))) as usize..];
            if name.split(|&byte| byte == 0).next() == Some(wanted.as_bytes()) {
                let offset = PAGE + word(symbol + 8);
                // SAFETY: within the library.
                return unsafe { self.base.add(offset as usize) }.cast();
            }
            number = half(hash + 12 + 4 * u64::from(number));
        }
        panic!("there is no {wanted}");
    }
}

impl Drop for Loaded {
    fn drop(&mut self) {
        // SAFETY: mapped by `new`.
        unsafe { libc::munmap(self.base.cast(), LEN) };
    }
}

type ClockGettime = extern "C" fn(c_int, *mut libc::timespec) -> c_int;
type Gettimeofday = extern "C" fn(*mut libc::timeval, *mut [i32; 2]) -> c_int;
type Time = extern "C" fn(*mut i64) -> i64;

fn clock_gettime(loaded: &Loaded, clock: c_int) -> (c_int, i64, i64) {
    // SAFETY: the function's type.
    let function: ClockGettime =
        unsafe { core::mem::transmute(loaded.symbol("__vdso_clock_gettime")) };
    let mut time = libc::timespec {
        tv_sec: -1,
        tv_nsec: -1,
    };
    let result = function(clock, &raw mut time);
    (result, time.tv_sec, time.tv_nsec)
}

fn ticks() -> u64 {
    // SAFETY: every processor has it.
    unsafe { core::arch::x86_64::_rdtsc() }
}

#[test]
fn clocks_are_read_without_a_call() {
    pretend::reset();
    let vdso = Vdso::default();
    let (monotonic, wall) = (77_123_456_789, 1_700_000_000_999_999_999);
    vdso.data.update(&Clock {
        counter: ticks(),
        frequency: 1_000_000_000,
        monotonic,
        wall_offset: wall - monotonic,
    });
    let loaded = Loaded::new(&vdso);
    for (clock, expected) in [
        (1, monotonic),
        (4, monotonic),
        (0, wall),
        (5, wall),
        (11, wall),
    ] {
        let before = ticks();
        let (result, seconds, nanos) = clock_gettime(&loaded, clock);
        let most = ticks() - before + 1_000_000_000;
        assert_eq!(result, 0);
        assert!((0..1_000_000_000).contains(&nanos));
        let found = seconds as u64 * 1_000_000_000 + nanos as u64;
        assert!(
            found >= expected && found - expected < most,
            "clock {clock}"
        );
    }
    // SAFETY: the functions' types.
    let (day, time): (Gettimeofday, Time) = unsafe {
        (
            core::mem::transmute::<*const c_void, Gettimeofday>(loaded.symbol("gettimeofday")),
            core::mem::transmute::<*const c_void, Time>(loaded.symbol("__vdso_time")),
        )
    };
    let mut value = libc::timeval {
        tv_sec: 0,
        tv_usec: -1,
    };
    assert_eq!(day(&raw mut value, core::ptr::null_mut()), 0);
    assert!((0..1_000_000).contains(&value.tv_usec));
    assert!(value.tv_sec - 1_700_000_001 < 5);
    let mut stored = 0;
    assert_eq!(time(&raw mut stored), stored);
    assert!(stored >= value.tv_sec);
}

#[test]
fn time_goes_on_and_never_back() {
    pretend::reset();
    let vdso = Vdso::default();
    vdso.data.update(&Clock {
        counter: ticks(),
        frequency: 2_000_000_000,
        monotonic: 1,
        wall_offset: 1,
    });
    let loaded = Loaded::new(&vdso);
    let mut last = 0;
    for _ in 0..10_000 {
        let (_, seconds, nanos) = clock_gettime(&loaded, 1);
        let now = seconds * 1_000_000_000 + nanos;
        assert!(now >= last);
        last = now;
    }
    assert!(last > 0);
}

#[test]
fn without_a_counter_and_for_other_clocks_the_call_is_made() {
    pretend::reset();
    let loaded = Loaded::new(&Vdso::default());
    let mut time = libc::timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    for clock in [0, 1, 2, 3, 6] {
        // SAFETY: an ordinary call.
        assert_eq!(unsafe { libc::clock_gettime(clock, &raw mut time) }, 0);
        let (result, seconds, _) = clock_gettime(&loaded, clock);
        assert_eq!(result, 0);
        assert!((seconds - time.tv_sec).abs() <= 1);
    }
    assert_eq!(clock_gettime(&loaded, 99).0, -libc::EINVAL);
}

#[test]
fn the_hosts_dynamic_linker_accepts_it() {
    let vdso = Vdso::default();
    let path = std::env::temp_dir().join(std::format!("kiln-vdso-{}.so", std::process::id()));
    std::fs::write(&path, vdso.bytes()).unwrap();
    let name = CString::new(path.to_str().unwrap()).unwrap();
    // SAFETY: a library without constructors; the function's type is right, and it does not use the page in front of it.
    unsafe {
        let library = libc::dlopen(name.as_ptr(), libc::RTLD_NOW);
        assert!(!library.is_null());
        for symbol in [c"__vdso_getcpu", c"getcpu"] {
            let found = libc::dlvsym(library, symbol.as_ptr(), c"LINUX_2.6".as_ptr());
            assert!(!found.is_null());
            let getcpu: extern "C" fn(*mut u32, *mut u32, *mut c_void) -> c_int =
                core::mem::transmute(found);
            let mut cpu = 7;
            assert_eq!(
                getcpu(&raw mut cpu, core::ptr::null_mut(), core::ptr::null_mut()),
                0
            );
            assert_eq!(cpu, 0);
        }
        let other = libc::dlvsym(library, c"__vdso_time".as_ptr(), c"LINUX_9".as_ptr());
        assert!(other.is_null());
        libc::dlclose(library);
    }
    std::fs::remove_file(path).unwrap();
}

#[test]
fn programs_see_both_parts_in_their_memory() {
    pretend::reset();
    let thread = crate::kernel().processes.first();
    let at = 0x2fff_0000_0000;
    assert_eq!(Vdso::default().map(&thread, at), Ok(()));
    let memory = &thread.process.memory;
    assert_eq!(memory.layout().vdso, at + PAGE);
    let regions = memory.regions();
    assert_eq!(&*regions[0].name, b"[vvar]");
    assert_eq!(&*regions[1].name, b"[vdso]");
    assert_eq!(UserAddr(at).write(1_u8), Err(Errno::EFAULT));
    let opened = memory.protect(at, PAGE, Access::READ | Access::WRITE, false);
    assert_eq!(opened, Err(Errno::EACCES));
}
