//! Options of TCP sockets: `IPPROTO_TCP` (`tcp(7)`), and of the internet protocols below it.

use alloc::vec::Vec;
use core::cell::Cell;
use core::time::Duration;

use kiln_net::direct::Stream;
use kiln_net::tcp::{Info, KeepAlive, State};

use super::super::Socket;
use super::super::options::{Switches, int, number};
use super::ip_options::IpOptions;
use super::{IPPROTO_IP, IPPROTO_IPV6, IPPROTO_TCP};
use crate::{Errno, Result};

const TCP_NODELAY: u32 = 1;
const TCP_MAXSEG: u32 = 2;
const TCP_CORK: u32 = 3;
const TCP_KEEPIDLE: u32 = 4;
const TCP_KEEPINTVL: u32 = 5;
const TCP_KEEPCNT: u32 = 6;
const TCP_SYNCNT: u32 = 7;
const TCP_LINGER2: u32 = 8;
const TCP_DEFER_ACCEPT: u32 = 9;
const TCP_WINDOW_CLAMP: u32 = 10;
const TCP_INFO: u32 = 11;
const TCP_QUICKACK: u32 = 12;
const TCP_CONGESTION: u32 = 13;
const TCP_THIN_LINEAR_TIMEOUTS: u32 = 16;
const TCP_THIN_DUPACK: u32 = 17;
const TCP_USER_TIMEOUT: u32 = 18;
const TCP_FASTOPEN: u32 = 23;
const TCP_TIMESTAMP: u32 = 24;
const TCP_NOTSENT_LOWAT: u32 = 25;
const TCP_CC_INFO: u32 = 26;
const TCP_SAVE_SYN: u32 = 27;
const TCP_FASTOPEN_CONNECT: u32 = 30;
const TCP_ULP: u32 = 31;
const TCP_FASTOPEN_NO_COOKIE: u32 = 34;
const TCP_INQ: u32 = 36;
const TCP_TX_DELAY: u32 = 37;

/// Seconds of silence before an idle peer is probed, if the program does not say.
const KEEPALIVE_IDLE: u32 = 7200;
/// Seconds between probes.
const KEEPALIVE_INTERVAL: u32 = 75;
/// Probes.
const KEEPALIVE_COUNT: u32 = 9;
/// `sizeof(struct tcp_info)`.
const INFO_LEN: usize = 232;
/// The congestion controls that programs may ask for.
const CONGESTION: [&[u8]; 2] = [b"cubic", b"reno"];

/// Options of a TCP socket.
#[derive(Clone, Debug)]
pub struct TcpOptions {
    pub nodelay: Cell<bool>,
    pub cork: Cell<bool>,
    /// The last write said that more follows.
    pub more: Cell<bool>,
    pub v6only: Cell<bool>,
    keepalive: Cell<[u32; 3]>,
    /// Milliseconds, 0 for none.
    user_timeout: Cell<u32>,
    congestion: Cell<usize>,
    quick_ack: Cell<bool>,
    /// Numbers that are kept and told.
    kept: Cell<[u32; 12]>,
    pub ip: IpOptions,
}

impl Default for TcpOptions {
    fn default() -> Self {
        Self {
            nodelay: Cell::new(false),
            cork: Cell::new(false),
            more: Cell::new(false),
            v6only: Cell::new(false),
            keepalive: Cell::new([KEEPALIVE_IDLE, KEEPALIVE_INTERVAL, KEEPALIVE_COUNT]),
            user_timeout: Cell::new(0),
            congestion: Cell::new(0),
            quick_ack: Cell::new(true),
            kept: Cell::new([6, 60, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]),
            ip: IpOptions::default(),
        }
    }
}

/// The place of a number that is kept, and the greatest it may be.
fn kept(name: u32) -> Option<(usize, u32)> {
    Some(match name {
        TCP_SYNCNT => (0, 127),
        TCP_LINGER2 => (1, u32::MAX),
        TCP_DEFER_ACCEPT => (2, u32::MAX),
        TCP_WINDOW_CLAMP => (3, u32::MAX),
        TCP_THIN_LINEAR_TIMEOUTS => (4, 1),
        TCP_THIN_DUPACK => (5, 1),
        TCP_FASTOPEN => (6, u32::MAX),
        TCP_NOTSENT_LOWAT => (7, u32::MAX),
        TCP_SAVE_SYN => (8, 1),
        TCP_FASTOPEN_CONNECT => (9, 1),
        TCP_FASTOPEN_NO_COOKIE => (10, 1),
        TCP_INQ => (11, 1),
        _ => return None,
    })
}

