//! Notices that memory of a `MSG_ZEROCOPY` write may be used again (`Documentation/networking/msg_zerocopy.rst` of Linux).
//!
//! Bytes are always copied into the send buffer, so a write is done with the program's memory when it returns; the notice says so, and that
//! they were copied.

use core::cell::Cell;

use super::super::message::MessageFlags;
use super::super::{AF_INET, Incoming, Socket};
use super::ip_options::{IP_RECVERR, IPV6_RECVERR};
use super::{IPPROTO_IP, IPPROTO_IPV6};
use crate::{Errno, Result};

/// `SO_EE_ORIGIN_ZEROCOPY`
const ORIGIN: u8 = 5;
/// `SO_EE_CODE_ZEROCOPY_COPIED`
const COPIED: u8 = 1;

/// Writes that are numbered from 0 on, and which of them the program has not been told of.
#[derive(Debug, Default)]
pub struct Notices {
    next: Cell<u32>,
    first: Cell<u32>,
}

impl Notices {
    /// One more write is done.
    pub fn add(&self) {
        self.next.set(self.next.get().wrapping_add(1));
    }

    /// True if there is something to tell.
    pub fn waits(&self) -> bool {
        self.first.get() != self.next.get()
    }

    /// `recvmsg(2)` with `MSG_ERRQUEUE`: all writes that have not been told of, as one range.
    ///
    /// # Errors
    /// `EAGAIN` if there is nothing to tell.
    pub fn take(&self, socket: &Socket, message: &mut Incoming) -> Result<usize> {
        if !self.waits() {
            return Err(Errno::EAGAIN);
        }
        let (first, last) = (self.first.get(), self.next.get().wrapping_sub(1));
        self.first.set(self.next.get());
        // `struct sock_extended_err`, and the address of nobody.
        let mut record = [0; 32];
        record[4] = ORIGIN;
        record[6] = COPIED;
        record[8..12].copy_from_slice(&first.to_ne_bytes());
        record[12..16].copy_from_slice(&last.to_ne_bytes());
        let (level, kind) = if socket.family == AF_INET {
            (IPPROTO_IP, IP_RECVERR)
        } else {
            (IPPROTO_IPV6, IPV6_RECVERR)
        };
        message.add_control(level, kind, &record);
        message.told |= MessageFlags::ERRQUEUE;
        Ok(0)
    }
}
