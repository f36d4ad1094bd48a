//! Network links (section 5.1).
//!
//! Frames are copied once in each direction, between the guest's buffers and the driver's own: see [`lane`]. The header
//! of the ABI is the device's, so it goes along as it is, but for what was not agreed on.

mod lane;

use kiln_abi::layout::Record;
use kiln_abi::net::MAX_FRAME;
use kiln_abi::{DeviceInfo, DeviceKind, NetHeader, OpError};

use crate::Error;
use crate::memory::{Buffers, Region};
use crate::transport::{DeviceType, Transport};
use lane::Lane;

const CSUM: u64 = 1 << 0;
const GUEST_CSUM: u64 = 1 << 1;
const MTU: u64 = 1 << 3;
const MAC: u64 = 1 << 5;
const GUEST_TSO4: u64 = 1 << 7;
const GUEST_TSO6: u64 = 1 << 8;
const HOST_TSO4: u64 = 1 << 11;
const HOST_TSO6: u64 = 1 << 12;
const MRG_RXBUF: u64 = 1 << 15;

const JOINING: u64 = GUEST_CSUM | GUEST_TSO4 | GUEST_TSO6;
const CUTTING: u64 = HOST_TSO4 | HOST_TSO6;

/// Offsets in the configuration.
mod at {
    pub const MAC: usize = 0;
    pub const MTU: usize = 10;
}

const RECEIVE: u16 = 0;
const SEND: u16 = 1;

const HEADER: usize = NetHeader::SIZE;

/// The shortest frame: an Ethernet header.
const SHORTEST: u64 = 14;

/// The shortest message of 9P.
const SHORTEST_MESSAGE: u64 = 7;

/// Ethernet header and a VLAN tag.
const LINK_HEADER: u64 = 18;

/// What a link carries if the device does not say.
const USUAL_MTU: u16 = 1500;

/// The least MTU of IPv4 hosts; less makes no sense.
const LEAST_MTU: u16 = 576;

/// A link.
#[derive(Debug)]
pub struct Net {
    transport: Transport,
    receive: Lane,
    send: Lane,
    features: u64,
    mtu: u16,
    /// Bytes, header included, of the frame that found no room; else of an ordinary one.
    wanted: u64,
    /// What comes is dropped if it has fewer bytes, header not included.
    shortest: u64,
}

impl Net {
    /// With at least this much memory for sending, in bytes, the device cuts TCP segments.
    pub const SEND_MEMORY: usize = 72 * 1024;
    /// With at least this much memory for receiving, in bytes, the device joins TCP segments.
    pub const RECEIVE_MEMORY: usize = 96 * 1024;
    /// The least memory for either, in bytes.
    pub const LEAST_MEMORY: usize = 16 * 1024;

    /// Starts the device with memory for received frames and for frames to send, rings included. Interrupts are off.
    ///
    /// # Errors
    /// See [`Error`].
    pub fn new(mut transport: Transport, receive: Region, send: Region) -> Result<Self, Error> {
        let offered = transport.begin(DeviceType::NET)?;
        let mut wanted = CSUM | MTU | MAC | MRG_RXBUF;
        if offered & CSUM != 0 && send.size() >= Self::SEND_MEMORY {
            wanted |= CUTTING;
        }
        let joins = offered & GUEST_CSUM != 0 && offered & (GUEST_TSO4 | GUEST_TSO6) != 0;
        let merges = offered & MRG_RXBUF != 0 && receive.size() >= Self::RECEIVE_MEMORY;
        if joins && merges {
            wanted |= JOINING;
        }
        let mut features = transport.agree(offered, wanted)?;
        let receive = Lane::new(&mut transport, RECEIVE, features, receive)?;
        let send = Lane::new(&mut transport, SEND, features, send)?;
        if send.capacity() < MAX_FRAME + HEADER {
            features &= !CUTTING;
        }
        let offered = if features & MTU == 0 {
            USUAL_MTU
        } else {
            transport.config16(at::MTU).max(LEAST_MTU)
        };
        let longest = if features & MRG_RXBUF == 0 {
            receive.piece()
        } else {
            receive.capacity()
        };
        let most = (longest.min(send.capacity()) as u64 - HEADER as u64 - LINK_HEADER)
            .min(u64::from(u16::MAX));
        transport.start();
        let mtu = offered.min(most as u16);
        let mut net = Self {
            transport,
            receive,
            send,
            features,
            mtu,
            wanted: 0,
            shortest: SHORTEST,
        };
        net.wanted = net.ordinary();
        while net.receive.offer() {}
        net.notify();
        Ok(net)
    }

    /// From now on it carries messages of 9P instead of frames.
    pub fn carry_messages(&mut self) {
        self.shortest = SHORTEST_MESSAGE;
    }

    /// Fills in what is known of the link: kind, features, MTU, and the Ethernet address if the device has one.
    pub fn describe(&self, info: &mut DeviceInfo) {
        info.kind = DeviceKind::Net as u32;
        info.mtu = self.mtu;
        info.net_features = [
            (CSUM, DeviceInfo::NET_CSUM),
            (HOST_TSO4, DeviceInfo::NET_TSO4),
            (HOST_TSO6, DeviceInfo::NET_TSO6),
            (GUEST_CSUM, DeviceInfo::NET_GRO),
        ]
        .iter()
        .filter(|(feature, _)| self.has(*feature))
        .fold(0, |set, (_, bit)| set | bit);
        if self.has(MAC) {
            for (index, byte) in info.mac.iter_mut().enumerate() {
                *byte = self.transport.config8(at::MAC + index);
            }
        }
    }

