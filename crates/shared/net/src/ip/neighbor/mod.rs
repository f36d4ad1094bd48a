//! The neighbours on a link and how they are reached: one cache for ARP and neighbour discovery.
//!
//! [`Neighbors`] is the state machine of RFC 4861 section 7.3 for both families; `arp` and `ndp` translate it to and from
//! messages. An entry comes into being when a packet is to be sent to somebody ([`Neighbors::look_for`]) or when somebody
//! asks for us, never because somebody says something unasked. What is learned unasked is only tried: nothing but an
//! answer, or a transport's word, makes an entry reachable.
//!
//! The cache is bounded. A new entry takes the place of one that was not used for a while, entries still being looked for
//! have a share of their own, and routers are never displaced; if all entries are in use, there is no new one. So somebody
//! who invents neighbours displaces inventions, not those that the host talks to.

mod arp;
mod ndp;

#[cfg(test)]
mod tests;

use alloc::vec::Vec;
use core::net::IpAddr;
use core::time::Duration;

use kiln_abi::Instant;

use super::packet::Mac;
use super::{Outbound, Resolved};

pub(super) use ndp::{
    ALL_NODES, ALL_ROUTERS, Message, ROUTER_SOLICITATION, link_layer, options, solicited_node,
};

/// Most entries, and how many of them may be incomplete.
const MAX_ENTRIES: usize = 512;
const MAX_INCOMPLETE: usize = 128;
/// Bytes of datagrams that wait for one neighbour, and of all that wait. A burst of answers is often the first that is sent
/// to a router, so there is room for more than the few datagrams that RFC 4861 section 7.2.2 speaks of.
const MAX_WAITING: usize = 32 * 1024;
const MAX_WAITING_BYTES: usize = 96 * 1024;
/// What one costs besides its payload.
const OVERHEAD: usize = 128;
/// RFC 4861 section 10; the same number of times with and without a known address.
const MAX_SOLICIT: u8 = 3;
const DELAY_FIRST_PROBE: Duration = Duration::from_secs(5);
pub(super) const RETRANS: Duration = Duration::from_secs(1);
const REACHABLE: Duration = Duration::from_secs(30);
/// How long a search that has failed is not repeated.
const FAILED: Duration = Duration::from_secs(1);
/// An entry used so recently is not displaced.
const IN_USE: Duration = Duration::from_mins(1);

/// RFC 4861 section 7.3.2.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Incomplete,
    /// Until the timer is over; nobody needs to be told then.
    Reachable,
    Stale,
    Delay,
    Probe,
    /// The search has ended without an answer.
    Failed,
}

/// A datagram that waits for its neighbour.
#[derive(Debug)]
pub(super) struct Waiting {
    pub outbound: Outbound,
    pub payload: Vec<u8>,
}

impl Waiting {
    fn cost(&self) -> usize {
        self.payload.len() + OVERHEAD
    }
}

#[derive(Debug)]
struct Entry {
    address: IpAddr,
    mac: Mac,
    state: State,
    /// RFC 4861's `IsRouter`.
    router: bool,
    tries: u8,
    timer: Instant,
    used: Option<Instant>,
    waiting: Vec<Waiting>,
}

/// How a neighbour's Ethernet address has come to our ears.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Evidence {
    /// It asks for us, or is a router that speaks: a new entry is worth having.
    Asks,
    /// It says so unasked or to others.
    Tells,
    /// A neighbour advertisement.
    Advert {
        solicited: bool,
        replace: bool,
        router: bool,
    },
    /// An ARP reply to us.
    Reply,
}

/// What came of it.
#[derive(Debug, Default)]
pub(super) struct Heard {
    /// Datagrams that can be sent now.
    pub waiting: Vec<Waiting>,
    /// A search has ended.
    pub found: bool,
    /// The neighbour used to be a router and says that it is none now.
    pub no_router: bool,
}

/// What time asks for.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Event {
    /// Ask for it: everybody, or the one who was it.
    Solicit(IpAddr, Option<Mac>),
    /// Nobody answers.
    Failed(IpAddr),
}

/// The cache.
#[derive(Debug)]
pub(super) struct Neighbors {
    /// By address.
    entries: Vec<Entry>,
    /// The one that was found last.
    last: usize,
    /// No timer ends earlier.
    due: Instant,
    reachable: Duration,
    retrans: Duration,
    waiting: usize,
}

impl Neighbors {
    /// An empty cache. `random` makes hosts differ, as RFC 4861 section 6.3.2 wants.
    pub(super) fn new(random: u32) -> Self {
        let mut neighbors = Self {
            entries: Vec::new(),
            last: 0,
            due: Instant::FOREVER,
            reachable: REACHABLE,
            retrans: RETRANS,
            waiting: 0,
        };
        neighbors.set_times(Some(REACHABLE), None, random);
        neighbors
    }

