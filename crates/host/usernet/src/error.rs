//! Everything that can go wrong when a network is set up.
//!
//! Only setting up fails. Once a [`Usernet`](crate::Usernet) runs, a failing host socket costs the one flow that it
//! belongs to, and is told to the guest the way a real network would: by a reset or an ICMP message.

use std::net::IpAddr;

/// Why a port forward could not be read or a network could not be set up.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The text is no port forward.
    #[error("port forward {text:?}: {problem}; expected [ADDR:]HOST:GUEST[/tcp|/udp]")]
    Syntax {
        /// What was given.
        text: String,
        /// What is wrong with it.
        problem: String,
    },
    /// Another program, or another forward, listens there.
    #[error("port {port} on {address} is in use: choose another with -p")]
    PortInUse {
        /// The host's port.
        port: u16,
        /// The host's address.
        address: IpAddr,
    },
    /// The host lets only privileged users bind the port.
    #[error(
        "port {port} on {address} needs privileges: choose one above 1023 with -p, or lower \
         net.ipv4.ip_unprivileged_port_start"
    )]
    PortDenied {
        /// The host's port.
        port: u16,
        /// The host's address.
        address: IpAddr,
    },
    /// The host has no such address.
    #[error(
        "cannot listen on {address}: this host has no such address; leave it out to listen on all"
    )]
    NoSuchAddress {
        /// The address that was asked for.
        address: IpAddr,
    },
    /// Listening failed for another reason.
    #[error("cannot listen on port {port} of {address}: {source}")]
    Listen {
        /// The host's port.
        port: u16,
        /// The host's address.
        address: IpAddr,
        /// What the host said.
        source: rustix::io::Errno,
    },
    /// The configuration contradicts itself.
    #[error("network configuration: {0}")]
    Config(&'static str),
    /// The host refused something every network needs.
    #[error("cannot {action}: {source}")]
    Host {
        /// What was attempted.
        action: &'static str,
        /// What the host said.
        source: rustix::io::Errno,
    },
}

impl Error {
    /// Names the action that the host refused.
    pub(crate) fn host(action: &'static str) -> impl FnOnce(rustix::io::Errno) -> Self {
        move |source| Self::Host { action, source }
    }

    /// Turns the failure to bind a port into the message that helps most.
    pub(crate) fn listen(source: rustix::io::Errno, host: std::net::SocketAddr) -> Self {
        use rustix::io::Errno;
        let (port, address) = (host.port(), host.ip());
        match source {
            Errno::ADDRINUSE => Self::PortInUse { port, address },
            Errno::ACCESS | Errno::PERM => Self::PortDenied { port, address },
            Errno::ADDRNOTAVAIL => Self::NoSuchAddress { address },
            source => Self::Listen {
                port,
                address,
                source,
            },
        }
    }
}
