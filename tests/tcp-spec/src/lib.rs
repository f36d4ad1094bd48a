//! An executable specification of TCP.
//!
//! It reads what one host sent and received and says of each segment that host sent whether the RFCs allow it, and of
//! each it received whether the host did what it must. It knows nothing of how the host works inside and is not one more
//! TCP: where the RFCs leave a choice, every choice is right.
//!
//! The capture is taken where the host meets the link. Between a frame's capture and its processing some time passes, so
//! a segment which is sent need not reflect the segments just received. Therefore a rule compares with bounds: what the
//! host may know (everything received until now) and what it must know (everything received longer than
//! [`Config::lag`] ago).
//!
//! | module | its part |
//! | --- | --- |
//! | [`capture`] | reads capture files and takes frames apart |
//! | [`segment`] | a TCP segment as a plain value |
//! | [`ranges`] | places in a stream, and sets of them |
//! | [`stream`] | the bytes a host has sent |
//! | [`connection`] | what is known of one connection, from both sides' segments |
//! | [`rules`] | what the RFCs say, one area a file |
//! | [`flows`] | which connection a segment is of, and what may be said where there is none |
//! | [`report`] | the findings |
//! | [`dialogue`] | writes conversations, for tests of the specification itself |
#![forbid(unsafe_code)]

pub mod capture;
pub mod connection;
pub mod dialogue;
pub mod flows;
pub mod ranges;
pub mod report;
pub mod rules;
pub mod segment;
pub mod stream;

use std::net::IpAddr;
use std::time::Duration;

pub use flows::Specification;
pub use report::{Finding, Report, Severity};
pub use segment::{Event, Segment};

/// What the specification has to be told.
#[derive(Clone, Debug)]
pub struct Config {
    /// The addresses of the host under test.
    pub hosts: Vec<IpAddr>,
    /// The longest time between a frame's capture and the moment the host has acted on it, and between the moment the
    /// host has sent a frame and its capture.
    pub lag: Duration,
    /// The host leaves segmentation and checksums to its network device: frames may be larger than a segment and
    /// their checksums unfinished.
    pub offload: bool,
    /// The smallest retransmission time-out that is not worth a warning. RFC 6298 wants one second; nobody does it.
    pub least_rto: Duration,
}

impl Config {
    /// The usual values for a host.
    pub fn new(hosts: impl IntoIterator<Item = IpAddr>) -> Self {
        Self {
            hosts: hosts.into_iter().collect(),
            lag: Duration::from_millis(100),
            offload: false,
            least_rto: Duration::from_millis(190),
        }
    }
}
