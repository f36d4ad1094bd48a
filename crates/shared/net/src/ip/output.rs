//! Sending: from a datagram to frames in the link's queue.

use alloc::vec;
use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use kiln_abi::Instant;

use super::interface::Interface;
use super::neighbor::{Evidence, Waiting};
use super::packet::{BROADCAST_MAC, ICMP, ICMPV6, Mac, group_mac, write_ethernet, write_ip};
use super::{Context, Outbound, Resolved, Way, fragment, headers_len};
use crate::error::Error;

/// Writes the payload of a datagram, once.
pub(super) type Fill<'a> = &'a mut dyn FnMut(&mut [u8]);

impl Interface {
    /// The Ethernet address of a next hop. Called for each frame that leaves: cheap when it is known. A use keeps the
    /// entry alive and starts unreachability detection when it is stale.
    #[inline]
    pub(crate) fn resolve(
        &mut self,
        next_hop: IpAddr,
        now: Instant,
        cx: &mut Context<'_>,
    ) -> Resolved {
        if let Some(resolved) = self.neighbors.lookup(next_hop, now) {
            self.due = self.due.min(self.neighbors.deadline());
            return resolved;
        }
        self.resolve_new(next_hop, now, cx)
    }

    #[cold]
    fn resolve_new(&mut self, next_hop: IpAddr, now: Instant, cx: &mut Context<'_>) -> Resolved {
        if self.loopback {
            return Resolved::Known([0; 6]);
        }
        if next_hop.is_multicast() {
            return Resolved::Known(group_mac(next_hop));
        }
        if self.is_broadcast(next_hop) {
            return Resolved::Known(BROADCAST_MAC);
        }
        let routes = &self.routes;
        if !self
            .neighbors
            .look_for(next_hop, now, &|address| routes.is_router(address))
        {
            cx.stats.neighbors_refused += 1;
            return Resolved::Failed;
        }
        self.due = self.due.min(self.neighbors.deadline());
        self.solicit(next_hop, None, now, cx);
        Resolved::Wait
    }

    /// Asks for the Ethernet address of a neighbour.
    pub(super) fn solicit(
        &mut self,
        neighbor: IpAddr,
        mac: Option<Mac>,
        now: Instant,
        cx: &mut Context<'_>,
    ) {
        match (self.addresses.source_for(neighbor), neighbor) {
            (Some(IpAddr::V4(source)), IpAddr::V4(target)) => {
                self.send_arp_request(source, target, mac, cx);
            }
            (Some(IpAddr::V6(source)), IpAddr::V6(target)) => {
                self.send_solicitation(source, target, mac, now, cx);
            }
            _ => {}
        }
    }

    /// Something was heard about a neighbour's Ethernet address.
    pub(super) fn heard(
        &mut self,
        neighbor: IpAddr,
        mac: Option<Mac>,
        evidence: Evidence,
        now: Instant,
        cx: &mut Context<'_>,
    ) {
        let routes = &self.routes;
        let heard = self
            .neighbors
            .heard(neighbor, mac, evidence, now, &|address| {
                routes.is_router(address)
            });
        self.routes.regain(neighbor);
        self.changes.neighbors |= heard.found;
        if heard.no_router {
            self.routers.remove(neighbor);
            self.rebuild_routes();
        }
        for waiting in heard.waiting {
            if let Some(mac) = mac {
                let bytes = &waiting.payload;
                let mut fill = |to: &mut [u8]| to.copy_from_slice(bytes);
                let sent = self.transmit(&waiting.outbound, mac, bytes.len(), now, cx, &mut fill);
                cx.stats.dropped_queue_full += u64::from(sent.is_err());
            }
        }
    }

    /// Sends a datagram of a transport: `payload` bytes that `fill` writes behind the IP header; the transport's checksum
    /// is the caller's. Fragments what is too long. While the neighbour is looked for, a few datagrams wait inside.
    ///
    /// # Errors
    /// [`Error::MessageTooLong`] if it does not fit even in fragments, [`Error::Exhausted`] if the queue has no room
    /// (the datagram is not sent), [`Error::Unreachable`].
    pub(crate) fn send(
        &mut self,
        outbound: Outbound,
        next_hop: IpAddr,
        payload: usize,
        fill: impl FnOnce(&mut [u8]),
        now: Instant,
        cx: &mut Context<'_>,
    ) -> Result<(), Error> {
        let mut fill = Some(fill);
        let mut once = |bytes: &mut [u8]| {
            if let Some(fill) = fill.take() {
                fill(bytes);
            }
        };
        self.send_to(&outbound, next_hop, payload, now, cx, &mut once)
    }

