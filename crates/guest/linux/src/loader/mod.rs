//! Starting a program (`execve(2)`).
//!
//! [`execute`] finds out what a file is (an ELF program, or a script), maps it and its interpreter by [`mm`](crate::mm), lays the first stack
//! out and sets the thread's registers to the entry point. What else `execve(2)` does (ending other threads, closing descriptors, resetting
//! signals) is the caller's.
//!
//! | file | its part |
//! | --- | --- |
//! | [`elf`], [`script`], [`stack`] | formats, without files or memory |
//! | [`place`] | mapping a program's segments |
//! | [`vdso`] | the library that tells the time without a call |
//! | [`error`] | what went wrong, and one line about it for the user |
//! | [`cpu`] | what the processor can do, for the auxiliary vector |

pub mod cpu;
pub mod elf;
pub mod error;
pub mod place;
pub mod script;
pub mod stack;
#[cfg(test)]
mod tests;
pub mod vdso;

use alloc::rc::Rc;
use alloc::vec::Vec;

use crate::fs::{self, Kind, OpenFile, OpenFlags};
use crate::io::Sink;
use crate::mm::layout::Bases;
use crate::mm::{MapFlags, MapRequest, MemoryLimits, Purpose};
use crate::platform::{self, Access};
use crate::process::{Registers, Thread};
use crate::user::PAGE;
use crate::{Errno, Result};
use elf::{Fault, Header, Program};
pub use error::{LoadError, explain};
use stack::at;

/// Scripts that may interpret each other.
const MAX_SCRIPTS: usize = 5;

/// What is mapped of a stack from the start. More is added by faults, up to `RLIMIT_STACK`.
const FIRST_STACK: u64 = 8 << 20;

/// The least that a program gets (`execve(2)` leaves as much free beside the arguments).
const LEAST_STACK: u64 = 128 << 10;

/// How files are found by their path.
type Opener<'a> = &'a dyn Fn(&[u8]) -> Result<Rc<OpenFile>>;

/// Puts a program into the thread's process, in place of what it has, and makes the thread start it. The caller sees to it that the process has no other
/// threads.
///
/// # Errors
/// [`LoadError`]; its [`errno`](LoadError::errno) is the call's. After [`LoadError::Memory`] the old program is gone: the process has to end.
pub fn execute(
    thread: &Rc<Thread>,
    path: &[u8],
    arguments: &[Vec<u8>],
    environment: &[Vec<u8>],
) -> core::result::Result<(), LoadError> {
    let open = |path: &[u8]| {
        let open = fs::open(thread, fs::AT_FDCWD, path, OpenFlags::empty(), 0)?;
        if let Some(place) = &open.place {
            fs::permit(thread, &place.inode, 1)?;
        }
        Ok(open)
    };
    execute_from(thread, &open, path, arguments, environment)
}

/// A program that has been looked at.
struct Candidate {
    path: Vec<u8>,
    open: Rc<OpenFile>,
    header: Header,
    program: Program,
}

fn execute_from(
    thread: &Rc<Thread>,
    open: Opener,
    path: &[u8],
    arguments: &[Vec<u8>],
    environment: &[Vec<u8>],
) -> core::result::Result<(), LoadError> {
    let mut arguments = arguments.to_vec();
    if arguments.is_empty() {
        // Programs rely on there being one (execve(2), notes).
        arguments.push(Vec::new());
    }
    let candidate = find(thread, open, path, &mut arguments)?;
    let interpreter = find_interpreter(thread, open, &candidate)?;
    let limits = MemoryLimits::of(&thread.process);
    let mut random = [0; 16];
    platform::random(&mut random);
    let mut request = stack::Request {
        path,
        arguments: &arguments,
        environment,
        auxiliary: &[],
        random,
    };
    if !stack::fits(&request, stack::room(limits.stack)) {
        return Err(LoadError::TooLong);
    }

    let memory = &thread.process.memory;
    let failed = |errno| LoadError::Memory {
        path: candidate.path.clone(),
        errno,
    };
    memory.clear();
    memory.set_limits(limits);
    platform::kernel().active_memory.set(memory);
    let bases = Bases::random(limits.stack);
    memory.set_search_top(bases.mmap);

    let stack_bottom = map_stack(
        thread,
        &bases,
        limits.stack,
        candidate.program.executable_stack,
    );
    let stack_bottom = stack_bottom.map_err(failed)?;
    let placed = place::place(
        thread,
        &candidate.open,
        &candidate.header,
        &candidate.program,
        Some(bases.program),
    );
    let placed = placed.map_err(failed)?;
    memory.start_heap(placed.end.saturating_add(bases.heap_gap));
    let entry = match &interpreter {
        None => None,
        Some(candidate) => {
            let placed = place::place(
                thread,
                &candidate.open,
                &candidate.header,
                &candidate.program,
                None,
            );
            Some(placed.map_err(failed)?)
        }
    };

    // Programs can do without it.
    let _ = platform::kernel().vdso.map(thread, bases.vdso);
    let auxiliary = auxiliary(thread, &candidate, &placed, entry.as_ref());
    request.auxiliary = &auxiliary;
    let mut offset = [0; 2];
    platform::random(&mut offset);
    let top = bases.stack_top - u64::from(u16::from_le_bytes(offset) & 0x1ff0);
    let stack = stack::build(&request, top);
    if stack.pointer < stack_bottom.saturating_add(LEAST_STACK / 2) {
        return Err(LoadError::TooLong);
    }
    platform::copy_out(stack.pointer, &stack.bytes).map_err(failed)?;
    memory.set_layout(|layout| {
        layout.start_stack = stack.pointer;
        (layout.arg_start, layout.arg_end) = stack.arguments;
        (layout.env_start, layout.env_end) = stack.environment;
        layout.auxv = stack.auxiliary;
        (layout.start_code, layout.end_code) = placed.code;
        (layout.start_data, layout.end_data) = placed.data;
    });

    *thread.process.executable.borrow_mut() = match &candidate.open.place {
        Some(place) => place.path(),
        None => candidate.path.clone(),
    };
    *thread.process.arguments.borrow_mut() = arguments;
    *thread.process.environment.borrow_mut() = environment.to_vec();
    set_name(thread, path);
    thread.fs_base.set(0);
    thread.registers.set(Registers {
        rip: entry.map_or(placed.entry, |placed| placed.entry),
        rsp: stack.pointer,
        // Interrupts enabled, and the bit that is always set.
        rflags: 0x202,
        orig_rax: u64::MAX,
        ..Registers::default()
    });
    Ok(())
}

