//! ARP: RFC 826, and the announcements and conflicts of RFC 5227.

use core::net::{IpAddr, Ipv4Addr};

use kiln_abi::Instant;
use smoltcp::wire::{ArpOperation, ArpPacket, ArpRepr, EthernetAddress};

use super::Evidence;
use crate::config::is_host4;
use crate::ip::interface::Interface;
use crate::ip::packet::{BROADCAST_MAC, Mac, is_host_mac, put};
use crate::ip::{Context, ETHERNET_HEADER};

const LENGTH: usize = 28;

impl Interface {
    /// Takes in what an ARP frame carries.
    pub(in crate::ip) fn receive_arp(
        &mut self,
        frame: &[u8],
        packet: &[u8],
        now: Instant,
        cx: &mut Context<'_>,
    ) {
        let parsed = ArpPacket::new_checked(packet).and_then(|packet| ArpRepr::parse(&packet));
        let Ok(ArpRepr::EthernetIpv4 {
            operation,
            source_hardware_addr: EthernetAddress(mac),
            source_protocol_addr: sender,
            target_protocol_addr: target,
            ..
        }) = parsed
        else {
            cx.stats.dropped_malformed += 1;
            return;
        };
        if mac == self.mac || !is_host_mac(mac) {
            return;
        }
        let for_us = self.has(target.into());
        if self.has(sender.into()) {
            self.conflict(sender.into(), now, cx);
        } else if is_host4(sender) && self.is_neighbor(sender.into()) {
            let evidence = match operation {
                ArpOperation::Request if for_us => Evidence::Asks,
                ArpOperation::Reply
                    if for_us && frame.first().is_some_and(|byte| byte & 1 == 0) =>
                {
                    Evidence::Reply
                }
                _ => Evidence::Tells,
            };
            self.heard(sender.into(), Some(mac), evidence, now, cx);
        }
        if for_us && operation == ArpOperation::Request {
            self.send_arp(ArpOperation::Reply, (target, sender), (mac, mac), cx);
        }
    }

    /// Asks who has `target`.
    pub(in crate::ip) fn send_arp_request(
        &mut self,
        source: Ipv4Addr,
        target: Ipv4Addr,
        mac: Option<Mac>,
        cx: &mut Context<'_>,
    ) {
        let to = mac.unwrap_or(BROADCAST_MAC);
        let asked = mac.unwrap_or_default();
        self.send_arp(ArpOperation::Request, (source, target), (asked, to), cx);
    }

    /// Tells everybody that an address is ours (RFC 5227 section 3).
    pub(in crate::ip) fn announce(&mut self, address: Ipv4Addr, cx: &mut Context<'_>) {
        self.send_arp_request(address, address, None, cx);
    }

    fn send_arp(
        &mut self,
        operation: ArpOperation,
        (source, target): (Ipv4Addr, Ipv4Addr),
        (target_mac, to): (Mac, Mac),
        cx: &mut Context<'_>,
    ) {
        let message = ArpRepr::EthernetIpv4 {
            operation,
            source_hardware_addr: EthernetAddress(self.mac),
            source_protocol_addr: source,
            target_hardware_addr: EthernetAddress(target_mac),
            target_protocol_addr: target,
        };
        let from = self.mac;
        let queued = cx.queue.frame(ETHERNET_HEADER + LENGTH, |bytes| {
            put(bytes, 0, &to);
            put(bytes, 6, &from);
            put(bytes, 12, &[0x08, 0x06]);
            if let Some((_, packet)) = bytes.split_at_mut_checked(ETHERNET_HEADER) {
                message.emit(&mut ArpPacket::new_unchecked(packet));
            }
        });
        cx.stats.dropped_queue_full += u64::from(!queued);
    }

    /// True if `address` can be a neighbour: it is in a network of the link, or a router that was named.
    fn is_neighbor(&self, address: IpAddr) -> bool {
        self.routes.is_on_link(address) || self.routes.is_router(address)
    }
}
