//! What the monitor tells a guest before its first instruction.
//!
//! At the image's ELF entry point `rdi` holds the address of a [`BootInfo`], `rsp` is [`BootInfo::stack_top`] minus 8
//! (as behind a `call`), the direction flag is clear, and all other registers are undefined. The record and
//! everything it points to lie in one read-only memory range.

/// First bytes of a [`BootInfo`]: "KILNBOOT".
pub const MAGIC: u64 = u64::from_le_bytes(*b"KILNBOOT");

/// The record that a guest finds at start.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct BootInfo {
    /// [`MAGIC`].
    pub magic: u64,
    /// [`VERSION`](crate::VERSION) of the monitor.
    pub version: u32,
    /// Size of this record in bytes; a later monitor of the same version may append fields.
    pub size: u32,
    /// A set of `FEATURE_*` bits.
    pub features: u64,
    /// Address of the function that calls the monitor, see [`call`](crate::call).
    pub enter: u64,
    /// A [`Backend`].
    pub backend: u32,
    /// 0 for a first boot, greater in each clone or restored snapshot.
    pub generation: u32,
    /// Where the image's first segment lies.
    pub image_start: u64,
    /// From there to the end of the image's last segment, in bytes.
    pub image_size: u64,
    /// Address of an array of [`MemoryRange`], sorted by start, not overlapping.
    pub memory: u64,
    /// Number of memory ranges.
    pub memory_count: u32,
    /// Number of devices, at most [`MAX_DEVICES`](crate::MAX_DEVICES).
    pub device_count: u32,
    /// Address of an array of [`DeviceInfo`]; a device's index in it is its number in operations and ready sets.
    pub devices: u64,
    /// Address of the arguments, each ended by a NUL byte. The first is the program's name.
    pub args: u64,
    /// Length of the arguments in bytes.
    pub args_size: u32,
    /// Number of arguments.
    pub args_count: u32,
    /// Address of the environment, `NAME=value` strings each ended by a NUL byte.
    pub env: u64,
    /// Length of the environment in bytes.
    pub env_size: u32,
    /// Number of environment strings.
    pub env_count: u32,
    /// Ticks of the time-stamp counter per second, 0 if it cannot be relied on (ask the monitor for the time then).
    pub tsc_hz: u64,
    /// Monotonic nanoseconds when this record was made.
    pub now: u64,
    /// Wall clock at the same moment, nanoseconds since 1970-01-01 UTC.
    pub wall: u64,
    /// A set of `CPU_*` bits: what the guest may use without asking the processor. A bit that is not set says nothing.
    pub cpu: u64,
    /// Random bytes from the host, different at every boot. The guest's generator is seeded with them.
    pub entropy: [u8; 64],
    /// Upper end of the main stack, 16-byte aligned.
    pub stack_top: u64,
    /// Upper end of the stack for traps, 16-byte aligned.
    pub trap_stack_top: u64,
    /// The instance's name, NUL-padded.
    pub name: [u8; 24],
    /// Address of the root image, page aligned: the file system that comes with the image of a guest that runs a program
    /// ([`AbiNote::PROGRAM`](crate::note::AbiNote::PROGRAM)). 0 if there is none.
    pub root: u64,
    /// Its length in bytes. It is mapped in whole pages, what is behind its end may hold anything or fault.
    pub root_size: u64,
    /// Reserved, 0.
    pub reserved: u64,
}

impl BootInfo {
    /// Preemption ticks work on this backend.
    pub const FEATURE_TICK: u64 = 1;
    /// Released memory really goes back to the host.
    pub const FEATURE_RELEASE: u64 = 2;

    /// `rep movsb` and `rep stosb` are fast (ERMS).
    pub const CPU_ERMS: u64 = 1;
    /// They are fast for short counts too (FSRM).
    pub const CPU_FSRM: u64 = 2;
    /// AVX2, and the host saves its registers.
    pub const CPU_AVX2: u64 = 4;
}

/// Where a guest runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Backend {
    /// A sandboxed Linux process.
    Process = 1,
    /// A virtual machine under Kiln's own monitor.
    Kvm = 2,
    /// A virtual machine under another monitor, with virtio devices.
    Virtio = 3,
    /// A Xen domain.
    Xen = 4,
}