    /// Queues one frame for sending; its bytes are copied. [`notify`](Self::notify) lets the device see it.
    ///
    /// # Errors
    /// [`OpError::Again`] while there is no room; [`OpError::Invalid`] for a frame that is too long for the link, or asks
    /// for what [`describe`](Self::describe) did not promise; [`OpError::Io`] if the device broke its queue.
    pub fn send(&mut self, header: NetHeader, frame: Buffers<'_>) -> Result<(), OpError> {
        let len = frame.total().saturating_add(HEADER as u64);
        let header = self.outgoing(header).ok_or(OpError::Invalid)?;
        if len > self.send.capacity() as u64 || len > (MAX_FRAME + HEADER) as u64 {
            return Err(OpError::Invalid);
        }
        self.wanted = len;
        if !self.can_send() {
            return Err(OpError::Again);
        }
        self.wanted = self.ordinary();
        let sent = self
            .send
            .send(header.as_bytes(), &mut frame.cursor(), len as usize);
        if sent { Ok(()) } else { Err(OpError::Io) }
    }

    /// Takes one received frame. Returns its length, cut to that of the buffers, and its header.
    ///
    /// # Errors
    /// [`OpError::Again`] if there is none; [`OpError::Io`] if the device broke its queue.
    pub fn receive(&mut self, into: Buffers<'_>) -> Result<(u64, NetHeader), OpError> {
        // A frame too short to be anything is dropped and the next one looked at; at most a queue full of them.
        for _ in 0..self.receive.entries() {
            let mut bytes = [0; HEADER];
            let Some(first) = self.receive.peek(&mut bytes) else {
                break;
            };
            let header = NetHeader::from_prefix(&bytes).unwrap_or(NetHeader::PLAIN);
            let count = if self.has(MRG_RXBUF) {
                header.num_buffers.max(1)
            } else {
                1
            };
            if !self.receive.has(count) {
                break;
            }
            let mut cursor = into.cursor();
            let mut copied = self.receive.take(HEADER, &mut cursor);
            for _ in 1..count {
                copied += self.receive.take(0, &mut cursor);
            }
            if self.receive.is_broken() {
                break;
            }
            if count > 1 || u64::from(first.len) >= HEADER as u64 + self.shortest {
                let copied = copied as u64;
                return Ok((copied, self.incoming(header, copied)));
            }
        }
        Err(if self.receive.is_broken() {
            OpError::Io
        } else {
            OpError::Again
        })
    }

    /// Tells the device of frames to send and of buffers to receive into, as far as it wants to know. To be called behind
    /// each batch of [`send`](Self::send) and [`receive`](Self::receive), and before waiting.
    pub fn notify(&mut self) {
        self.receive.notify(&self.transport);
        self.send.notify(&self.transport);
    }

    /// Whether [`receive`](Self::receive) has something to say.
    pub fn can_receive(&mut self) -> bool {
        self.receive.has(1) || self.receive.is_broken()
    }

    /// Whether there is room: for the frame last refused with [`OpError::Again`], otherwise for an ordinary one.
    pub fn can_send(&mut self) -> bool {
        self.send.reclaim();
        self.send.room() as u64 >= self.wanted || self.send.is_broken()
    }

    /// Asks for an interrupt when there is something to receive, and when there is room for sending; or for none. Returns
    /// whether what was asked for is so already, in which case the interrupt may not come.
    pub fn listen(&mut self, receive: bool, send: bool) -> bool {
        let mut ready = self.receive.listen(receive) && receive;
        // What was used so far may not be room enough; then the wait is for the next.
        while self.send.listen(send) && send && !ready {
            ready = self.can_send();
        }
        ready || send && self.can_send()
    }

    /// Takes back an interrupt request, see [`Transport::acknowledge`].
    pub fn acknowledge(&self) {
        self.transport.acknowledge();
    }

    const fn has(&self, feature: u64) -> bool {
        self.features & feature != 0
    }

    /// The bytes of the longest frame without segmentation, header included.
    fn ordinary(&self) -> u64 {
        u64::from(self.mtu) + LINK_HEADER + HEADER as u64
    }

    /// The header for the device; `None` if it asks for what was not agreed on.
    fn outgoing(&self, header: NetHeader) -> Option<NetHeader> {
        let agreed = match header.gso_type {
            NetHeader::GSO_NONE => true,
            NetHeader::GSO_TCPV4 => self.has(HOST_TSO4),
            NetHeader::GSO_TCPV6 => self.has(HOST_TSO6),
            _ => false,
        };
        let flags = header.flags & NetHeader::NEEDS_CSUM;
        (agreed && (flags == 0 || self.has(CSUM))).then_some(NetHeader {
            flags,
            num_buffers: 0,
            ..header
        })
    }

    /// The header for the guest, for a frame of `len` bytes.
    fn incoming(&self, mut header: NetHeader, len: u64) -> NetHeader {
        let joined = match header.gso_type {
            NetHeader::GSO_TCPV4 => self.has(GUEST_TSO4),
            NetHeader::GSO_TCPV6 => self.has(GUEST_TSO6),
            _ => false,
        };
        if !joined {
            header.gso_type = NetHeader::GSO_NONE;
            header.gso_size = 0;
            header.hdr_len = 0;
        }
        header.flags &= if self.has(GUEST_CSUM) {
            NetHeader::NEEDS_CSUM | NetHeader::DATA_VALID
        } else {
            0
        };
        let sum_end = u64::from(header.csum_start) + u64::from(header.csum_offset) + 2;
        if sum_end > len {
            header.flags &= !NetHeader::NEEDS_CSUM;
        }
        if header.flags & NetHeader::NEEDS_CSUM == 0 {
            header.csum_start = 0;
            header.csum_offset = 0;
        }
        header.num_buffers = 1;
        header
    }
}