    /// Sets the times that a router has advertised.
    pub(super) fn set_times(
        &mut self,
        reachable: Option<Duration>,
        retrans: Option<Duration>,
        random: u32,
    ) {
        if let Some(base) = reachable {
            // From 0.5 to 1.5 of it; of an hour at most, which is the greatest value of section 6.2.1.
            let base = base.clamp(Duration::from_secs(1), Duration::from_hours(1));
            let millis = base.as_secs() * 1000 + u64::from(base.subsec_millis());
            let part = millis * u64::from(random & 1023) / 1024;
            self.reachable = Duration::from_millis(millis / 2 + part);
        }
        if let Some(retrans) = retrans {
            self.retrans = retrans.clamp(Duration::from_millis(100), Duration::from_secs(10));
        }
    }

    #[inline]
    fn find(&mut self, address: IpAddr) -> Option<&mut Entry> {
        let at = match self.entries.get(self.last) {
            Some(entry) if entry.address == address => self.last,
            _ => self.position(address).ok()?,
        };
        self.last = at;
        self.entries.get_mut(at)
    }

    #[inline(never)]
    fn position(&self, address: IpAddr) -> Result<usize, usize> {
        self.entries
            .binary_search_by(|entry| entry.address.cmp(&address))
    }

    /// The Ethernet address of a neighbour that a packet goes to now; nothing if there is no entry.
    #[inline]
    pub(super) fn lookup(&mut self, address: IpAddr, now: Instant) -> Option<Resolved> {
        let entry = self.find(address)?;
        entry.used = Some(now);
        match entry.state {
            State::Reachable if now < entry.timer => {}
            State::Reachable | State::Stale => {
                entry.state = State::Delay;
                entry.timer = now + DELAY_FIRST_PROBE;
                let (mac, timer) = (entry.mac, entry.timer);
                self.due = self.due.min(timer);
                return Some(Resolved::Known(mac));
            }
            State::Delay | State::Probe => {}
            State::Incomplete => return Some(Resolved::Wait),
            State::Failed if now < entry.timer => return Some(Resolved::Failed),
            State::Failed => {
                self.remove(address);
                return None;
            }
        }
        Some(Resolved::Known(entry.mac))
    }

    /// Starts to look for a neighbour that has no entry; the caller sends the first solicitation. False if there is no room.
    pub(super) fn look_for(
        &mut self,
        address: IpAddr,
        now: Instant,
        keep: &dyn Fn(IpAddr) -> bool,
    ) -> bool {
        let mut incomplete = 0;
        let oldest = self.oldest(|entry| {
            let searching = entry.state == State::Incomplete;
            incomplete += usize::from(searching);
            searching.then_some(false)
        });
        if let Some(oldest) = oldest.filter(|_| incomplete >= MAX_INCOMPLETE) {
            self.remove_at(oldest);
        }
        let timer = now + self.retrans;
        let created = self.create(address, State::Incomplete, [0; 6], timer, now, keep);
        if created && let Some(entry) = self.find(address) {
            entry.used = Some(now);
            entry.tries = 1;
            self.due = self.due.min(timer);
        }
        created
    }

    fn create(
        &mut self,
        address: IpAddr,
        state: State,
        mac: Mac,
        timer: Instant,
        now: Instant,
        keep: &dyn Fn(IpAddr) -> bool,
    ) -> bool {
        if self.entries.len() >= MAX_ENTRIES {
            let oldest = self.oldest(|entry| {
                let reachable = entry.state == State::Reachable && now < entry.timer;
                let free = entry.state != State::Incomplete
                    && !keep(entry.address)
                    && entry.used.is_none_or(|used| now.since(used) > IN_USE);
                free.then_some(entry.used.is_some() && reachable)
            });
            let Some(oldest) = oldest else {
                return false;
            };
            self.remove_at(oldest);
        }
        if let Err(at) = self.position(address) {
            self.entries.insert(
                at,
                Entry {
                    address,
                    mac,
                    state,
                    router: false,
                    tries: 0,
                    timer,
                    used: None,
                    waiting: Vec::new(),
                },
            );
        }
        true
    }

    /// The place of that entry which can be spared best: of those that `spare` says "false" about, or else "true", the one
    /// that was not used for the longest time; never used is longer than any.
    fn oldest(&self, mut spare: impl FnMut(&Entry) -> Option<bool>) -> Option<usize> {
        let mut best = None;
        for (at, entry) in self.entries.iter().enumerate() {
            if let Some(dear) = spare(entry) {
                let age = (dear, entry.used.unwrap_or_default());
                if best.is_none_or(|(known, _)| age < known) {
                    best = Some((age, at));
                }
            }
        }
        best.map(|(_, at)| at)
    }

    #[cold]
    #[inline(never)]
    fn remove(&mut self, address: IpAddr) {
        if let Ok(at) = self.position(address) {
            self.remove_at(at);
        }
    }

    #[inline(never)]
    fn remove_at(&mut self, at: usize) {
        let entry = self.entries.remove(at);
        self.forget(&entry.waiting);
    }

