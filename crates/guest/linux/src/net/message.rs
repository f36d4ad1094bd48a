//! Messages: their bytes, and what else goes with them.

#![allow(missing_docs, reason = "the names of flags are Linux's")]

use alloc::vec::Vec;

use super::Address;
use crate::io::{Sink, Source};

bitflags::bitflags! {
    /// Flags of `send(2)`, `recv(2)` and of what `recvmsg(2)` tells.
    #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
    #[allow(missing_docs, reason = "the names are Linux's")]
    pub struct MessageFlags: u32 {
        const OOB = 1;
        const PEEK = 2;
        const DONTROUTE = 4;
        const CTRUNC = 8;
        const TRUNC = 0x20;
        const DONTWAIT = 0x40;
        const EOR = 0x80;
        const WAITALL = 0x100;
        const CONFIRM = 0x800;
        const ERRQUEUE = 0x2000;
        const NOSIGNAL = 0x4000;
        const MORE = 0x8000;
        const WAITFORONE = 0x1_0000;
        const BATCH = 0x4_0000;
        const ZEROCOPY = 0x400_0000;
        const FASTOPEN = 0x2000_0000;
        const CMSG_CLOEXEC = 0x4000_0000;
    }
}

/// Control data of a message that was received: `struct cmsghdr` and what follows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Control {
    /// `cmsg_level`
    pub level: u32,
    /// `cmsg_type`
    pub kind: u32,
    /// The data.
    pub data: Vec<u8>,
}

/// A message to be sent.
#[derive(Debug)]
pub struct Outgoing<'a, 'b> {
    /// Its bytes.
    pub data: &'a mut Source<'b>,
    /// Where to, if the call says so.
    pub to: Option<Address>,
    /// Flags of the call.
    pub flags: MessageFlags,
    /// Control data.
    pub control: Vec<Control>,
}

impl<'a, 'b> Outgoing<'a, 'b> {
    /// Bytes alone.
    pub fn plain(data: &'a mut Source<'b>) -> Self {
        Self {
            data,
            to: None,
            flags: MessageFlags::empty(),
            control: Vec::new(),
        }
    }
}

/// A message to be received.
#[derive(Debug)]
pub struct Incoming<'a, 'b> {
    /// Where its bytes go.
    pub data: &'a mut Sink<'b>,
    /// Flags of the call.
    pub flags: MessageFlags,
    /// The call wants to know where it came from.
    pub wants_from: bool,
    /// Where it came from; filled in by those who know.
    pub from: Option<Address>,
    /// The call wants control data.
    pub wants_control: bool,
    /// Control data.
    pub control: Vec<Control>,
    /// Open files that came with it, to get descriptors.
    pub files: Vec<alloc::rc::Rc<crate::fs::OpenFile>>,
    /// What is told of it.
    pub told: MessageFlags,
}

impl<'a, 'b> Incoming<'a, 'b> {
    /// Bytes alone.
    pub fn plain(data: &'a mut Sink<'b>) -> Self {
        Self {
            data,
            flags: MessageFlags::empty(),
            wants_from: false,
            from: None,
            wants_control: false,
            control: Vec::new(),
            files: Vec::new(),
            told: MessageFlags::empty(),
        }
    }

    /// Adds control data, if the call wants any.
    pub fn add_control(&mut self, level: u32, kind: u32, data: &[u8]) {
        if self.wants_control {
            self.control.push(Control {
                level,
                kind,
                data: data.to_vec(),
            });
        }
    }
}
