//! Starting programs, made up ones and the host's.

use alloc::collections::BTreeMap;
use alloc::rc::Rc;
use alloc::vec;
use alloc::vec::Vec;
use core::any::Any;

use super::elf::tests::{entry, file};
use super::*;
use crate::fs::{File, Mapped, Metadata};
use crate::platform::pretend;
use crate::user::UserAddr;

/// A file in memory.
struct Bytes {
    bytes: Vec<u8>,
    mode: u32,
}

impl File for Bytes {
    fn metadata(&self) -> Result<Metadata> {
        Ok(Metadata {
            kind: Kind::Regular,
            mode: self.mode,
            size: self.bytes.len() as u64,
            ..Metadata::default()
        })
    }
    fn read_at(&self, _thread: &Rc<Thread>, offset: u64, to: &mut Sink) -> Result<usize> {
        let from = usize::try_from(offset).ok();
        to.put(from.and_then(|at| self.bytes.get(at..)).unwrap_or_default())
    }
    fn map(&self, _shared: bool) -> Result<Mapped> {
        Ok(Mapped::Copy)
    }
    fn describe(&self) -> Vec<u8> {
        b"/in/memory".to_vec()
    }
    fn as_any(&self) -> &dyn Any {
        self
    }
}

/// Files by their path.
#[derive(Default)]
struct Files(BTreeMap<Vec<u8>, (Vec<u8>, u32)>);

impl Files {
    fn with(mut self, path: &str, bytes: &[u8]) -> Self {
        self.0.insert(path.into(), (bytes.to_vec(), 0o755));
        self
    }

    fn start(&self, path: &str, arguments: &[&str]) -> core::result::Result<Rc<Thread>, LoadError> {
        pretend::reset();
        let thread = crate::kernel().processes.first();
        let open = |path: &[u8]| {
            let (bytes, mode) = self.0.get(path).cloned().ok_or(Errno::ENOENT)?;
            Ok(OpenFile::new(
                Rc::new(Bytes { bytes, mode }),
                OpenFlags::empty(),
            ))
        };
        let arguments: Vec<Vec<u8>> = arguments
            .iter()
            .map(|text| text.as_bytes().into())
            .collect();
        execute_from(
            &thread,
            &open,
            path.as_bytes(),
            &arguments,
            &[b"HOME=/".to_vec()],
        )?;
        Ok(thread)
    }
}

/// A program with text at 0x401000 and data at 0x403000, a page of which comes from the file in part.
fn program(kind: u16, base: u64, interpreter: Option<&[u8]>) -> Vec<u8> {
    let mut table = vec![
        entry(1, 5, 0x1000, base + 0x1000, (0x1000, 0x1000), 0x1000),
        entry(1, 6, 0x2000, base + 0x3000, (0x100, 0x2800), 0x1000),
    ];
    let mut rest = vec![0xc3; 0x1000];
    rest.extend(vec![7; 0x100]);
    rest.extend(vec![9; 0x700]);
    if let Some(name) = interpreter {
        table.push(entry(
            3,
            4,
            0x1000 + rest.len() as u64,
            0,
            (name.len() as u64, 0),
            1,
        ));
        rest.extend_from_slice(name);
    }
    file(kind, base + 0x1010, &table, &rest)
}

fn argument(thread: &Rc<Thread>, index: u64) -> Vec<u8> {
    let stack = UserAddr(thread.registers.get().rsp);
    let at: u64 = stack.add(8 + 8 * index).read().unwrap();
    UserAddr(at).read_string(4096).unwrap()
}

fn auxiliary(thread: &Rc<Thread>, kind: u64) -> u64 {
    let auxv = thread.process.memory.layout().auxv;
    let found = auxv.chunks(2).find(|entry| entry[0] == kind);
    found.unwrap()[1]
}

