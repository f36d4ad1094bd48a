//! What a process does with each signal (`sigaction(2)`).

use core::cell::RefCell;

use super::{Set, number};
use crate::user::Plain;

bitflags::bitflags! {
    /// `sa_flags`.
    #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
    pub struct Flags: u64 {
        /// `SA_NOCLDSTOP`
        const NO_CHILD_STOP = 1;
        /// `SA_NOCLDWAIT`
        const NO_CHILD_WAIT = 2;
        /// `SA_SIGINFO`
        const INFO = 4;
        /// `SA_RESTORER`
        const RESTORER = 0x0400_0000;
        /// `SA_ONSTACK`
        const ON_STACK = 0x0800_0000;
        /// `SA_RESTART`
        const RESTART = 0x1000_0000;
        /// `SA_NODEFER`
        const NO_DEFER = 0x4000_0000;
        /// `SA_RESETHAND`
        const RESET_HANDLER = 0x8000_0000;
        const _ = !0;
    }
}

/// `SIG_DFL`.
pub const DEFAULT: u64 = 0;
/// `SIG_IGN`.
pub const IGNORE: u64 = 1;

/// What is done with one signal: `struct sigaction` as the kernel has it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Action {
    /// [`DEFAULT`], [`IGNORE`] or the address of the handler.
    pub handler: u64,
    /// [`Flags`].
    pub flags: u64,
    /// Where the handler returns to.
    pub restorer: u64,
    /// Blocked while it runs.
    pub mask: Set,
}

// SAFETY: four words.
unsafe impl Plain for Action {}

impl Action {
    /// Its flags.
    pub fn flags(&self) -> Flags {
        Flags::from_bits_retain(self.flags)
    }

    /// True if this action drops the signal.
    pub fn ignores(&self, number: u32) -> bool {
        match self.handler {
            IGNORE => true,
            DEFAULT => matches!(
                number::default(number),
                number::Default::Ignore | number::Default::Continue
            ),
            _ => false,
        }
    }
}

/// The actions of all signals.
#[derive(Debug)]
pub struct Actions {
    all: RefCell<[Action; number::LAST as usize]>,
}

impl Default for Actions {
    fn default() -> Self {
        Self {
            all: RefCell::new([Action::default(); number::LAST as usize]),
        }
    }
}

impl Actions {
    /// The action of a signal; the default for what is not one.
    pub fn get(&self, number: u32) -> Action {
        let index = (number as usize).wrapping_sub(1);
        self.all.borrow().get(index).copied().unwrap_or_default()
    }

    /// Sets it.
    pub fn set(&self, number: u32, action: Action) {
        let index = (number as usize).wrapping_sub(1);
        if let Some(slot) = self.all.borrow_mut().get_mut(index) {
            *slot = action;
        }
    }

    /// Takes those of another process over.
    pub fn copy_from(&self, other: &Self) {
        *self.all.borrow_mut() = *other.all.borrow();
    }

    /// What `execve(2)` leaves: ignored signals stay ignored, handlers are gone.
    pub fn reset_handlers(&self) {
        for action in self.all.borrow_mut().iter_mut() {
            let kept = if action.handler == IGNORE {
                IGNORE
            } else {
                DEFAULT
            };
            *action = Action {
                handler: kept,
                ..Action::default()
            };
        }
    }
}
