//! `/proc/PID/stat`, `statm` and `status`: what `ps` and `top` read.

use alloc::format;
use alloc::rc::Rc;

use super::name_of;
use crate::proc::memory;
use crate::proc::pseudo::{Subject, Text};
use crate::process::limits::Resource;
use crate::process::{Process, RunState, Thread};
use crate::signal;
use crate::signal::action::{DEFAULT, IGNORE};
use crate::{Result, put};

fn state(thread: &Thread) -> (char, &'static str) {
    match thread.state.get() {
        RunState::Ready => ('R', "running"),
        RunState::Asleep => ('S', "sleeping"),
        RunState::Dead => ('Z', "zombie"),
    }
}

pub(super) fn stat(_: &Rc<Thread>, subject: Subject, text: &mut Text) -> Result {
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
        // Most have started when the machine did; the few others are taken for as old.
        "{} {nice} {threads} 0 0 {} {} 18446744073709551615 ",
        20 + i32::from(nice),
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

pub(super) fn statm(_: &Rc<Thread>, subject: Subject, text: &mut Text) -> Result {
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

pub(super) fn status(_: &Rc<Thread>, subject: Subject, text: &mut Text) -> Result {
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
        "Tgid:\t{}\nNgid:\t0\nPid:\t{number}\nPPid:\t{}\nTracerPid:\t{}\n",
        process.pid,
        process.parent.get(),
        thread.tracing.tracer()
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
    put!(
        text,
        "NoNewPrivs:\t{}\nSeccomp:\t0\nSeccomp_filters:\t0\n",
        u8::from(process.attributes.no_new_privileges.get())
    );
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

/// A time as `sched` shows it: in milliseconds.
fn millis(nanos: u64) -> alloc::string::String {
    format!("{}.{:06}", nanos / 1_000_000, nanos % 1_000_000)
}

/// What the scheduler knows of a thread.
pub(super) fn sched(_: &Rc<Thread>, subject: Subject, text: &mut Text) -> Result {
    let (process, thread) = (subject.process()?, subject.thread()?);
    let threads = process.threads.borrow().len();
    put!(
        text,
        "{} ({}, #threads: {threads})\n{:-<67}\n",
        name_of(&thread),
        thread.tid,
        ""
    );
    let policy = thread.policy.get();
    let priority = match policy.priority {
        0 => i64::from(thread.nice.get()) + 120,
        real_time => 99 - i64::from(real_time),
    };
    let line = |name: &str, value: &dyn core::fmt::Display| {
        let value = format!("{value}");
        format!("{name:<45}:{value:>21}\n")
    };
    let now = crate::platform::now();
    put!(text, "{}", line("se.exec_start", &millis(now)));
    put!(text, "{}", line("se.vruntime", &millis(0)));
    let used = crate::process::sched::used(&thread);
    put!(text, "{}", line("se.sum_exec_runtime", &millis(used)));
    put!(text, "{}", line("se.nr_migrations", &0));
    put!(text, "{}", line("policy", &policy.class));
    put!(text, "{}", line("prio", &priority));
    Ok(())
}
