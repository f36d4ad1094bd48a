//! The terminal at which the user of `kiln run` sits: a pseudo-terminal whose master is the host.
//!
//! The host's own terminal is in raw mode meanwhile (`crates/host/monitor/src/run/terminal.rs`): it gives each key as it is typed, and
//! shows what the line discipline here makes of it. So the settings of a program hold (`tcsetattr(3)`), and Ctrl-C is a
//! signal for its foreground group.

use alloc::rc::Rc;
use alloc::vec::Vec;
use core::cell::RefCell;

use super::{Discipline, PIECE, Pty, number};
use crate::platform::{self, Stream};
use crate::wait::Events;

/// What a pair has if its master is the host.
#[derive(Debug, Default)]
pub(super) struct Host {
    /// Typed, but there was no room for it.
    waiting: RefCell<Vec<u8>>,
}

impl Pty {
    /// The terminal of the first session, of this size and owner.
    pub(in crate::dev) fn of_host(columns: u16, rows: u16, uid: u32) -> Rc<Self> {
        let pty = Self::new(0, uid, Some(Host::default()));
        // Terminals that people sit at are taken to speak UTF-8.
        pty.line.replace(Discipline::default());
        pty.locked.set(false);
        pty.size.set([rows, columns, 0, 0]);
        pty.session.set(1);
        pty.group.set(1);
        pty
    }

    /// Takes what the user has typed, as far as there is room for it; what follows is asked for again when there is.
    pub(in crate::dev) fn listen(&self) {
        let Some(host) = &self.host else {
            return;
        };
        while self.master_open.get() {
            let mut typed = host.waiting.take();
            if typed.is_empty() {
                let mut piece = [0; PIECE];
                match platform::console_read(&mut piece) {
                    Ok(0) => return self.lose_user(),
                    Ok(len) => typed.extend_from_slice(&piece[..len]),
                    Err(_) => return,
                }
            }
            let taken = self.type_in(&typed);
            if taken < typed.len() {
                typed.drain(..taken);
                host.waiting.replace(typed);
                return;
            }
        }
    }

    /// Forgets what was typed and had no room.
    pub(super) fn forget_typed(&self) {
        if let Some(host) = &self.host {
            host.waiting.take();
        }
    }

    /// Shows the user what is there to be seen, if the master is the host.
    pub(super) fn show(&self) {
        if self.host.is_none() {
            return;
        }
        let output = self.output.take();
        let (first, second) = output.as_slices();
        for part in [first, second] {
            platform::console_write_all(Stream::Out, part);
        }
    }

    /// The user's terminal is no more: that is a hang-up.
    fn lose_user(&self) {
        self.master_open.set(false);
        self.signal(number::HUP);
        self.slave_queue.wake_all(Events::HUP | Events::READABLE);
    }
}
