//! The signals by number (x86-64), and what each does by default.

/// Behind them come the real-time signals.
pub const LAST_STANDARD: u32 = 31;
/// `SIGRTMIN` as the kernel sees it.
pub const FIRST_REAL_TIME: u32 = 32;
/// `_NSIG`.
pub const LAST: u32 = 64;

macro_rules! signals {
    ($($name:ident = $number:literal,)*) => {
        $(#[doc = concat!("`SIG", stringify!($name), "`")] pub const $name: u32 = $number;)*

        /// Its name with `SIG`; the real-time signals have none of their own.
        pub const fn name(number: u32) -> &'static str {
            match number {
                $($number => concat!("SIG", stringify!($name)),)*
                _ => "SIGRT",
            }
        }
    };
}

signals! {
    HUP = 1,
    INT = 2,
    QUIT = 3,
    ILL = 4,
    TRAP = 5,
    ABRT = 6,
    BUS = 7,
    FPE = 8,
    KILL = 9,
    USR1 = 10,
    SEGV = 11,
    USR2 = 12,
    PIPE = 13,
    ALRM = 14,
    TERM = 15,
    STKFLT = 16,
    CHLD = 17,
    CONT = 18,
    STOP = 19,
    TSTP = 20,
    TTIN = 21,
    TTOU = 22,
    URG = 23,
    XCPU = 24,
    XFSZ = 25,
    VTALRM = 26,
    PROF = 27,
    WINCH = 28,
    IO = 29,
    PWR = 30,
    SYS = 31,
}

/// What a signal does to a process that has not asked for anything else.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Default {
    /// It ends.
    Terminate,
    /// It ends, and its memory is kept for a debugger.
    Core,
    /// Nothing.
    Ignore,
    /// It stops.
    Stop,
    /// It goes on if it was stopped.
    Continue,
}

/// What a signal does by default (`signal(7)`).
pub const fn default(number: u32) -> Default {
    match number {
        QUIT | ILL | TRAP | ABRT | BUS | FPE | SEGV | XCPU | XFSZ | SYS => Default::Core,
        CHLD | URG | WINCH => Default::Ignore,
        CONT => Default::Continue,
        STOP | TSTP | TTIN | TTOU => Default::Stop,
        _ => Default::Terminate,
    }
}

/// The signals that stop a process.
pub const STOPPING: super::Set =
    super::bit(STOP) | super::bit(TSTP) | super::bit(TTIN) | super::bit(TTOU);

/// The signals that an instruction causes: they are taken before others.
pub const SYNCHRONOUS: super::Set = super::bit(SEGV)
    | super::bit(BUS)
    | super::bit(ILL)
    | super::bit(TRAP)
    | super::bit(FPE)
    | super::bit(SYS);
