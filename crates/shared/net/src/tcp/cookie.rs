//! SYN cookies, RFC 4987 section 3.6: a listener under flood keeps nothing of a SYN but a number that only it can make.

use core::net::SocketAddr;

use kiln_abi::Instant;

use super::{Options, Seq};

/// What a listener has to remember of a SYN, hidden in the sequence number and the timestamp of its answer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Remembered {
    /// The peer's largest segment, rounded down to one of eight.
    pub mss: u16,
    /// The peer's window scale, if it offered timestamps to hide it in.
    pub window_scale: Option<u8>,
    /// Both ends take selective acknowledgements.
    pub sack: bool,
    /// Both ends use timestamps.
    pub timestamps: bool,
    /// Both ends use ECN.
    pub ecn: bool,
}

/// Makes and checks cookies.
#[derive(Debug)]
pub struct Cookies {}

impl Cookies {
    /// With a secret key.
    pub fn new(_key: [u8; 16]) -> Self {
        todo!()
    }

    /// The initial sequence number, and the low bits of the timestamp value, with which a SYN is answered.
    ///
    /// `clock` is the timestamp clock (milliseconds) that the answer would carry; the returned value differs from it in its
    /// lowest six bits and is never later than it.
    pub fn make(
        &self,
        _local: SocketAddr,
        _remote: SocketAddr,
        _irs: Seq,
        _options: &Options,
        _ecn: bool,
        _clock: u32,
        _now: Instant,
    ) -> (Seq, u32) {
        todo!()
    }

    /// Checks the number that an acknowledgement acknowledges (`iss` is SEG.ACK - 1, `irs` is SEG.SEQ - 1) and `echo`, the
    /// timestamp it echoes. Nothing if it is no cookie of this listener or older than two minutes.
    pub fn check(
        &self,
        _local: SocketAddr,
        _remote: SocketAddr,
        _irs: Seq,
        _iss: Seq,
        _echo: Option<u32>,
        _now: Instant,
    ) -> Option<Remembered> {
        todo!()
    }
}
