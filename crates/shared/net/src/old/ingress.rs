//! What happens to a received frame before a protocol sees it.
//!
//! Frames that are malformed, damaged or claim to come from this host are dropped and counted. Segments of ended
//! connections are answered from the table of those. A SYN for a listener gets a socket made for it, just in
//! time. Everything else goes to the protocols as it is; what they made of it is looked at afterwards.

use core::net::IpAddr;

use kiln_abi::NetHeader;
use smoltcp::phy::ChecksumCapabilities;
use smoltcp::wire::{IpAddress, IpProtocol, IpRepr, TcpControl, TcpPacket, TcpRepr, TcpSeqNumber};

use crate::frame::{self, Content, ETHERNET_HEADER, Ethernet, Fault, Segment};
use crate::link::Which;
use crate::stack::Core;
use crate::time_wait::Answer;

impl Core {
    /// Takes in a frame from the device.
    pub(crate) fn receive(&mut self, header: NetHeader, frame: &[u8]) {
        self.stats.frames_in += 1;
        self.stats.bytes_in += frame.len() as u64;
        let trusted = header.checksum_trusted();
        match frame::ethernet(frame) {
            Ok(Ethernet::Ip(packet)) => {
                // Bridges flood: only what is for this host, or for many, is worth a look.
                if frame[0] & 1 == 1 || frame[..6] == self.config.mac {
                    self.receive_packet(Which::Wire, frame, packet, trusted);
                }
            }
            Ok(Ethernet::Arp { sender }) => {
                // Somebody who announces an address of ours must not become our neighbour.
                if self.is_own(sender.into()) {
                    self.stats.dropped_martian += 1;
                } else {
                    self.wire.ingress(frame, self.now);
                }
            }
            Ok(Ethernet::Other) => {}
            Err(fault) => self.count_fault(fault),
        }
    }

    /// Takes in a packet from the loopback link.
    pub(crate) fn receive_local(&mut self, packet: &[u8]) {
        self.receive_packet(Which::Loopback, packet, packet, true);
    }

    /// `frame` is what the link's protocols take, `packet` the IP packet in it.
    fn receive_packet(&mut self, which: Which, frame: &[u8], packet: &[u8], trusted: bool) {
        let limit = self.config.reassembly_limit();
        let parsed = match frame::packet(packet, trusted, limit) {
            Ok(parsed) => parsed,
            Err(fault) => return self.count_fault(fault),
        };
        if which == Which::Wire && (self.is_own(parsed.source) || parsed.destination.is_loopback())
        {
            self.stats.dropped_martian += 1;
            return;
        }
        match parsed.content {
            Content::Tcp(segment) => self.receive_segment(which, frame, &segment),
            Content::Unreachable { local, remote } => self.unreachable(which, local, remote),
            Content::RouterAdvert(advert) => {
                if let IpAddr::V6(router) = parsed.source {
                    self.router_advert(router, advert);
                }
            }
            Content::Udp { destination } => {
                if which == Which::Loopback {
                    self.prepare_local_udp(destination);
                }
                let now = self.now;
                self.link(which).ingress(frame, now);
            }
            Content::Fragment | Content::Other => {
                let now = self.now;
                self.link(which).ingress(frame, now);
            }
        }
    }

    fn receive_segment(&mut self, which: Which, frame: &[u8], segment: &Segment) {
        let now = self.now;
        let known = self
            .connections
            .find(which, segment.destination, segment.source);
        if let Some(id) = known {
            if !(segment.opens() && self.is_over(id)) {
                let opening = self.is_opening(id);
                self.link(which).ingress(frame, now);
                self.observe(id, segment, opening);
                return;
            }
            self.discard(id);
        }
        match self.time_wait.answer(segment) {
            Answer::NotMine => {}
            Answer::Nothing => return,
            Answer::Acknowledge {
                sequence,
                acknowledgement,
            } => {
                self.acknowledge(which, frame, segment, sequence, acknowledgement);
                return;
            }
        }
        if segment.opens() {
            match self.admit(which, segment) {
                Ok(Some(id)) => {
                    self.link(which).ingress(frame, now);
                    self.settle(id);
                    return;
                }
                // Nobody listens, or there is no memory: the protocol answers with a reset.
                Ok(None) => {}
                // The backlog is full: the peer will ask again.
                Err(()) => return,
            }
        }
        self.link(which).ingress(frame, now);
    }

    /// Acknowledges a segment of a connection that has no socket any more.
    fn acknowledge(
        &mut self,
        which: Which,
        frame: &[u8],
        segment: &Segment,
        sequence: u32,
        acknowledgement: u32,
    ) {
        let reply = TcpRepr {
            src_port: segment.destination.port(),
            dst_port: segment.source.port(),
            control: TcpControl::None,
            seq_number: TcpSeqNumber(sequence.cast_signed()),
            ack_number: Some(TcpSeqNumber(acknowledgement.cast_signed())),
            window_len: 1024,
            window_scale: None,
            max_seg_size: None,
            sack_permitted: false,
            sack_ranges: [None; 3],
            timestamp: None,
            payload: &[],
        };
        let source = IpAddress::from(segment.destination.ip());
        let destination = IpAddress::from(segment.source.ip());
        let length = reply.buffer_len();
        let header = IpRepr::new(source, destination, IpProtocol::Tcp, length, 64);
        let link_header = match which {
            Which::Wire => ETHERNET_HEADER,
            Which::Loopback => 0,
        };
        let link = self.link(which);
        if !link.queue.has_room() {
            link.lost += 1;
            return;
        }
        let checksums = ChecksumCapabilities::default();
        let total = link_header + header.buffer_len();
        link.queue.push(total, None, |bytes| {
            let (ethernet, packet) = bytes.split_at_mut(link_header);
            if let (Which::Wire, Some(received)) = (which, frame.first_chunk::<ETHERNET_HEADER>()) {
                ethernet[..6].copy_from_slice(&received[6..12]);
                ethernet[6..12].copy_from_slice(&received[..6]);
                ethernet[12..].copy_from_slice(&received[12..]);
            }
            header.emit(&mut *packet, &checksums);
            let start = header.header_len();
            let mut tcp = TcpPacket::new_unchecked(&mut packet[start..]);
            reply.emit(&mut tcp, &source, &destination, &checksums);
        });
    }

    fn count_fault(&mut self, fault: Fault) {
        match fault {
            Fault::Malformed => self.stats.dropped_malformed += 1,
            Fault::Checksum => self.stats.dropped_checksum += 1,
            Fault::Unsupported => self.stats.dropped_unsupported += 1,
        }
    }
}
