//! `/proc/PID/fd` and `/proc/PID/fdinfo`: the descriptors of a process.

use alloc::format;
use alloc::rc::Rc;
use alloc::vec::Vec;

use crate::fs::{self, OpenFile, Place};
use crate::proc::pseudo::{Named, Node, Subject, Text, entry, parse};
use crate::process::Thread;
use crate::{Errno, Result, put};

static FD: Named = entry("FD", 0o700, Node::Link(text_of, Some(place)));
static FDINFO: Named = entry("FD", 0o400, Node::File(info, None));

pub(super) fn names(subject: Subject) -> Vec<Vec<u8>> {
    let Ok(process) = subject.process() else {
        return Vec::new();
    };
    let numbers = process.files.numbers();
    numbers
        .iter()
        .map(|fd| format!("{fd}").into_bytes())
        .collect()
}

fn descriptor(subject: Subject, name: &[u8]) -> Option<Subject> {
    let number = i32::try_from(parse(name)?).ok()?;
    subject.process().ok()?.files.get(number).ok()?;
    Some(Subject { number, ..subject })
}

pub(super) fn find(subject: Subject, name: &[u8]) -> Option<(Subject, &'static Named)> {
    Some((descriptor(subject, name)?, &FD))
}

pub(super) fn find_info(subject: Subject, name: &[u8]) -> Option<(Subject, &'static Named)> {
    Some((descriptor(subject, name)?, &FDINFO))
}

fn open_of(subject: Subject) -> Result<Rc<OpenFile>> {
    let process = subject.process()?;
    process.files.get(subject.number).map_err(|_| Errno::ENOENT)
}

fn text_of(thread: &Rc<Thread>, subject: Subject, text: &mut Text) -> Result {
    let open = open_of(subject)?;
    match &open.place {
        Some(place) => text.bytes(&place.seen_by(thread)),
        None => text.bytes(&open.file.describe()),
    }
    Ok(())
}

fn place(_: &Rc<Thread>, subject: Subject) -> Result<Option<Place>> {
    fs::place_of(&open_of(subject)?).map(Some)
}

fn info(_: &Rc<Thread>, subject: Subject, text: &mut Text) -> Result {
    let process = subject.process()?;
    let found = process.files.descriptor(subject.number);
    let descriptor = found.map_err(|_| Errno::ENOENT)?;
    let open = &descriptor.open;
    let mut flags = open.flags.get().bits();
    if descriptor.close_on_exec {
        flags |= fs::OpenFlags::CLOEXEC.bits();
    }
    put!(
        text,
        "pos:\t{}\nflags:\t0{flags:o}\nmnt_id:\t{}\n",
        open.offset.get(),
        open.place.as_ref().map_or(14, |place| place.mount().id)
    );
    put!(
        text,
        "ino:\t{}\n",
        open.file.metadata().map_or(0, |metadata| metadata.inode)
    );
    Ok(())
}
