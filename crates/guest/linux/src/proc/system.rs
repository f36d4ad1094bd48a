//! `/proc` itself: files about the machine.

use alloc::rc::Rc;

use super::pseudo::{Named, Subject, Text, file, fixed, folder, link};
use super::{cpuinfo, sysctl, sysvipc};
use crate::net::{counters, listing};
use crate::process::{Thread, usage};
use crate::syscalls::system::{RELEASE, VERSION};
use crate::{Result, platform, put};

/// Everything in `/proc` but processes.
pub const ENTRIES: &[Named] = &[
    fixed("buddyinfo", ""),
    fixed(
        "cgroups",
        "#subsys_name\thierarchy\tnum_cgroups\tenabled\ncpu\t0\t1\t1\nmemory\t0\t1\t1\n",
    ),
    fixed("cmdline", "kiln\n"),
    file("cpuinfo", cpuinfo::cpuinfo),
    fixed(
        "devices",
        "Character devices:\n  1 mem\n  5 /dev/tty\n  5 /dev/console\n  5 /dev/ptmx\n136 pts\n\nBlock devices:\n",
    ),
    fixed("diskstats", ""),
    fixed(
        "filesystems",
        "nodev\tsysfs\nnodev\ttmpfs\nnodev\tproc\nnodev\tcgroup2\nnodev\tdevtmpfs\nnodev\tdevpts\nnodev\t9p\nnodev\toverlay\n\terofs\n",
    ),
    file("interrupts", interrupts),
    file("loadavg", loadavg),
    fixed("locks", ""),
    file("meminfo", meminfo),
    fixed("modules", ""),
    link("mounts", |_, _, text| {
        put!(text, "self/mounts");
        Ok(())
    }),
    link("net", |_, _, text| {
        put!(text, "self/net");
        Ok(())
    }),
    fixed("partitions", "major minor  #blocks  name\n\n"),
    link("self", |thread, _, text| {
        put!(text, "{}", thread.process.pid);
        Ok(())
    }),
    file("stat", stat),
    fixed(
        "swaps",
        "Filename\t\t\t\tType\t\tSize\t\tUsed\t\tPriority\n",
    ),
    folder("sys", sysctl::ENTRIES),
    folder("sysvipc", sysvipc::ENTRIES),
    link("thread-self", |thread, _, text| {
        put!(text, "{}/task/{}", thread.process.pid, thread.tid);
        Ok(())
    }),
    file("uptime", uptime),
    file("version", version),
    file("vmstat", vmstat),
];

/// A file of `/proc/net`, made by who keeps the sockets.
macro_rules! net {
    ($name:ident) => {
        net!(listing, $name)
    };
    ($from:ident, $name:ident) => {
        file(stringify!($name), |_, _, text| {
            text.bytes(&$from::$name());
            Ok(())
        })
    };
}

/// `/proc/PID/net`.
pub const NET: &[Named] = &[
    net!(dev),
    net!(if_inet6),
    fixed(
        "arp",
        "IP address       HW type     Flags       HW address            Mask     Device\n",
    ),
    fixed(
        "igmp",
        "Idx\tDevice    : Count Querier\tGroup    Users Timer\tReporter\n",
    ),
    fixed("ipv6_route", ""),
    fixed(
        "netlink",
        "sk               Eth Pid        Groups   Rmem     Wmem     Dump  Locks    Drops    Inode\n",
    ),
    net!(counters, netstat),
    fixed(
        "packet",
        "sk       RefCnt Type Proto  Iface R Rmem   User   Inode\n",
    ),
    fixed(
        "raw",
        "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode ref pointer drops\n",
    ),
    net!(route),
    net!(counters, snmp),
    net!(sockstat),
    net!(tcp),
    net!(tcp6),
    net!(udp),
    net!(udp6),
    net!(unix),
];

fn interrupts(_: &Rc<Thread>, _: Subject, text: &mut Text) -> Result {
    put!(text, "           CPU0       \n");
    Ok(())
}

/// Nanoseconds since the machine came up.
fn up() -> u64 {
    platform::now().saturating_sub(crate::kernel().booted)
}

