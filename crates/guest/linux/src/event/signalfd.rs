//! `signalfd(2)`: pending signals as bytes to read.

use alloc::rc::Rc;
use alloc::vec::Vec;
use core::any::Any;
use core::cell::Cell;

use crate::fs::{File, Kind, Metadata, OpenFile};
use crate::io::Sink;
use crate::process::{Thread, sched};
use crate::signal::{self, Info, ProcessSignals, Set, UNBLOCKABLE, info, number};
use crate::user::bytes_of;
use crate::wait::{Events, WaitQueue};
use crate::{Errno, Result};

/// Bytes of a `struct signalfd_siginfo`.
const RECORD: usize = 128;

/// The descriptor's half of it; the signals lie with the thread that reads, and with its process.
#[derive(Debug)]
pub struct SignalFd {
    wanted: Cell<Set>,
    signals: Rc<ProcessSignals>,
}

impl SignalFd {
    /// For a process's signals of this set.
    pub fn new(thread: &Thread, wanted: Set) -> Rc<Self> {
        Rc::new(Self {
            wanted: Cell::new(wanted & !UNBLOCKABLE),
            signals: thread.process.signals.clone(),
        })
    }

    /// Changes the set.
    pub fn set(&self, wanted: Set) {
        self.wanted.set(wanted & !UNBLOCKABLE);
        self.signals.arrived.wake_all(Events::READABLE);
    }
}

/// `struct signalfd_siginfo`, in words.
fn record(info: &Info) -> [u32; RECORD / 4] {
    let field = |index: usize| info.fields.get(index).copied().unwrap_or(0);
    let half = |index: usize, high: bool| (field(index) >> if high { 32 } else { 0 }) as u32;
    let mut words = [0; RECORD / 4];
    words[0] = info.number.cast_unsigned();
    words[1] = info.errno.cast_unsigned();
    words[2] = info.code.cast_unsigned();
    let number = info.signal();
    let of_kernel = info.code > 0 && info.code != info::SI_KERNEL;
    match info.code {
        info::SI_TIMER => {
            words[6] = half(0, false);
            words[8] = half(0, true);
            words[11] = half(1, false);
            (words[12], words[13]) = (half(1, false), half(1, true));
        }
        _ if of_kernel && number::SYNCHRONOUS & signal::bit(number) != 0 => {
            (words[18], words[19]) = (half(0, false), half(0, true));
        }
        _ if of_kernel && number == number::IO => {
            words[7] = half(0, false);
            words[5] = half(1, false);
        }
        code => {
            words[3] = half(0, false);
            words[4] = half(0, true);
            if of_kernel && number == number::CHLD {
                words[10] = half(1, false);
                (words[14], words[15]) = (half(2, false), half(2, true));
                (words[16], words[17]) = (half(3, false), half(3, true));
            } else if code < 0 && code != info::SI_TKILL {
                words[11] = half(1, false);
                (words[12], words[13]) = (half(1, false), half(1, true));
            }
        }
    }
    words
}

impl File for SignalFd {
    fn read(&self, thread: &Rc<Thread>, _open: &OpenFile, to: &mut Sink) -> Result<usize> {
        if to.remaining() < RECORD {
            return Err(Errno::EINVAL);
        }
        let mut done = 0;
        while to.remaining() >= RECORD {
            let Some(info) = signal::take(thread, self.wanted.get()) else {
                break;
            };
            let put = to.put(bytes_of(&record(&info)));
            match put {
                Ok(put) => done += put,
                Err(error) if done == 0 => return Err(error),
                Err(_) => break,
            }
        }
        if done == 0 {
            Err(Errno::EAGAIN)
        } else {
            Ok(done)
        }
    }

    fn poll(&self, _open: &OpenFile) -> Events {
        // What is pending for the thread that asks, as Linux has it, is for it alone.
        let own = sched::running().map_or(0, |thread| thread.signals.pending.set());
        let pending = own | self.signals.pending.set();
        if pending & self.wanted.get() == 0 {
            Events::empty()
        } else {
            Events::READABLE
        }
    }

    fn queue(&self) -> Option<&WaitQueue> {
        Some(&self.signals.arrived)
    }

    fn metadata(&self) -> Result<Metadata> {
        Ok(super::anonymous_metadata(Kind::Anonymous, 1))
    }

    fn describe(&self) -> Vec<u8> {
        b"anon_inode:[signalfd]".to_vec()
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::testing;
    use crate::fs::OpenFlags;

    fn read(thread: &Rc<Thread>, open: &OpenFile) -> Result<Vec<u32>> {
        let mut to = [0; 3 * RECORD];
        let got = open.file.read(thread, open, &mut Sink::kernel(&mut to))?;
        let words = to[..got].chunks_exact(4);
        Ok(words.filter_map(crate::user::from_bytes).collect())
    }

    #[test]
    fn blocked_signals_are_read_instead_of_handled() {
        let thread = testing::thread();
        let wanted = signal::bit(number::USR1) | signal::bit(number::CHLD);
        signal::set_blocked(&thread, wanted);
        let open = OpenFile::new(SignalFd::new(&thread, wanted), OpenFlags::NONBLOCK);
        assert_eq!(read(&thread, &open), Err(Errno::EAGAIN));
        assert_eq!(open.file.poll(&open), Events::empty());
        let info = Info::user(number::USR1, info::SI_USER, 7, 8);
        signal::send_to_process(&thread.process, info).expect("room");
        let info = Info::user(number::USR2, info::SI_USER, 7, 8);
        signal::send_to_process(&thread.process, info).expect("room");
        assert_eq!(open.file.poll(&open), Events::READABLE);
        let words = read(&thread, &open).expect("a record");
        assert_eq!(words.len(), RECORD / 4);
        assert_eq!(words[..5], [number::USR1, 0, 0, 7, 8]);
        assert_eq!(read(&thread, &open), Err(Errno::EAGAIN));
    }

    #[test]
    fn a_timer_tells_its_number_and_value() {
        let info = Info::timer(number::ALRM, 3, 2, 0x1_0000_0005);
        let words = record(&info);
        assert_eq!((words[6], words[8], words[11]), (3, 2, 5));
        assert_eq!((words[12], words[13]), (5, 1));
    }
}
