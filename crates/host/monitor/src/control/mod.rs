//! Requests to a running instance.
//!
//! Each instance's supervisor listens on a socket in the instance's folder. A client sends one line of JSON, a
//! [`Request`], and gets one line back, a [`Response`]; then the connection ends. Two requests are answered only when
//! the guest has ended ([`Request::Stop`] and [`Request::Wait`]), so that a client need not ask again and again. One
//! turns the connection into a stream ([`Request::Capture`]).
//!
//! Only processes of the same user (and root) are listened to. Lines are bounded, clients are bounded in number
//! and time, and none of them can hold up the supervisor: see [`server`].

pub mod client;
pub mod server;

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::capture::Link;
use crate::registry::record::Protection;

/// The most bytes of a request.
pub const MAX_REQUEST: usize = 4096;

/// The most bytes of a response.
pub const MAX_RESPONSE: usize = 64 << 10;

/// What a client wants.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "request", rename_all = "lowercase")]
pub enum Request {
    /// Nothing but a sign of life.
    Ping,
    /// Ask the guest to end, end it by force after a time, and answer when it has ended.
    Stop {
        /// The signal that the guest finds.
        signal: u32,
        /// Milliseconds until it is ended by force; as the instance was started with if there is none.
        timeout_ms: Option<u64>,
    },
    /// Hand the guest a signal; 9 ends it by force. Does not wait.
    Signal {
        /// Its number.
        signal: u32,
    },
    /// What the guest uses.
    Stats,
    /// Everything that is counted.
    Metrics,
    /// Copies of the frames on its links. Behind the response, if it is [`Response::Capturing`], come records on the same
    /// connection ([`capture::stream`](crate::capture::stream)), until the client closes its direction or the guest
    /// ends.
    Capture {
        /// Names of links; all if there are none.
        links: Vec<String>,
        /// The most bytes of each frame.
        snaplen: u32,
    },
    /// The protections around the guest.
    Protections,
    /// Answer when the guest has ended.
    Wait,
}

/// What comes back.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "response", rename_all = "lowercase")]
pub enum Response {
    /// Done.
    Done,
    /// The guest has ended.
    Ended {
        /// With this exit code.
        exit_code: u8,
    },
    /// To [`Request::Stats`].
    Stats(Stats),
    /// To [`Request::Metrics`].
    Metrics(Metrics),
    /// To [`Request::Capture`].
    Capturing {
        /// The links whose frames follow.
        links: Vec<Link>,
    },
    /// To [`Request::Protections`].
    Protections {
        /// All that this backend has.
        protections: Vec<Protection>,
    },
    /// The request makes no sense.
    Refused {
        /// Why.
        problem: String,
    },
}

/// What an instance uses.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Stats {
    /// Processor time of the guest in nanoseconds.
    pub cpu_ns: u64,
    /// Resident memory of the guest's process in bytes.
    pub resident: u64,
    /// Resident memory of the supervisor in bytes.
    pub supervisor_resident: u64,
    /// Memory that the guest may use in bytes.
    pub memory: u64,
    /// Calls of the guest to its monitor.
    pub calls: u64,
    /// Operations performed for it.
    pub operations: u64,
    /// Host system calls made for it.
    pub host_calls: u64,
    /// Bytes that went into the guest over its links; `None` where nobody counts them.
    pub net_received: Option<u64>,
    /// Bytes that came out of the guest over its links, likewise.
    pub net_sent: Option<u64>,
}

/// Everything that is counted about an instance.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Metrics {
    /// What it uses.
    pub stats: Stats,
    /// Its network links, as far as somebody counts what they carry.
    pub links: Vec<LinkMetrics>,
    /// The rootless network's own counters by name.
    pub usernet: BTreeMap<String, u64>,
    /// What the guest says.
    pub guest: Vec<GuestMetrics>,
}

/// What went over one link, seen from the guest.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct LinkMetrics {
    /// Its name.
    pub name: String,
    /// Frames into the guest.
    pub received_frames: u64,
    /// Bytes in them.
    pub received_bytes: u64,
    /// Frames out of the guest.
    pub sent_frames: u64,
    /// Bytes in them.
    pub sent_bytes: u64,
    /// Frames dropped because the guest did not take them, where somebody counts them.
    pub dropped_frames: Option<u64>,
}

impl Metrics {
    /// System calls of the program that are not implemented, by name, and how often each was made.
    pub fn unimplemented_calls(&self) -> BTreeMap<String, u64> {
        let blocks = self.guest.iter();
        blocks
            .filter(|block| block.kind == kiln_abi::metrics::CALLS)
            .flat_map(|block| kiln_abi::metrics::calls(&block.values))
            .map(|(name, count)| {
                let name = String::from_utf8_lossy(&name);
                (name.trim_end_matches('\0').to_owned(), count)
            })
            .collect()
    }
}

/// A block of counters that a guest shows, see [`kiln_abi::metrics`].
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct GuestMetrics {
    /// What the values mean.
    pub kind: u16,
    /// The name of the link that it is about; empty if it is about none.
    pub link: String,
    /// The values.
    pub values: Vec<u64>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_are_one_line_of_json() {
        let request = Request::Stop {
            signal: 15,
            timeout_ms: None,
        };
        let text = serde_json::to_string(&request).unwrap();
        assert_eq!(text, r#"{"request":"stop","signal":15,"timeout_ms":null}"#);
        assert_eq!(serde_json::from_str::<Request>(&text).unwrap(), request);
        let ping: Request = serde_json::from_str(r#"{"request":"ping"}"#).unwrap();
        assert_eq!(ping, Request::Ping);
    }

    #[test]
    fn responses_read_back() {
        for response in [
            Response::Done,
            Response::Ended { exit_code: 137 },
            Response::Stats(Stats {
                calls: 7,
                ..Stats::default()
            }),
        ] {
            let text = serde_json::to_string(&response).unwrap();
            assert!(!text.contains('\n'));
            assert_eq!(serde_json::from_str::<Response>(&text).unwrap(), response);
        }
    }
}
