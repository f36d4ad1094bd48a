//! `/proc/PID` and `/proc/PID/task/TID` (`proc(5)`): the table of their files, and the short ones.

mod descriptors;
mod links;
mod mounts;
mod status;
#[cfg(test)]
mod tests;

use alloc::format;
use alloc::rc::Rc;
use alloc::string::String;
use alloc::vec::Vec;

use super::memory;
use super::pseudo::{
    Named, Node, Subject, Text, entry, file, fixed, folder, jump, link, listed, parse, writable,
};
use crate::process::Thread;
use crate::{Errno, Result, put};

/// The folder of a process.
pub static FOLDER: Named = entry("PID", 0o555, Node::Folder(PROCESS, None));
static THREAD_FOLDER: Named = entry("TID", 0o555, Node::Folder(THREAD, None));

/// What processes and threads both have, in front of the entries given.
macro_rules! with_common {
    ($($more:expr),* $(,)?) => {
        &[
            file("auxv", memory::auxv),
            file("cgroup", cgroup),
            file("cmdline", cmdline),
            writable("comm", comm, set_comm),
            jump("cwd", links::cwd_text, links::cwd),
            file("environ", environ),
            jump("exe", links::exe_text, links::exe),
            listed("fd", &[], descriptors::names, descriptors::find),
            listed("fdinfo", &[], descriptors::names, descriptors::find_info),
            file("io", io),
            file("limits", limits),
            fixed("loginuid", "4294967295"),
            file("maps", memory::maps),
            file("mountinfo", mounts::mountinfo),
            file("mounts", mounts::mounts),
            folder("ns", NAMESPACES),
            folder("net", super::system::NET),
            writable("oom_adj", zero, ignore),
            fixed("oom_score", "0\n"),
            writable("oom_score_adj", oom_score_adj, set_oom_score_adj),
            fixed("personality", "00000000\n"),
            jump("root", links::root_text, links::root),
            fixed("sessionid", "4294967295"),
            fixed("setgroups", "allow\n"),
            fixed("gid_map", "         0          0 4294967295\n"),
            fixed("uid_map", "         0          0 4294967295\n"),
            file("smaps", memory::smaps),
            file("smaps_rollup", memory::smaps_rollup),
            file("stat", status::stat),
            file("statm", status::statm),
            file("status", status::status),
            fixed("wchan", "0"),
            $($more),*
        ]
    };
}

const PROCESS: &[Named] = with_common![listed("task", &[], task_names, task_find)];
const THREAD: &[Named] = with_common![];

macro_rules! namespace {
    ($name:literal, $number:literal) => {
        link(
            $name,
            |_: &Rc<Thread>, _: Subject, text: &mut Text| -> Result {
                put!(text, concat!($name, ":[", $number, "]"));
                Ok(())
            },
        )
    };
}

const NAMESPACES: &[Named] = &[
    namespace!("cgroup", "4026531835"),
    namespace!("ipc", "4026531839"),
    namespace!("mnt", "4026531841"),
    namespace!("net", "4026531840"),
    namespace!("pid", "4026531836"),
    namespace!("time", "4026531834"),
    namespace!("user", "4026531837"),
    namespace!("uts", "4026531838"),
];

fn zero(_: &Rc<Thread>, _: Subject, text: &mut Text) -> Result {
    put!(text, "0\n");
    Ok(())
}

fn ignore(_: &Rc<Thread>, _: Subject, _: &[u8]) -> Result {
    Ok(())
}

fn task_names(subject: Subject) -> Vec<Vec<u8>> {
    let Ok(process) = subject.process() else {
        return Vec::new();
    };
    let threads = process.threads.borrow();
    threads
        .keys()
        .map(|tid| format!("{tid}").into_bytes())
        .collect()
}

fn task_find(subject: Subject, name: &[u8]) -> Option<(Subject, &'static Named)> {
    let tid = parse(name)?;
    let process = subject.process().ok()?;
    let there = process.threads.borrow().contains_key(&tid);
    there.then_some((Subject { tid, ..subject }, &THREAD_FOLDER))
}