/// Opens a file and, as long as it is a script, its interpreter; the arguments change with each script.
fn find(
    thread: &Rc<Thread>,
    open: Opener,
    path: &[u8],
    arguments: &mut Vec<Vec<u8>>,
) -> core::result::Result<Candidate, LoadError> {
    let mut name = path.to_vec();
    let mut script: Option<Vec<u8>> = None;
    for _ in 0..=MAX_SCRIPTS {
        let file = open_program(open, &name).map_err(|error| match &script {
            None => error,
            Some(script) => LoadError::Interpreter {
                path: script.clone(),
                interpreter: name.clone(),
                errno: error.errno(),
            },
        })?;
        let start = read_start(thread, &file, script::LINE).map_err(|errno| LoadError::Open {
            path: name.clone(),
            errno,
        })?;
        if let Some(found) = script::parse(&start) {
            let mut changed: Vec<Vec<u8>> = Vec::new();
            changed.push(found.interpreter.to_vec());
            changed.extend(found.argument.map(<[u8]>::to_vec));
            changed.push(name.clone());
            changed.extend(arguments.drain(..).skip(1));
            *arguments = changed;
            let interpreter = found.interpreter.to_vec();
            script = Some(core::mem::replace(&mut name, interpreter));
            continue;
        }
        return inspect(thread, &name, file, &start);
    }
    Err(LoadError::TooDeep {
        path: path.to_vec(),
    })
}

fn open_program(open: Opener, path: &[u8]) -> core::result::Result<Rc<OpenFile>, LoadError> {
    let file = open(path).map_err(|errno| match errno {
        Errno::EACCES | Errno::EISDIR => LoadError::NotExecutable {
            path: path.to_vec(),
        },
        errno => LoadError::Open {
            path: path.to_vec(),
            errno,
        },
    })?;
    match file.file.metadata() {
        Ok(metadata) if metadata.kind == Kind::Regular && metadata.mode & 0o111 != 0 => Ok(file),
        _ => Err(LoadError::NotExecutable {
            path: path.to_vec(),
        }),
    }
}

/// Reads the headers of a program.
fn inspect(
    thread: &Rc<Thread>,
    path: &[u8],
    open: Rc<OpenFile>,
    start: &[u8],
) -> core::result::Result<Candidate, LoadError> {
    let format = |fault| LoadError::Format {
        path: path.to_vec(),
        fault,
    };
    let header = Header::parse(start).map_err(format)?;
    let mut table = alloc::vec![0; header.table_len()];
    let len =
        read_at(thread, &open, header.table, &mut table).map_err(|errno| LoadError::Open {
            path: path.to_vec(),
            errno,
        })?;
    if len < table.len() {
        return Err(format(Fault::Broken("its program headers are cut off")));
    }
    let program = Program::parse(&header, &table).map_err(format)?;
    Ok(Candidate {
        path: path.to_vec(),
        open,
        header,
        program,
    })
}

