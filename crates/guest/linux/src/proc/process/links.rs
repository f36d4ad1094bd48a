//! `/proc/PID/cwd`, `root` and `exe`: links to where a process is.

use alloc::rc::Rc;

use crate::fs::{self, Place};
use crate::proc::pseudo::{Subject, Text};
use crate::process::Thread;
use crate::{Errno, Result, put};

pub(super) fn cwd(_: &Rc<Thread>, subject: Subject) -> Result<Option<Place>> {
    Ok(subject.process()?.fs.cwd.borrow().clone())
}

pub(super) fn cwd_text(thread: &Rc<Thread>, subject: Subject, text: &mut Text) -> Result {
    match cwd(thread, subject)? {
        Some(place) => text.bytes(&place.seen_by(thread)),
        None => put!(text, "/"),
    }
    Ok(())
}

pub(super) fn root(_: &Rc<Thread>, subject: Subject) -> Result<Option<Place>> {
    Ok(subject.process()?.fs.root.borrow().clone())
}

pub(super) fn root_text(thread: &Rc<Thread>, subject: Subject, text: &mut Text) -> Result {
    match root(thread, subject)? {
        Some(place) => text.bytes(&place.seen_by(thread)),
        None => put!(text, "/"),
    }
    Ok(())
}

pub(super) fn exe(thread: &Rc<Thread>, subject: Subject) -> Result<Option<Place>> {
    let path = subject.process()?.executable.borrow().clone();
    if path.is_empty() {
        return Err(Errno::ENOENT);
    }
    // What the program was started as may be a link, and it may have been removed since; then its text is all there is.
    Ok(fs::resolve(thread, fs::AT_FDCWD, &path, fs::Walk::FOLLOW).ok())
}

pub(super) fn exe_text(thread: &Rc<Thread>, subject: Subject, text: &mut Text) -> Result {
    match exe(thread, subject)? {
        Some(place) => text.bytes(&place.seen_by(thread)),
        None => text.bytes(&subject.process()?.executable.borrow()),
    }
    Ok(())
}
