//! What the tests look at on the host: processes and signals to them, ports, abilities.

use std::fs;
use std::net::{Ipv4Addr, Ipv6Addr, TcpListener, UdpSocket};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

use crate::process::PATIENCE;

/// Waits until something is so.
///
/// # Panics
/// If it is not within [`PATIENCE`].
#[track_caller]
pub fn eventually(what: &str, mut is_so: impl FnMut() -> bool) {
    let until = Instant::now() + PATIENCE;
    while !is_so() {
        assert!(Instant::now() < until, "not within {PATIENCE:?}: {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// A TCP port of the loopback address that is free now, and that nobody else is given by chance.
///
/// # Panics
/// If there is none.
pub fn free_port() -> u16 {
    unclaimed(|port| TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok())
}

/// The same for UDP.
///
/// # Panics
/// If there is none.
pub fn free_udp_port() -> u16 {
    unclaimed(|port| UdpSocket::bind((Ipv4Addr::LOCALHOST, port)).is_ok())
}

/// The next port that is free, below those that the kernel hands out by itself (`ip_local_port_range`): what connects
/// or binds to port 0 between the question and the use cannot take it. No two calls of a process get the same one, and
/// processes begin at different places.
fn unclaimed(is_free: impl Fn(u16) -> bool) -> u16 {
    const FIRST: u32 = 10_000;
    const COUNT: u32 = 20_000;
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let begin = std::process::id().wrapping_mul(61);
    (0..COUNT)
        .map(|_| NEXT.fetch_add(1, Ordering::Relaxed))
        .map(|step| FIRST + begin.wrapping_add(step) % COUNT)
        .filter_map(|port| u16::try_from(port).ok())
        .find(|&port| is_free(port))
        .expect("a free port")
}

/// True if the loopback interface has an IPv6 address.
pub fn has_ipv6() -> bool {
    TcpListener::bind((Ipv6Addr::LOCALHOST, 0)).is_ok()
}

/// True while a thread of a process has not ended: the first may have, while others still have the files open.
pub fn is_alive(pid: u32) -> bool {
    let tasks = fs::read_dir(format!("/proc/{pid}/task"));
    tasks.into_iter().flatten().flatten().any(|task| {
        let stat = fs::read_to_string(task.path().join("stat")).unwrap_or_default();
        let state = stat
            .rsplit_once(')')
            .and_then(|(_, rest)| rest.trim_start().chars().next());
        state.is_some_and(|state| state != 'Z' && state != 'X')
    })
}

/// Sends a signal to a process by its id.
///
/// # Panics
/// If there is no such process, or it is not ours.
#[track_caller]
pub fn signal(pid: u32, signal: Signal) {
    let pid = i32::try_from(pid).ok().and_then(Pid::from_raw);
    kill_process(pid.expect("a process id"), signal).expect("a process of ours");
}

/// Processor time that a process has used, from `/proc/PID/stat` in its ticks of 10 ms.
///
/// # Panics
/// If there is no such process.
#[track_caller]
pub fn cpu_time(pid: u32) -> Duration {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).expect("a running process");
    let (_, fields) = stat.rsplit_once(')').expect("a name in parentheses");
    let ticks: u64 = fields
        .split_whitespace()
        .skip(11)
        .take(2)
        .map(|f| f.parse().unwrap_or(0))
        .sum();
    Duration::from_millis(ticks * 10)
}

/// A number of kibibytes from `/proc/PID/status`, in bytes.
///
/// # Panics
/// If there is no such process or field.
#[track_caller]
pub fn status_bytes(pid: u32, field: &str) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).expect("a running process");
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix(field))
        .expect("a known field");
    let number = line.trim_start_matches(':').trim().trim_end_matches(" kB");
    number.parse::<u64>().expect("a number") * 1024
}

/// The first of some programs that is installed.
pub fn find_program(names: &[&str]) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let folders: Vec<PathBuf> = std::env::split_paths(&path)
        .chain(["/usr/sbin".into(), "/sbin".into()])
        .collect();
    names
        .iter()
        .find_map(|name| folders.iter().map(|f| f.join(name)).find(|p| p.is_file()))
}

/// True if the tests run as root.
pub fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

/// Makes a file or folder belong to another user.
///
/// # Panics
/// If the host refuses.
pub fn give_to(path: &Path, uid: u32) {
    std::os::unix::fs::chown(path, Some(uid), Some(uid)).expect("root may give files away");
}
