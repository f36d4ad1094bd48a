//! Cutting datagrams into fragments (RFC 791 section 3.2, RFC 8200 section 4.5).

use super::packet::{FRAGMENT, FRAGMENT_HEADER, IPV6_HEADER, Mac, put, write_ethernet, write_ip};
use super::{Context, ETHERNET_HEADER, Outbound, headers_len};
use crate::error::Error;

/// Queues `payload` in fragments whose IP packets have at most `mtu` bytes.
#[inline(never)]
pub(super) fn send(
    outbound: &Outbound,
    macs: (Mac, Mac),
    mtu: usize,
    payload: &[u8],
    cx: &mut Context<'_>,
) -> Result<(), Error> {
    let v6 = outbound.destination.is_ipv6();
    let extra = if v6 { FRAGMENT_HEADER } else { 0 };
    let headers = headers_len(v6) - ETHERNET_HEADER + extra;
    // All but the last carry a multiple of eight bytes.
    let each = mtu.saturating_sub(headers) & !7;
    if each == 0 {
        return Err(Error::MessageTooLong);
    }
    let mut carrier = *outbound;
    if v6 {
        carrier.protocol = FRAGMENT;
    }
    let id = cx.random.next_u32();
    let mut offset = 0;
    for part in payload.chunks(each) {
        let more = offset + part.len() < payload.len();
        let (position, number) = if v6 {
            (offset as u16 | u16::from(more), 0)
        } else {
            ((offset / 8) as u16 | u16::from(more) << 13, id as u16)
        };
        let queued = cx.frame(ETHERNET_HEADER + headers + part.len(), &mut |bytes| {
            let Some((ethernet, ip)) = bytes.split_first_chunk_mut::<ETHERNET_HEADER>() else {
                return;
            };
            write_ethernet(ethernet, macs, v6);
            write_ip(ip, &carrier, extra + part.len(), number, position);
            if v6 {
                put(ip, IPV6_HEADER, &[outbound.protocol]);
                put(ip, IPV6_HEADER + 2, &position.to_be_bytes());
                put(ip, IPV6_HEADER + 4, &id.to_be_bytes());
            }
            put(ip, headers, part);
        });
        if !queued {
            return Err(Error::Exhausted);
        }
        offset += part.len();
    }
    cx.stats.fragmented += 1;
    Ok(())
}
