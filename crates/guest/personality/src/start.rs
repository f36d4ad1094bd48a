//! The order of the start.

use alloc::rc::Rc;
use alloc::vec::Vec;

use kiln_abi::DeviceKind;
use kiln_abi::note::{AbiNote, DeviceNote, ElfNote};
use kiln_linux::fs::{Kind, Walk};
use kiln_linux::process::{Credentials, Thread};
use kiln_linux::{Errno, dev, fs, kernel, loader, net, platform};
use kiln_rt::{boot, start};

use crate::options::Options;

/// Bytes of the stack of the boot; threads have their own.
const STACK: u64 = 256 << 10;

#[used]
#[unsafe(link_section = ".note.kiln")]
static ABI: ElfNote<32> = ElfNote::abi(AbiNote {
    version: kiln_abi::VERSION,
    flags: AbiNote::PROGRAM,
    stack_size: STACK,
    min_memory: LEAST_MEMORY,
    entry: 0,
});

#[used]
#[unsafe(link_section = ".note.kiln")]
static LINK: ElfNote<32> = ElfNote::device(DeviceNote::new(
    DeviceKind::Net,
    "eth0",
    DeviceNote::OPTIONAL,
));

/// With less there is no room for the root image and a program of one page.
const LEAST_MEMORY: u64 = 2 << 20;

/// What a shell answers for a program that cannot be started, and for one that is not there.
const CANNOT_START: u8 = 126;
const NOT_FOUND: u8 = 127;

#[unsafe(no_mangle)]
extern "Rust" fn __kiln_main() -> u8 {
    let info = boot::info();
    let options = match Options::parse(strings(info.args, info.args_size).skip(1)) {
        Ok(options) => options,
        Err(what) => refuse(CANNOT_START, format_args!("{what}")),
    };
    let Some(&program) = options.program.first() else {
        refuse(CANNOT_START, format_args!("no program named behind --"));
    };
    platform::begin();
    kiln_rt::net::start();
    let kernel = kernel();
    kernel.trace_calls.set(options.trace);
    if options.report {
        kernel.watch.report();
    }
    if let Some(names) = options.only_calls {
        kernel.watch.lock(names);
    }
    if let Some((columns, rows)) = options.terminal {
        dev::set_terminal(columns, rows, options.uid);
    }
    if let Some(name) = options.hostname {
        *kernel.hostname.borrow_mut() = name.to_vec();
    }
    let thread = kernel.processes.first();
    if let Err(errno) = fs::start() {
        refuse(CANNOT_START, format_args!("the root image: {errno:?}"));
    }
    if let Err(errno) = net::etc::start(&thread) {
        refuse(CANNOT_START, format_args!("/etc/resolv.conf: {errno:?}"));
    }
    // Whoever has one inside another wants to see both.
    let depth = |path: &[u8]| {
        path.split(|&b| b == b'/')
            .filter(|name| !name.is_empty())
            .count()
    };
    let mut volumes: Vec<_> = options.volumes.iter().collect();
    volumes.sort_by_key(|volume| depth(volume.path));
    for volume in volumes {
        let name = volume.device;
        if let Err(errno) = fs::volume::mount(name, volume.path, volume.read_only, options.uid) {
            let path = alloc::string::String::from_utf8_lossy(volume.path);
            refuse(CANNOT_START, format_args!("the volume {path}: {errno:?}"));
        }
    }
    if let Some(device) = options.core {
        match fs::volume::hidden(device) {
            Ok(folder) => kernel.core.set(folder),
            Err(errno) => refuse(CANNOT_START, format_args!("core files: {errno:?}")),
        }
    }
    if let Some(cwd) = options.cwd
        && let Err(errno) = work_in(&thread, cwd)
    {
        let path = alloc::string::String::from_utf8_lossy(cwd);
        refuse(
            CANNOT_START,
            format_args!("the working directory {path}: {errno:?}"),
        );
    }
    let standard = dev::standard(&thread, options.errors_apart);
    let add = |open| thread.process.files.add(open, false, 0).map(drop);
    if let Err(errno) = standard.and_then(|streams| streams.into_iter().try_for_each(add)) {
        refuse(CANNOT_START, format_args!("the console: {errno:?}"));
    }
    // Last, so that all of the above is done by the machine itself.
    if (options.uid, options.gid) != (0, 0) {
        *thread.process.credentials.borrow_mut() = Credentials::new(options.uid, options.gid);
    }
    let path = options.exec.unwrap_or(program);
    let arguments: Vec<Vec<u8>> = options.program.iter().map(|a| a.to_vec()).collect();
    let environment: Vec<Vec<u8>> = strings(info.env, info.env_size)
        .map(<[u8]>::to_vec)
        .collect();
    let loaded = loader::execute(&thread, path, &arguments, &environment);
    if let Err(error) = loaded {
        let code = match error.errno() {
            Errno::ENOENT => NOT_FOUND,
            _ => CANNOT_START,
        };
        refuse(code, format_args!("{}", loader::explain(&error)));
    }
    if let Err(errno) = platform::prepare(&thread) {
        refuse(CANNOT_START, format_args!("the first thread: {errno:?}"));
    }
    platform::run(&thread)
}

/// Makes a folder the working directory; as with docker it is made if it is missing.
fn work_in(thread: &Rc<Thread>, path: &[u8]) -> Result<(), Errno> {
    if !path.starts_with(b"/") {
        return Err(Errno::EINVAL);
    }
    let ends = (1..path.len()).filter(|&at| path.get(at) == Some(&b'/'));
    for end in ends.chain([path.len()]) {
        match fs::make_node(
            thread,
            fs::AT_FDCWD,
            &path[..end],
            Kind::Directory,
            0o755,
            0,
        ) {
            Ok(_) | Err(Errno::EEXIST) => {}
            Err(errno) => return Err(errno),
        }
    }
    let place = fs::resolve(thread, fs::AT_FDCWD, path, Walk::FOLLOW)?;
    if place.inode.metadata()?.kind != Kind::Directory {
        return Err(Errno::ENOTDIR);
    }
    thread.process.fs.cwd.replace(Some(place));
    Ok(())
}

fn refuse(code: u8, what: core::fmt::Arguments<'_>) -> ! {
    let text = alloc::format!("kiln: {what}\n");
    platform::console_write_all(platform::Stream::Error, text.as_bytes());
    start::exit(code)
}

/// The NUL-terminated strings of the boot record; any bytes but NUL may be in them.
fn strings(address: u64, size: u32) -> impl Iterator<Item = &'static [u8]> {
    let bytes: &'static [u8] = if size == 0 {
        &[]
    } else {
        // SAFETY: the monitor's promise: readable for as long as the guest runs.
        unsafe { core::slice::from_raw_parts(address as *const u8, size as usize) }
    };
    bytes
        .split_inclusive(|&b| b == 0)
        .filter_map(|s| s.strip_suffix(&[0]))
}
