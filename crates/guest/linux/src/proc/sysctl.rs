//! `/proc/sys` (`sysctl(8)`): settings that programs read, and a few that they may write.

use alloc::rc::Rc;

use super::pseudo::{Named, Node, Subject, Text, entry, file, fixed, folder};
use crate::process::Thread;
use crate::{Result, platform, put};

/// A setting that can be written, though nothing comes of it.
const fn settable(name: &'static str, read: super::pseudo::Read) -> Named {
    entry(name, 0o644, Node::File(read, Some(accept)))
}

fn accept(_: &Rc<Thread>, _: Subject, _: &[u8]) -> Result {
    Ok(())
}

macro_rules! says {
    ($name:literal, $text:literal) => {
        settable($name, |_, _, text| {
            put!(text, concat!($text, "\n"));
            Ok(())
        })
    };
}

/// The folder's entries.
pub const ENTRIES: &[Named] = &[
    folder("fs", FS),
    folder("kernel", KERNEL),
    folder(
        "net",
        &[
            folder("core", CORE),
            folder("ipv4", IPV4),
            folder("ipv6", IPV6),
            folder("unix", &[says!("max_dgram_qlen", "512")]),
        ],
    ),
    folder("vm", VM),
];

const FS: &[Named] = &[
    says!("aio-max-nr", "65536"),
    fixed("aio-nr", "0\n"),
    says!("file-max", "9223372036854775807"),
    fixed("file-nr", "64\t0\t9223372036854775807\n"),
    folder("epoll", &[says!("max_user_watches", "1048576")]),
    folder(
        "inotify",
        &[
            says!("max_queued_events", "16384"),
            says!("max_user_instances", "128"),
            says!("max_user_watches", "65536"),
        ],
    ),
    says!("nr_open", "1048576"),
    says!("pipe-max-size", "1048576"),
    says!("pipe-user-pages-soft", "16384"),
    says!("protected_hardlinks", "1"),
    says!("protected_symlinks", "1"),
    says!("suid_dumpable", "0"),
];

const KERNEL: &[Named] = &[
    fixed("cap_last_cap", "40\n"),
    says!("core_pattern", "core"),
    says!("core_uses_pid", "0"),
    says!("dmesg_restrict", "0"),
    says!("domainname", "(none)"),
    file("hostname", hostname),
    fixed("io_uring_disabled", "0\n"),
    says!("msgmax", "8192"),
    says!("msgmnb", "16384"),
    says!("msgmni", "32000"),
    fixed("ngroups_max", "65536\n"),
    fixed("osrelease", "6.1.0-kiln\n"),
    fixed("ostype", "Linux\n"),
    says!("overflowgid", "65534"),
    says!("overflowuid", "65534"),
    says!("panic", "0"),
    says!("perf_event_paranoid", "4"),
    says!("pid_max", "4194304"),
    says!("printk", "4\t4\t1\t7"),
    folder(
        "random",
        &[
            file("boot_id", boot_id),
            fixed("entropy_avail", "256\n"),
            fixed("poolsize", "256\n"),
            file("uuid", uuid),
        ],
    ),
    says!("randomize_va_space", "2"),
    says!("sched_child_runs_first", "0"),
    says!("sched_rt_period_us", "1000000"),
    says!("sched_rt_runtime_us", "950000"),
    says!("sem", "32000\t1024000000\t500\t32000"),
    says!("shmall", "18446744073692774399"),
    says!("shmmax", "18446744073692774399"),
    says!("shmmni", "4096"),
    fixed("tainted", "0\n"),
    says!("threads-max", "127000"),
    says!("unprivileged_bpf_disabled", "2"),
    file("version", version),
    folder("yama", &[says!("ptrace_scope", "1")]),
];

const VM: &[Named] = &[
    says!("compaction_proactiveness", "20"),
    says!("dirty_background_ratio", "10"),
    says!("dirty_ratio", "20"),
    says!("drop_caches", "0"),
    says!("max_map_count", "65530"),
    says!("min_free_kbytes", "8192"),
    says!("mmap_min_addr", "65536"),
    says!("nr_hugepages", "0"),
    says!("overcommit_kbytes", "0"),
    says!("overcommit_memory", "1"),
    says!("overcommit_ratio", "50"),
    says!("swappiness", "60"),
    says!("vfs_cache_pressure", "100"),
    says!("zone_reclaim_mode", "0"),
];

