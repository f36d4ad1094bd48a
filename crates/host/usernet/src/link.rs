//! Frames from and to the guest.
//!
//! The link is a socket that keeps the bounds of messages. A message is a [`NetHeader`], as much of one as
//! [`Framing`] says, and one Ethernet frame. Both directions never block. What the guest does not read waits in a bounded queue; TCP stops producing while anything
//! waits there (its data stay in the connections' buffers), everything else is dropped once the queue is full.

use std::collections::VecDeque;
use std::io::IoSlice;
use std::net::IpAddr;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;

use crate::Framing;
use kiln_abi::layout::Record;
use kiln_abi::{NetHeader, net::MAX_FRAME};
use rustix::buffer::spare_capacity;
use rustix::io::Errno;
use rustix::net::{RecvFlags, SendAncillaryBuffer, SendFlags};
use smoltcp::wire::{EthernetAddress, EthernetFrame, EthernetProtocol, checksum};

/// Length of an Ethernet header without a VLAN tag.
pub(crate) const ETHERNET: usize = 14;

/// What stands before an IP packet in a message that is being made.
const PREFIX: usize = NetHeader::SIZE + ETHERNET;

/// Data up to this length are copied behind their headers: telling the host where they lie would cost more.
const COPIED: usize = 1024;

/// Pieces of a message that the host gathers; more are copied.
const PIECES: usize = 40;

/// IP protocol numbers, as assigned by IANA.
pub(crate) mod protocol {
    pub const ICMP: u8 = 1;
    pub const TCP: u8 = 6;
    pub const UDP: u8 = 17;
    pub const ICMPV6: u8 = 58;
}

/// What one attempt to take a frame gave.
pub(crate) enum Received<'a> {
    /// An Ethernet frame.
    Frame(&'a [u8]),
    /// A message that is none.
    Malformed,
    /// Nothing more for now.
    Empty,
    /// Nothing more ever.
    Closed,
}

/// The direction from the guest.
pub(crate) struct Inbound {
    fd: Arc<OwnedFd>,
    /// One message at a time. It is not cleared: most of it is never touched.
    buffer: Vec<u8>,
    /// Length of what stands before a frame.
    header: usize,
    /// The other end is gone: an empty message is then the end, not a frame without a header.
    pub hung_up: bool,
    /// The link has failed: once it is empty it stays so.
    failed: bool,
}

impl Inbound {
    pub fn receive(&mut self) -> Received<'_> {
        let flags = RecvFlags::DONTWAIT | RecvFlags::TRUNC;
        let mut attempt = || {
            self.buffer.clear();
            rustix::net::recv(&*self.fd, spare_capacity(&mut self.buffer), flags)
        };
        let mut outcome = attempt();
        // Linux tells a socket's error once, before what was received earlier. The end of a guest that has not read all
        // frames is one (ECONNRESET, unix_release_sock): its last words lie behind it.
        if !self.failed && !matches!(outcome, Ok(_) | Err(Errno::AGAIN | Errno::INTR)) {
            outcome = attempt();
            self.failed = true;
            self.hung_up = true;
        }
        match outcome {
            Ok((_, 0)) if self.hung_up => Received::Closed,
            // With TRUNC the length is the message's own, which may exceed what fitted.
            Ok((_, length)) if length < self.header + ETHERNET || length > self.buffer.len() => {
                Received::Malformed
            }
            Ok((_, length)) => Received::Frame(&self.buffer[self.header..length]),
            Err(Errno::INTR) => Received::Empty,
            Err(Errno::AGAIN) if !self.failed => Received::Empty,
            Err(_) => Received::Closed,
        }
    }
}

/// Which way a frame goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// From the network to the guest.
    ToGuest,
    /// From the guest to the network.
    FromGuest,
}

/// Somebody who looks at the frames of a link, for a packet capture. It must not block.
pub trait Observer: Send {
    /// A frame that the guest has sent, or that was given to it. With checksums left open, its own is not complete.
    fn frame(&mut self, way: Way, frame: &[u8]);
}

