//! Opening, RFC 9293 section 3.5: what a connection starts with, and the segments of SYN-SENT.

use core::net::SocketAddr;
use core::time::Duration;

use kiln_abi::Instant;

use super::cookie::{Cookies, Remembered};
use super::info::State;
use super::marks::Marks;
use super::pmtu::PathMtu;
use super::receive::ReceiveBuffer;
use super::recovery::Recovery;
use super::send::SendBuffer;
use super::settings::Settings;
use super::tcb::Milliseconds;
use super::time_wait::Challenges;
use super::window::Tuning;
use super::{Block, Changed, Ecn, Flags, Options, Outgoing, Segment, Seq, Tcb, Timestamps};
use crate::error::Error;

/// The peer's largest segment if it does not say, RFC 9293 section 3.7.1 (IPv4's; IPv6 would allow more).
const DEFAULT_MSS: u16 = 536;
/// The least that is believed: the longest options must leave room for data.
const LEAST_MSS: u16 = 88;
/// RFC 9293 section 3.8.6.3.
const LONGEST_ACK_DELAY: Duration = Duration::from_millis(500);
/// Segments of data that are acknowledged at once when a connection is young: its peer is in slow start.
const QUICK_ACKS: u8 = 16;

impl Tcb {
    /// Opens actively: SYN-SENT. `iss` is the initial sequence number (RFC 6528), `clock_offset` is added to the
    /// timestamp clock (RFC 7323 section 5.4); both are chosen by the owner so that they cannot be guessed.
    pub fn connect(settings: &Settings, iss: Seq, clock_offset: u32, now: Instant) -> Self {
        let mut tcb = Self::new(settings, State::SynSent, iss, clock_offset, now);
        tcb.marks.set(Marks::SYN);
        tcb
    }

    /// Opens passively for a SYN: SYN-RECEIVED. RFC 9293 section 3.10.7.2, fourth step.
    pub fn accept(
        settings: &Settings,
        syn: &Segment<'_>,
        iss: Seq,
        clock_offset: u32,
        now: Instant,
    ) -> Self {
        let mut tcb = Self::new(settings, State::SynReceived, iss, clock_offset, now);
        tcb.segments_in = u64::from(syn.joined.max(1));
        tcb.marks.set(Marks::PASSIVE.and(Marks::SYN));
        let offered = syn.flags.has(Flags::ECE | Flags::CWR) && syn.ecn == Ecn::NotEct;
        if !offered {
            tcb.marks.clear(Marks::ECN);
        }
        tcb.take_syn(syn, now);
        tcb
    }

    /// A connection whose SYN was answered with a cookie: the segment that acknowledges it has been checked and is to be
    /// given to [`receive`](Self::receive) next.
    pub fn from_cookie(
        settings: &Settings,
        remembered: &Remembered,
        ack: &Segment<'_>,
        clock_offset: u32,
        now: Instant,
    ) -> Self {
        let mut tcb = Self::new(settings, State::SynReceived, ack.ack - 1, clock_offset, now);
        tcb.marks.set(Marks::PASSIVE);
        if !remembered.ecn {
            tcb.marks.clear(Marks::ECN);
        }
        let syn = Segment {
            seq: ack.seq - 1,
            window: ack.window,
            flags: Flags::SYN,
            options: Options {
                mss: Some(remembered.mss),
                window_scale: remembered.window_scale,
                sack_permitted: remembered.sack,
                timestamps: ack.options.timestamps.filter(|_| remembered.timestamps),
                ..Options::default()
            },
            ..Segment::default()
        };
        tcb.take_syn(&syn, now);
        tcb.snd_una = ack.ack;
        tcb.snd_nxt = ack.ack;
        // The cookie was said by a clock that was late by 64 ms at most: better than nothing.
        if let Some(timestamps) = syn.options.timestamps
            && let Some(rtt) = tcb.echo_age(timestamps.echo, now)
        {
            tcb.recovery.measured(rtt, now);
        }
        tcb
    }

