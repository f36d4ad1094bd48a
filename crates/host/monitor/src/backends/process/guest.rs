//! The supervisor's handle on a guest's process.

use std::io::{self, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use kiln_abi::{DeviceKind, ExitReason};
use kiln_gate::Report;
use kiln_gate::traffic::Traffic;

use super::child::Forked;
use super::counters::Counters;
use super::ring::{Reader, Ring};
use super::setup::{Common, Setup, Stage};
use super::{Error, Missing, os, protections};
use crate::backend::{Device, Ended, Guest, How, LinkCounts, MetricBlock, Protection, Usage};
use crate::capture::Copied;

const SIGKILL: u32 = 9;
const SIGSYS: u32 = 31;

/// A guest's process.
#[derive(Debug)]
pub struct ProcessGuest {
    pid: u32,
    pidfd: OwnedFd,
    common: os::Shared<Common>,
    /// Copies of frames, if it has links that do not end in the supervisor.
    ring: Option<os::Shared<Ring>>,
    reader: Reader,
    links: u64,
    counters: Counters,
    control: std::fs::File,
    image_start: u64,
    root: bool,
    no_namespaces: Option<String>,
    /// Whether the guest is in a virtual machine.
    machine: bool,
    /// Whether it runs a program.
    program: bool,
    ended: Option<Ended>,
}

/// What a guest's handle is made of.
pub(super) struct Parts {
    pub forked: Forked,
    pub common: os::Shared<Common>,
    pub ring: Option<os::Shared<Ring>>,
    /// Links, by bit, whose frames the gate can copy.
    pub links: u64,
    pub counters: Counters,
    pub control: OwnedFd,
    pub image_start: u64,
    pub machine: bool,
    pub program: bool,
}

/// Network links, by bit, whose other end is not the supervisor's own.
pub(super) fn outside(devices: &[Device]) -> u64 {
    let links = (0u32..).zip(devices).filter(|(_, device)| {
        device.info.kind == DeviceKind::Net as u32 && device.interface.is_some()
    });
    links.fold(0, |links, (device, _)| links | 1 << device)
}

impl ProcessGuest {
    pub(super) fn new(parts: Parts) -> Self {
        Self {
            pid: parts.forked.pid,
            pidfd: parts.forked.pidfd,
            common: parts.common,
            ring: parts.ring,
            reader: Reader::default(),
            links: parts.links,
            counters: parts.counters,
            control: parts.control.into(),
            image_start: parts.image_start,
            root: parts.forked.root,
            no_namespaces: parts.forked.no_namespaces,
            machine: parts.machine,
            program: parts.program,
            ended: None,
        }
    }

    fn traffic(&self) -> &Traffic {
        // SAFETY: a field of a mapped record, all of whose own fields are atomic.
        unsafe { self.common.atomics(|common| &raw const (*common).traffic) }
    }

    /// Blocks until the guest's first instruction is about to run.
    ///
    /// # Errors
    /// The step at which its process failed, with the host's answer; or what `--strict` does not accept.
    pub fn wait_started(&mut self) -> Result<(), Error> {
        let pause = Duration::from_micros(200);
        loop {
            let setup = self.setup();
            match Stage::from_raw(setup.stage) {
                Stage::Sealed => break,
                Stage::Preparing if self.has_ended(pause) => break,
                Stage::Preparing => {}
                Stage::Failed(step) => return Err(step.error(setup.errno)),
            }
        }
        self.failed_step().map_or(Ok(()), Err)
    }

    fn failed_step(&self) -> Option<Error> {
        let setup = self.setup();
        match Stage::from_raw(setup.stage) {
            Stage::Failed(step) => Some(step.error(setup.errno)),
            Stage::Preparing | Stage::Sealed => None,
        }
    }

    fn setup(&self) -> Setup {
        // SAFETY: a field of a mapped record.
        self.common
            .read(|common| unsafe { &raw const (*common).setup })
    }

    fn report(&self) -> Report {
        // SAFETY: as above.
        self.common
            .read(|common| unsafe { &raw const (*common).report })
    }

    fn has_ended(&self, pause: Duration) -> bool {
        let mut fds = [rustix::event::PollFd::new(
            &self.pidfd,
            rustix::event::PollFlags::IN,
        )];
        let timeout = rustix::event::Timespec {
            tv_sec: 0,
            tv_nsec: pause.as_nanos() as i64,
        };
        rustix::event::poll(&mut fds, Some(&timeout)).is_ok_and(|ready| ready > 0)
    }

    fn counted(report: &Report) -> Usage {
        Usage {
            calls: report.calls,
            host_calls: report.host_calls,
            operations: report.operations,
            ..Usage::default()
        }
    }
}

impl Guest for ProcessGuest {
    fn wait_started(&mut self) -> Result<(), crate::Error> {
        Ok(Self::wait_started(self)?)
    }

    fn ended(&self) -> BorrowedFd<'_> {
        self.pidfd.as_fd()
    }

    fn pid(&self) -> u32 {
        self.pid
    }

    fn send(&self, event: u32) {
        // A full pipe holds earlier requests that the guest has not looked at yet; one more changes nothing. A request is written
        // whole or not at all (pipe(7)).
        let _ = (&self.control).write(&event.to_le_bytes());
    }

    fn kill(&self) {
        os::kill(&self.pidfd);
    }

    fn wait(&mut self) -> io::Result<Ended> {
        if let Some(ended) = &self.ended {
            return Ok(ended.clone());
        }
        let (status, cpu_ns) = os::reap(self.pid)?;
        let report = self.report();
        let usage = Usage {
            cpu_ns,
            ..Self::counted(&report)
        };
        let ended = describe(status, &report, usage, self.image_start);
        self.ended = Some(ended.clone());
        Ok(ended)
    }

    fn failure(&self) -> Option<crate::Error> {
        self.failed_step().map(Into::into)
    }

    fn protections(&self) -> Vec<Protection> {
        let setup = self.setup();
        let reason = |errno: u32| {
            let error = io::Error::from_raw_os_error(errno.cast_signed());
            (errno != 0).then(|| error.to_string())
        };
        let user_namespace = if self.root {
            reason(setup.namespace_errno)
        } else {
            self.no_namespaces.clone()
        };
        let missing = Missing {
            hardware: setup.hardware == 1,
            user: reason(setup.user_errno),
            user_namespace,
            process_namespace: self.no_namespaces.clone(),
            landlock: reason(setup.landlock_errno),
        };
        protections(missing, self.machine)
    }

    fn usage(&self) -> Usage {
        let (cpu_ns, resident) = proc_usage(self.pid);
        Usage {
            cpu_ns,
            resident,
            ..Self::counted(&self.report())
        }
    }

    fn memory_in_use(&self) -> Option<u64> {
        self.program
            .then(|| self.counters.in_use() + own_memory(self.pid))
    }

    fn copies(&self) -> u64 {
        self.links
    }

    fn copy(&mut self, wanted: u64, snaplen: u32) {
        let Some(ring) = &self.ring else {
            return;
        };
        // SAFETY: as in `traffic`, which would borrow the reader too.
        let traffic = unsafe { self.common.atomics(|common| &raw const (*common).traffic) };
        self.reader.want(traffic, wanted & self.links, snaplen);
        if wanted & self.links == 0 {
            ring.forget();
        }
    }

    fn copied(&mut self, take: &mut dyn FnMut(Copied<'_>)) {
        let Some(ring) = &self.ring else {
            return;
        };
        // SAFETY: as above; a ring is made of atomic words.
        let (traffic, ring) = unsafe {
            (
                self.common.atomics(|common| &raw const (*common).traffic),
                ring.atomics(|ring| ring),
            )
        };
        self.reader.read(traffic, ring, os::wall(), take);
    }

    fn link_counts(&self, device: u32) -> Option<LinkCounts> {
        let counts = self.traffic().counts.get(device as usize)?;
        let value = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        Some(LinkCounts {
            received_frames: value(&counts.received_frames),
            received_bytes: value(&counts.received_bytes),
            sent_frames: value(&counts.sent_frames),
            sent_bytes: value(&counts.sent_bytes),
        })
    }

    fn metrics(&self) -> Vec<MetricBlock> {
        let traffic = self.traffic();
        let count = traffic.block_count.load(Ordering::Acquire);
        self.counters
            .read(traffic.blocks.load(Ordering::Relaxed), count)
    }
}

impl Drop for ProcessGuest {
    fn drop(&mut self) {
        if self.ended.is_none() {
            self.kill();
            // Nothing can be done about a child that cannot be waited for.
            let _ = os::reap(self.pid);
        }
    }
}

/// Makes sense of a wait status and a report of which no byte is trusted.
fn describe(status: i32, report: &Report, usage: Usage, image_start: u64) -> Ended {
    let mut ended = Ended {
        how: How::Killed(SIGKILL),
        code: 0,
        message: String::new(),
        frames: Vec::new(),
        registers: None,
        image_start,
        usage,
    };
    let signal = (status & 0x7f).cast_unsigned();
    if signal != 0 {
        ended.how = if signal == SIGSYS {
            How::ForbiddenCall(0)
        } else {
            How::Killed(signal)
        };
        ended.code = (128 + signal) as u8;
        return ended;
    }
    let code = (status >> 8 & 0xff) as u8;
    // A guest that ended in an orderly way for a reason unknown here has ended all the same.
    let reason = (report.ended == 1)
        .then(|| ExitReason::from_raw(report.reason).unwrap_or(ExitReason::Exit));
    ended.how = How::Exited(reason.unwrap_or(ExitReason::Boot));
    ended.code = code;
    let frames = (report.frame_count as usize).min(report.frames.len());
    ended.frames = report.frames[..frames].to_vec();
    let len = (report.message_len as usize).min(report.message.len());
    ended.message = String::from_utf8_lossy(&report.message[..len]).into_owned();
    if report.has_registers == 1 && reason == Some(ExitReason::Fault) {
        ended.registers = Some(Box::new(report.registers));
    }
    ended
}

/// Bytes of memory that only this process has: resident ones but those of files and of memory shared with others, what was
/// swapped out, and its page tables, which a program that reads a little everywhere has many of; see `proc_pid_status(5)`.
fn own_memory(pid: u32) -> u64 {
    let text = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let kilobytes = |line: &str| {
        let (name, rest) = line.split_once(':')?;
        let counts = matches!(name, "RssAnon" | "VmSwap" | "VmPTE");
        let number = rest.trim().strip_suffix(" kB").filter(|_| counts)?;
        number.parse::<u64>().ok()
    };
    text.lines().filter_map(kilobytes).sum::<u64>() * 1024
}

/// Processor time in nanoseconds and proportional resident memory in bytes, as far as /proc tells.
pub(in crate::backends) fn proc_usage(pid: u32) -> (u64, u64) {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    // The name in parentheses may hold anything; the fields behind it are numbers (proc(5)).
    let fields = stat.rsplit_once(')').map_or("", |(_, rest)| rest);
    let ticks: u64 = fields
        .split_whitespace()
        .skip(11)
        .take(2)
        .filter_map(|field| field.parse::<u64>().ok())
        .sum();
    let rollup = std::fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).unwrap_or_default();
    let proportional = rollup
        .lines()
        .find_map(|line| line.strip_prefix("Pss:"))
        .and_then(|rest| rest.trim().strip_suffix("kB")?.trim().parse::<u64>().ok())
        .map(|kilobytes| kilobytes * 1024);
    // Not for everybody to read, depending on the host: then what it shares counts in full.
    let resident = || {
        let text = std::fs::read_to_string(format!("/proc/{pid}/statm")).ok()?;
        let pages: u64 = text.split(' ').nth(1)?.parse().ok()?;
        Some(pages * kiln_abi::PAGE_SIZE)
    };
    (
        ticks * 10_000_000,
        proportional.or_else(resident).unwrap_or(0),
    )
}