fn loadavg(thread: &Rc<Thread>, _: Subject, text: &mut Text) -> Result {
    let kernel = crate::kernel();
    let running = kernel.scheduler.waiting() + 1;
    let threads = kernel.processes.thread_count();
    put!(text, "0.00 0.00 0.00 {running}/{threads} {}\n", thread.tid);
    Ok(())
}

fn meminfo(_: &Rc<Thread>, _: Subject, text: &mut Text) -> Result {
    let (total, free) = platform::memory();
    for (name, bytes) in [
        ("MemTotal", total),
        ("MemFree", free),
        ("MemAvailable", free),
        ("Buffers", 0),
        ("Cached", 0),
        ("SwapCached", 0),
        ("Active", total.saturating_sub(free)),
        ("Inactive", 0),
        ("SwapTotal", 0),
        ("SwapFree", 0),
        ("Dirty", 0),
        ("Writeback", 0),
        ("AnonPages", total.saturating_sub(free)),
        ("Mapped", 0),
        ("Shmem", 0),
        ("Slab", 0),
        ("SReclaimable", 0),
        ("SUnreclaim", 0),
        ("KernelStack", 0),
        ("PageTables", 0),
        ("CommitLimit", total),
        ("Committed_AS", total.saturating_sub(free)),
        ("VmallocTotal", 0),
        ("VmallocUsed", 0),
        ("AnonHugePages", 0),
        ("HugePages_Total", 0),
        ("HugePages_Free", 0),
        ("Hugepagesize", 2 << 20),
    ] {
        let colon = 16 - name.len().min(15);
        if name.starts_with("HugePages_") {
            put!(text, "{name}:{:colon$}{:7}\n", "", bytes);
        } else {
            put!(text, "{name}:{:colon$}{:7} kB\n", "", bytes / 1024);
        }
    }
    Ok(())
}

fn stat(_: &Rc<Thread>, _: Subject, text: &mut Text) -> Result {
    let kernel = crate::kernel();
    let used = used();
    let busy = used / 10_000_000;
    let idle = up().saturating_sub(used) / 10_000_000;
    put!(
        text,
        "cpu  {busy} 0 0 {idle} 0 0 0 0 0 0\ncpu0 {busy} 0 0 {idle} 0 0 0 0 0 0\n"
    );
    let booted = platform::wall().saturating_sub(up()) / 1_000_000_000;
    put!(text, "intr 0\nctxt 0\nbtime {booted}\nprocesses 1\n");
    put!(
        text,
        "procs_running {}\nprocs_blocked 0\nsoftirq 0 0 0 0 0 0 0 0 0 0 0\n",
        kernel.scheduler.waiting() + 1
    );
    Ok(())
}

/// Nanoseconds of processor time that all threads have used.
pub(super) fn used() -> u64 {
    let kernel = crate::kernel();
    let processes = kernel.processes.all();
    processes
        .iter()
        .map(|process| usage::of_process(process))
        .sum()
}

fn uptime(_: &Rc<Thread>, _: Subject, text: &mut Text) -> Result {
    let up = up();
    let idle = up.saturating_sub(used());
    let show = |nanos: u64| (nanos / 1_000_000_000, nanos / 10_000_000 % 100);
    let ((up, up_part), (idle, idle_part)) = (show(up), show(idle));
    put!(text, "{up}.{up_part:02} {idle}.{idle_part:02}\n");
    Ok(())
}

fn version(_: &Rc<Thread>, _: Subject, text: &mut Text) -> Result {
    put!(text, "Linux version {RELEASE} (kiln@kiln) {VERSION}\n");
    Ok(())
}

fn vmstat(_: &Rc<Thread>, _: Subject, text: &mut Text) -> Result {
    let (_, free) = platform::memory();
    put!(
        text,
        "nr_free_pages {}\npgpgin 0\npgpgout 0\npswpin 0\npswpout 0\npgfault 0\npgmajfault 0\noom_kill 0\n",
        free / 4096
    );
    Ok(())
}
