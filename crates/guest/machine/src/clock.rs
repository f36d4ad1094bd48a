//! The clock: the time-stamp counter, scaled; and what it takes to find out its frequency.
//!
//! There is no other clock, so the guest is always told the frequency and reads the counter itself between calls, whether or not the
//! processor calls the counter invariant: asking the machine part would give it the same counter.

use core::arch::x86_64::{__cpuid, __cpuid_count};

use crate::cpu;
use crate::interrupts;

const SECOND: u64 = 1_000_000_000;

/// Monotonic and wall clock. They begin at one second, so that no time is mistaken for none.
#[derive(Clone, Copy, Debug, Default)]
pub struct Clock {
    /// Time-stamp counter at the start.
    base: u64,
    /// Nanoseconds per tick, times 2^32.
    scale: u64,
    /// Ticks per nanosecond, times 2^32.
    inverse: u64,
    /// Wall clock minus monotonic clock.
    wall: u64,
    /// Ticks per second.
    pub tsc_hz: u64,
}

impl Clock {
    /// A clock that begins now, of `hz` ticks a second, with its wall clock at `wall` nanoseconds since 1970.
    pub fn new(base: u64, hz: u64, wall: u64) -> Self {
        let hz = hz.clamp(1_000_000, 1 << 36);
        Self {
            base,
            scale: (SECOND << 32) / hz,
            inverse: ((hz << 28) / SECOND) << 4,
            wall: wall.wrapping_sub(SECOND),
            tsc_hz: hz,
        }
    }

    fn nanoseconds_at(&self, tsc: u64) -> u64 {
        SECOND + multiply(tsc.wrapping_sub(self.base), self.scale)
    }

    /// Monotonic nanoseconds.
    pub fn now(&self) -> u64 {
        self.nanoseconds_at(cpu::tsc())
    }

    /// Nanoseconds since 1970, for a moment of the monotonic clock.
    pub fn wall_at(&self, now: u64) -> u64 {
        now.wrapping_add(self.wall)
    }

    /// What the time-stamp counter shows at a moment of the monotonic clock, rounded up.
    pub fn tsc_at(&self, time: u64) -> u64 {
        let ticks = multiply(time.saturating_sub(SECOND), self.inverse);
        self.base.wrapping_add(ticks).saturating_add(1)
    }
}

/// `a * b / 2^32`.
fn multiply(a: u64, b: u64) -> u64 {
    ((u128::from(a) * u128::from(b)) >> 32) as u64
}

/// What the processor and the hypervisor are able to.
#[derive(Clone, Copy, Debug)]
pub struct Features {
    /// A set of `BootInfo::CPU_*`.
    pub cpu: u64,
    /// There is `rdrand`.
    pub rdrand: bool,
    /// The local timer can wait for a value of the time-stamp counter.
    pub tsc_deadline: bool,
    /// Bits for CR4.
    pub cr4: u64,
    /// The hypervisor's first leaf and signature.
    hypervisor: Option<(u32, u32)>,
    leaves: u32,
}

const KVM: u32 = u32::from_le_bytes(*b"KVMK");
const TCG: u32 = u32::from_le_bytes(*b"TCGT");

impl Features {
    /// Asks the processor (SDM volume 2, CPUID).
    pub fn detect() -> Self {
        use kiln_abi::BootInfo;
        let leaves = __cpuid(0).eax;
        let basic = __cpuid(1).ecx;
        let bit = |word: u32, bit: u32, value: u64| if word >> bit & 1 != 0 { value } else { 0 };
        let mut features = Self {
            cpu: 0,
            rdrand: basic >> 30 & 1 != 0,
            tsc_deadline: basic >> 24 & 1 != 0,
            cr4: 0,
            hypervisor: None,
            leaves,
        };
        if leaves >= 7 {
            let leaf = __cpuid_count(7, 0);
            features.cpu =
                bit(leaf.ebx, 9, BootInfo::CPU_ERMS) | bit(leaf.edx, 4, BootInfo::CPU_FSRM);
            // AVX2, and AVX with its registers enabled at the entry.
            if basic >> 27 & 3 == 3 {
                features.cpu |= bit(leaf.ebx, 5, BootInfo::CPU_AVX2);
            }
            features.cr4 = bit(leaf.ebx, 0, cpu::FSGSBASE)
                | bit(leaf.ebx, 7, cpu::SMEP)
                | bit(leaf.ecx, 2, cpu::UMIP);
        }
        if basic >> 31 != 0 {
            let leaf = __cpuid(0x4000_0000);
            features.hypervisor = Some((leaf.eax, leaf.ebx));
        }
        features
    }

    fn is(&self, signature: u32) -> bool {
        self.hypervisor.is_some_and(|(_, found)| found == signature)
    }
}

/// Finding out how fast the time-stamp counter and the local timer run. Begun as early as can be: what has to be measured
/// is the more exact the longer it takes, and the start has other things to do meanwhile.
#[derive(Clone, Copy, Debug)]
pub struct Beginning {
    /// What is known already: of the counter, and of the local timer. 0 for what is not.
    hz: u64,
    local: u64,
    against: Reference,
    first: Sample,
}

