//! Groups that the interface is in, and telling routers and switches about them: IGMP (RFC 3376, 2236, 1112) and MLD
//! (RFC 3810, 2710), which are the same protocol in two encodings.
//!
//! The newest versions are spoken until a querier shows up that speaks an older one. Groups are joined for all sources.
//! The groups of all hosts are never reported.

use alloc::vec::Vec;
use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use core::time::Duration;

use kiln_abi::Instant;

use super::address::scope;
use super::icmp::checksum;
use super::interface::Interface;
use super::neighbor::{ALL_NODES, ALL_ROUTERS};
use super::packet::{
    ICMPV6, IGMP, IPV4_HEADER, array, be16, group_mac, put, sum, write_ethernet, write_ip,
};
use super::router::part_of;
use super::{Context, ETHERNET_HEADER, Outbound};
use crate::error::Error;
use crate::random::Random;
use crate::tcp::Ecn;

/// Most groups of an interface; those that its own addresses need come on top.
const MAX_GROUPS: usize = 64;
const MAX_OWN_GROUPS: usize = MAX_GROUPS + 16;
/// Most records in a report: with twenty bytes each it fits into the smallest MTU of IPv6.
const MAX_RECORDS: usize = 60;
/// How often a change is reported (the robustness variable), and within which time.
const REPEATS: u8 = 2;
const UNSOLICITED: Duration = Duration::from_secs(1);
/// How long an older querier counts: RFC 3376 section 8.12, RFC 3810 section 9.12 with the default values.
const OLDER_QUERIER: Duration = Duration::from_secs(260);

/// Record types, RFC 3376 section 4.2.12, RFC 3810 section 5.2.12.
const IS_IN: u8 = 2;
const LEFT: u8 = 3;
const JOINED: u8 = 4;

const ALL_HOSTS4: Ipv4Addr = Ipv4Addr::new(224, 0, 0, 1);
const ALL_ROUTERS4: Ipv4Addr = Ipv4Addr::new(224, 0, 0, 2);
const REPORTS4: Ipv4Addr = Ipv4Addr::new(224, 0, 0, 22);
const REPORTS6: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 0x16);

/// What the querier of a family understands.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
enum Version {
    /// `IGMPv1`.
    First,
    /// `IGMPv2`, `MLDv1`.
    Second,
    /// `IGMPv3`, `MLDv2`.
    #[default]
    Third,
}

#[derive(Debug)]
struct Member {
    group: IpAddr,
    /// Left if 0; the entry stays until that is reported.
    users: u16,
    /// Reports of the last change that are still to be sent, and when.
    repeats: u8,
    due: Instant,
    /// When to answer a query about this group.
    answer: Instant,
}

/// What is heard of queriers of a family.
#[derive(Debug)]
struct Querier {
    version: Version,
    /// Until then.
    until: Instant,
    /// When to answer a query about all groups.
    answer: Instant,
}

impl Default for Querier {
    fn default() -> Self {
        Self {
            version: Version::Third,
            until: Instant::FOREVER,
            answer: Instant::FOREVER,
        }
    }
}

/// A record of a report.
type Record = (u8, IpAddr);

/// The groups of an interface.
#[derive(Debug, Default)]
pub(super) struct Groups {
    members: Vec<Member>,
    /// IPv4's and IPv6's.
    queriers: [Querier; 2],
}

impl Groups {
    /// True if packets to the group are taken.
    pub(super) fn has(&self, group: IpAddr) -> bool {
        let joined = |member: &Member| member.group == group && member.users > 0;
        match group {
            IpAddr::V4(ALL_HOSTS4) => true,
            IpAddr::V6(group) if group == ALL_NODES => true,
            _ => self.members.iter().any(joined),
        }
    }