impl TcpOptions {
    /// Gives a connection what was set.
    pub fn apply(&self, socket: &Socket, stream: &Stream) {
        let options = &socket.options;
        stream.set_nodelay(self.nodelay.get());
        stream.set_cork(self.cork.get() || self.more.get());
        let [idle, interval, probes] = self.keepalive.get();
        let keepalive = options.has(Switches::KEEPALIVE).then(|| KeepAlive {
            idle: Duration::from_secs(u64::from(idle)),
            interval: Duration::from_secs(u64::from(interval)),
            probes: probes.min(255) as u8,
        });
        stream.set_keepalive(keepalive);
        let timeout = self.user_timeout.get();
        stream.set_user_timeout((timeout > 0).then(|| Duration::from_millis(u64::from(timeout))));
        // Half of what is told is for the kernel's own records.
        let receive = options.has(Switches::RECEIVE_SET);
        let send = options.has(Switches::SEND_SET);
        if receive || send {
            stream.set_limits(
                receive.then(|| options.receive_buffer.get() / 2),
                send.then(|| options.send_buffer.get() / 2),
            );
        }
    }

    /// Gives a connection what `setsockopt(2)` of this option has changed.
    pub fn apply_changed(&self, socket: &Socket, (level, name): (u32, u32), stream: &Stream) {
        match (level, name) {
            // Servers set these with every reply.
            (IPPROTO_TCP, TCP_NODELAY) => stream.set_nodelay(self.nodelay.get()),
            (IPPROTO_TCP, TCP_CORK) => stream.set_cork(self.cork.get() || self.more.get()),
            _ => self.apply(socket, stream),
        }
    }

    /// `setsockopt(2)`; some may not be changed any more once the socket is `bound`.
    pub fn set(
        &self,
        socket: &Socket,
        (level, name): (u32, u32),
        value: &[u8],
        bound: bool,
    ) -> Result {
        match level {
            IPPROTO_TCP => self.set_tcp(name, value),
            IPPROTO_IPV6 if name == super::ip_options::IPV6_V6ONLY => {
                if bound {
                    return Err(Errno::EINVAL);
                }
                self.v6only.set(int(value)? != 0);
                Ok(())
            }
            IPPROTO_IP | IPPROTO_IPV6 => self.ip.set(socket, level, name, value),
            _ => Err(Errno::ENOPROTOOPT),
        }
    }

    fn set_tcp(&self, name: u32, value: &[u8]) -> Result {
        match name {
            TCP_CONGESTION => {
                let end = value.iter().position(|&b| b == 0).unwrap_or(value.len());
                let wanted = &value[..end];
                let found = CONGESTION.iter().position(|known| *known == wanted);
                self.congestion.set(found.ok_or(Errno::ENOENT)?);
                return Ok(());
            }
            // Without a module of that name Linux says so.
            TCP_ULP => return Err(Errno::ENOENT),
            _ => {}
        }
        let value = int(value)?;
        match name {
            TCP_NODELAY => {
                self.nodelay.set(value != 0);
                return Ok(());
            }
            TCP_CORK => {
                self.cork.set(value != 0);
                return Ok(());
            }
            _ => {}
        }
        let at_least = |least: i32, most: i32| {
            if (least..=most).contains(&value) {
                Ok(value.cast_unsigned())
            } else {
                Err(Errno::EINVAL)
            }
        };
        let mut keepalive = self.keepalive.get();
        match name {
            TCP_MAXSEG => {
                if value != 0 {
                    at_least(88, 32_767)?;
                }
            }
            TCP_KEEPIDLE => keepalive[0] = at_least(1, 32_767)?,
            TCP_KEEPINTVL => keepalive[1] = at_least(1, 32_767)?,
            TCP_KEEPCNT => keepalive[2] = at_least(1, 127)?,
            TCP_USER_TIMEOUT => self.user_timeout.set(at_least(0, i32::MAX)?),
            TCP_QUICKACK => self.quick_ack.set(value != 0),
            TCP_TIMESTAMP | TCP_TX_DELAY => return Err(Errno::EPERM),
            name => {
                let (place, most) = kept(name).ok_or(Errno::ENOPROTOOPT)?;
                let value = value.cast_unsigned();
                if value > most {
                    return Err(Errno::EINVAL);
                }
                let mut all = self.kept.get();
                all[place] = value;
                self.kept.set(all);
            }
        }
        self.keepalive.set(keepalive);
        Ok(())
    }