impl Beginning {
    /// Begins. `timer` is the port of ACPI's timer, or 0.
    pub fn new(features: &Features, timer: u16) -> Self {
        // KVM and QEMU count nanoseconds.
        let counts_nanoseconds = features.is(KVM) || features.is(TCG);
        let against = if counts_nanoseconds {
            Reference::Local
        } else if timer != 0 {
            Reference::Acpi(timer)
        } else {
            Reference::Pc
        };
        interrupts::start_counting();
        Self {
            hz: told(features),
            local: if counts_nanoseconds { SECOND } else { 0 },
            first: against.sample(),
            against,
        }
    }

    /// The clock, and the frequency of the local interrupt controller's timer. `told` is a moment of the wall clock that
    /// has passed.
    pub fn finish(self, features: &Features, told: u64) -> (Clock, u64) {
        if features.is(KVM)
            && let Some(found) = kvm(__cpuid(0x4000_0001).eax)
        {
            return (Clock::new(found.tsc, found.hz, found.wall), self.local);
        }
        let (mut hz, mut local) = (self.hz, self.local);
        if hz == 0 || local == 0 {
            let measured = self.measure();
            hz = if hz == 0 { measured.0 } else { hz };
            local = if local == 0 { measured.1 } else { local };
        }
        // That clock has whole seconds; whoever made the command line may know better.
        let wall = real_time_clock().max(told);
        (Clock::new(cpu::tsc(), hz, wall), local)
    }

    /// The frequencies of the counter and the local timer, measured for at least a millisecond.
    fn measure(&self) -> (u64, u64) {
        let (hz, mask) = self.against.rate();
        let first = match self.against {
            // This one turns over too soon.
            Reference::Pc => self.against.sample(),
            _ => self.first,
        };
        // A reference that does not move must not hold up the start for ever.
        for _ in 0..200_000 {
            let last = self.against.sample();
            let passed = last.reference.wrapping_sub(first.reference) & mask;
            if passed >= hz / 1000 {
                let per_second = |ticks: u64| (ticks * hz).checked_div(passed).unwrap_or(0);
                return (
                    per_second(last.tsc.wrapping_sub(first.tsc)),
                    per_second(last.local.wrapping_sub(first.local)),
                );
            }
        }
        (SECOND, SECOND)
    }
}

/// One reading of everything that counts.
#[derive(Clone, Copy, Debug)]
struct Sample {
    tsc: u64,
    reference: u64,
    local: u64,
}

/// A timer whose frequency is known.
#[derive(Clone, Copy, Debug)]
enum Reference {
    /// The local interrupt controller's.
    Local,
    /// ACPI's, by its port.
    Acpi(u16),
    /// The PC's (8254), channel 2.
    Pc,
}

impl Reference {
    /// Its frequency, and the bits that count.
    fn rate(self) -> (u64, u64) {
        match self {
            Self::Local => (SECOND, 0xffff_ffff),
            Self::Acpi(_) => (3_579_545, 0xff_ffff),
            Self::Pc => {
                // Counting down from 65536 without interrupts or sound.
                cpu::out8(0x61, cpu::in8(0x61) & !2 | 1);
                cpu::out8(0x43, 0xb4);
                cpu::out8(0x42, 0);
                cpu::out8(0x42, 0);
                (1_193_182, 0xffff)
            }
        }
    }

    fn read(self) -> u64 {
        match self {
            Self::Local => interrupts::counted(),
            Self::Acpi(port) => cpu::in32(port).into(),
            Self::Pc => {
                cpu::out8(0x43, 0x80);
                let low = cpu::in8(0x42);
                !u64::from(u16::from_le_bytes([low, cpu::in8(0x42)]))
            }
        }
    }

    fn sample(self) -> Sample {
        // A time stamp from the middle of reading the other one.
        let before = cpu::tsc();
        let reference = self.read();
        let after = cpu::tsc();
        Sample {
            tsc: before + after.wrapping_sub(before) / 2,
            reference,
            local: interrupts::counted(),
        }
    }
}

/// The frequency as the hypervisor or the processor tells it; 0 if they do not.
fn told(features: &Features) -> u64 {
    if features
        .hypervisor
        .is_some_and(|(last, _)| (0x4000_0010..0x4001_0000).contains(&last))
    {
        return u64::from(__cpuid(0x4000_0010).eax) * 1000;
    }
    if features.leaves >= 0x15 {
        let leaf = __cpuid(0x15);
        return (u64::from(leaf.ecx) * u64::from(leaf.ebx))
            .checked_div(leaf.eax.into())
            .unwrap_or(0);
    }
    0
}

/// What KVM tells of the clocks.
struct Kvm {
    tsc: u64,
    hz: u64,
    wall: u64,
}

/// Where KVM writes its answers (Documentation/virt/kvm/x86/msr.rst).
#[repr(C, align(64))]
struct Answers {
    version: u32,
    pad: u32,
    tsc: u64,
    system_time: u64,
    scale: u32,
    shift: i8,
    flags: u8,
    more: [u8; 2],
    wall: [u32; 3],
}

