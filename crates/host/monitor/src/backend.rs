//! What a backend is to the rest of the monitor.
//!
//! A backend takes a checked image and a [`Launch`] and makes a [`Guest`] of them: something that runs, writes to its
//! console, can be asked to stop, and ends. Nothing above this module knows which backend it has.
//!
//! Who does what: the backend moves bytes between the guest and the descriptors it was given. The supervisor
//! ([`supervise`](crate::supervise)) holds the other ends: it reads the console, serves the rootless network, and
//! answers the control socket.

use std::os::fd::{BorrowedFd, OwnedFd};

use kiln_abi::trap::TrapFrame;
use kiln_abi::{DeviceInfo, DeviceKind};
use kiln_image::Image;

use crate::backends::process::counter::Sample;
use crate::capture::Copied;

/// Everything a backend needs to start a guest.
#[derive(Debug)]
pub struct Launch<'a> {
    /// The checked image.
    pub image: &'a Image,
    /// Memory of the guest in bytes: its writable data, stacks, boot record and heap. A multiple of the page size.
    pub memory: u64,
    /// The instance's name, at most 23 bytes.
    pub name: &'a str,
    /// Arguments, the program's name first.
    pub args: &'a [String],
    /// Environment, as `NAME=value`.
    pub env: &'a [String],
    /// Devices in the order in which the guest will number them.
    pub devices: Vec<Device>,
    /// Write end of the console.
    pub console: OwnedFd,
    /// Write end of the console's stream for errors. If there is none they go to the console.
    pub errors: Option<OwnedFd>,
    /// What a program reads as the console's input. If there is none its input is at its end. Not for other guests.
    pub input: Option<OwnedFd>,
    /// Refuse to start when a protection is not available.
    pub strict: bool,
    /// The time-stamp counter when the start began, for guests that are to tell the time by it.
    pub counter: Option<Sample>,
}

/// One device: what the guest is told of it, and the host's end.
#[derive(Debug)]
pub struct Device {
    /// What the guest is told.
    pub info: DeviceInfo,
    /// Where its data go. For a network link: a tap device or one end of a socket pair (`SOCK_SEQPACKET`), non-blocking,
    /// that carries one frame behind a 12-byte [`NetHeader`](kiln_abi::NetHeader) per read and write, unless the
    /// backend asked for something else ([`LinkEnds`]). For a disk: the open file or block device.
    pub host: OwnedFd,
    /// For a network link over a tap device: that device.
    pub interface: Option<Interface>,
}

/// What a backend wants to be given of its network links.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LinkEnds {
    /// A descriptor that carries a [`NetHeader`](kiln_abi::NetHeader) before each frame, the rootless network too.
    Offloaded,
    /// A descriptor; that of the rootless network carries frames with nothing before them.
    Plain,
    /// A tap device, the rootless network's too: that one lies in a network namespace of its own. A descriptor for it,
    /// and its [`Interface`].
    Taps,
    /// The same, only that the tap device is left to be opened by whoever runs the guest.
    Names,
}

impl Device {
    /// Whether it is a folder of the host.
    pub fn is_folder(&self) -> bool {
        self.info.kind == DeviceKind::Files as u32
    }
}

/// The tap device behind a network link.
#[derive(Debug)]
pub struct Interface {
    /// Its name.
    pub name: String,
    /// [`Device::host`] is a descriptor for it. If not, it is to be opened by name.
    pub opened: bool,
    /// The network namespace it lies in, if that is not this process's own.
    pub namespace: Option<OwnedFd>,
}

/// A running guest.
pub trait Guest {
    /// Blocks until the guest's first instruction is about to run.
    ///
    /// # Errors
    /// What kept it from that. The guest is to be dropped then.
    fn wait_started(&mut self) -> Result<(), crate::Error>;

    /// Looks at console output before it is passed on, and takes out what was written for the monitor. Something may
    /// be kept back until more is known; after the last output comes a call with `last`, for what still is.
    fn screen(&mut self, _output: &mut Vec<u8>, _last: bool) {}

    /// A descriptor that becomes readable when the guest has ended (a pidfd).
    fn ended(&self) -> BorrowedFd<'_>;

    /// Process id of what runs the guest.
    fn pid(&self) -> u32;

    /// Lets the guest find this in its next call ([`Call::event`](kiln_abi::Call::event)): a signal, most of which ask it to end by itself.
    /// Does not block.
    fn send(&self, event: u32);