/// The direction to the guest.
pub(crate) struct Outbound {
    fd: Arc<OwnedFd>,
    /// The message in the making, its frame always at [`NetHeader::SIZE`].
    buffer: Vec<u8>,
    framing: Framing,
    waiting: VecDeque<Box<[u8]>>,
    waiting_bytes: usize,
    limit: usize,
    /// Nobody takes frames any more.
    shut: bool,
    offload: bool,
    gateway_mac: EthernetAddress,
    guest_mac: EthernetAddress,
    pub frames: u64,
    pub bytes: u64,
    pub dropped: u64,
    pub observer: Option<Box<dyn Observer>>,
}

/// Makes both directions of a link.
pub(crate) fn open(link: OwnedFd, config: &crate::Config) -> (Inbound, Outbound) {
    // As much as the host allows: otherwise three jumbo frames fill the socket. Failure costs speed only.
    let _ = rustix::net::sockopt::set_socket_send_buffer_size(&link, 4 << 20);
    let fd = Arc::new(link);
    (
        Inbound {
            fd: Arc::clone(&fd),
            buffer: Vec::with_capacity(NetHeader::SIZE + MAX_FRAME),
            header: config.framing.header(),
            hung_up: false,
            failed: false,
        },
        Outbound {
            fd,
            buffer: vec![0; PREFIX],
            framing: config.framing,
            waiting: VecDeque::new(),
            waiting_bytes: 0,
            limit: config.limits.link_bytes,
            shut: false,
            offload: config.leaves_checksums(),
            gateway_mac: EthernetAddress(config.gateway_mac),
            guest_mac: EthernetAddress(config.guest_mac),
            frames: 0,
            bytes: 0,
            dropped: 0,
            observer: None,
        },
    )
}

impl Outbound {
    /// Frames wait for the guest: nothing that can wait should be sent now.
    pub fn blocked(&self) -> bool {
        !self.waiting.is_empty()
    }

    /// Forgets what waits and all that comes: the guest has ended.
    pub fn shut(&mut self) {
        self.shut = true;
        self.waiting.clear();
        self.waiting_bytes = 0;
    }

    /// Room for one more frame that nobody waits for; else it counts as dropped.
    pub fn admits(&mut self) -> bool {
        let admits = self.waiting_bytes < self.limit;
        self.dropped += u64::from(!admits);
        admits
    }

    /// Sends what waited. True if nothing waits any more.
    pub fn flush(&mut self) -> bool {
        while let Some(message) = self.waiting.front() {
            match send(&self.fd, message, self.framing) {
                Ok(()) => {
                    let frame = &message[self.framing.header()..];
                    self.frames += 1;
                    self.bytes += frame.len() as u64;
                    if let Some(observer) = &mut self.observer {
                        observer.frame(Way::ToGuest, frame);
                    }
                }
                Err(Errno::AGAIN) => return false,
                Err(_) => self.dropped += 1,
            }
            if let Some(message) = self.waiting.pop_front() {
                self.waiting_bytes -= message.len();
            }
        }
        true
    }

    /// Sends an ARP packet to one station.
    pub fn arp(&mut self, to: EthernetAddress, length: usize, fill: impl FnOnce(&mut [u8])) {
        self.begin(length, EthernetProtocol::Arp, to);
        fill(&mut self.buffer[PREFIX..]);
        self.transmit(NetHeader::PLAIN, false);
    }

    /// A frame to the guest may stand for many segments of TCP.
    pub fn joins_segments(&self) -> bool {
        self.offload
    }