    /// As [`send`](Self::send).
    pub(super) fn send_to(
        &mut self,
        outbound: &Outbound,
        next_hop: IpAddr,
        payload: usize,
        now: Instant,
        cx: &mut Context<'_>,
        fill: Fill<'_>,
    ) -> Result<(), Error> {
        let v6 = outbound.destination.is_ipv6();
        // IPv4's length counts the header; IPv6's does not.
        let most = if v6 { 65_535 } else { 65_535 - 20 };
        if payload > most {
            return Err(Error::MessageTooLong);
        }
        match self.resolve(next_hop, now, cx) {
            Resolved::Known(mac) => self.transmit(outbound, mac, payload, now, cx, fill),
            Resolved::Wait => {
                let mut bytes = vec![0; payload];
                fill(&mut bytes);
                let waiting = Waiting {
                    outbound: *outbound,
                    payload: bytes,
                };
                if self.neighbors.wait(next_hop, waiting) {
                    Ok(())
                } else {
                    Err(Error::Exhausted)
                }
            }
            Resolved::Failed => Err(Error::Unreachable),
        }
    }

    /// Answers somebody: as [`send_to`](Self::send_to), over the way to the destination. What cannot be sent is counted.
    pub(super) fn answer(
        &mut self,
        outbound: &Outbound,
        payload: usize,
        now: Instant,
        cx: &mut Context<'_>,
        fill: Fill<'_>,
    ) {
        let next_hop = if self.loopback {
            Some(outbound.destination)
        } else {
            self.way(outbound.destination).map(|way| way.next_hop)
        };
        let sent = match next_hop {
            Some(next_hop) => self.send_to(outbound, next_hop, payload, now, cx, fill),
            None => Err(Error::Unreachable),
        };
        cx.stats.dropped_queue_full += u64::from(sent == Err(Error::Exhausted));
    }

    /// Queues a datagram for a neighbour whose Ethernet address is known.
    pub(super) fn transmit(
        &mut self,
        outbound: &Outbound,
        mac: Mac,
        payload: usize,
        now: Instant,
        cx: &mut Context<'_>,
        fill: Fill<'_>,
    ) -> Result<(), Error> {
        let v6 = outbound.destination.is_ipv6();
        cx.stats.icmp_out += u64::from(matches!(outbound.protocol, ICMP | ICMPV6));
        let headers = headers_len(v6);
        let mtu = usize::from(self.path_mtu(outbound.destination, now));
        let macs = (self.mac, mac);
        if headers - super::ETHERNET_HEADER + payload > mtu {
            let mut bytes = vec![0; payload];
            fill(&mut bytes);
            return fragment::send(outbound, macs, mtu, &bytes, cx);
        }
        let queued = cx.frame(headers + payload, &mut |bytes| {
            if let Some((ethernet, ip)) = bytes.split_first_chunk_mut() {
                write_ethernet(ethernet, macs, v6);
                write_ip(ip, outbound, payload, 0, 0x4000);
            }
            fill(bytes.get_mut(headers..).unwrap_or_default());
        });
        if queued {
            Ok(())
        } else {
            Err(Error::Exhausted)
        }
    }

    /// The way to `remote` over this interface. Groups and broadcast are on every link.
    pub(crate) fn way(&self, remote: IpAddr) -> Option<Way> {
        match remote {
            _ if self.loopback => {
                return remote.is_loopback().then(|| Way {
                    prefix: if remote.is_ipv6() { 128 } else { 8 },
                    next_hop: remote,
                    source: if remote.is_ipv6() {
                        Ipv6Addr::LOCALHOST.into()
                    } else {
                        Ipv4Addr::LOCALHOST.into()
                    },
                });
            }
            _ if remote.is_unspecified() || remote.is_loopback() => return None,
            _ => {}
        }
        let everywhere = match remote {
            IpAddr::V4(address) if address.is_broadcast() => Some(32),
            _ if remote.is_multicast() => Some(if remote.is_ipv4() { 4 } else { 8 }),
            _ => None,
        };
        if let Some(prefix) = everywhere {
            let source = self.addresses.source_for(remote)?;
            return Some(Way {
                prefix,
                next_hop: remote,
                source,
            });
        }
        let route = self.routes.find(remote)?;
        let next_hop = route.gateway.unwrap_or(remote);
        // An IPv4 router expects the address of its own network.
        let source = self
            .addresses
            .source_for(if remote.is_ipv4() { next_hop } else { remote })?;
        let local = |address| matches!(address, IpAddr::V6(v6) if v6.is_unicast_link_local());
        if route.gateway.is_some() && local(source) {
            // No router would forward it, nor its answer.
            return None;
        }
        Some(Way {
            prefix: route.prefix,
            next_hop,
            source,
        })
    }
}