#[test]
fn a_static_program_starts_at_its_own_addresses() {
    let files = Files::default().with("/bin/it", &program(2, 0x40_0000, None));
    let thread = files.start("/bin/it", &["it", "-v"]).unwrap();
    let registers = thread.registers.get();
    assert_eq!(registers.rip, 0x40_1010);
    assert_eq!(registers.rsp % 16, 0);
    assert_eq!(UserAddr(registers.rsp).read::<u64>(), Ok(2));
    assert_eq!(argument(&thread, 1), b"-v");
    assert_eq!(argument(&thread, 3), b"HOME=/");
    assert_eq!(UserAddr(0x40_1010).read::<u8>(), Ok(0xc3));
    // Behind what the file has there are zeroes, on the same page and on those behind it.
    assert_eq!(UserAddr(0x40_30ff).read::<u8>(), Ok(7));
    assert_eq!(UserAddr(0x40_3100).read::<u8>(), Ok(0));
    assert_eq!(UserAddr(0x40_57ff).read::<u8>(), Ok(0));
    assert_eq!(UserAddr(0x40_1000).write(1_u8), Err(Errno::EFAULT));
    assert_eq!(auxiliary(&thread, at::ENTRY), 0x40_1010);
    assert_eq!(auxiliary(&thread, at::BASE), 0);
    assert_eq!(&thread.name.borrow()[..3], b"it\0");
    let heap = thread.process.memory.heap();
    assert!(heap.start >= 0x40_6000 && heap.start < 0x40_6000 + (64 << 20));
}

#[test]
fn a_position_independent_program_starts_in_its_interpreter() {
    let files = Files::default()
        .with("/bin/it", &program(3, 0, Some(b"/lib/ld.so\0")))
        .with("/lib/ld.so", &program(3, 0, None));
    let thread = files.start("/bin/it", &["it"]).unwrap();
    let entry = auxiliary(&thread, at::ENTRY);
    assert!(entry >= crate::mm::layout::PROGRAM_BASE);
    let base = auxiliary(&thread, at::BASE);
    assert_eq!(thread.registers.get().rip, base + 0x1010);
    assert!(base > entry);
    assert_eq!(auxiliary(&thread, at::PHNUM), 3);
    let again = files.start("/bin/it", &["it"]).unwrap();
    assert_ne!(auxiliary(&again, at::ENTRY), entry);
    assert_ne!(again.registers.get().rsp, thread.registers.get().rsp);
}

#[test]
fn a_script_is_started_by_its_interpreter() {
    let files = Files::default()
        .with("/bin/sh", &program(2, 0x40_0000, None))
        .with("/s", b"#! /bin/sh -e x\ntrue\n")
        .with("/t", b"#!/s\n");
    let thread = files.start("/t", &["whatever", "a"]).unwrap();
    let arguments = thread.process.arguments.borrow().clone();
    let expected: [&[u8]; 5] = [b"/bin/sh", b"-e x", b"/s", b"/t", b"a"];
    assert_eq!(arguments, expected);
    assert_eq!(&*thread.process.executable.borrow(), b"/bin/sh");
    assert_eq!(&thread.name.borrow()[..2], b"t\0");
}

fn refusal(files: &Files, path: &str) -> LoadError {
    files.start(path, &["x"]).unwrap_err()
}