    /// `getsockopt(2)`.
    pub fn get(
        &self,
        socket: &Socket,
        (level, name): (u32, u32),
        argument: &[u8],
        stream: Option<&Stream>,
    ) -> Result<Vec<u8>> {
        match level {
            IPPROTO_TCP => self.get_tcp(socket, name, stream),
            IPPROTO_IPV6 if name == super::ip_options::IPV6_V6ONLY => {
                Ok(number(u32::from(self.v6only.get())))
            }
            IPPROTO_IP | IPPROTO_IPV6 => self.ip.get(socket, level, name, argument),
            _ => Err(Errno::EOPNOTSUPP),
        }
    }

    fn get_tcp(&self, socket: &Socket, name: u32, stream: Option<&Stream>) -> Result<Vec<u8>> {
        let flag = |value: bool| number(u32::from(value));
        let keepalive = self.keepalive.get();
        Ok(match name {
            TCP_NODELAY => flag(self.nodelay.get()),
            TCP_CORK => flag(self.cork.get()),
            TCP_QUICKACK => flag(self.quick_ack.get()),
            TCP_KEEPIDLE => number(keepalive[0]),
            TCP_KEEPINTVL => number(keepalive[1]),
            TCP_KEEPCNT => number(keepalive[2]),
            TCP_USER_TIMEOUT => number(self.user_timeout.get()),
            TCP_MAXSEG => number(stream.map_or(536, |stream| stream.info().mss)),
            TCP_CONGESTION => {
                let mut name = CONGESTION
                    .get(self.congestion.get())
                    .map_or(Vec::new(), |name| name.to_vec());
                name.resize(16, 0);
                name
            }
            TCP_INFO => match stream {
                Some(stream) => info(&stream.info(), stream),
                None => {
                    let mut info = alloc::vec![0; INFO_LEN];
                    info[0] = if socket.protocol.is_listening() {
                        10
                    } else {
                        7
                    };
                    info
                }
            },
            TCP_CC_INFO | TCP_ULP => Vec::new(),
            TCP_TIMESTAMP | TCP_TX_DELAY => number(0),
            name => {
                let (place, _) = kept(name).ok_or(Errno::ENOPROTOOPT)?;
                number(self.kept.get().get(place).copied().unwrap_or(0))
            }
        })
    }
}

/// The number of a state in `TCP_INFO` and `/proc/net/tcp`.
pub fn state_number(state: State) -> u8 {
    match state {
        State::Established => 1,
        State::SynSent => 2,
        State::SynReceived => 3,
        State::FinWait1 => 4,
        State::FinWait2 => 5,
        State::TimeWait => 6,
        State::Closed => 7,
        State::CloseWait => 8,
        State::LastAck => 9,
        State::Closing => 11,
    }
}

/// `struct tcp_info`.
fn info(info: &Info, stream: &Stream) -> Vec<u8> {
    let mut bytes = alloc::vec![0; INFO_LEN];
    let micros = |time: Duration| u32::try_from(time.as_micros()).unwrap_or(u32::MAX);
    let mss = info.mss.max(1);
    bytes[0] = state_number(info.state);
    bytes[5] = u8::from(info.timestamps) | u8::from(info.sack) << 1 | 4 | u8::from(info.ecn) << 3;
    bytes[6] = (info.window_scale.0 & 15) | (info.window_scale.1 & 15) << 4;
    let threshold = if info.slow_start_threshold == u32::MAX {
        i32::MAX as u32
    } else {
        info.slow_start_threshold / mss
    };
    let words = [
        (8, micros(info.retransmission_timeout)),
        (12, 40_000),
        (16, mss),
        (20, mss),
        (24, info.in_flight.div_ceil(mss)),
        (60, mss + 40),
        (64, info.receive_window),
        (68, micros(info.rtt)),
        (72, micros(info.rtt_variation)),
        (76, threshold),
        (80, (info.congestion_window / mss).max(1)),
        (84, mss),
        (88, 3),
        (96, info.receive_window),
        (100, info.retransmits),
        (136, info.segments_out as u32),
        (140, info.segments_in as u32),
        (
            144,
            (stream.unacknowledged() as u32).saturating_sub(info.in_flight),
        ),
        (148, micros(info.rtt_minimum)),
        (224, info.out_of_order),
        (228, info.send_window),
    ];
    for (at, word) in words {
        put(&mut bytes, at, &word.to_ne_bytes());
    }
    for (at, word) in [
        (104, u64::MAX),
        (112, u64::MAX),
        (120, info.bytes_acked),
        (128, info.bytes_received),
    ] {
        put(&mut bytes, at, &word.to_ne_bytes());
    }
    bytes
}

fn put(bytes: &mut [u8], at: usize, value: &[u8]) {
    if let Some(place) = bytes.get_mut(at..at + value.len()) {
        place.copy_from_slice(value);
    }
}
