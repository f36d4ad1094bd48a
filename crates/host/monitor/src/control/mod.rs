//! Requests to a running instance.
//!
//! Each instance's supervisor listens on a socket in the instance's folder. A client sends one line of JSON, a
//! [`Request`], and gets one line back, a [`Response`]; then the connection ends. Two requests are answered only when
//! the guest has ended ([`Request::Stop`] and [`Request::Wait`]), so that a client need not ask again and again.
//!
//! Only processes of the same user (and root) are listened to. Lines are bounded, clients are bounded in number
//! and time, and none of them can hold up the supervisor: see [`server`].

pub mod client;
pub mod server;

use serde::{Deserialize, Serialize};

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
    /// Bytes that went into the guest over the rootless network; `None` without it: nobody counts what other links carry.
    pub net_received: Option<u64>,
    /// Bytes that came out of the guest over the rootless network, likewise.
    pub net_sent: Option<u64>,
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
