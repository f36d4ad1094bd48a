//! SYN cookies, RFC 4987 section 3.6: a listener under flood keeps nothing of a SYN but a number that only it can make.
//!
//! The initial sequence number of the answer is made of a time slot (5 bits), the peer's segment size (3 bits, one of
//! eight) and a keyed hash (24 bits) of the two ends, the peer's sequence number and those; all of it is added to another
//! keyed hash of the ends, so that the numbers look random. If the peer offers timestamps, six bits of the timestamp
//! carry its window scale and whether it takes SACK and ECN, and the hash covers them; otherwise a connection made of a
//! cookie does without.

use core::hash::Hasher;
use core::net::{IpAddr, SocketAddr};

use kiln_abi::Instant;
use siphasher::sip::SipHasher13;

use super::{Options, Seq};

/// A time slot is 2^36 nanoseconds, some 69 seconds; the present one and the one before it are accepted.
const SLOT_BITS: u32 = 36;
/// Segment sizes that fit into three bits, those of common links: the largest not above the peer's is used.
const SIZES: [u16; 8] = [216, 536, 1024, 1220, 1360, 1440, 1460, 8940];
/// Stands for "no window scale".
const NO_SCALE: u32 = 15;
const SACK: u32 = 16;
const ECN: u32 = 32;
/// The bits of a timestamp that are used.
const HIDDEN: u32 = 63;

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
pub struct Cookies {
    key: [u8; 16],
}

/// What is hashed besides the ends.
#[derive(Clone, Copy)]
enum Purpose {
    /// The number that is added to hide the structure.
    Mask,
    /// The proof that it was made here.
    Proof { slot: u64, size: u32, hidden: u32 },
}

impl Cookies {
    /// With a secret key.
    pub fn new(key: [u8; 16]) -> Self {
        Self { key }
    }

    /// The initial sequence number with which a SYN is answered, and the timestamp value of the answer, if it has one.
    ///
    /// `clock` is the timestamp that the answer would carry otherwise; the returned one differs in its lowest six bits and is
    /// not later.
    #[allow(clippy::too_many_arguments, reason = "all that a SYN says")]
    pub fn make(
        &self,
        local: SocketAddr,
        remote: SocketAddr,
        irs: Seq,
        options: &Options,
        ecn: bool,
        clock: u32,
        now: Instant,
    ) -> (Seq, u32) {
        let mss = options.mss.unwrap_or(SIZES[1]);
        let size = SIZES.iter().rposition(|known| *known <= mss).unwrap_or(0) as u32;
        let hidden = options.timestamps.map(|_| {
            options.window_scale.map_or(NO_SCALE, u32::from)
                | if options.sack_permitted { SACK } else { 0 }
                | if ecn { ECN } else { 0 }
        });
        let slot = now.as_nanos() >> SLOT_BITS;
        let proof = Purpose::Proof {
            slot,
            size,
            hidden: hidden.unwrap_or(u32::MAX),
        };
        let cookie = (slot as u32 & 31) << 27
            | size << 24
            | self.hash(local, remote, irs, proof) & 0xff_ffff;
        let mask = self.hash(local, remote, irs, Purpose::Mask);
        let mut value = clock;
        if let Some(hidden) = hidden {
            value = clock & !HIDDEN | hidden;
            if value > clock {
                value = value.wrapping_sub(HIDDEN + 1);
            }
        }
        (Seq(cookie.wrapping_add(mask)), value)
    }

    /// Checks the number that an acknowledgement acknowledges (`iss` is SEG.ACK - 1, `irs` is SEG.SEQ - 1) and `echo`, the
    /// timestamp it echoes. Nothing if it is no cookie of this listener or older than about two minutes.
    pub fn check(
        &self,
        local: SocketAddr,
        remote: SocketAddr,
        irs: Seq,
        iss: Seq,
        echo: Option<u32>,
        now: Instant,
    ) -> Option<Remembered> {
        let mask = self.hash(local, remote, irs, Purpose::Mask);
        let cookie = iss.0.wrapping_sub(mask);
        let size = cookie >> 24 & 7;
        let present = now.as_nanos() >> SLOT_BITS;
        let age = (present as u32).wrapping_sub(cookie >> 27) & 31;
        if age > 1 {
            return None;
        }
        let hidden = echo.map(|echo| echo & HIDDEN);
        let proof = Purpose::Proof {
            slot: present.wrapping_sub(u64::from(age)),
            size,
            hidden: hidden.unwrap_or(u32::MAX),
        };
        if (self.hash(local, remote, irs, proof) ^ cookie) & 0xff_ffff != 0 {
            return None;
        }
        let bits = hidden.unwrap_or(NO_SCALE);
        let scale = bits & NO_SCALE;
        Some(Remembered {
            mss: *SIZES.get(size as usize)?,
            window_scale: (scale != NO_SCALE).then_some(scale as u8),
            sack: bits & SACK != 0,
            timestamps: hidden.is_some(),
            ecn: bits & ECN != 0,
        })
    }

