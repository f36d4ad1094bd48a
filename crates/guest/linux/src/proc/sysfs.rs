//! `/sys`: processors, memory nodes, transparent huge pages, and the control group of the machine.

use alloc::rc::Rc;
use alloc::vec::Vec;

use kiln_net::direct::LinkState;

use super::pseudo::{
    self, Named, Node, Sort, Subject, Text, entry, file, fixed, folder, listed, writable,
};
use crate::fs::Inode;
use crate::net::inet::links;
use crate::process::Thread;
use crate::{Errno, Result, platform, put};

static ROOT: Named = entry("sys", 0o555, Node::Folder(ENTRIES, None));
static CGROUP: Named = entry("cgroup", 0o555, Node::Folder(CGROUP_FILES, None));

const ENTRIES: &[Named] = &[
    folder("block", &[]),
    folder("bus", &[]),
    folder(
        "class",
        &[
            listed("net", &[], link_names, find_link),
            folder("block", &[]),
        ],
    ),
    folder(
        "devices",
        &[folder(
            "system",
            &[
                folder(
                    "clocksource",
                    &[folder(
                        "clocksource0",
                        &[
                            fixed("available_clocksource", "tsc \n"),
                            fixed("current_clocksource", "tsc\n"),
                        ],
                    )],
                ),
                folder("cpu", CPU),
                folder(
                    "node",
                    &[
                        folder(
                            "node0",
                            &[
                                fixed("cpulist", "0\n"),
                                fixed("cpumap", "1\n"),
                                fixed("distance", "10\n"),
                                file("meminfo", node_meminfo),
                            ],
                        ),
                        fixed("has_cpu", "0\n"),
                        fixed("has_memory", "0\n"),
                        fixed("online", "0\n"),
                        fixed("possible", "0\n"),
                    ],
                ),
            ],
        )],
    ),
    folder("fs", &[folder("cgroup", &[])]),
    folder(
        "kernel",
        &[folder(
            "mm",
            &[
                folder("hugepages", &[]),
                folder(
                    "transparent_hugepage",
                    &[
                        fixed("defrag", "always defer defer+madvise [madvise] never\n"),
                        fixed("enabled", "always [madvise] never\n"),
                        fixed("hpage_pmd_size", "2097152\n"),
                        fixed(
                            "shmem_enabled",
                            "always within_size advise [never] deny force\n",
                        ),
                        fixed("use_zero_page", "1\n"),
                    ],
                ),
            ],
        )],
    ),
    folder("module", &[]),
];

const CPU: &[Named] = &[
    folder(
        "cpu0",
        &[
            folder(
                "cache",
                &[
                    folder(
                        "index0",
                        &[
                            fixed("coherency_line_size", "64\n"),
                            fixed("level", "1\n"),
                            fixed("shared_cpu_list", "0\n"),
                            fixed("shared_cpu_map", "1\n"),
                            fixed("size", "32K\n"),
                            fixed("type", "Data\n"),
                            fixed("ways_of_associativity", "8\n"),
                        ],
                    ),
                    folder(
                        "index1",
                        &[
                            fixed("coherency_line_size", "64\n"),
                            fixed("level", "1\n"),
                            fixed("shared_cpu_list", "0\n"),
                            fixed("shared_cpu_map", "1\n"),
                            fixed("size", "32K\n"),
                            fixed("type", "Instruction\n"),
                        ],
                    ),
                    folder(
                        "index2",
                        &[
                            fixed("coherency_line_size", "64\n"),
                            fixed("level", "2\n"),
                            fixed("shared_cpu_list", "0\n"),
                            fixed("shared_cpu_map", "1\n"),
                            fixed("size", "1024K\n"),
                            fixed("type", "Unified\n"),
                        ],
                    ),
                ],
            ),
            folder(
                "topology",
                &[
                    fixed("core_cpus", "1\n"),
                    fixed("core_cpus_list", "0\n"),
                    fixed("core_id", "0\n"),
                    fixed("core_siblings", "1\n"),
                    fixed("core_siblings_list", "0\n"),
                    fixed("physical_package_id", "0\n"),
                    fixed("thread_siblings", "1\n"),
                    fixed("thread_siblings_list", "0\n"),
                ],
            ),
        ],
    ),
    fixed("isolated", "\n"),
    fixed("kernel_max", "0\n"),
    fixed("offline", "\n"),
    fixed("online", "0\n"),
    fixed("possible", "0\n"),
    fixed("present", "0\n"),
    folder(
        "smt",
        &[fixed("active", "0\n"), fixed("control", "notsupported\n")],
    ),
];

const CGROUP_FILES: &[Named] = &[
    fixed("cgroup.controllers", "cpu memory pids\n"),
    fixed("cgroup.events", "populated 1\nfrozen 0\n"),
    fixed("cgroup.max.depth", "max\n"),
    writable("cgroup.procs", procs, ignore),
    fixed("cgroup.subtree_control", "\n"),
    fixed("cgroup.type", "domain\n"),
    fixed("cpu.max", "100000 100000\n"),
    file("cpu.stat", cpu_stat),
    fixed("cpu.weight", "100\n"),
    fixed("cpuset.cpus.effective", "0\n"),
    fixed("cpuset.mems.effective", "0\n"),
    file("memory.current", memory_current),
    fixed(
        "memory.events",
        "low 0\nhigh 0\nmax 0\noom 0\noom_kill 0\noom_group_kill 0\n",
    ),
    fixed("memory.high", "max\n"),
    fixed("memory.low", "0\n"),
    file("memory.max", memory_max),
    fixed("memory.min", "0\n"),
    file("memory.stat", memory_stat),
    fixed("memory.swap.current", "0\n"),
    fixed("memory.swap.max", "0\n"),
    file("pids.current", pids_current),
    fixed("pids.max", "max\n"),
];

