//! ARP: RFC 826, and the announcements and conflicts of RFC 5227.

use core::net::{IpAddr, Ipv4Addr};

use kiln_abi::Instant;

use super::Evidence;
use crate::config::is_host4;
use crate::ip::interface::Interface;
use crate::ip::packet::{BROADCAST_MAC, Mac, array, is_host_mac, put};
use crate::ip::{Context, ETHERNET_HEADER};

const LENGTH: usize = 28;
/// Ethernet and IPv4, and how long their addresses are.
const KIND: [u8; 6] = [0, 1, 8, 0, 6, 4];
const REQUEST: u8 = 1;
const REPLY: u8 = 2;

impl Interface {
    /// Takes in what an ARP frame carries.
    pub(in crate::ip) fn receive_arp(
        &mut self,
        frame: &[u8],
        packet: &[u8],
        now: Instant,
        cx: &mut Context<'_>,
    ) {
        let (Some(KIND), Some([0, operation]), Some(mac), Some(sender), Some(target)) = (
            array(packet, 0),
            array(packet, 6),
            array::<6>(packet, 8),
            array::<4>(packet, 14).map(Ipv4Addr::from),
            array::<4>(packet, 24).map(Ipv4Addr::from),
        ) else {
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
                REQUEST if for_us => Evidence::Asks,
                REPLY if for_us && frame.first().is_some_and(|byte| byte & 1 == 0) => {
                    Evidence::Reply
                }
                _ => Evidence::Tells,
            };
            self.heard(sender.into(), Some(mac), evidence, now, cx);
        }
        if for_us && operation == REQUEST {
            self.send_arp(REPLY, (target, sender), (mac, mac), cx);
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
        self.send_arp(REQUEST, (source, target), (asked, to), cx);
    }

    /// Tells everybody that an address is ours (RFC 5227 section 3).
    pub(in crate::ip) fn announce(&mut self, address: Ipv4Addr, cx: &mut Context<'_>) {
        self.send_arp_request(address, address, None, cx);
    }

    fn send_arp(
        &mut self,
        operation: u8,
        (source, target): (Ipv4Addr, Ipv4Addr),
        (target_mac, to): (Mac, Mac),
        cx: &mut Context<'_>,
    ) {
        let from = self.mac;
        let queued = cx.frame(ETHERNET_HEADER + LENGTH, &mut |bytes| {
            put(bytes, 0, &to);
            put(bytes, 6, &from);
            put(bytes, 12, &[0x08, 0x06]);
            put(bytes, 14, &KIND);
            put(bytes, 20, &[0, operation]);
            put(bytes, 22, &from);
            put(bytes, 28, &source.octets());
            put(bytes, 32, &target_mac);
            put(bytes, 38, &target.octets());
        });
        cx.stats.dropped_queue_full += u64::from(!queued);
    }

    /// True if `address` can be a neighbour: it is in a network of the link, or a router that was named.
    fn is_neighbor(&self, address: IpAddr) -> bool {
        self.routes.is_on_link(address) || self.routes.is_router(address)
    }
}
