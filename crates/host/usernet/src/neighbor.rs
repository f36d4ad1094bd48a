//! ARP and IPv6 neighbor discovery: how the guest finds the gateway.
//!
//! Answers go out for the gateway and the DNS forwarder only (RFC 826, RFC 4861 section 7.2.4), so that a guest's
//! duplicate address detection for its own address stays unanswered. Router advertisements (RFC 4861 section 4.2)
//! carry the prefix for autoconfiguration, the MTU and the DNS server (RFC 8106). They are sent when asked for, and once
//! somebody has asked, to all nodes from time to time (section 6.2.4): a router is forgotten when its lifetime ends, and
//! nobody asks a second time.

use std::net::{IpAddr, Ipv6Addr};
use std::time::{Duration, Instant};

use smoltcp::wire::{ArpOperation, ArpPacket, ArpRepr, EthernetAddress};

use crate::Config;
use crate::context::Context;
use crate::link::Outbound;
use crate::packet::{Packet, send_icmp};

const ROUTER_SOLICITATION: u8 = 133;
const ROUTER_ADVERTISEMENT: u8 = 134;
const NEIGHBOR_SOLICITATION: u8 = 135;
const NEIGHBOR_ADVERTISEMENT: u8 = 136;

/// How long what a router advertisement says holds, in seconds. The link does not change while it exists.
const LIFETIME: u32 = 86_400;

/// How long the gateway is a router after an advertisement, in seconds: the greatest time allowed, RFC 4861 section 6.2.1.
const ROUTER_LIFETIME: u16 = 9000;

/// The time between advertisements that nobody asked for, the greatest allowed (`MaxRtrAdvInterval`). Four may be lost.
const INTERVAL: Duration = Duration::from_mins(30);

/// Answers an ARP packet if it asks for an address of ours. False if it is malformed.
pub(crate) fn arp(config: &Config, out: &mut Outbound, payload: &[u8]) -> bool {
    let Ok(packet) = ArpPacket::new_checked(payload) else {
        return false;
    };
    let Ok(ArpRepr::EthernetIpv4 {
        operation: ArpOperation::Request,
        source_hardware_addr,
        source_protocol_addr,
        target_protocol_addr,
        ..
    }) = ArpRepr::parse(&packet)
    else {
        // Announcements and replies tell us nothing that we need.
        return true;
    };
    if target_protocol_addr != config.gateway4 && target_protocol_addr != config.dns4 {
        return true;
    }
    let reply = ArpRepr::EthernetIpv4 {
        operation: ArpOperation::Reply,
        source_hardware_addr: out.gateway_mac(),
        source_protocol_addr: target_protocol_addr,
        target_hardware_addr: source_hardware_addr,
        target_protocol_addr: source_protocol_addr,
    };
    out.arp(source_hardware_addr, reply.buffer_len(), |bytes| {
        reply.emit(&mut ArpPacket::new_unchecked(bytes));
    });
    true
}

/// Handles a neighbor discovery message; false if the `ICMPv6` message is another one.
pub(crate) fn discovery(cx: &mut Context, packet: &Packet<'_>) -> bool {
    let (config, out) = (&cx.config, &mut cx.out);
    let Some(&kind) = packet.payload.first() else {
        return false;
    };
    if !(ROUTER_SOLICITATION..=137).contains(&kind) {
        return false;
    }
    // A hop limit below 255 means that it came from beyond the link, RFC 4861 section 6.1.
    if !config.ipv6 || packet.hop_limit != 255 {
        return true;
    }
    let IpAddr::V6(asker) = packet.source else {
        return true;
    };
    match kind {
        ROUTER_SOLICITATION => {
            advertise_router(config, out, asker);
            cx.next_advertisement.get_or_insert(cx.now + INTERVAL);
        }
        NEIGHBOR_SOLICITATION => {
            let Some(Ok(target)) = packet.payload.get(8..24).map(<[u8; 16]>::try_from) else {
                return true;
            };
            advertise_neighbor(config, out, asker, target.into());
        }
        _ => {}
    }
    true
}

fn advertise_neighbor(config: &Config, out: &mut Outbound, asker: Ipv6Addr, target: Ipv6Addr) {
    let link_local = link_local(out.gateway_mac());
    if target != config.gateway6 && target != config.dns6 && target != link_local {
        return;
    }
    // Somebody who has no address yet is asking whether it is free; tell all nodes that it is not.
    let solicited = !asker.is_unspecified();
    let to = if solicited { asker } else { ALL_NODES };
    let mut message = vec![NEIGHBOR_ADVERTISEMENT, 0, 0, 0, 0, 0, 0, 0];
    message[4] = if solicited { 0xe0 } else { 0xa0 }; // router, solicited, override
    message.extend(target.octets());
    message.extend([2, 1]); // target link-layer address
    message.extend(out.gateway_mac().0);
    send_icmp(out, target.into(), to.into(), &message);
}

/// Advertises the router again if it is time to.
pub(crate) fn expire(cx: &mut Context) {
    if cx
        .next_advertisement
        .is_some_and(|time: Instant| time <= cx.now)
    {
        advertise_router(&cx.config, &mut cx.out, Ipv6Addr::UNSPECIFIED);
        cx.next_advertisement = Some(cx.now + INTERVAL);
    }
}

/// Sends a router advertisement to `asker`, or to all nodes if it has no address yet.
fn advertise_router(config: &Config, out: &mut Outbound, asker: Ipv6Addr) {
    let to = if asker.is_unspecified() {
        ALL_NODES
    } else {
        asker
    };
    let from = link_local(out.gateway_mac());
    let mut message = vec![ROUTER_ADVERTISEMENT, 0, 0, 0, 64, 0];
    message.extend(ROUTER_LIFETIME.to_be_bytes());
    message.extend([0; 8]); // reachable time and retransmission timer: the guest's choice
    message.extend([1, 1]); // source link-layer address
    message.extend(out.gateway_mac().0);
    message.extend([5, 1, 0, 0]); // MTU
    message.extend(u32::from(config.mtu).to_be_bytes());
    message.extend([3, 4, 64, 0xc0]); // prefix: on the link, good for autoconfiguration
    message.extend(LIFETIME.to_be_bytes());
    message.extend(LIFETIME.to_be_bytes());
    message.extend([0; 4]);
    message.extend(&config.gateway6.octets()[..8]);
    message.extend([0; 8]);
    message.extend([25, 3, 0, 0]); // recursive DNS server
    message.extend(LIFETIME.to_be_bytes());
    message.extend(config.dns6.octets());
    send_icmp(out, from.into(), to.into(), &message);
}

const ALL_NODES: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);

/// The link-local address that belongs to an Ethernet address, RFC 4291 appendix A.
pub(crate) fn link_local(mac: EthernetAddress) -> Ipv6Addr {
    let mut octets = [0; 16];
    octets[..2].copy_from_slice(&[0xfe, 0x80]);
    octets[8..11].copy_from_slice(&mac.0[..3]);
    octets[8] ^= 2;
    octets[11..13].copy_from_slice(&[0xff, 0xfe]);
    octets[13..].copy_from_slice(&mac.0[3..]);
    octets.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn link_local_addresses_follow_the_mac() {
        let mac = EthernetAddress(*b"\x02kiln\x02");
        assert_eq!(
            link_local(mac),
            "fe80::6b:69ff:fe6c:6e02".parse::<Ipv6Addr>().unwrap()
        );
    }
}