/// The root of `/sys`.
pub fn root() -> Rc<dyn Inode> {
    let sort = Sort {
        device: 0x15,
        magic: 0x6265_6572,
        size: 4096,
    };
    pseudo::root(sort, &ROOT)
}

/// The control group of everything (cgroups(7), version 2), with the machine's own limits.
pub fn cgroup() -> Rc<dyn Inode> {
    let sort = Sort {
        device: 0x16,
        magic: 0x6367_7270,
        size: 0,
    };
    pseudo::root(sort, &CGROUP)
}

/// `/sys/class/net`
fn link_names(_: Subject) -> Vec<Vec<u8>> {
    let all = links::all();
    all.into_iter().map(|(name, _)| name).collect()
}

fn find_link(subject: Subject, name: &[u8]) -> Option<(Subject, &'static Named)> {
    let all = links::all();
    let at = all.iter().position(|(its, _)| its == name)?;
    let number = i32::try_from(at).ok()?;
    Some((Subject { number, ..subject }, &LINK))
}

static LINK: Named = entry("link", 0o755, Node::Folder(LINK_FILES, None));

/// A file about a link.
macro_rules! about_link {
    ($name:literal, $text:literal, $value:expr) => {
        file($name, |_, subject, text| {
            let all = links::all();
            let at = usize::try_from(subject.number).ok();
            let (_, link) = at.and_then(|at| all.get(at)).ok_or(Errno::ENODEV)?;
            let value: fn(&LinkState) -> _ = $value;
            put!(text, $text, value(link));
            Ok(())
        })
    };
}

const LINK_FILES: &[Named] = &[
    file("address", |_, subject, text| {
        let all = links::all();
        let at = usize::try_from(subject.number).ok();
        let (_, link) = at.and_then(|at| all.get(at)).ok_or(Errno::ENODEV)?;
        for (index, byte) in link.mac.iter().enumerate() {
            let colon = if index == 0 { "" } else { ":" };
            put!(text, "{colon}{byte:02x}");
        }
        put!(text, "\n");
        Ok(())
    }),
    fixed("addr_len", "6\n"),
    fixed("carrier", "1\n"),
    fixed("dormant", "0\n"),
    fixed("duplex", "full\n"),
    about_link!("flags", "{:#x}\n", links::flags),
    about_link!("ifindex", "{}\n", links::number),
    about_link!("mtu", "{}\n", |link| link.mtu),
    fixed("operstate", "up\n"),
    fixed("speed", "10000\n"),
    folder(
        "statistics",
        &[
            about_link!("rx_bytes", "{}\n", |link| link.stats.bytes_in),
            about_link!("rx_packets", "{}\n", |link| link.stats.frames_in),
            about_link!("tx_bytes", "{}\n", |link| link.stats.bytes_out),
            about_link!("tx_packets", "{}\n", |link| link.stats.frames_out),
        ],
    ),
    about_link!("type", "{}\n", |link| if link.index == 0 { 772 } else { 1 }),
];

fn ignore(_: &Rc<Thread>, _: Subject, _: &[u8]) -> Result {
    Ok(())
}

fn node_meminfo(_: &Rc<Thread>, _: Subject, text: &mut Text) -> Result {
    let (total, free) = platform::memory();
    put!(
        text,
        "Node 0 MemTotal:       {} kB\nNode 0 MemFree:        {} kB\n",
        total / 1024,
        free / 1024
    );
    Ok(())
}

fn procs(thread: &Rc<Thread>, _: Subject, text: &mut Text) -> Result {
    put!(text, "{}\n", thread.process.pid);
    Ok(())
}

fn cpu_stat(_: &Rc<Thread>, _: Subject, text: &mut Text) -> Result {
    let used = super::system::used() / 1000;
    put!(
        text,
        "usage_usec {used}\nuser_usec {used}\nsystem_usec 0\nnr_periods 0\nnr_throttled 0\nthrottled_usec 0\n"
    );
    Ok(())
}

fn memory_current(_: &Rc<Thread>, _: Subject, text: &mut Text) -> Result {
    let (total, free) = platform::memory();
    put!(text, "{}\n", total.saturating_sub(free));
    Ok(())
}

fn memory_max(_: &Rc<Thread>, _: Subject, text: &mut Text) -> Result {
    put!(text, "{}\n", platform::memory().0);
    Ok(())
}

fn memory_stat(_: &Rc<Thread>, _: Subject, text: &mut Text) -> Result {
    let (total, free) = platform::memory();
    put!(
        text,
        "anon {}\nfile 0\nkernel 0\nshmem 0\ninactive_file 0\nactive_file 0\npgfault 0\npgmajfault 0\n",
        total.saturating_sub(free)
    );
    Ok(())
}

fn pids_current(thread: &Rc<Thread>, _: Subject, text: &mut Text) -> Result {
    put!(text, "{}\n", thread.process.threads.borrow().len());
    Ok(())
}
