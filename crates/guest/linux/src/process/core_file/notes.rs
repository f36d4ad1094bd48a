//! The notes of a core file: registers, the signal, the auxiliary vector, mapped files (`elf.h`, `linux/elfcore.h`).

use alloc::rc::Rc;
use alloc::vec;
use alloc::vec::Vec;

use crate::mm::dump::FilePiece;
use crate::platform;
use crate::process::{Thread, trace};
use crate::signal::Info;
use crate::time::Timeval;
use crate::user::{PAGE, bytes_of};

const PRSTATUS: u32 = 1;
const FPREGSET: u32 = 2;
const PRPSINFO: u32 = 3;
const AUXV: u32 = 6;
const SIGINFO: u32 = 0x5349_4749;
const FILE: u32 = 0x4649_4c45;

/// Bytes of `struct elf_prstatus`, and where its registers are.
const STATUS_LEN: usize = 336;
const REGISTERS_AT: usize = 112;
/// Bytes of the FPU state that every processor has.
const LEGACY: usize = 512;
/// Bytes of `struct elf_prpsinfo`.
const PSINFO_LEN: usize = 136;

/// All notes, one behind the other: first those of the thread that has met the signal.
pub fn all(thread: &Rc<Thread>, info: &Info, files: &[FilePiece]) -> Vec<u8> {
    let mut notes = Vec::new();
    registers(&mut notes, thread, info);
    add(&mut notes, PRPSINFO, &process_info(thread));
    add(&mut notes, SIGINFO, bytes_of(info));
    let auxiliary = thread.process.memory.layout().auxv;
    let bytes: Vec<u8> = auxiliary
        .iter()
        .flat_map(|word| word.to_le_bytes())
        .collect();
    add(&mut notes, AUXV, &bytes);
    add(&mut notes, FILE, &mapped(files));
    for other in thread.process.all_threads() {
        if !Rc::ptr_eq(&other, thread) {
            registers(&mut notes, &other, info);
        }
    }
    notes
}

/// One note: lengths, kind, name and content, each filled up to four bytes.
fn add(notes: &mut Vec<u8>, kind: u32, content: &[u8]) {
    const NAME: &[u8] = b"CORE\0\0\0\0";
    const NAME_LEN: u32 = 5;
    for word in [NAME_LEN, content.len() as u32, kind] {
        notes.extend(word.to_le_bytes());
    }
    notes.extend(NAME);
    notes.extend(content);
    notes.resize(notes.len().next_multiple_of(4), 0);
}

/// A record that is filled field by field.
struct Record(Vec<u8>);

impl Record {
    fn put(&mut self, at: usize, bytes: &[u8]) {
        if let Some(to) = self.0.get_mut(at..at + bytes.len()) {
            to.copy_from_slice(bytes);
        }
    }
}

/// `NT_PRSTATUS` and `NT_FPREGSET` of a thread.
fn registers(notes: &mut Vec<u8>, thread: &Thread, info: &Info) {
    let process = &thread.process;
    let mut status = Record(vec![0; STATUS_LEN]);
    for (at, word) in [(0, info.number), (4, info.code), (8, info.errno)] {
        status.put(at, &word.to_le_bytes());
    }
    status.put(12, &(info.signal() as u16).to_le_bytes());
    status.put(16, &thread.signals.pending.set().to_le_bytes());
    status.put(24, &thread.signals.blocked.get().to_le_bytes());
    let numbers = [
        thread.tid,
        process.parent.get(),
        process.group.get(),
        process.session.get(),
    ];
    status.put(32, bytes_of(&numbers));
    let used = Timeval::from_nanos(thread.used.get());
    status.put(48, bytes_of(&used));
    status.put(REGISTERS_AT, bytes_of(&trace::registers(thread)));
    // There is an FPU state.
    status.put(STATUS_LEN - 8, &1u32.to_le_bytes());
    add(notes, PRSTATUS, &status.0);
    let mut state = vec![0; LEGACY];
    platform::fpu_state(thread, &mut state);
    add(notes, FPREGSET, &state);
}

/// `struct elf_prpsinfo`.
fn process_info(thread: &Thread) -> Vec<u8> {
    const NAME_LEN: usize = 16;
    const ARGUMENTS_LEN: usize = 79;
    let process = &thread.process;
    let (uid, gid) = {
        let ids = process.credentials.borrow();
        (ids.uid, ids.gid)
    };
    let mut record = Record(vec![0; PSINFO_LEN]);
    record.put(1, b"R");
    record.put(3, &thread.nice.get().to_le_bytes());
    let numbers = [
        uid,
        gid,
        process.pid,
        process.parent.get(),
        process.group.get(),
        process.session.get(),
    ];
    record.put(16, bytes_of(&numbers));
    let name = *thread.name.borrow();
    record.put(40, &name);
    let mut arguments = process.arguments.borrow().join(&b' ');
    arguments.truncate(ARGUMENTS_LEN);
    record.put(40 + NAME_LEN, &arguments);
    record.0
}

/// `NT_FILE`: which files are mapped where.
fn mapped(files: &[FilePiece]) -> Vec<u8> {
    let mut words = vec![files.len() as u64, PAGE];
    for file in files {
        words.extend([file.start, file.end, file.offset / PAGE]);
    }
    let mut bytes: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
    for file in files {
        bytes.extend(&file.path);
        bytes.push(0);
    }
    bytes
}