/// The program that starts this one (`PT_INTERP`), if it names one.
fn find_interpreter(
    thread: &Rc<Thread>,
    open: Opener,
    candidate: &Candidate,
) -> core::result::Result<Option<Candidate>, LoadError> {
    let Some((offset, len)) = candidate.program.interpreter else {
        return Ok(None);
    };
    let nameless = || LoadError::Format {
        path: candidate.path.clone(),
        fault: Fault::Broken("its interpreter has no possible name"),
    };
    let mut name = alloc::vec![0; len as usize];
    let read = read_at(thread, &candidate.open, offset, &mut name);
    if read != Ok(name.len()) || name.pop() != Some(0) {
        return Err(nameless());
    }
    if let Some(end) = name.iter().position(|&byte| byte == 0) {
        name.truncate(end);
    }
    let unusable = |errno| LoadError::Interpreter {
        path: candidate.path.clone(),
        interpreter: name.clone(),
        errno,
    };
    let file = open_program(open, &name).map_err(|error| unusable(error.errno()))?;
    let start = read_start(thread, &file, elf::HEADER_LEN).map_err(unusable)?;
    let found = inspect(thread, &name, file, &start).map_err(|_| unusable(Errno::ELIBBAD))?;
    Ok(Some(found))
}

/// The first `len` bytes of a file, or fewer if it is shorter.
fn read_start(thread: &Rc<Thread>, open: &Rc<OpenFile>, len: usize) -> Result<Vec<u8>> {
    let mut bytes = alloc::vec![0; len];
    let read = read_at(thread, open, 0, &mut bytes)?;
    bytes.truncate(read);
    Ok(bytes)
}

/// Fills `to` from a file as far as it goes; returns how much.
fn read_at(thread: &Rc<Thread>, open: &Rc<OpenFile>, offset: u64, to: &mut [u8]) -> Result<usize> {
    let mut done = 0;
    while let Some(rest) = to.get_mut(done..)
        && !rest.is_empty()
    {
        let at = offset.checked_add(done as u64).ok_or(Errno::EINVAL)?;
        if at > i64::MAX as u64 {
            break;
        }
        match open.file.read_at(thread, at, &mut Sink::kernel(rest))? {
            0 => break,
            more => done += more,
        }
    }
    Ok(done)
}

/// Maps the first part of the stack; returns its lowest address.
fn map_stack(thread: &Rc<Thread>, bases: &Bases, limit: u64, executable: bool) -> Result<u64> {
    let len = limit.clamp(LEAST_STACK, FIRST_STACK) & !(PAGE - 1);
    // The strings may need a quarter of the limit beside what is used below them.
    let mut access = Access::READ | Access::WRITE;
    access.set(Access::EXEC, executable);
    thread.process.memory.map(
        thread,
        &MapRequest {
            at: bases.stack_top - len,
            len,
            access,
            flags: MapFlags::PRIVATE | MapFlags::ANONYMOUS | MapFlags::FIXED | MapFlags::GROWSDOWN,
            file: None,
            purpose: Purpose::Stack,
        },
    )
}

fn auxiliary(
    thread: &Rc<Thread>,
    candidate: &Candidate,
    placed: &place::Placed,
    interpreter: Option<&place::Placed>,
) -> Vec<(u64, u64)> {
    /// `sysconf(_SC_CLK_TCK)`
    const TICKS: u64 = 100;
    let who = thread.process.credentials.borrow().clone();
    let secure = who.uid != who.euid || who.gid != who.egid;
    let processor = cpu::Processor::ask();
    let mut all = Vec::new();
    let vdso = thread.process.memory.layout().vdso;
    if vdso != 0 {
        all.push((at::SYSINFO_EHDR, vdso));
    }
    all.extend([
        (at::MINSIGSTKSZ, processor.signal_stack),
        (at::HWCAP, processor.features),
        (at::PAGESZ, PAGE),
        (at::CLKTCK, TICKS),
        (
            at::PHDR,
            placed.bias.wrapping_add(candidate.program.headers),
        ),
        (at::PHENT, elf::ENTRY_LEN as u64),
        (at::PHNUM, candidate.header.count.into()),
        (at::BASE, interpreter.map_or(0, |placed| placed.bias)),
        (at::FLAGS, 0),
        (at::ENTRY, placed.entry),
        (at::UID, who.uid.into()),
        (at::EUID, who.euid.into()),
        (at::GID, who.gid.into()),
        (at::EGID, who.egid.into()),
        (at::SECURE, secure.into()),
        (at::HWCAP2, processor.more_features),
        (at::RSEQ_FEATURE_SIZE, 28),
        (at::RSEQ_ALIGN, 32),
    ]);
    all
}

/// The thread's name is the last part of the path (`prctl(PR_GET_NAME)`).
fn set_name(thread: &Rc<Thread>, path: &[u8]) {
    let last = path.rsplit(|&byte| byte == b'/').next().unwrap_or_default();
    let mut name = [0; 16];
    for (to, from) in name.iter_mut().take(15).zip(last) {
        *to = *from;
    }
    *thread.name.borrow_mut() = name;
}
