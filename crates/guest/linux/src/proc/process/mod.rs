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
            folder("attr", ATTRIBUTES),
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
            file("sched", status::sched),
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

const PROCESS: &[Named] = with_common![
    writable("coredump_filter", dump_filter, set_dump_filter),
    listed("task", &[], task_names, task_find),
    entry(
        "timerslack_ns",
        0o666,
        Node::File(timer_slack, Some(set_timer_slack)),
    ),
];
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

/// Labels of a security module, of which there is none: Linux then fails to read and to write them.
const ATTRIBUTES: &[Named] = &[
    label("current"),
    label("exec"),
    label("fscreate"),
    label("keycreate"),
    file("prev", no_label),
    label("sockcreate"),
];

const fn label(name: &'static str) -> Named {
    entry(name, 0o666, Node::File(no_label, Some(no_new_label)))
}

fn no_label(_: &Rc<Thread>, _: Subject, _: &mut Text) -> Result {
    Err(Errno::EINVAL)
}

fn no_new_label(_: &Rc<Thread>, _: Subject, _: &[u8]) -> Result {
    Err(Errno::EINVAL)
}

/// A number as the kernel reads them: hexadecimal behind `0x`, octal behind `0`.
fn number(bytes: &[u8]) -> Result<u64> {
    let text = core::str::from_utf8(bytes).map_err(|_| Errno::EINVAL)?;
    let text = text.strip_suffix('\n').unwrap_or(text);
    let digits = text.strip_prefix("0x").or_else(|| text.strip_prefix("0X"));
    let number = match (digits, text.strip_prefix('0')) {
        (Some(digits), _) => u64::from_str_radix(digits, 16),
        (None, Some(digits)) if !digits.is_empty() => u64::from_str_radix(digits, 8),
        _ => text.parse(),
    };
    number.map_err(|_| Errno::EINVAL)
}

fn dump_filter(_: &Rc<Thread>, subject: Subject, text: &mut Text) -> Result {
    let process = subject.process()?;
    put!(text, "{:08x}\n", process.attributes.dump_filter.get());
    Ok(())
}

fn set_dump_filter(_: &Rc<Thread>, subject: Subject, bytes: &[u8]) -> Result {
    let filter = u32::try_from(number(bytes)?).map_err(|_| Errno::ERANGE)?;
    // What nothing stands for is not kept.
    let filter = filter & crate::process::DUMP_FILTERS;
    subject.process()?.attributes.dump_filter.set(filter);
    Ok(())
}

fn timer_slack(_: &Rc<Thread>, subject: Subject, text: &mut Text) -> Result {
    put!(text, "{}\n", subject.thread()?.timer_slack.get());
    Ok(())
}

fn set_timer_slack(thread: &Rc<Thread>, subject: Subject, bytes: &[u8]) -> Result {
    const CAP_SYS_NICE: u32 = 23;
    let text = core::str::from_utf8(bytes).map_err(|_| Errno::EINVAL)?;
    let slack: u64 = text.trim().parse().map_err(|_| Errno::EINVAL)?;
    let subject = subject.thread()?;
    let own = Rc::ptr_eq(&subject, thread);
    if !own && !thread.process.credentials.borrow().can(CAP_SYS_NICE) {
        return Err(Errno::EPERM);
    }
    subject
        .timer_slack
        .set(if slack == 0 { 50_000 } else { slack });
    Ok(())
}

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
