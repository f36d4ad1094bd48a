//! A `DHCPv4` server with one lease, RFC 2131.
//!
//! Guests of ours are told their address at boot and never ask; other operating systems on the link do. The lease is
//! always the guest's address from the configuration and never expires in practice.

use std::net::{Ipv4Addr, SocketAddr};

use smoltcp::wire::{DhcpMessageType, DhcpOption, DhcpPacket, DhcpRepr};

use crate::Config;
use crate::link::Outbound;
use crate::packet::{Datagram, send_udp};

/// Where servers listen.
pub(crate) const SERVER_PORT: u16 = 67;
const CLIENT_PORT: u16 = 68;

/// Seconds; the guest may renew as often as it likes.
const LEASE: u32 = 86_400;

const OPTION_HOSTNAME: u8 = 12;
const OPTION_MTU: u8 = 26;

/// Answers one message of a client. True if there was something to answer.
pub(crate) fn answer(config: &Config, out: &mut Outbound, request: &[u8]) -> bool {
    let Ok(packet) = DhcpPacket::new_checked(request) else {
        return false;
    };
    let Ok(request) = DhcpRepr::parse(&packet) else {
        return false;
    };
    let wanted = request.requested_ip.unwrap_or(request.client_ip);
    let message_type = match request.message_type {
        DhcpMessageType::Discover => DhcpMessageType::Offer,
        DhcpMessageType::Request
            if request
                .server_identifier
                .is_some_and(|server| server != config.gateway4) =>
        {
            // The client chose another server's offer.
            return false;
        }
        DhcpMessageType::Request if wanted != config.guest4 => DhcpMessageType::Nak,
        DhcpMessageType::Request | DhcpMessageType::Inform => DhcpMessageType::Ack,
        _ => return false,
    };
    let refused = message_type == DhcpMessageType::Nak;
    let informed = request.message_type == DhcpMessageType::Inform;

    let mtu = config.mtu.to_be_bytes();
    let mut options = vec![DhcpOption {
        kind: OPTION_MTU,
        data: &mtu,
    }];
    if !config.hostname.is_empty() {
        options.push(DhcpOption {
            kind: OPTION_HOSTNAME,
            data: config.hostname.as_bytes(),
        });
    }
    let reply = DhcpRepr {
        message_type,
        transaction_id: request.transaction_id,
        secs: 0,
        client_hardware_address: request.client_hardware_address,
        client_ip: if refused {
            Ipv4Addr::UNSPECIFIED
        } else {
            request.client_ip
        },
        your_ip: if refused || informed {
            Ipv4Addr::UNSPECIFIED
        } else {
            config.guest4
        },
        server_ip: config.gateway4,
        router: (!refused).then_some(config.gateway4),
        subnet_mask: (!refused).then_some(config.mask4()),
        relay_agent_ip: Ipv4Addr::UNSPECIFIED,
        broadcast: request.broadcast,
        requested_ip: None,
        client_identifier: None,
        server_identifier: Some(config.gateway4),
        parameter_request_list: None,
        dns_servers: (!refused).then(|| std::iter::once(config.dns4).collect()),
        max_size: None,
        lease_duration: (!refused && !informed).then_some(LEASE),
        renew_duration: None,
        rebind_duration: None,
        additional_options: if refused { &[] } else { &options },
    };
    let mut message = vec![0; reply.buffer_len()];
    if reply
        .emit(&mut DhcpPacket::new_unchecked(&mut message[..]))
        .is_err()
    {
        return false;
    }
    // Unicast works before the client has its address since our link header names it anyway, unless the client says
    // that its stack cannot take that (RFC 2131 section 4.1).
    let to = if refused || request.broadcast {
        Ipv4Addr::BROADCAST
    } else {
        config.guest4
    };
    send_udp(
        out,
        config.mtu,
        Datagram {
            source: SocketAddr::new(config.gateway4.into(), SERVER_PORT),
            target: SocketAddr::new(to.into(), CLIENT_PORT),
            payload: &message,
        },
    )
}
