//! How connections with the guest start: their settings, and the numbers that nobody else may guess.

use std::hash::{BuildHasher, RandomState};
use std::time::Duration;

use kiln_net::tcp::congestion::Algorithm;
use kiln_net::tcp::{Segment, Seq, Settings, Tcb};

use super::CLOSING;
use super::connection::Flow;
use super::segment::largest;
use crate::Error;
use crate::context::Context;

/// A paused guest answers when it goes on.
const PATIENCE: Duration = Duration::from_millis(u32::MAX as u64);

/// What is left of a connection that both ends have closed is kept for as long as the host has data to take, at most.
const TIME_WAIT: Duration = Duration::from_mins(5);

/// How long an acknowledgement waits for data to go with. It must be short: a guest with Nagle's algorithm waits for it.
const ACK_DELAY: Duration = Duration::from_millis(2);

/// Makes control blocks.
pub(super) struct Opening {
    secret: RandomState,
    /// Where the timestamp clock starts. It is the same for all connections, so that a guest can tell a new connection
    /// from one that it still holds in TIME-WAIT (RFC 6191): busy forwards reuse port numbers within seconds.
    clock_offset: u32,
}

impl Opening {
    pub fn new() -> Result<Self, Error> {
        let mut offset = [0; 4];
        rustix::rand::getrandom(&mut offset[..], rustix::rand::GetRandomFlags::empty())
            .map_err(Error::host("get random numbers"))?;
        Ok(Self {
            secret: RandomState::new(),
            clock_offset: u32::from_le_bytes(offset),
        })
    }

    /// Opens a connection to the guest, with buffers of `size` bytes.
    pub fn dial(&self, cx: &Context, flow: Flow, size: u32) -> Box<Tcb> {
        let settings = settings(cx, flow, size);
        let tcb = Tcb::connect(
            &settings,
            self.number(cx, flow),
            self.clock_offset,
            cx.core_now(),
        );
        Box::new(tcb)
    }

    /// Answers the guest's SYN, with buffers of `size` bytes.
    pub fn answer(&self, cx: &Context, flow: Flow, syn: &Segment<'_>, size: u32) -> Box<Tcb> {
        let settings = settings(cx, flow, size);
        let number = self.number(cx, flow);
        let tcb = Tcb::accept(&settings, syn, number, self.clock_offset, cx.core_now());
        Box::new(tcb)
    }

    /// The initial sequence number, RFC 6528: a clock of four microseconds, and a secret function of both ends.
    fn number(&self, cx: &Context, flow: Flow) -> Seq {
        let clock = cx.core_now().as_nanos() / 4000;
        Seq((self.secret.hash_one(flow) as u32).wrapping_add(clock as u32))
    }
}

/// The link is short, loses nothing, and its MTU is known.
fn settings(cx: &Context, flow: Flow, size: u32) -> Settings {
    Settings {
        mss: largest(flow, cx.config.mtu),
        receive_limit: size,
        send_limit: size,
        // Of two ways to react to losses that do not happen, the one that does not look for signs of congestion.
        algorithm: Algorithm::Reno,
        timestamps: true,
        sack: true,
        ecn: false,
        // Whoever wrote the data has decided how to batch them.
        nodelay: true,
        ack_delay: ACK_DELAY,
        // The guest's end cannot vanish without the link's.
        keepalive: None,
        user_timeout: Some(PATIENCE),
        handshake_timeout: CLOSING,
        linger: CLOSING,
        time_wait: TIME_WAIT,
        probe_mtu: false,
    }
}
