//! `/proc/PID` and `/proc/PID/task/TID` (`proc(5)`).

use alloc::format;
use alloc::rc::Rc;
use alloc::string::String;
use alloc::vec::Vec;

use super::memory;
use super::pseudo::{
    Named, Node, Subject, Text, entry, file, fixed, folder, jump, link, listed, parse, writable,
};
use crate::fs::{self, OpenFile, Place};
use crate::process::limits::Resource;
use crate::process::{Process, RunState, Thread};
use crate::signal;
use crate::signal::action::{DEFAULT, IGNORE};
use crate::{Errno, Result, put};

/// The folder of a process.
pub static FOLDER: Named = entry("PID", 0o555, Node::Folder(PROCESS, None));
static THREAD_FOLDER: Named = entry("TID", 0o555, Node::Folder(THREAD, None));
static FD: Named = entry("FD", 0o700, Node::Link(fd_text, Some(fd_place)));
static FDINFO: Named = entry("FD", 0o400, Node::File(fd_info, None));

/// What processes and threads both have, in front of the entries given.
macro_rules! with_common {
    ($($more:expr),* $(,)?) => {
        &[
            file("auxv", memory::auxv),
            file("cgroup", cgroup),
            file("cmdline", cmdline),
            writable("comm", comm, set_comm),
            jump("cwd", cwd_text, cwd),
            file("environ", environ),
            jump("exe", exe_text, exe),
            listed("fd", &[], fd_names, fd_find),
            listed("fdinfo", &[], fd_names, fdinfo_find),
            file("io", io),
            file("limits", limits),
            fixed("loginuid", "4294967295"),
            file("maps", memory::maps),
            file("mountinfo", mountinfo),
            file("mounts", mounts),
            folder("ns", NAMESPACES),
            folder("net", super::system::NET),
            writable("oom_adj", zero, ignore),
            fixed("oom_score", "0\n"),
            writable("oom_score_adj", oom_score_adj, set_oom_score_adj),
            fixed("personality", "00000000\n"),
            jump("root", root_text, root),
            fixed("sessionid", "4294967295"),
            fixed("setgroups", "allow\n"),
            fixed("gid_map", "         0          0 4294967295\n"),
            fixed("uid_map", "         0          0 4294967295\n"),
            file("smaps", memory::smaps),
            file("smaps_rollup", memory::smaps_rollup),
            file("stat", stat),
            file("statm", statm),
            file("status", status),
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

fn fd_names(subject: Subject) -> Vec<Vec<u8>> {
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

fn fd_find(subject: Subject, name: &[u8]) -> Option<(Subject, &'static Named)> {
    Some((descriptor(subject, name)?, &FD))
}

fn fdinfo_find(subject: Subject, name: &[u8]) -> Option<(Subject, &'static Named)> {
    Some((descriptor(subject, name)?, &FDINFO))
}

fn open_of(subject: Subject) -> Result<Rc<OpenFile>> {
    let process = subject.process()?;
    process.files.get(subject.number).map_err(|_| Errno::ENOENT)
}

fn fd_text(thread: &Rc<Thread>, subject: Subject, text: &mut Text) -> Result {
    let open = open_of(subject)?;
    match &open.place {
        Some(place) => text.bytes(&place.seen_by(thread)),
        None => text.bytes(&open.file.describe()),
    }
    Ok(())
}

fn fd_place(_: &Rc<Thread>, subject: Subject) -> Result<Option<Place>> {
    fs::place_of(&open_of(subject)?).map(Some)
}

fn fd_info(_: &Rc<Thread>, subject: Subject, text: &mut Text) -> Result {
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

fn cwd(_: &Rc<Thread>, subject: Subject) -> Result<Option<Place>> {
    Ok(subject.process()?.fs.cwd.borrow().clone())
}

fn cwd_text(thread: &Rc<Thread>, subject: Subject, text: &mut Text) -> Result {
    match cwd(thread, subject)? {
        Some(place) => text.bytes(&place.seen_by(thread)),
        None => put!(text, "/"),
    }
    Ok(())
}

fn root(_: &Rc<Thread>, subject: Subject) -> Result<Option<Place>> {
    Ok(subject.process()?.fs.root.borrow().clone())
}

fn root_text(thread: &Rc<Thread>, subject: Subject, text: &mut Text) -> Result {
    match root(thread, subject)? {
        Some(place) => text.bytes(&place.seen_by(thread)),
        None => put!(text, "/"),
    }
    Ok(())
}

fn exe(thread: &Rc<Thread>, subject: Subject) -> Result<Option<Place>> {
    let path = subject.process()?.executable.borrow().clone();
    if path.is_empty() {
        return Err(Errno::ENOENT);
    }
    // What the program was started as may be a link, and it may have been removed since; then its text is all there is.
    Ok(fs::resolve(thread, fs::AT_FDCWD, &path, fs::Walk::FOLLOW).ok())
}

fn exe_text(thread: &Rc<Thread>, subject: Subject, text: &mut Text) -> Result {
    match exe(thread, subject)? {
        Some(place) => text.bytes(&place.seen_by(thread)),
        None => text.bytes(&subject.process()?.executable.borrow()),
    }
    Ok(())
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

/// A text of `/proc/mounts`, where spaces and the like are octal.
fn escaped(bytes: &[u8]) -> String {
    let mut text = Text::default();
    for &byte in bytes {
        match byte {
            b' ' | b'\t' | b'\n' | b'\\' => put!(text, "\\{byte:03o}"),
            _ => text.bytes(&[byte]),
        }
    }
    String::from_utf8_lossy(&text.0).into_owned()
}

fn mount_options(mount: &fs::Mount) -> String {
    let mut options = String::from(if mount.read_only.get() { "ro" } else { "rw" });
    let flags = mount.flags.get();
    for (bit, name) in [
        (2, ",nosuid"),
        (4, ",nodev"),
        (8, ",noexec"),
        (0x400, ",noatime"),
        (0x1000, ",relatime"),
    ] {
        if flags & bit != 0 {
            options.push_str(name);
        }
    }
    options
}

/// `/proc/PID/mounts`, as in `fstab(5)`.
fn mounts(_: &Rc<Thread>, _: Subject, text: &mut Text) -> Result {
    for mount in crate::kernel().vfs.mounts() {
        let more = mount.options.borrow();
        let comma = if more.is_empty() { "" } else { "," };
        put!(
            text,
            "{} {} {} {}{comma}{more} 0 0\n",
            escaped(&mount.source),
            escaped(&mount.path()),
            mount.kind,
            mount_options(&mount)
        );
    }
    Ok(())
}

fn mountinfo(_: &Rc<Thread>, _: Subject, text: &mut Text) -> Result {
    let mounts = crate::kernel().vfs.mounts();
    let root = mounts.first().map_or(1, |mount| mount.id);
    for mount in &mounts {
        let path = mount.path();
        // The mount that holds the folder it covers: the one with the longest path above.
        let above = mounts.iter().filter(|other| {
            let other_path = other.path();
            other.id != mount.id
                && path.starts_with(&other_path)
                && (other_path.ends_with(b"/") || path.get(other_path.len()) == Some(&b'/'))
        });
        let parent = above.max_by_key(|other| other.path().len());
        let parent = parent.map_or(root, |parent| parent.id);
        let more = mount.options.borrow();
        let comma = if more.is_empty() { "" } else { "," };
        let access = if mount.read_only.get() { "ro" } else { "rw" };
        put!(
            text,
            "{} {parent} 0:{} / {} {} - {} {} {access}{comma}{more}\n",
            mount.id,
            mount.id,
            escaped(&path),
            mount_options(mount),
            mount.kind,
            escaped(&mount.source)
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

fn state(thread: &Thread) -> (char, &'static str) {
    match thread.state.get() {
        RunState::Ready => ('R', "running"),
        RunState::Asleep => ('S', "sleeping"),
        RunState::Dead => ('Z', "zombie"),
    }
}

fn stat(_: &Rc<Thread>, subject: Subject, text: &mut Text) -> Result {
    let process = subject.process()?;
    let thread = subject.thread()?;
    let sizes = memory::sizes(subject)?;
    let used: u64 = match subject.tid {
        0 => process
            .threads
            .borrow()
            .values()
            .map(|t| t.used.get())
            .sum(),
        _ => thread.used.get(),
    };
    // Clock ticks are hundredths of seconds.
    let ticks = used / 10_000_000;
    let threads = process.threads.borrow().len();
    let number = if subject.tid == 0 {
        process.pid
    } else {
        subject.tid
    };
    put!(
        text,
        "{number} ({}) {} {} {} {} 0 -1 4194560 0 0 0 0 {ticks} 0 0 0 ",
        name_of(&thread),
        state(&thread).0,
        process.parent.get(),
        process.group.get(),
        process.session.get()
    );
    let nice = thread.nice.get();
    put!(
        text,
        "{} {nice} {threads} 0 {} {} {} 18446744073709551615 ",
        20 + i32::from(nice),
        crate::kernel().booted / 10_000_000,
        sizes.size,
        sizes.resident / 4096
    );
    let layout = process.memory.layout();
    put!(
        text,
        "{} {} {} 0 0 0 {} 0 0 0 0 0 17 0 0 0 0 0 0 {} {} {} {} {} {} {} 0\n",
        layout.start_code,
        layout.end_code,
        layout.start_stack,
        thread.signals.blocked.get(),
        layout.start_data,
        layout.end_data,
        layout.end_data,
        layout.arg_start,
        layout.arg_end,
        layout.env_start,
        layout.env_end
    );
    Ok(())
}

fn statm(_: &Rc<Thread>, subject: Subject, text: &mut Text) -> Result {
    let sizes = memory::sizes(subject)?;
    put!(
        text,
        "{} {} 0 {} 0 {} 0\n",
        sizes.size / 4096,
        sizes.resident / 4096,
        sizes.text / 4096,
        (sizes.data + sizes.stack) / 4096
    );
    Ok(())
}

/// The lines of `status` about memory.
fn status_of_memory(sizes: &memory::Sizes, text: &mut Text) {
    for (name, bytes) in [
        ("VmPeak", sizes.peak),
        ("VmSize", sizes.size),
        ("VmLck", sizes.locked),
        ("VmPin", 0),
        ("VmHWM", sizes.resident),
        ("VmRSS", sizes.resident),
        ("RssAnon", sizes.resident),
        ("RssFile", 0),
        ("RssShmem", 0),
        ("VmData", sizes.data),
        ("VmStk", sizes.stack),
        ("VmExe", sizes.text),
        ("VmLib", 0),
        ("VmPTE", 0),
        ("VmSwap", 0),
        ("HugetlbPages", 0),
    ] {
        put!(text, "{name}:\t{:8} kB\n", bytes / 1024);
    }
}

/// Those about threads and signals.
fn status_of_signals(process: &Process, thread: &Thread, text: &mut Text) {
    put!(
        text,
        "CoreDumping:\t0\nTHP_enabled:\t0\nThreads:\t{}\n",
        process.threads.borrow().len()
    );
    put!(
        text,
        "SigQ:\t{}/{}\nSigPnd:\t{:016x}\nShdPnd:\t{:016x}\n",
        process.signals.pending.queued(),
        process.limits.borrow().of(Resource::SignalsPending).0,
        thread.signals.pending.set(),
        process.signals.pending.set()
    );
    let (mut ignored, mut caught) = (0, 0);
    for number in 1..=64 {
        match process.signals.actions.get(number).handler {
            DEFAULT => {}
            IGNORE => ignored |= signal::bit(number),
            _ => caught |= signal::bit(number),
        }
    }
    put!(
        text,
        "SigBlk:\t{:016x}\nSigIgn:\t{:016x}\nSigCgt:\t{:016x}\n",
        thread.signals.blocked.get(),
        ignored,
        caught
    );
}

fn status(_: &Rc<Thread>, subject: Subject, text: &mut Text) -> Result {
    let process = subject.process()?;
    let thread = subject.thread()?;
    let sizes = memory::sizes(subject)?;
    let (letter, word) = state(&thread);
    let who = process.credentials.borrow().clone();
    let number = if subject.tid == 0 {
        process.pid
    } else {
        subject.tid
    };
    put!(
        text,
        "Name:\t{}\nUmask:\t{:04o}\nState:\t{letter} ({word})\n",
        name_of(&thread),
        process.fs.umask.get()
    );
    put!(
        text,
        "Tgid:\t{}\nNgid:\t0\nPid:\t{number}\nPPid:\t{}\nTracerPid:\t0\n",
        process.pid,
        process.parent.get()
    );
    put!(
        text,
        "Uid:\t{}\t{}\t{}\t{}\n",
        who.uid,
        who.euid,
        who.suid,
        who.fsuid
    );
    put!(
        text,
        "Gid:\t{}\t{}\t{}\t{}\n",
        who.gid,
        who.egid,
        who.sgid,
        who.fsgid
    );
    put!(
        text,
        "FDSize:\t{}\nGroups:\t",
        process.files.numbers().len().next_power_of_two().max(64)
    );
    for group in &who.groups {
        put!(text, "{group} ");
    }
    put!(
        text,
        "\nNStgid:\t{}\nNSpid:\t{number}\nNSpgid:\t{}\nNSsid:\t{}\n",
        process.pid,
        process.group.get(),
        process.session.get()
    );
    status_of_memory(&sizes, text);
    status_of_signals(&process, &thread, text);
    let sets = who.capabilities;
    for (name, set) in [
        ("CapInh", sets.inheritable),
        ("CapPrm", sets.permitted),
        ("CapEff", sets.effective),
        ("CapBnd", sets.bounding),
        ("CapAmb", sets.ambient),
    ] {
        put!(text, "{name}:\t{set:016x}\n");
    }
    put!(text, "NoNewPrivs:\t0\nSeccomp:\t0\nSeccomp_filters:\t0\n");
    put!(
        text,
        "Cpus_allowed:\t1\nCpus_allowed_list:\t0\nMems_allowed:\t1\nMems_allowed_list:\t0\n"
    );
    put!(
        text,
        "voluntary_ctxt_switches:\t0\nnonvoluntary_ctxt_switches:\t0\n"
    );
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::testing;
    use crate::fs::{Inode, OpenFlags};
    use crate::io::Sink;

    fn walk(path: &str) -> Result<Rc<dyn Inode>> {
        let mut here = super::super::root();
        for name in path.split('/') {
            here = here.lookup(name.as_bytes())?;
        }
        Ok(here)
    }

    fn read(thread: &Rc<Thread>, path: &str) -> Result<String> {
        let inode = walk(path)?;
        let file = inode
            .open(thread, OpenFlags::empty())?
            .ok_or(Errno::EISDIR)?;
        let open = OpenFile::new(file, OpenFlags::empty());
        let mut all = Vec::new();
        loop {
            let mut piece = [0; 100];
            let got = open
                .file
                .read(thread, &open, &mut Sink::kernel(&mut piece))?;
            if got == 0 {
                return Ok(String::from_utf8_lossy(&all).into_owned());
            }
            all.extend_from_slice(&piece[..got]);
        }
    }

    #[test]
    fn every_file_of_a_process_can_be_read() {
        let thread = testing::thread();
        let (reader, _writer) = crate::event::pipe::pair(OpenFlags::empty());
        thread.process.files.add(reader, true, 3).expect("room");
        for entry in PROCESS {
            if let Node::File(..) | Node::Fixed(_) = entry.node {
                let text = read(&thread, &format!("1/{}", entry.name));
                assert!(text.is_ok(), "{}: {text:?}", entry.name);
            }
        }
        let stat = read(&thread, "1/task/1/stat").expect("text");
        assert_eq!(stat.split_ascii_whitespace().count(), 52);
        let info = read(&thread, "1/fdinfo/3").expect("text");
        assert!(info.contains("flags:\t02000000\n"), "{info}");
        let link = walk("1/fd/3").expect("there").read_link(&thread);
        assert!(link.expect("text").starts_with(b"pipe:["));
        assert_eq!(walk("1/fd/4").err(), Some(Errno::ENOENT));
        assert_eq!(walk("01").err(), Some(Errno::ENOENT));
        assert_eq!(walk("2").err(), Some(Errno::ENOENT));
    }

    #[test]
    fn links_to_oneself_lead_to_the_calling_thread() {
        let thread = testing::thread();
        let text = |path| walk(path).and_then(|inode| inode.read_link(&thread));
        assert_eq!(text("self"), Ok(b"1".to_vec()));
        assert_eq!(text("thread-self"), Ok(b"1/task/1".to_vec()));
    }

    /// Reads every file below a folder.
    fn all(thread: &Rc<Thread>, inode: &Rc<dyn Inode>, count: &mut usize) {
        let mut names = Vec::new();
        let listed = inode.entries(0, &mut |entry| {
            names.push(entry.name.to_vec());
            true
        });
        if listed.is_ok() {
            for name in names {
                let child = inode.lookup(&name).expect("listed");
                all(thread, &child, count);
            }
            return;
        }
        *count += 1;
        if let Ok(Some(file)) = inode.open(thread, OpenFlags::empty()) {
            let open = OpenFile::new(file, OpenFlags::empty());
            let mut piece = [0; 10];
            let got = open.file.read(thread, &open, &mut Sink::kernel(&mut piece));
            assert!(got.is_ok());
        }
    }

    #[test]
    fn files_of_the_machine_and_its_settings_can_be_read() {
        let thread = testing::thread();
        let mut count = 0;
        for root in [
            super::super::root(),
            super::super::sysfs::root(),
            super::super::sysfs::cgroup(),
            crate::dev::tree::root().expect("room"),
            crate::dev::tree::terminals(),
        ] {
            all(&thread, &root, &mut count);
        }
        assert!(count > 250, "{count}");
        let uptime = read(&thread, "uptime").expect("text");
        assert_eq!(uptime, "0.00 0.00\n");
        let uuid = read(&thread, "sys/kernel/random/uuid").expect("text");
        assert_eq!((uuid.len(), &uuid[14..15]), (37, "4"));
        let ids = [(); 2].map(|()| read(&thread, "sys/kernel/random/boot_id"));
        assert_eq!(ids[0], ids[1]);
    }

    #[test]
    fn a_thread_can_be_named() {
        let thread = testing::thread();
        let file = walk("1/comm")
            .expect("there")
            .open(&thread, OpenFlags::RDWR);
        let open = OpenFile::new(file.expect("opens").expect("a file"), OpenFlags::RDWR);
        let mut name = crate::io::Source::kernel(b"a name that is too long\n");
        open.file.write(&thread, &open, &mut name).expect("written");
        assert_eq!(read(&thread, "1/comm"), Ok("a name that is \n".into()));
        assert!(
            read(&thread, "1/status")
                .expect("text")
                .starts_with("Name:\ta name that is \n")
        );
    }

    #[test]
    fn reading_goes_on_where_it_stopped_and_starts_anew_at_the_beginning() {
        let thread = testing::thread();
        let file = walk("1/oom_score_adj")
            .expect("there")
            .open(&thread, OpenFlags::RDWR);
        let open = OpenFile::new(file.expect("opens").expect("a file"), OpenFlags::RDWR);
        let mut to = [0; 3];
        let mut read = |offset| {
            open.file
                .read_at(&thread, offset, &mut Sink::kernel(&mut to))
        };
        assert_eq!(read(0), Ok(2));
        assert_eq!(read(2), Ok(0));
        let mut from = crate::io::Source::kernel(b"-500");
        assert_eq!(open.file.write(&thread, &open, &mut from), Ok(4));
        let mut from = crate::io::Source::kernel(b"2000");
        assert_eq!(
            open.file.write(&thread, &open, &mut from),
            Err(Errno::EINVAL)
        );
        assert_eq!(read(0), Ok(3));
        assert_eq!(&to, b"-50");
    }
}
