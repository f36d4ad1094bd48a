//! Counters, and how they read in an inspection.

use std::fmt;

macro_rules! counters {
    ($($(#[$doc:meta])* $name:ident: $text:literal,)*) => {
        /// What happened since the network was made. All counters only grow, except those of present flows.
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
        #[non_exhaustive]
        pub struct Stats {
            $($(#[$doc])* pub $name: u64,)*
        }

        impl Stats {
            /// All of them: name, meaning, value.
            pub fn each(&self) -> impl Iterator<Item = (&'static str, &'static str, u64)> {
                [$((stringify!($name), $text, self.$name),)*].into_iter()
            }
        }

        impl fmt::Display for Stats {
            /// One line for each counter that is not 0.
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                $(if self.$name != 0 {
                    writeln!(f, "{:>14}  {}", self.$name, $text)?;
                })*
                Ok(())
            }
        }
    };
}

counters! {
    /// Frames that came from the guest.
    frames_in: "frames from the guest",
    /// Bytes in them, link headers included.
    bytes_in: "bytes from the guest",
    /// Frames that went to the guest.
    frames_out: "frames to the guest",
    /// Bytes in them, link headers included.
    bytes_out: "bytes to the guest",
    /// Frames from the guest that make no sense or belong to no protocol served here.
    frames_ignored: "frames ignored: malformed, fragmented or of an unknown protocol",
    /// Frames from the guest with a source address that is not its own.
    frames_spoofed: "frames ignored: source address not the guest's",
    /// Frames dropped because the guest did not read its link.
    frames_dropped: "frames dropped: the guest does not read its link",
    /// Connections taken from clients of forwarded ports.
    tcp_accepted: "connections accepted on forwarded ports",
    /// Of these, refused by the guest to the end.
    tcp_unanswered: "connections that the guest did not take",
    /// Connections that the guest opened.
    tcp_opened: "connections opened by the guest",
    /// Of these, failed at the host.
    tcp_failed: "connections of the guest that failed outside",
    /// Connections refused for lack of room.
    tcp_limited: "connections refused: limit reached",
    /// TCP connections now.
    tcp_now: "connections now",
    /// Bytes of TCP data that went into the guest.
    tcp_bytes_in: "bytes of TCP data into the guest",
    /// Bytes of TCP data that came out of the guest.
    tcp_bytes_out: "bytes of TCP data out of the guest",
    /// UDP datagrams that went into the guest.
    udp_in: "datagrams into the guest",
    /// UDP datagrams that came out of the guest.
    udp_out: "datagrams out of the guest",
    /// UDP datagrams that could not be passed on.
    udp_dropped: "datagrams dropped",
    /// UDP flows that made room for others while not yet idle for long.
    udp_evicted: "UDP flows evicted: limit reached",
    /// UDP flows now.
    udp_now: "UDP flows now",
    /// Echo requests that were passed on or answered here.
    ping_requests: "echo requests from the guest",
    /// Echo requests that the host does not let us pass on.
    ping_denied: "echo requests unanswered: the host allows no ping sockets (net.ipv4.ping_group_range)",
    /// DNS queries over UDP.
    dns_queries: "DNS queries",
    /// Of these, answered with SERVFAIL by ourselves.
    dns_failed: "DNS queries without an answer from a resolver",
    /// Packets to destinations that a guest may not reach.
    refused: "packets to destinations out of bounds",
    /// DHCP requests answered.
    dhcp_answers: "DHCP answers",
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_happened_is_shown() {
        let stats = Stats {
            dns_queries: 3,
            ..Stats::default()
        };
        assert_eq!(stats.to_string(), "             3  DNS queries\n");
    }
}