    /// Joins a group; `own` if an address of the interface needs it.
    fn join(&mut self, group: IpAddr, own: bool, now: Instant) -> Result<(), Error> {
        let repeats = if is_reported(group) { REPEATS } else { 0 };
        if let Some(member) = self.members.iter_mut().find(|member| member.group == group) {
            if member.users == 0 {
                (member.repeats, member.due) = (repeats, now);
            }
            member.users = member.users.checked_add(1).ok_or(Error::Exhausted)?;
            return Ok(());
        }
        let most = if own { MAX_OWN_GROUPS } else { MAX_GROUPS };
        if self.members.len() >= most {
            return Err(Error::Exhausted);
        }
        self.members.push(Member {
            group,
            users: 1,
            repeats,
            due: if repeats > 0 { now } else { Instant::FOREVER },
            answer: Instant::FOREVER,
        });
        Ok(())
    }

    /// Leaves a group.
    fn leave(&mut self, group: IpAddr, now: Instant) {
        let Some(at) = self.members.iter().position(|member| member.group == group) else {
            return;
        };
        let Some(member) = self.members.get_mut(at).filter(|member| member.users > 0) else {
            return;
        };
        member.users -= 1;
        if member.users > 0 {
            return;
        }
        if is_reported(group) {
            (member.repeats, member.due) = (REPEATS, now);
        } else {
            self.members.remove(at);
        }
    }

    fn querier(&mut self, v6: bool) -> &mut Querier {
        let [v4, other] = &mut self.queriers;
        if v6 { other } else { v4 }
    }

    /// A querier wants to hear within `time` about a group, or about all.
    fn query(
        &mut self,
        group: IpAddr,
        version: Version,
        time: Duration,
        now: Instant,
        random: &mut Random,
    ) {
        let delay = now + part_of(time, random);
        let querier = self.querier(group.is_ipv6());
        if version <= querier.version && version != Version::Third {
            querier.version = version;
            querier.until = now + OLDER_QUERIER;
        }
        if group.is_unspecified() {
            querier.answer = querier.answer.min(delay);
        } else if let Some(member) = self.members.iter_mut().find(|member| member.group == group)
            && is_reported(group)
        {
            member.answer = member.answer.min(delay);
        }
    }

    /// When [`advance`](Self::advance) has something to do.
    pub(super) fn deadline(&self) -> Instant {
        let members = self
            .members
            .iter()
            .map(|member| member.due.min(member.answer));
        let queriers = self
            .queriers
            .iter()
            .map(|querier| querier.until.min(querier.answer));
        members.chain(queriers).min().unwrap_or(Instant::FOREVER)
    }

    /// The records that are due in a family, with the version in which they are to be told.
    fn advance(&mut self, v6: bool, now: Instant, random: &mut Random) -> (Version, Vec<Record>) {
        let mut records = Vec::new();
        let querier = self.querier(v6);
        if querier.until <= now {
            (querier.version, querier.until) = (Version::Third, Instant::FOREVER);
        }
        let version = querier.version;
        let everything = querier.answer <= now;
        if everything {
            querier.answer = Instant::FOREVER;
        }
        self.members.retain_mut(|member| {
            if member.group.is_ipv6() != v6 || !is_reported(member.group) {
                return true;
            }
            let here = member.users > 0;
            if member.due <= now {
                records.push((if here { JOINED } else { LEFT }, member.group));
                member.repeats = member.repeats.saturating_sub(1);
                member.due = match member.repeats {
                    0 => Instant::FOREVER,
                    _ => now + part_of(UNSOLICITED, random),
                };
            } else if here && (everything || member.answer <= now) {
                records.push((IS_IN, member.group));
            }
            if everything || member.answer <= now {
                member.answer = Instant::FOREVER;
            }
            here || member.repeats > 0
        });
        (version, records)
    }
}

/// False for groups that everybody is in, and for those that stay inside the host (RFC 3810 section 6).
fn is_reported(group: IpAddr) -> bool {
    match group {
        IpAddr::V4(group) => group != ALL_HOSTS4,
        IpAddr::V6(group) => group != ALL_NODES && scope(group) >= 2,
    }
}