static ANSWERS: cpu::Shared<Answers> = cpu::Shared::new(Answers {
    version: 0,
    pad: 0,
    tsc: 0,
    system_time: 0,
    scale: 0,
    shift: 0,
    flags: 0,
    more: [0; 2],
    wall: [0; 3],
});

#[allow(unsafe_code)]
fn kvm(features: u32) -> Option<Kvm> {
    const WALL: u32 = 0x4b56_4d00;
    const SYSTEM: u32 = 0x4b56_4d01;
    if features >> 3 & 1 == 0 {
        return None;
    }
    let place = ANSWERS.get();
    // SAFETY: the feature bit promises both registers; KVM writes to `ANSWERS`, mapped where it is, between the first and
    // the last write only.
    let answers = unsafe {
        cpu::write_msr(WALL, &raw mut (*place).wall as u64);
        cpu::write_msr(SYSTEM, place as u64 | 1);
        let answers = place.read_volatile();
        cpu::write_msr(SYSTEM, 0);
        answers
    };
    let hz = ((1_000_000_000u64) << 32).checked_div(answers.scale.into())?;
    let shift = u32::from(answers.shift.unsigned_abs()) & 31;
    let hz = if answers.shift < 0 {
        hz << shift
    } else {
        hz >> shift
    };
    let [_, seconds, nanoseconds] = answers.wall;
    let wall = u64::from(seconds) * SECOND + u64::from(nanoseconds);
    Some(Kvm {
        tsc: answers.tsc,
        hz,
        wall: wall + answers.system_time,
    })
}

/// The PC's clock in nanoseconds since 1970; 0 if there is none.
fn real_time_clock() -> u64 {
    let register = |index: u8| {
        cpu::out8(0x70, index);
        cpu::in8(0x71)
    };
    if register(11) == 0xff {
        return 0;
    }
    let all = || [0, 2, 4, 7, 8, 9].map(register);
    for _ in 0..1000 {
        // Until two readings agree that no update came in between.
        if register(10) & 0x80 == 0 {
            let first = all();
            if first == all() {
                return since_1970(first, register(11));
            }
        }
    }
    0
}

/// Seconds, minutes, hours, day, month and year of this century, as register B says, in nanoseconds since 1970.
fn since_1970(fields: [u8; 6], register_b: u8) -> u64 {
    let decimal = |value: u8| {
        if register_b & 4 != 0 {
            value
        } else {
            (value >> 4) * 10 + (value & 15)
        }
    };
    let [second, minute, hour, day, month, year] = fields;
    let mut hours = u64::from(decimal(hour & 0x7f));
    if register_b & 2 == 0 {
        hours = hours % 12 + if hour & 0x80 != 0 { 12 } else { 0 };
    }
    let [second, minute, day, month, year] =
        [second, minute, day, month, year].map(|v| u64::from(decimal(v)));
    // Days since 2000-03-01 in years that begin in March.
    let month = (month + 9) % 12;
    let years = if month >= 10 {
        (2000 + year).wrapping_sub(1)
    } else {
        2000 + year
    };
    let days = years * 365 + years / 4 - years / 100 + years / 400 + (153 * month + 2) / 5 + day;
    // 719469: the same for 1970-01-01, less a day, as days count from 1.
    let days = days.saturating_sub(719_469);
    ((days * 24 + hours) * 3600 + minute * 60 + second) * SECOND
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn time_and_ticks_agree() {
        for hz in [1_000_000_000, 2_095_078_000, 3_999_999_999, 700_000_000] {
            let clock = Clock::new(1000, hz, 5 * SECOND);
            assert_eq!(clock.nanoseconds_at(1000), SECOND);
            assert_eq!(clock.wall_at(SECOND), 5 * SECOND);
            let day = clock.nanoseconds_at(1000 + hz * 86_400) - SECOND;
            assert!(day.abs_diff(86_400 * SECOND) < 86_400 * 2, "{hz}: {day}");
            for time in [SECOND, SECOND + 1, 2 * SECOND, 3600 * SECOND] {
                let there = clock.nanoseconds_at(clock.tsc_at(time));
                let off = 1000 + time / 100_000_000;
                assert!(there.abs_diff(time) < off, "{hz}: {time} {there}");
            }
            assert!(clock.tsc_at(u64::MAX) > 1 << 60);
        }
    }

    #[test]
    fn dates_are_those_of_the_calendar() {
        let at = |fields, b| since_1970(fields, b) / SECOND;
        assert_eq!(at([0x56, 0x34, 0x12, 0x01, 0x01, 0x00], 2), 946_730_096);
        assert_eq!(at([0, 0, 0, 29, 2, 24], 6), 1_709_164_800);
        assert_eq!(at([0, 0, 0, 1, 3, 24], 6), 1_709_251_200);
        assert_eq!(at([0x59, 0x59, 0x91, 0x31, 0x12, 0x25], 0), 1_767_225_599);
        assert_eq!(at([0, 0, 0x12, 0x15, 0x07, 0x26], 0), 1_784_073_600);
        for byte in 0..=255 {
            let _ = since_1970([byte; 6], byte);
        }
    }
}