    fn new(settings: &Settings, state: State, iss: Seq, clock_offset: u32, now: Instant) -> Self {
        let mut marks = Marks::default();
        marks.put(Marks::SCALING.and(Marks::TIMESTAMPS), settings.timestamps);
        marks.put(Marks::SACK, settings.sack);
        marks.put(Marks::ECN, settings.ecn);
        marks.put(Marks::NODELAY, settings.nodelay);
        marks.put(Marks::PROBE_MTU, settings.probe_mtu);
        let mss = settings.mss.max(LEAST_MSS);
        let mut tcb = Self {
            state,
            error: None,
            soft_error: None,
            marks,
            iss,
            snd_una: iss,
            snd_nxt: iss,
            snd_wnd: 0,
            snd_wl1: Seq(0),
            max_snd_wnd: 0,
            small_end: iss,
            irs: Seq(0),
            rcv_nxt: Seq(0),
            rcv_adv: Seq(0),
            last_ack_sent: Seq(0),
            peer_fin: Seq(0),
            duplicate: Block::default(),
            ts_recent: 0,
            ts_recent_at: 0,
            ts_offset: clock_offset,
            snd_scale: 0,
            rcv_scale: if settings.timestamps {
                scale_for(settings.receive_limit)
            } else {
                0
            },
            unacked_segments: 0,
            quick_acks: QUICK_ACKS,
            persist_backoff: 0,
            unanswered_probes: 0,
            keepalive_probes: 0,
            ack_at: Instant::FOREVER,
            challenges: Challenges::default(),
            path: PathMtu::new(mss),
            tuning: Tuning::new(settings.receive_limit, now),
            state_until: now + settings.handshake_timeout,
            persist_at: Instant::FOREVER,
            last_heard: now,
            last_sent: now,
            keepalive_idle: Milliseconds(0),
            keepalive_interval: Milliseconds(0),
            keepalive_limit: 0,
            ack_delay: settings.ack_delay.min(LONGEST_ACK_DELAY).into(),
            user_timeout: Milliseconds(0),
            linger: settings.linger.into(),
            time_wait: settings.time_wait.into(),
            reset: None,
            bytes_acked: 0,
            bytes_received: 0,
            segments_out: 0,
            segments_in: 0,
            out_of_order: 0,
            duplicates: 0,
            send: SendBuffer::new(settings.send_limit as usize),
            receive: ReceiveBuffer::default(),
            recovery: Recovery::new(settings.algorithm, u32::from(mss), settings.sack),
        };
        tcb.set_keepalive(settings.keepalive, now);
        tcb.set_user_timeout(settings.user_timeout, now);
        tcb
    }

    /// What every SYN tells, whether it came first or not.
    fn take_syn(&mut self, syn: &Segment<'_>, now: Instant) {
        self.negotiate(&syn.options, now);
        self.irs = syn.seq;
        self.rcv_nxt = syn.seq + 1;
        self.last_ack_sent = self.rcv_nxt;
        // What the own SYN says, or has said: windows in SYNs are not scaled.
        self.rcv_adv = self.rcv_nxt + self.tuning.window().min(0xffff);
        self.receive = ReceiveBuffer::new(self.rcv_nxt, 0);
        self.set_buffer_limit();
        self.set_send_window(u32::from(syn.window), syn.seq);
        if self.state == State::SynReceived && !syn.payload.is_empty() {
            // Queued until the connection is established. A FIN is left for the peer to repeat.
            self.insert_text(syn.seq + 1, syn.payload);
        }
    }

    /// Which options are used: those that both ends offer.
    fn negotiate(&mut self, options: &Options, now: Instant) {
        match options.window_scale {
            Some(shift) if self.marks.has(Marks::SCALING) => self.snd_scale = shift.min(14),
            _ => {
                self.marks.clear(Marks::SCALING);
                self.rcv_scale = 0;
                self.tuning.cap(0xffff);
            }
        }
        match options.timestamps {
            Some(Timestamps { value, .. }) if self.marks.has(Marks::TIMESTAMPS) => {
                self.set_ts_recent(value, now);
            }
            _ => self.marks.clear(Marks::TIMESTAMPS),
        }
        if !options.sack_permitted {
            self.marks.clear(Marks::SACK);
        }
        let mss = options.mss.unwrap_or(DEFAULT_MSS).max(LEAST_MSS);
        self.path.limit(mss);
        self.recovery
            .set_peer(self.data_mss(), self.marks.has(Marks::SACK));
    }