    #[inline(never)]
    fn forget(&mut self, waiting: &[Waiting]) {
        let bytes: usize = waiting.iter().map(Waiting::cost).sum();
        self.waiting = self.waiting.saturating_sub(bytes);
    }

    /// Lets a datagram wait for a neighbour that is being looked for. The oldest gives way (RFC 4861 section 7.2.2).
    #[inline(never)]
    pub(super) fn wait(&mut self, address: IpAddr, waiting: Waiting) -> bool {
        let bytes = waiting.cost();
        if self.waiting + bytes > MAX_WAITING_BYTES {
            return false;
        }
        let Some(entry) = self.find(address) else {
            return false;
        };
        let held: usize = entry.waiting.iter().map(Waiting::cost).sum();
        let mut freed = 0;
        while held - freed + bytes > MAX_WAITING && !entry.waiting.is_empty() {
            freed += entry.waiting.remove(0).cost();
        }
        entry.waiting.push(waiting);
        self.waiting = self.waiting + bytes - freed;
        true
    }

    /// A neighbour's Ethernet address, if the message told it, has been heard (RFC 4861 sections 7.2.3 and 7.2.5, RFC 826).
    pub(super) fn heard(
        &mut self,
        address: IpAddr,
        mac: Option<Mac>,
        evidence: Evidence,
        now: Instant,
        keep: &dyn Fn(IpAddr) -> bool,
    ) -> Heard {
        let mut heard = Heard::default();
        let reachable_until = now + self.reachable;
        let Some(entry) = self.find(address) else {
            if let (Evidence::Asks, Some(mac)) = (evidence, mac) {
                self.create(address, State::Stale, mac, now, now, keep);
            }
            return heard;
        };
        let searching = matches!(entry.state, State::Incomplete | State::Failed);
        let asked = matches!(entry.state, State::Incomplete | State::Probe);
        let (solicited, replace) = match evidence {
            Evidence::Asks | Evidence::Tells => (false, true),
            Evidence::Advert {
                solicited, replace, ..
            } => (solicited, replace),
            Evidence::Reply => (asked, true),
        };
        let different = mac.is_some_and(|mac| mac != entry.mac);
        if searching {
            let Some(mac) = mac else {
                return heard;
            };
            entry.mac = mac;
            entry.state = State::Stale;
            heard.found = true;
            heard.waiting = core::mem::take(&mut entry.waiting);
        } else if different && !replace {
            if entry.state == State::Reachable {
                entry.state = State::Stale;
            }
            return heard;
        }
        if solicited {
            entry.state = State::Reachable;
            entry.timer = reachable_until;
        } else if different {
            entry.state = State::Stale;
        }
        if let Some(mac) = mac {
            entry.mac = mac;
        }
        if let Evidence::Advert { router, .. } = evidence {
            heard.no_router = entry.router && !router;
            entry.router = router;
        }
        let waiting = core::mem::take(&mut heard.waiting);
        self.forget(&waiting);
        heard.waiting = waiting;
        heard
    }

    /// The neighbour has advertised itself as a router.
    pub(super) fn set_router(&mut self, address: IpAddr) {
        if let Some(entry) = self.find(address) {
            entry.router = true;
        }
    }

    /// A transport knows that the neighbour hears us.
    #[inline]
    pub(super) fn confirm(&mut self, address: IpAddr, now: Instant) {
        let until = now + self.reachable;
        if let Some(entry) = self.find(address)
            && !matches!(entry.state, State::Incomplete | State::Failed)
        {
            entry.state = State::Reachable;
            entry.timer = until;
        }
    }

    /// No timer ends earlier.
    pub(super) fn deadline(&self) -> Instant {
        self.due
    }

    /// Ends timers.
    pub(super) fn advance(&mut self, now: Instant) -> Vec<Event> {
        let mut events = Vec::new();
        if now < self.due {
            return events;
        }
        let retrans = self.retrans;
        let mut freed = Vec::new();
        let mut due = Instant::FOREVER;
        self.entries.retain_mut(|entry| {
            if !matches!(entry.state, State::Incomplete | State::Delay | State::Probe) {
                return true;
            }
            if now >= entry.timer {
                match entry.state {
                    State::Delay => {
                        entry.state = State::Probe;
                        entry.tries = 1;
                    }
                    _ if entry.tries < MAX_SOLICIT => entry.tries += 1,
                    State::Probe => {
                        // Whoever needs it looks for it anew: it may have another Ethernet address now.
                        events.push(Event::Failed(entry.address));
                        return false;
                    }
                    _ => {
                        entry.state = State::Failed;
                        entry.timer = now + FAILED;
                        freed.append(&mut entry.waiting);
                        events.push(Event::Failed(entry.address));
                        return true;
                    }
                }
                entry.timer = now + retrans;
                let known = (entry.state == State::Probe).then_some(entry.mac);
                events.push(Event::Solicit(entry.address, known));
            }
            due = due.min(entry.timer);
            true
        });
        self.forget(&freed);
        self.due = due;
        events
    }
}