fn cmdline(_: &Rc<Thread>, subject: Subject, text: &mut Text) -> Result {
    for argument in &*subject.process()?.arguments.borrow() {
        text.bytes(argument);
        text.bytes(&[0]);
    }
    Ok(())
}

fn environ(_: &Rc<Thread>, subject: Subject, text: &mut Text) -> Result {
    for variable in &*subject.process()?.environment.borrow() {
        text.bytes(variable);
        text.bytes(&[0]);
    }
    Ok(())
}

fn cgroup(_: &Rc<Thread>, _: Subject, text: &mut Text) -> Result {
    put!(text, "0::/\n");
    Ok(())
}

/// The thread's name, or its program's.
fn name_of(thread: &Thread) -> String {
    let name = thread.name_text();
    if !name.is_empty() {
        return name;
    }
    let path = thread.process.executable.borrow();
    let last = path.rsplit(|&byte| byte == b'/').next().unwrap_or_default();
    let last = last.get(..last.len().min(15)).unwrap_or_default();
    String::from_utf8_lossy(last).into_owned()
}

fn comm(_: &Rc<Thread>, subject: Subject, text: &mut Text) -> Result {
    put!(text, "{}\n", name_of(&*subject.thread()?));
    Ok(())
}

fn set_comm(_: &Rc<Thread>, subject: Subject, bytes: &[u8]) -> Result {
    let thread = subject.thread()?;
    let mut name = [0; 16];
    let bytes = bytes.strip_suffix(b"\n").unwrap_or(bytes);
    let len = bytes.len().min(15);
    name[..len].copy_from_slice(&bytes[..len]);
    thread.name.replace(name);
    Ok(())
}

fn io(_: &Rc<Thread>, _: Subject, text: &mut Text) -> Result {
    for name in [
        "rchar",
        "wchar",
        "syscr",
        "syscw",
        "read_bytes",
        "write_bytes",
        "cancelled_write_bytes",
    ] {
        put!(text, "{name}: 0\n");
    }
    Ok(())
}

const LIMITS: [(&str, &str); 16] = [
    ("Max cpu time", "seconds"),
    ("Max file size", "bytes"),
    ("Max data size", "bytes"),
    ("Max stack size", "bytes"),
    ("Max core file size", "bytes"),
    ("Max resident set", "bytes"),
    ("Max processes", "processes"),
    ("Max open files", "files"),
    ("Max locked memory", "bytes"),
    ("Max address space", "bytes"),
    ("Max file locks", "locks"),
    ("Max pending signals", "signals"),
    ("Max msgqueue size", "bytes"),
    ("Max nice priority", ""),
    ("Max realtime priority", ""),
    ("Max realtime timeout", "us"),
];

fn limits(_: &Rc<Thread>, subject: Subject, text: &mut Text) -> Result {
    let process = subject.process()?;
    let limits = process.limits.borrow();
    let show = |value: u64| match value {
        u64::MAX => String::from("unlimited"),
        value => format!("{value}"),
    };
    put!(
        text,
        "{:<26}{:<21}{:<21}{:<10}\n",
        "Limit",
        "Soft Limit",
        "Hard Limit",
        "Units"
    );
    for ((name, unit), &(soft, hard)) in LIMITS.iter().zip(limits.iter()) {
        put!(
            text,
            "{name:<26}{:<21}{:<21}{unit:<10}\n",
            show(soft),
            show(hard)
        );
    }
    Ok(())
}

fn oom_score_adj(_: &Rc<Thread>, _: Subject, text: &mut Text) -> Result {
    put!(text, "{}\n", crate::kernel().proc.oom_score_adj.get());
    Ok(())
}

fn set_oom_score_adj(_: &Rc<Thread>, _: Subject, bytes: &[u8]) -> Result {
    let text = core::str::from_utf8(bytes).map_err(|_| Errno::EINVAL)?;
    let value: i32 = text.trim().parse().map_err(|_| Errno::EINVAL)?;
    if !(-1000..=1000).contains(&value) {
        return Err(Errno::EINVAL);
    }
    crate::kernel().proc.oom_score_adj.set(value);
    Ok(())
}