    /// SEGMENT ARRIVES in SYN-SENT, RFC 9293 section 3.10.7.3.
    pub(super) fn syn_sent(&mut self, segment: &Segment<'_>, now: Instant, changed: &mut Changed) {
        let flags = segment.flags;
        // First, check the ACK bit.
        let acks = flags.has(Flags::ACK);
        if acks && (segment.ack <= self.iss || segment.ack > self.snd_nxt) {
            if !flags.has(Flags::RST) {
                self.reset = Some(segment.ack);
            }
            return;
        }
        // Second, check the RST bit. One that does not acknowledge the SYN may come from anybody.
        if flags.has(Flags::RST) {
            if acks {
                self.end(Some(Error::ConnectionRefused));
                *changed |= Changed::CLOSED;
            }
            return;
        }
        // Fourth, check the SYN bit. (The third is about security.)
        if !flags.has(Flags::SYN) {
            return;
        }
        self.last_heard = now;
        if !acks {
            // Simultaneous opening. The answer is no ECN-setup SYN and ACK, RFC 3168 section 6.1.1.
            self.marks.clear(Marks::ECN);
            self.state = State::SynReceived;
            self.take_syn(segment, now);
            self.marks.set(Marks::SYN);
            return;
        }
        if !flags.has(Flags::ECE) || flags.has(Flags::CWR) {
            self.marks.clear(Marks::ECN);
        }
        self.take_syn(segment, now);
        self.acknowledge(segment, now, changed);
        self.establish(changed);
        self.marks.set(Marks::ACK_NOW);
        // Sixth to eighth step of section 3.10.7.4.
        self.take_text(segment, now, &mut |_| 0, changed);
    }

    /// ESTABLISHED, or what follows it if the program has closed already.
    pub(super) fn establish(&mut self, changed: &mut Changed) {
        self.state = if self.marks.has(Marks::CLOSING) {
            State::FinWait1
        } else {
            State::Established
        };
        self.marks.clear(Marks::SYN);
        self.state_until = Instant::FOREVER;
        *changed |= Changed::CONNECTED;
        *changed |= Changed::WRITABLE;
        if !self.receive.is_empty() {
            *changed |= Changed::READABLE;
        }
    }
}

/// The smallest shift with which a window of `limit` can be said, RFC 7323 section 2.3.
fn scale_for(limit: u32) -> u8 {
    let bits = u32::BITS - (limit >> 16).leading_zeros();
    let shift = if limit > 0xffff << bits {
        bits + 1
    } else {
        bits
    };
    shift.min(14) as u8
}

/// The answer to a SYN of which nothing is kept: what [`Tcb::accept`] would say, with the cookie as its sequence number.
///
/// Without the peer's timestamps there is no place to hide more than its largest segment, so no other option is agreed on.
pub fn synack_for_cookie(
    cookies: &Cookies,
    settings: &Settings,
    local: SocketAddr,
    remote: SocketAddr,
    syn: &Segment<'_>,
    clock_offset: u32,
    now: Instant,
) -> Outgoing {
    let mut bare = Segment {
        payload: &[],
        ..*syn
    };
    if syn.options.timestamps.is_none() || !settings.timestamps {
        bare.flags = Flags::SYN;
        bare.options = Options {
            mss: syn.options.mss,
            ..Options::default()
        };
    }
    let mut tcb = Tcb::accept(settings, &bare, Seq(0), clock_offset, now);
    let ecn = tcb.marks.has(Marks::ECN);
    let (iss, clock) = cookies.make(
        local,
        remote,
        syn.seq,
        &bare.options,
        ecn,
        tcb.clock(now),
        now,
    );
    let mut answer = tcb.transmit(0, now).unwrap_or_default();
    answer.seq = iss;
    if let Some(timestamps) = &mut answer.options.timestamps {
        timestamps.value = clock;
    }
    answer
}