/// One range of guest memory. Between any two ranges lies at least one page that faults.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct MemoryRange {
    /// First address, page aligned.
    pub start: u64,
    /// Length in bytes, a multiple of the page size.
    pub len: u64,
    /// A [`MemoryKind`].
    pub kind: u32,
    /// Reserved, 0.
    pub flags: u32,
}

/// What a memory range is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum MemoryKind {
    /// The image's segments.
    Image = 1,
    /// [`BootInfo`] and what it points to; read-only.
    Boot = 2,
    /// The main stack. Faults below it are overflows.
    Stack = 3,
    /// The stack for traps.
    TrapStack = 4,
    /// Zero-filled memory for the guest to use as it likes.
    Free = 5,
    /// The root image; read-only. Not more than looked at: no buffer of an operation may lie there.
    Root = 6,
}

/// Kinds of devices.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u32)]
pub enum DeviceKind {
    /// An Ethernet link.
    Net = 1,
    /// A disk.
    Block = 2,
    /// A folder of the host, asked by 9P2000.L ([`UserOp::NineP`](crate::user::UserOp::NineP)). Only for guests that run a program,
    /// whose images do not declare it.
    Files = 3,
}

impl DeviceKind {
    /// The kind with this number.
    pub const fn from_raw(raw: u32) -> Option<Self> {
        Some(match raw {
            1 => Self::Net,
            2 => Self::Block,
            3 => Self::Files,
            _ => return None,
        })
    }

    /// The word used for it in commands and messages.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Net => "net",
            Self::Block => "block",
            Self::Files => "files",
        }
    }
}

/// One attached device.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct DeviceInfo {
    /// A [`DeviceKind`].
    pub kind: u32,
    /// [`READ_ONLY`](Self::READ_ONLY) or 0.
    pub flags: u32,
    /// Name, NUL-padded; see [`note::name_of`](crate::note::name_of).
    pub name: [u8; 24],
    /// Net: the Ethernet address.
    pub mac: [u8; 6],
    /// Net: greatest IP packet in bytes that the link carries without segmentation offload.
    pub mtu: u16,
    /// Net: a set of `NET_*` bits.
    pub net_features: u32,
    /// Net: length of the IPv4 network prefix; 0 means that the address is to be had by DHCP.
    pub prefix4: u8,
    /// Net: length of the IPv6 network prefix; 0 means stateless autoconfiguration.
    pub prefix6: u8,
    /// Reserved, 0.
    pub reserved0: u16,
    /// Net: static IPv4 address.
    pub address4: [u8; 4],
    /// Net: IPv4 default gateway, all 0 for none.
    pub gateway4: [u8; 4],
    /// Net: DNS server, all 0 for none or as DHCP says.
    pub dns4: [u8; 4],
    /// Reserved, 0.
    pub reserved1: u32,
    /// Net: static IPv6 address.
    pub address6: [u8; 16],
    /// Net: IPv6 default gateway, all 0 for none.
    pub gateway6: [u8; 16],
    /// Net: DNS server, all 0 for none.
    pub dns6: [u8; 16],
    /// Block: size in bytes, a multiple of `sector_size`.
    pub capacity: u64,
    /// Block: offsets and lengths of all operations are multiples of this, a power of two.
    pub sector_size: u32,
    /// Reserved, 0.
    pub reserved2: u32,
    /// Reserved, 0.
    pub reserved3: [u64; 4],
}

impl DeviceInfo {
    /// Block: writing fails with [`OpError::ReadOnly`](crate::OpError::ReadOnly).
    pub const READ_ONLY: u32 = 1;

    /// Net: frames with incomplete checksums may be sent ([`NetHeader::NEEDS_CSUM`](crate::NetHeader::NEEDS_CSUM)).
    pub const NET_CSUM: u32 = 1;
    /// Net: frames may be sent with TCP segmentation for IPv4.
    pub const NET_TSO4: u32 = 2;
    /// Net: the same for IPv6.
    pub const NET_TSO6: u32 = 4;
    /// Net: frames with incomplete checksums, and longer than the MTU, may be received.
    pub const NET_GRO: u32 = 8;
    /// Net: no IPv6 on this link.
    pub const NET_NO_IPV6: u32 = 16;

    /// The name as text; `None` if it is not a valid name.
    pub fn name(&self) -> Option<&str> {
        crate::note::name_of(&self.name)
    }
}