    /// Whether this signal reaches the guest as it is.
    fn hears(&self, _signal: u32) -> bool {
        true
    }

    /// Ends the guest at once. Does not block.
    fn kill(&self);

    /// Waits for the guest's end and tells how it was. Blocks. All console output was [screened](Self::screen) before.
    ///
    /// # Errors
    /// If the host does not say.
    fn wait(&mut self) -> std::io::Result<Ended>;

    /// What kept the process from becoming a guest, if anything did. Known once it has ended.
    fn failure(&self) -> Option<crate::Error>;

    /// The protections around the guest, for `kiln inspect`.
    fn protections(&self) -> Vec<Protection>;

    /// What the guest has used so far.
    fn usage(&self) -> Usage;

    /// Memory that the guest has in use, in bytes, if nothing else keeps it from using more than it was given. Cheap.
    fn memory_in_use(&self) -> Option<u64> {
        None
    }

    /// Links, by bit, whose frames this backend can copy. Those of the rootless network pass the supervisor anyway.
    fn copies(&self) -> u64 {
        0
    }

    /// Begins to copy frames of these links, by bit, at most `snaplen` bytes of each; or ends it with no links. The guest is
    /// not slowed by more than the copying.
    fn copy(&mut self, _wanted: u64, _snaplen: u32) {}

    /// Hands out copies made since the last time, and what was lost of them. Does not block; how much it is at the most
    /// is bounded.
    fn copied(&mut self, _take: &mut dyn FnMut(Copied<'_>)) {}

    /// What went over a link, if this backend counts it. The guest may be able to forge it.
    fn link_counts(&self, _device: u32) -> Option<LinkCounts> {
        None
    }

    /// The counters that the guest shows ([`kiln_abi::metrics`]). Nothing of them can be trusted.
    fn metrics(&self) -> Vec<MetricBlock> {
        Vec::new()
    }
}

/// What went over a link, seen from the guest.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LinkCounts {
    /// Frames into the guest.
    pub received_frames: u64,
    /// Bytes in them.
    pub received_bytes: u64,
    /// Frames out of the guest.
    pub sent_frames: u64,
    /// Bytes in them.
    pub sent_bytes: u64,
}

/// A block of counters that a guest shows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MetricBlock {
    /// See [`Header::kind`](kiln_abi::metrics::Header::kind).
    pub kind: u16,
    /// The device that it is about, by its number; it need not exist.
    pub device: u32,
    /// The values, at most [`MAX_VALUES`](kiln_abi::metrics::MAX_VALUES).
    pub values: Vec<u64>,
}

/// One protection and whether this host has it.
#[derive(Clone, Debug)]
pub struct Protection {
    /// Its name, for example `seccomp` or `user namespace`.
    pub name: &'static str,
    /// `None` if it is in force, else why not.
    pub missing: Option<String>,
}

/// What a guest has used.
#[derive(Clone, Copy, Debug, Default)]
pub struct Usage {
    /// Processor time in nanoseconds.
    pub cpu_ns: u64,
    /// Resident memory of the guest's process in bytes, shared pages counted in proportion where the host tells.
    pub resident: u64,
    /// Calls to the monitor (`enter`).
    pub calls: u64,
    /// Host system calls made on the guest's behalf.
    pub host_calls: u64,
    /// Operations performed.
    pub operations: u64,
}

/// How a guest ended.
#[derive(Clone, Debug)]
pub struct Ended {
    /// What happened.
    pub how: How,
    /// The exit code, as a shell sees it (0 to 255).
    pub code: u8,
    /// What the guest said at its end (a panic message), possibly empty.
    pub message: String,
    /// Return addresses, innermost first.
    pub frames: Vec<u64>,
    /// The registers, if the guest faulted.
    pub registers: Option<Box<TrapFrame>>,
    /// Where the image was loaded, to find addresses in it.
    pub image_start: u64,
    /// What it used in all.
    pub usage: Usage,
}

/// What happened to a guest that ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum How {
    /// It ended by itself with this reason.
    Exited(kiln_abi::ExitReason),
    /// It tried a host system call that the sandbox does not have; the call's number.
    ForbiddenCall(u32),
    /// A signal from outside ended it: its number. 9 after [`Guest::kill`].
    Killed(u32),
    /// It had more memory in use than it was given, and was ended for that. The message says how much.
    OutOfMemory,
    /// Its machine went off and said nothing: the guest switched it off, or brought it down with a triple fault.
    Silent,
    /// The program that ran it failed. The message says what that program said.
    MonitorFailed,
}