    /// Sends one TCP packet: `head` bytes of headers that `fill` writes, and `data`, which are `length` bytes. `cutting`
    /// says how it is to be cut into segments; the checksum is seen to here.
    ///
    /// It is queued even if the queue is full: the caller promises to look at [`blocked`](Self::blocked) or
    /// [`admits`](Self::admits) before, or sends it once for a connection.
    pub fn gathered<'a>(
        &mut self,
        (head, length): (usize, usize),
        cutting: NetHeader,
        data: impl Iterator<Item = &'a [u8]> + Clone,
        fill: impl FnOnce(&mut [u8]),
    ) {
        if self.shut {
            return;
        }
        self.begin(head, EthernetProtocol::Ipv4, self.guest_mac);
        fill(&mut self.buffer[PREFIX..]);
        self.name_family();
        // Who looks on is shown whole frames.
        let in_place =
            length > COPIED && self.offload && !self.blocked() && self.observer.is_none();
        if !in_place || data.clone().nth(PIECES - 1).is_some() {
            data.for_each(|piece| self.buffer.extend_from_slice(piece));
            let checksum = finish_checksum(&mut self.buffer[PREFIX..], 0, self.offload);
            self.transmit(with_cutting(checksum, cutting), true);
            return;
        }
        let checksum = finish_checksum(&mut self.buffer[PREFIX..], length, true);
        let start = self.place(with_cutting(checksum, cutting));
        let mut parts = [IoSlice::new(&[]); PIECES];
        let mut count = 1;
        parts[0] = IoSlice::new(&self.buffer[start..]);
        for (part, piece) in parts[1..].iter_mut().zip(data.clone()) {
            *part = IoSlice::new(piece);
            count += 1;
        }
        match send_parts(&self.fd, &parts[..count], self.framing) {
            Ok(()) => {
                self.frames += 1;
                self.bytes += (ETHERNET + head + length) as u64;
            }
            Err(Errno::AGAIN) => {
                data.for_each(|piece| self.buffer.extend_from_slice(piece));
                self.wait(start);
            }
            Err(_) => self.dropped += 1,
        }
    }

    /// Sends one IP packet of `length` bytes that `fill` writes, with its transport checksum still open for TCP and
    /// UDP and complete for all others.
    ///
    /// `urgent` packets are queued even if the queue is full: the caller promises to look at
    /// [`blocked`](Self::blocked) before.
    pub fn ip<R>(&mut self, length: usize, urgent: bool, fill: impl FnOnce(&mut [u8]) -> R) -> R {
        self.begin(length, EthernetProtocol::Ipv4, self.guest_mac);
        let result = fill(&mut self.buffer[PREFIX..]);
        self.name_family();
        let header = finish_checksum(&mut self.buffer[PREFIX..], 0, self.offload);
        self.transmit(header, urgent);
        result
    }

    /// The guest's Ethernet address is learned from its frames, for guests that choose their own.
    pub fn learn_guest_mac(&mut self, address: EthernetAddress) {
        if address.is_unicast() {
            self.guest_mac = address;
        }
    }

    pub fn gateway_mac(&self) -> EthernetAddress {
        self.gateway_mac
    }

    pub fn guest_mac(&self) -> EthernetAddress {
        self.guest_mac
    }

    fn begin(&mut self, length: usize, kind: EthernetProtocol, to: EthernetAddress) {
        // No clearing: who fills the packet writes all of it, and stale bytes were the guest's own.
        self.buffer.resize(PREFIX + length, 0);
        let mut frame = EthernetFrame::new_unchecked(&mut self.buffer[NetHeader::SIZE..]);
        frame.set_src_addr(self.gateway_mac);
        frame.set_dst_addr(to);
        frame.set_ethertype(kind);
    }

    /// Makes the frame's type that of its packet.
    fn name_family(&mut self) {
        if self.buffer.get(PREFIX).is_some_and(|b| b >> 4 == 6) {
            EthernetFrame::new_unchecked(&mut self.buffer[NetHeader::SIZE..])
                .set_ethertype(EthernetProtocol::Ipv6);
        }
    }

    /// Writes as much of the link header as the framing has before the frame. Returns where the message starts.
    fn place(&mut self, header: NetHeader) -> usize {
        let len = self.framing.header();
        let start = NetHeader::SIZE - len;
        self.buffer[start..NetHeader::SIZE].copy_from_slice(&header.as_bytes()[..len]);
        start
    }

    fn transmit(&mut self, header: NetHeader, urgent: bool) {
        if self.shut {
            return;
        }
        let start = self.place(header);
        let message = &self.buffer[start..];
        if self.waiting.is_empty() {
            match send(&self.fd, message, self.framing) {
                Ok(()) => {
                    let frame = &message[self.framing.header()..];
                    self.frames += 1;
                    self.bytes += frame.len() as u64;
                    if let Some(observer) = &mut self.observer {
                        observer.frame(Way::ToGuest, frame);
                    }
                    return;
                }
                Err(Errno::AGAIN) => {}
                Err(_) => {
                    self.dropped += 1;
                    return;
                }
            }
        }
        if !urgent && self.waiting_bytes + message.len() > self.limit {
            self.dropped += 1;
            return;
        }
        self.wait(start);
    }

    /// Queues the message in the making.
    fn wait(&mut self, start: usize) {
        let message: Box<[u8]> = self.buffer[start..].into();
        self.waiting_bytes += message.len();
        self.waiting.push_back(message);
    }
}