#[test]
fn what_cannot_be_started_is_refused_with_a_reason() {
    let mut arm = program(2, 0x40_0000, None);
    arm[18] = 183;
    let mut files = Files::default()
        .with("/text", b"hello")
        .with("/arm", &arm)
        .with("/dynamic", &program(3, 0, Some(b"/lib/ld.so\0")))
        .with("/odd", &program(3, 0, Some(b"/arm\0")))
        .with("/unnamed", &program(3, 0, Some(b"/lib/ld.so")))
        .with("/script", b"#!/usr/bin/nothing\n")
        .with("/loop", b"#!/loop\n")
        .with("/empty", b"")
        .with("/private", &arm);
    files.0.get_mut(&b"/private"[..]).unwrap().1 = 0o644;
    let cases = [
        ("/missing", Errno::ENOENT, "no such file"),
        ("/private", Errno::EACCES, "not an executable"),
        ("/text", Errno::ENOEXEC, "neither an ELF"),
        ("/empty", Errno::ENOEXEC, "neither an ELF"),
        ("/arm", Errno::ENOEXEC, "64-bit ARM"),
        (
            "/dynamic",
            Errno::ENOENT,
            "needs the interpreter /lib/ld.so",
        ),
        ("/odd", Errno::ELIBBAD, "not a program for this machine"),
        ("/unnamed", Errno::EINVAL, "interpreter"),
        (
            "/script",
            Errno::ENOENT,
            "needs the interpreter /usr/bin/nothing",
        ),
        ("/loop", Errno::ELOOP, "too deeply"),
    ];
    for (path, errno, text) in cases {
        let error = refusal(&files, path);
        assert_eq!(error.errno(), errno, "{path}");
        let line = explain(&error);
        assert!(line.contains(text) && !line.contains('\n'), "{line}");
    }
}

#[test]
fn arguments_may_be_many_but_not_too_many() {
    let files = Files::default().with("/bin/it", &program(2, 0x40_0000, None));
    let long = "x".repeat(100_000);
    let many = vec![&*long; 15];
    assert!(files.start("/bin/it", &many).is_ok());
    let too_many = vec![&*long; 70];
    assert_eq!(
        files.start("/bin/it", &too_many).unwrap_err(),
        LoadError::TooLong
    );
    let thread = files.start("/bin/it", &[]).unwrap();
    assert_eq!(argument(&thread, 0), b"");
}

#[test]
fn segments_may_share_pages_but_not_with_the_stack() {
    let table = [
        entry(1, 5, 0x1000, 0x40_1000, (0x1800, 0x1800), 0x1000),
        entry(1, 6, 0x1800, 0x40_2800, (0x100, 0x100), 0x1000),
    ];
    let all = [entry(
        1,
        6,
        0x1000,
        0x1_0000,
        (0x1000, 0x6fff_f000_0000),
        0x1000,
    )];
    let low = [entry(1, 5, 0x1000, 0, (0x1000, 0x1000), 0x1000)];
    let rest = [7; 0x2000];
    let files = Files::default()
        .with("/meeting", &file(2, 0x40_1000, &table, &rest))
        .with("/all", &file(2, 0x40_1000, &all, &rest))
        .with("/low", &file(2, 0, &low, &rest));
    let thread = files.start("/meeting", &["x"]).unwrap();
    assert_eq!(UserAddr(0x40_2800).write(1_u8), Ok(()));
    let late = thread.process.memory.region(0x40_2000).unwrap();
    assert_eq!(late.start, 0x40_2000);
    for path in ["/all", "/low"] {
        assert_eq!(refusal(&files, path).errno(), Errno::EEXIST);
    }
}

#[test]
fn programs_of_the_host_can_be_placed() {
    let mut files = Files::default();
    for path in ["/bin/true", "/lib64/ld-linux-x86-64.so.2", "/bin/busybox"] {
        if let Ok(bytes) = std::fs::read(path) {
            files = files.with(path, &bytes);
        }
    }
    for path in ["/bin/true", "/bin/busybox"] {
        if !files.0.contains_key(path.as_bytes()) {
            continue;
        }
        match files.start(path, &[path]) {
            Ok(thread) => {
                let rip = thread.registers.get().rip;
                let region = thread.process.memory.region(rip).unwrap();
                assert!(region.access.contains(Access::EXEC));
                let headers = UserAddr(auxiliary(&thread, at::PHDR));
                assert!(headers.read::<u32>().is_ok());
            }
            // Another C library's loader.
            Err(error) => assert_eq!(error.errno(), Errno::ENOENT),
        }
    }
}