const CORE: &[Named] = &[
    says!("netdev_max_backlog", "1000"),
    says!("optmem_max", "20480"),
    says!("rmem_default", "212992"),
    says!("rmem_max", "212992"),
    says!("somaxconn", "4096"),
    says!("wmem_default", "212992"),
    says!("wmem_max", "212992"),
];

const IPV4: &[Named] = &[
    says!("icmp_echo_ignore_all", "0"),
    says!("ip_default_ttl", "64"),
    says!("ip_forward", "0"),
    says!("ip_local_port_range", "32768\t60999"),
    says!("ip_nonlocal_bind", "0"),
    says!("ip_unprivileged_port_start", "0"),
    says!("ping_group_range", "0\t2147483647"),
    fixed("tcp_allowed_congestion_control", "cubic\n"),
    fixed("tcp_available_congestion_control", "cubic\n"),
    says!("tcp_congestion_control", "cubic"),
    says!("tcp_fastopen", "0"),
    says!("tcp_fin_timeout", "60"),
    says!("tcp_keepalive_intvl", "75"),
    says!("tcp_keepalive_probes", "9"),
    says!("tcp_keepalive_time", "7200"),
    says!("tcp_max_syn_backlog", "4096"),
    says!("tcp_max_tw_buckets", "65536"),
    says!("tcp_mem", "44265\t59020\t88530"),
    says!("tcp_rmem", "4096\t131072\t6291456"),
    says!("tcp_sack", "1"),
    says!("tcp_syn_retries", "6"),
    says!("tcp_syncookies", "1"),
    says!("tcp_timestamps", "1"),
    says!("tcp_tw_reuse", "2"),
    says!("tcp_window_scaling", "1"),
    says!("tcp_wmem", "4096\t16384\t4194304"),
];

const IPV6: &[Named] = &[
    says!("bindv6only", "0"),
    folder(
        "conf",
        &[
            folder(
                "all",
                &[says!("disable_ipv6", "0"), says!("forwarding", "0")],
            ),
            folder(
                "default",
                &[says!("disable_ipv6", "0"), says!("forwarding", "0")],
            ),
            folder(
                "lo",
                &[says!("disable_ipv6", "0"), says!("forwarding", "0")],
            ),
        ],
    ),
    says!("ip_nonlocal_bind", "0"),
];

fn hostname(_: &Rc<Thread>, _: Subject, text: &mut Text) -> Result {
    text.bytes(&crate::kernel().hostname.borrow());
    put!(text, "\n");
    Ok(())
}

fn version(_: &Rc<Thread>, _: Subject, text: &mut Text) -> Result {
    put!(text, "{}\n", crate::syscalls::system::VERSION);
    Ok(())
}

/// A random UUID (RFC 4122, version 4).
fn random_uuid() -> [u8; 16] {
    let mut bytes = [0; 16];
    platform::random(&mut bytes);
    bytes[6] = bytes[6] & 0x0f | 0x40;
    bytes[8] = bytes[8] & 0x3f | 0x80;
    bytes
}

fn put_uuid(text: &mut Text, bytes: [u8; 16]) {
    for (index, byte) in bytes.iter().enumerate() {
        if matches!(index, 4 | 6 | 8 | 10) {
            put!(text, "-");
        }
        put!(text, "{byte:02x}");
    }
    put!(text, "\n");
}

fn uuid(_: &Rc<Thread>, _: Subject, text: &mut Text) -> Result {
    put_uuid(text, random_uuid());
    Ok(())
}

fn boot_id(_: &Rc<Thread>, _: Subject, text: &mut Text) -> Result {
    let kernel = crate::kernel();
    let bytes = kernel.proc.boot_id.get().unwrap_or_else(random_uuid);
    kernel.proc.boot_id.set(Some(bytes));
    put_uuid(text, bytes);
    Ok(())
}