impl AsFd for Outbound {
    fn as_fd(&self) -> std::os::fd::BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

fn send(fd: &OwnedFd, message: &[u8], framing: Framing) -> Result<(), Errno> {
    attempt(framing, |flags| rustix::net::send(fd, message, flags))
}

fn send_parts(fd: &OwnedFd, parts: &[IoSlice<'_>], framing: Framing) -> Result<(), Errno> {
    attempt(framing, |flags| {
        rustix::net::sendmsg(fd, parts, &mut SendAncillaryBuffer::default(), flags)
    })
}

fn attempt(
    framing: Framing,
    mut send: impl FnMut(SendFlags) -> Result<usize, Errno>,
) -> Result<(), Errno> {
    loop {
        match send(SendFlags::DONTWAIT | SendFlags::NOSIGNAL) {
            Ok(_) => return Ok(()),
            Err(Errno::INTR) => {}
            // An interface's queue is full, and nothing tells when it has room again: as on any network, that frame
            // is lost.
            Err(Errno::NOBUFS) if framing == Framing::ShortHeader => return Err(Errno::NOBUFS),
            // The socket pair's own memory limits; both pass.
            Err(Errno::AGAIN | Errno::NOBUFS | Errno::NOMEM) => return Err(Errno::AGAIN),
            Err(error) => return Err(error),
        }
    }
}

/// One header that says both what is to be summed and what is to be cut.
fn with_cutting(checksum: NetHeader, cutting: NetHeader) -> NetHeader {
    NetHeader {
        gso_type: cutting.gso_type,
        hdr_len: cutting.hdr_len,
        gso_size: cutting.gso_size,
        ..checksum
    }
}

/// Makes the checksum of a TCP or UDP packet either complete or open in the way that the header announces. `behind` bytes
/// of the packet follow elsewhere; it can only be open then.
fn finish_checksum(packet: &mut [u8], behind: usize, offload: bool) -> NetHeader {
    let Some((transport, protocol, pseudo)) = pseudo_header(packet, behind) else {
        return NetHeader::PLAIN;
    };
    let field = match protocol {
        protocol::TCP => 16,
        protocol::UDP => 6,
        _ => return NetHeader::PLAIN,
    };
    let Some(segment) = packet.get_mut(transport..) else {
        return NetHeader::PLAIN;
    };
    if segment.len() < field + 2 {
        return NetHeader::PLAIN;
    }
    if offload {
        segment[field..field + 2].copy_from_slice(&pseudo.to_be_bytes());
        return NetHeader {
            flags: NetHeader::NEEDS_CSUM,
            csum_start: (ETHERNET + transport) as u16,
            csum_offset: field as u16,
            ..NetHeader::PLAIN
        };
    }
    segment[field..field + 2].fill(0);
    let sum = match !checksum::combine(&[pseudo, checksum::data(segment)]) {
        // In UDP, 0 means that there is none, RFC 768.
        0 if protocol == protocol::UDP => 0xffff,
        sum => sum,
    };
    segment[field..field + 2].copy_from_slice(&sum.to_be_bytes());
    NetHeader::PLAIN
}

/// Offset of the transport header, its protocol, and the folded sum of its pseudo-header.
fn pseudo_header(packet: &[u8], behind: usize) -> Option<(usize, u8, u16)> {
    let (transport, protocol, source, target): (_, _, IpAddr, IpAddr) = match packet.first()? >> 4 {
        4 => {
            let source = <[u8; 4]>::try_from(packet.get(12..16)?).ok()?;
            let target = <[u8; 4]>::try_from(packet.get(16..20)?).ok()?;
            let transport = usize::from(packet[0] & 15) * 4;
            (transport, packet[9], source.into(), target.into())
        }
        6 => {
            let source = <[u8; 16]>::try_from(packet.get(8..24)?).ok()?;
            let target = <[u8; 16]>::try_from(packet.get(24..40)?).ok()?;
            (40, packet[6], source.into(), target.into())
        }
        _ => return None,
    };
    let length = (packet.len() + behind).checked_sub(transport)? as u32;
    let sum = checksum::pseudo_header(&source.into(), &target.into(), protocol.into(), length);
    Some((transport, protocol, sum))
}