/// A time whose code has a mantissa of `bits` bits and an exponent of three if its first bit is set (RFC 3376 section
/// 4.1.1, RFC 3810 section 5.1.3).
const fn floating(code: u32, bits: u32) -> u32 {
    if code >> (bits + 3) == 0 {
        return code;
    }
    let mantissa = code & ((1 << bits) - 1) | 1 << bits;
    mantissa << ((code >> bits & 7) + 3)
}

impl Interface {
    /// Joins a group (counted: leave as often).
    pub(crate) fn join(
        &mut self,
        group: IpAddr,
        now: Instant,
        cx: &mut Context<'_>,
    ) -> Result<(), Error> {
        if !group.is_multicast() {
            return Err(Error::InvalidInput);
        }
        if self.loopback {
            return Ok(());
        }
        if !self.speaks(group.is_ipv6()) {
            return Err(Error::AddressNotAvailable);
        }
        self.groups.join(group, false, now)?;
        self.advance_groups(now, cx);
        Ok(())
    }

    /// Leaves a group.
    pub(crate) fn leave(&mut self, group: IpAddr, now: Instant, cx: &mut Context<'_>) {
        self.groups.leave(group, now);
        self.advance_groups(now, cx);
    }

    /// An address of the interface needs a group, or no longer.
    pub(super) fn need_group(&mut self, group: Ipv6Addr, needed: bool, now: Instant) {
        if needed {
            // There is room for all addresses.
            let _ = self.groups.join(group.into(), true, now);
        } else {
            self.groups.leave(group.into(), now);
        }
    }

    /// Takes in an IGMP message. Only queries are of interest.
    pub(super) fn receive_igmp(&mut self, message: &[u8], now: Instant, cx: &mut Context<'_>) {
        if sum(message) != 0xffff {
            cx.stats.dropped_checksum += 1;
            return;
        }
        let (Some([0x11, code]), Some(group)) = (array(message, 0), array::<4>(message, 4)) else {
            return;
        };
        let (version, tenths) = match (message.len(), code) {
            (8, 0) => (Version::First, 100),
            (8, code) => (Version::Second, code.into()),
            (..12, _) => return,
            (_, code) => (Version::Third, floating(code.into(), 4)),
        };
        let time = Duration::from_millis(100) * tenths;
        let group = Ipv4Addr::from(group).into();
        self.groups.query(group, version, time, now, cx.random);
        self.advance_groups(now, cx);
    }

    /// Takes in a query of MLD whose header was in order.
    pub(super) fn receive_mld(&mut self, message: &[u8], now: Instant, cx: &mut Context<'_>) {
        let (Some(code), Some(group)) = (be16(message, 4), array::<16>(message, 8)) else {
            return;
        };
        let (version, millis) = match message.len() {
            24 => (Version::Second, code.into()),
            ..28 => return,
            _ => (Version::Third, floating(code.into(), 12)),
        };
        let time = Duration::from_millis(millis.into());
        let group = Ipv6Addr::from(group).into();
        self.groups.query(group, version, time, now, cx.random);
        self.advance_groups(now, cx);
    }

    /// Sends what is due.
    pub(super) fn advance_groups(&mut self, now: Instant, cx: &mut Context<'_>) {
        if self.groups.deadline() <= now {
            for v6 in [false, true] {
                let (version, records) = self.groups.advance(v6, now, cx.random);
                if version == Version::Third {
                    for records in records.chunks(MAX_RECORDS) {
                        self.send_report(v6, records, now, cx);
                    }
                } else {
                    for (kind, group) in records {
                        self.send_old_report(version, kind == LEFT, group, now, cx);
                    }
                }
            }
        }
        self.due = self.due.min(self.groups.deadline());
    }

