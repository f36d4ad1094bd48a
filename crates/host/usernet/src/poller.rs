//! The set of host descriptors that are waited for: one epoll instance.
//!
//! The supervisor waits for the epoll descriptor itself to become readable, together with whatever else it waits for.
//! TCP sockets and the link are watched edge-triggered, so that a busy flow costs no `epoll_ctl` calls; rarer sockets
//! level-triggered, which is simpler and safe for them since they are always read.

use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::event::{Timespec, epoll};
use rustix::io;

use crate::table::{GENERATIONS, Key};

pub(crate) use rustix::event::epoll::EventFlags as Flags;

/// What became ready.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Token {
    /// The guest's link.
    Link,
    /// A listening TCP socket, by position.
    Listener(u32),
    /// The host's side of a TCP connection.
    Tcp(Key),
    /// The host's side of a UDP forward, by position.
    UdpForward(u32),
    /// The host's side of an outgoing UDP flow.
    UdpFlow(Key),
    /// A ping socket.
    Ping(Key),
    /// A DNS query under way.
    Dns(Key),
}

impl Token {
    fn encode(self) -> u64 {
        let pack = |kind: u64, key: Key| {
            kind << 60 | u64::from(key.generation % GENERATIONS) << 32 | u64::from(key.index)
        };
        match self {
            Self::Link => 0,
            Self::Listener(index) => 1 << 60 | u64::from(index),
            Self::Tcp(key) => pack(2, key),
            Self::UdpForward(index) => 3 << 60 | u64::from(index),
            Self::UdpFlow(key) => pack(4, key),
            Self::Ping(key) => pack(5, key),
            Self::Dns(key) => pack(6, key),
        }
    }

    fn decode(raw: u64) -> Option<Self> {
        let index = raw as u32;
        let key = Key {
            index,
            generation: (raw >> 32) as u32 % GENERATIONS,
        };
        Some(match raw >> 60 {
            0 => Self::Link,
            1 => Self::Listener(index),
            2 => Self::Tcp(key),
            3 => Self::UdpForward(index),
            4 => Self::UdpFlow(key),
            5 => Self::Ping(key),
            6 => Self::Dns(key),
            _ => return None,
        })
    }
}

/// One epoll instance.
pub(crate) struct Poller {
    epoll: OwnedFd,
    /// Raw tokens and what they are ready for.
    events: Vec<(u64, Flags)>,
}

impl Poller {
    /// Events taken in one go.
    const BATCH: usize = 256;

    pub fn new() -> io::Result<Self> {
        Ok(Self {
            epoll: epoll::create(epoll::CreateFlags::CLOEXEC)?,
            events: Vec::with_capacity(Self::BATCH),
        })
    }

    pub fn add(&self, fd: impl AsFd, token: Token, flags: Flags) -> io::Result<()> {
        epoll::add(
            &self.epoll,
            fd,
            epoll::EventData::new_u64(token.encode()),
            flags,
        )
    }

    pub fn modify(&self, fd: impl AsFd, token: Token, flags: Flags) -> io::Result<()> {
        epoll::modify(
            &self.epoll,
            fd,
            epoll::EventData::new_u64(token.encode()),
            flags,
        )
    }

    /// Looks what is ready, without waiting, and returns how many events there are for [`event`](Self::event).
    pub fn poll(&mut self) -> usize {
        self.events.clear();
        let mut buffer = [const { MaybeUninit::uninit() }; Self::BATCH];
        // An interrupted or failed look is a look that found nothing; the next one will.
        if let Ok((events, _)) =
            epoll::wait(&self.epoll, &mut buffer[..], Some(&Timespec::default()))
        {
            let events = events.iter().map(|event| (event.data.u64(), event.flags));
            self.events.extend(events);
        }
        self.events.len()
    }

    /// True if the last look may have left events behind.
    pub fn overflowed(&self) -> bool {
        self.events.len() >= Self::BATCH
    }

    pub fn event(&self, index: usize) -> Option<(Token, Flags)> {
        let &(raw, flags) = self.events.get(index)?;
        Some((Token::decode(raw)?, flags))
    }
}

impl AsFd for Poller {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.epoll.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_survive_the_kernel() {
        let key = Key {
            index: u32::MAX,
            generation: GENERATIONS - 1,
        };
        for token in [
            Token::Link,
            Token::Listener(7),
            Token::Tcp(key),
            Token::UdpForward(9),
            Token::UdpFlow(key),
            Token::Ping(key),
            Token::Dns(key),
        ] {
            assert_eq!(Token::decode(token.encode()), Some(token));
        }
    }
}