    fn hash(&self, local: SocketAddr, remote: SocketAddr, irs: Seq, purpose: Purpose) -> u32 {
        let (purpose, slot, size, hidden) = match purpose {
            Purpose::Proof { slot, size, hidden } => (1, slot, size, hidden),
            Purpose::Mask => (0, 0, 0, 0),
        };
        let ports = u32::from(local.port()) << 16 | u32::from(remote.port());
        let [local, remote] = [local, remote].map(|end| match end.ip() {
            IpAddr::V4(address) => address.to_bits().into(),
            IpAddr::V6(address) => address.to_bits(),
        });
        let mut hasher = SipHasher13::new_with_key(&self.key);
        for word in [
            local,
            remote,
            u128::from(ports) << 64 | u128::from(irs.0) << 32 | purpose,
            u128::from(slot) << 64 | u128::from(size) << 32 | u128::from(hidden),
        ] {
            hasher.write(&word.to_ne_bytes());
        }
        hasher.finish() as u32
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tcp::Timestamps;
    use core::time::Duration;
    use proptest::prelude::*;

    fn ends() -> (SocketAddr, SocketAddr) {
        (([10, 0, 0, 1], 80).into(), ([10, 0, 0, 2], 40_000).into())
    }

    fn at(seconds: u64) -> Instant {
        Instant::from_nanos(seconds * 1_000_000_000)
    }

    proptest! {
        #[test]
        fn what_is_hidden_is_found(
            irs: u32,
            mss in 216u16..,
            scale in proptest::option::of(0u8..15),
            sack: bool,
            ecn: bool,
            clock: u32,
            start in 0u64..1 << 32,
            age in 0u64..68,
        ) {
            let (local, remote) = ends();
            let cookies = Cookies::new([7; 16]);
            let options = Options {
                mss: Some(mss),
                window_scale: scale,
                sack_permitted: sack,
                timestamps: Some(Timestamps::default()),
                ..Options::default()
            };
            let (iss, value) = cookies.make(local, remote, Seq(irs), &options, ecn, clock, at(start));
            prop_assert!(clock.wrapping_sub(value) < 64);
            let now = at(start + age);
            let found = cookies.check(local, remote, Seq(irs), iss, Some(value), now).expect("a cookie");
            prop_assert_eq!((found.window_scale, found.sack, found.ecn, found.timestamps), (scale, sack, ecn, true));
            prop_assert!(found.mss <= mss);
            // Without timestamps there is nothing but the segment size.
            let bare = Options { timestamps: None, ..options };
            let (iss, value) = cookies.make(local, remote, Seq(irs), &bare, ecn, clock, at(start));
            prop_assert_eq!(value, clock);
            let found = cookies.check(local, remote, Seq(irs), iss, None, now).expect("a cookie");
            prop_assert_eq!((found.window_scale, found.sack, found.ecn, found.timestamps), (None, false, false, false));
        }
    }

    #[test]
    fn others_cookies_and_old_ones_are_worth_nothing() {
        let (local, remote) = ends();
        let cookies = Cookies::new([7; 16]);
        let options = Options::default();
        let make = |now| {
            cookies
                .make(local, remote, Seq(5), &options, false, 0, now)
                .0
        };
        let iss = make(at(1000));
        let check = |cookies: &Cookies, iss, irs, now| {
            cookies.check(local, remote, irs, iss, None, now).is_some()
        };
        assert!(check(&cookies, iss, Seq(5), at(1000)));
        assert!(!check(&cookies, iss, Seq(6), at(1000)));
        assert!(!check(&cookies, iss + 1, Seq(5), at(1000)));
        assert!(!check(&Cookies::new([8; 16]), iss, Seq(5), at(1000)));
        assert!(!check(
            &cookies,
            iss,
            Seq(5),
            at(1000) + Duration::from_secs(200)
        ));
        // A slot number comes again after 32 slots; the hash knows better.
        assert!(!check(
            &cookies,
            iss,
            Seq(5),
            at(1000) + Duration::from_nanos(32 << SLOT_BITS)
        ));
        let guessed =
            (0..10_000).filter(|guess| check(&cookies, Seq(guess * 429_497), Seq(5), at(1000)));
        assert!(guessed.count() <= 1);
    }
}