    /// Sends a report of `IGMPv3` or `MLDv2`.
    fn send_report(&mut self, v6: bool, records: &[Record], now: Instant, cx: &mut Context<'_>) {
        let (kind, to, each): (u8, IpAddr, _) = if v6 {
            (143, REPORTS6.into(), 20)
        } else {
            (0x22, REPORTS4.into(), 8)
        };
        self.send_message(to, 8 + each * records.len(), now, cx, &mut |bytes| {
            put(bytes, 0, &[kind]);
            put(bytes, 6, &(records.len() as u16).to_be_bytes());
            for (index, (kind, group)) in records.iter().enumerate() {
                let at = 8 + each * index;
                put(bytes, at, &[*kind]);
                put_address(bytes, at + 4, *group);
            }
        });
    }

    /// Sends a message of an older version.
    fn send_old_report(
        &mut self,
        version: Version,
        left: bool,
        group: IpAddr,
        now: Instant,
        cx: &mut Context<'_>,
    ) {
        let (kind, to, at, length) = match (group.is_ipv6(), version, left) {
            // There is no way to say so.
            (false, Version::First, true) => return,
            (false, Version::First, false) => (0x12, group, 4, 8),
            (false, _, false) => (0x16, group, 4, 8),
            (false, _, true) => (0x17, ALL_ROUTERS4.into(), 4, 8),
            (true, _, false) => (131, group, 8, 24),
            (true, _, true) => (132, ALL_ROUTERS.into(), 8, 24),
        };
        self.send_message(to, length, now, cx, &mut |bytes| {
            put(bytes, 0, &[kind]);
            put_address(bytes, at, group);
        });
    }

    /// Sends a message with a router alert and a hop limit of 1 to a group.
    fn send_message(
        &mut self,
        to: IpAddr,
        length: usize,
        now: Instant,
        cx: &mut Context<'_>,
        fill: &mut dyn FnMut(&mut [u8]),
    ) {
        let mut outbound = Outbound {
            source: self.link_source(to.is_ipv6()),
            destination: to,
            protocol: IGMP,
            hop_limit: 1,
            ecn: Ecn::NotEct,
        };
        let mac = group_mac(to);
        let queued = if to.is_ipv6() {
            outbound.protocol = 0;
            let message = Outbound {
                protocol: ICMPV6,
                ..outbound
            };
            self.transmit(&outbound, mac, 8 + length, now, cx, &mut |bytes| {
                put(bytes, 0, &[ICMPV6, 0, 5, 2, 0, 0, 1, 0]);
                if let Some((_, bytes)) = bytes.split_at_mut_checked(8) {
                    fill(bytes);
                    checksum(&message, bytes);
                }
            })
            .is_ok()
        } else {
            let macs = (self.mac, mac);
            cx.frame(ETHERNET_HEADER + IPV4_HEADER + 4 + length, &mut |bytes| {
                let Some((ethernet, ip)) = bytes.split_first_chunk_mut() else {
                    return;
                };
                write_ethernet(ethernet, macs, false);
                write_ip(ip, &outbound, 4 + length, 0, 0x4000);
                // The option makes the header longer; routers treat the packet as control traffic.
                put(ip, 0, &[0x46, 0xc0]);
                put(ip, 10, &[0, 0]);
                put(ip, IPV4_HEADER, &[0x94, 4, 0, 0]);
                if let Some((header, message)) = ip.split_at_mut_checked(IPV4_HEADER + 4) {
                    let total = !sum(header);
                    put(header, 10, &total.to_be_bytes());
                    fill(message);
                    checksum(&outbound, message);
                }
            })
        };
        cx.stats.dropped_queue_full += u64::from(!queued);
        cx.stats.icmp_out += u64::from(queued && to.is_ipv6());
    }
}

fn put_address(bytes: &mut [u8], at: usize, address: IpAddr) {
    match address {
        IpAddr::V4(address) => put(bytes, at, &address.octets()),
        IpAddr::V6(address) => put(bytes, at, &address.octets()),
    }
}
