//! What routers said about packets that were too big (RFC 1191, RFC 8201).

use alloc::vec::Vec;
use core::net::IpAddr;
use core::time::Duration;

use kiln_abi::Instant;

/// Most destinations that are remembered; the oldest give way.
const MAX_PATHS: usize = 128;
/// RFC 1191 section 6.3, RFC 8201 section 4: after this time greater packets are tried again.
const LIFETIME: Duration = Duration::from_mins(10);
/// Less than this is not believed. IPv4 links may have smaller packets, but none that is in use has, and tiny segments
/// would be a way to wear a server out.
const LEAST4: u32 = 552;
/// RFC 8201 section 4.
const LEAST6: u32 = 1280;
/// RFC 1191 section 7.1: for routers that do not say what fits.
const PLATEAUS: [u32; 6] = [32_000, 17_914, 8166, 4352, 1492, 1006];

#[derive(Debug)]
struct Path {
    remote: IpAddr,
    mtu: u16,
    until: Instant,
}

/// Paths that carry less than the link does, by destination.
#[derive(Debug, Default)]
pub(super) struct PathMtus {
    paths: Vec<Path>,
}

impl PathMtus {
    /// The MTU of the path to `remote`, if it is known to be less than the link's.
    pub(super) fn get(&self, remote: IpAddr, now: Instant) -> Option<u16> {
        let at = self.position(remote).ok()?;
        let path = self.paths.get(at)?;
        (now < path.until).then_some(path.mtu)
    }

    fn position(&self, remote: IpAddr) -> Result<usize, usize> {
        self.paths.binary_search_by(|path| path.remote.cmp(&remote))
    }

    /// A router says that a packet of `length` bytes did not fit, but one of `mtu` would (0: it does not say). Returns what is
    /// believed; nothing if the message makes no sense.
    pub(super) fn too_big(
        &mut self,
        remote: IpAddr,
        mtu: u32,
        length: u32,
        now: Instant,
    ) -> Option<u32> {
        let mtu = match (mtu, remote) {
            (0, IpAddr::V4(_)) => PLATEAUS
                .into_iter()
                .find(|plateau| *plateau < length)
                .unwrap_or(LEAST4),
            // RFC 8201: a report of less is to be ignored, since every link carries that much.
            (mtu, IpAddr::V6(_)) if mtu < LEAST6 => return None,
            (mtu, IpAddr::V6(_)) => mtu,
            (mtu, IpAddr::V4(_)) => mtu.max(LEAST4),
        };
        if mtu >= length {
            return None;
        }
        let path = Path {
            remote,
            mtu: mtu as u16,
            until: now + LIFETIME,
        };
        if let Ok(at) = self.position(remote) {
            let known = self.paths.get_mut(at)?;
            // Only less is news.
            if now >= known.until || path.mtu <= known.mtu {
                *known = path;
            }
            return Some(mtu);
        }
        if self.paths.len() >= MAX_PATHS {
            let oldest = self.paths.iter().enumerate();
            let oldest = oldest.min_by_key(|(_, path)| path.until);
            if let Some((at, _)) = oldest {
                self.paths.remove(at);
            }
        }
        if let Err(at) = self.position(remote) {
            self.paths.insert(at, path);
        }
        Some(mtu)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use core::net::Ipv4Addr;

    fn at(seconds: u64) -> Instant {
        Instant::from_nanos(seconds * 1_000_000_000)
    }

    const V4: IpAddr = IpAddr::V4(Ipv4Addr::new(198, 51, 100, 1));
    const V6: IpAddr = IpAddr::V6(core::net::Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1));

    #[test]
    fn a_report_holds_for_ten_minutes() {
        let mut paths = PathMtus::default();
        assert_eq!(paths.too_big(V4, 1400, 1500, at(0)), Some(1400));
        assert_eq!(paths.get(V4, at(599)), Some(1400));
        assert_eq!(paths.get(V4, at(600)), None);
    }

    #[test]
    fn reports_that_make_no_sense_are_ignored() {
        let mut paths = PathMtus::default();
        assert_eq!(paths.too_big(V4, 1500, 1500, at(0)), None);
        assert_eq!(paths.too_big(V6, 1279, 1500, at(0)), None);
        assert_eq!(paths.too_big(V4, 68, 1500, at(0)), Some(552));
        assert_eq!(paths.too_big(V4, 600, 1500, at(0)), Some(600));
        assert_eq!(paths.get(V4, at(1)), Some(552));
    }

    #[test]
    fn old_routers_make_us_take_the_next_plateau() {
        let mut paths = PathMtus::default();
        assert_eq!(paths.too_big(V4, 0, 1500, at(0)), Some(1492));
        assert_eq!(paths.too_big(V4, 0, 1492, at(0)), Some(1006));
        assert_eq!(paths.too_big(V4, 0, 1006, at(0)), Some(552));
        assert_eq!(paths.too_big(V4, 0, 552, at(0)), None);
    }

    #[test]
    fn the_number_of_paths_is_limited() {
        let mut paths = PathMtus::default();
        for number in 0..1000 {
            let remote = Ipv4Addr::from(number).into();
            paths.too_big(remote, 1000, 1500, at(number.into()));
        }
        assert_eq!(paths.paths.len(), MAX_PATHS);
        assert_eq!(paths.get(Ipv4Addr::from(999).into(), at(1000)), Some(1000));
        assert_eq!(paths.get(Ipv4Addr::from(800).into(), at(1000)), None);
    }
}
