//! What can be wrong with an image.
//!
//! One variant for each rule of the format; the messages follow the name of the file ("x.kiln: ...").

use thiserror::Error;

use super::{GUEST_ADDRESS, HEAD, MACHINE_ADDRESS, MAX_ALIGNMENT, MAX_SPAN};

/// Why a file's content is not an image that can be run.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum Fault {
    /// A folder was named instead of a file.
    #[error("a folder, not an image: build the crate in it first")]
    Directory,
    /// The file has no bytes.
    #[error("an empty file, not a Kiln image")]
    Empty,
    /// The file is a script.
    #[error("a script, not a Kiln image")]
    Script,
    /// The file is anything but ELF.
    #[error("not a Kiln image (no ELF file)")]
    NotElf,
    /// The file ends inside its headers.
    #[error("damaged: the ELF header is incomplete; copy or build the image again")]
    Truncated,
    /// The file is ELF for another processor.
    #[error("built for another processor: Kiln runs 64-bit x86 images")]
    OtherMachine,
    /// A program for Linux.
    #[error("a Linux program, not a Kiln image")]
    LinuxProgram,
    /// Neither a program at a fixed address nor a movable one.
    #[error("ELF type {0}, expected 3 (position-independent program): not a Kiln image")]
    NotAProgram(u16),
    /// Headers or notes are not where they can be read at once.
    #[error("headers and notes are not in the first {HEAD} bytes: not made by `kiln build`")]
    ScatteredHeaders,
    /// No ABI note.
    #[error("not a Kiln image (no ABI note): build it with `kiln build`")]
    NoAbiNote,
    /// Two ABI notes.
    #[error("more than one ABI note: is `kiln` in the dependencies twice, in two versions?")]
    SeveralAbiNotes,
    /// The ABI note has a wrong length, or reserved flags are set.
    #[error("damaged: malformed ABI note; build the image again")]
    BadAbiNote,
    /// An image for another version of the ABI.
    #[error(
        "built for Kiln ABI {found}, this kiln speaks {expected}: rebuild the image or update kiln"
    )]
    OtherAbi {
        /// The version in the image.
        found: u32,
        /// The version of this crate.
        expected: u32,
    },
    /// A note segment ends inside a note.
    #[error("damaged: incomplete notes; build the image again")]
    TruncatedNotes,
    /// A note of Kiln's with an unknown type.
    #[error("unknown kind of Kiln note ({0}): update kiln")]
    UnknownNote(u32),
    /// Two build ids, or one of no sensible length.
    #[error("damaged: malformed build id; build the image again")]
    BadBuildId,
    /// A device note of wrong length, or with an invalid name.
    #[error(
        "device {index} is declared with an invalid name: 1 to 23 characters of a-z, 0-9, '-' and '_' are expected"
    )]
    BadDevice {
        /// Which of the image's device notes, from 0.
        index: usize,
    },
    /// A device kind that this version does not know.
    #[error("device {name} is of unknown kind {kind}: update kiln")]
    UnknownDevice {
        /// The device.
        name: String,
        /// Its kind's number.
        kind: u32,
    },
    /// A flag that this version does not know.
    #[error("device {name} is declared with unknown flags {flags:#x}: update kiln")]
    UnknownDeviceFlags {
        /// The device.
        name: String,
        /// Its flags.
        flags: u32,
    },
    /// Two devices of one name.
    #[error("device {0} is declared twice")]
    DuplicateDevice(String),
    /// More devices than an instance can have.
    #[error("{found} devices are declared, at most {most} are possible")]
    TooManyDevices {
        /// How many notes there are.
        found: usize,
        /// How many there may be.
        most: usize,
    },
    /// Nothing to load.
    #[error("no loadable segments: not made by `kiln build`")]
    NoSegments,
    /// A segment's bytes are not all in the file.
    #[error("segment {0} lies beyond the end of the file: the image is incomplete, copy it again")]
    OutsideFile(usize),
    /// Less memory than bytes in the file.
    #[error("segment {0} has more bytes in the file than in memory")]
    LongerInFile(usize),
    /// A part to be filled with zeroes that nobody could write afterwards.
    #[error("segment {0} is read-only and has no bytes in the file for some of its memory")]
    ReadOnlyZeroes(usize),
    /// Address or offset not on a page boundary, or a strange alignment.
    #[error("segment {0} is not aligned to pages of 4096 bytes (at most {MAX_ALIGNMENT})")]
    Misaligned(usize),
    /// Segments overlap or are not in the order of their addresses.
    #[error("segment {0} overlaps the one before it or is out of order")]
    Overlap(usize),
    /// Segments span too much.
    #[error("segments span more than {MAX_SPAN} bytes")]
    TooLarge,
    /// Segments that start above 0.
    #[error("the first segment is at {0:#x}, expected 0")]
    NotAtZero(u64),
    /// A segment both writable and executable.
    #[error("segment {0} is writable and executable: Kiln does not run such code")]
    WritableCode(usize),
    /// A segment that cannot be read.
    #[error("segment {0} is not readable")]
    Unreadable(usize),
    /// The program header asks for an executable stack.
    #[error("asks for an executable stack: Kiln does not provide one")]
    ExecutableStack,
    /// Thread-local variables.
    #[error("has thread-local variables: a Kiln program has none")]
    ThreadLocals,
    /// The entry point is not code.
    #[error("the entry point {0:#x} is not in an executable segment: is #[kiln::main] missing?")]
    BadEntry(u64),
    /// A segment's physical address does not follow from its address.
    #[error("segment {0} is not at its physical address: not made by `kiln build`")]
    NotPhysical(usize),
    /// The machine part is missing, or there are several, or something lies behind it.
    #[error("not exactly one machine part behind the segments: build the image again")]
    NoMachinePart,
    /// The machine part is not what it has to be: readable and executable.
    #[error("the machine part is not readable and executable, or it is writable")]
    MachineAccess,
    /// The machine part is not where it belongs, or too long.
    #[error(
        "the machine part at {0:#x} is not in {MACHINE_ADDRESS:#x} to {GUEST_ADDRESS:#x}: not made by `kiln build`"
    )]
    MachineAddress(u64),
    /// The machine part's address is one of the guest's.
    #[error("the machine part's addresses are not behind the segments'")]
    MachineOverlap,
    /// The machine part's bytes are not all in the file.
    #[error(
        "the machine part lies beyond the end of the file: the image is incomplete, copy it again"
    )]
    MachineOutsideFile,
    /// Other monitors would not enter the machine part.
    #[error("the machine's entry point {0:#x} is not in the machine part: build the image again")]
    MachineEntry(u64),
    /// The part to seal is not whole pages of one writable segment.
    #[error("the pages to seal after relocation are not whole pages of a writable segment")]
    BadRelro,
    /// The root file system is not whole pages of the file, apart from what is loaded, or there are several.
    #[error(
        "the root file system is not in the file where the header says: copy or build the image again"
    )]
    BadRoot,
    /// The configuration is not in the file, apart from what is loaded, or there are several.
    #[error(
        "the configuration is not in the file where the header says: copy or build the image again"
    )]
    BadConfig,
    /// The configuration cannot be understood.
    #[error("its configuration cannot be read ({0}): build the image again or update kiln")]
    UnknownConfig(String),
}
