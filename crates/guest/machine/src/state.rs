//! Everything the machine part knows once the guest runs.
#![allow(unsafe_code)]

use core::mem::MaybeUninit;

use kiln_abi::op::Segment;
use kiln_abi::trap::TrapFrame;
use kiln_abi::{DeviceInfo, MAX_DEVICES};
#[cfg(feature = "block")]
use kiln_virtio::Block;
#[cfg(feature = "net")]
use kiln_virtio::Net;
#[cfg(feature = "virtio")]
use kiln_virtio::{Balloon, Entropy};

use crate::clock::Clock;
use crate::console::Console;
use crate::cpu::Shared;
use crate::end::{Progress, Token};
use crate::entropy::Pool;
use crate::interrupts::Timer;
use crate::memory::Layout;
use crate::power::Power;

/// A place for a value that may come later. Empty ones are all zeroes, so that they take no space in the blob.
#[derive(Debug)]
pub struct Slot<T> {
    present: bool,
    value: MaybeUninit<T>,
}

impl<T> Slot<T> {
    /// An empty one.
    pub const EMPTY: Self = Self {
        present: false,
        value: MaybeUninit::zeroed(),
    };

    /// Puts a value in. One that is there already stays, as nothing here is ever dropped.
    pub fn fill(&mut self, value: T) {
        if !self.present {
            self.value.write(value);
            self.present = true;
        }
    }

    /// The value, to look at.
    pub fn peek(&self) -> Option<&T> {
        // SAFETY: as in `get`.
        self.present
            .then(|| unsafe { self.value.assume_init_ref() })
    }

    /// Takes the value out.
    pub fn take(&mut self) -> Option<T> {
        // SAFETY: as in `get`; the value is not used here again.
        core::mem::take(&mut self.present).then(|| unsafe { self.value.assume_init_read() })
    }

    /// The value.
    pub fn get(&mut self) -> Option<&mut T> {
        // SAFETY: `present` says that `fill` was called.
        self.present
            .then(|| unsafe { self.value.assume_init_mut() })
    }
}

/// The driver of an attached device.
#[derive(Debug)]
#[allow(
    clippy::large_enum_variant,
    reason = "there is no heap to put the larger one on"
)]
pub enum Driver {
    /// A link.
    #[cfg(feature = "net")]
    Net(Net),
    /// A disk.
    #[cfg(feature = "block")]
    Block(Block),
}

/// Tables for the splitting of large pages.
#[derive(Debug)]
pub struct Reserve {
    /// Physical address of the page tables' root.
    pub root: u64,
    /// Physical address of the next free table.
    pub next: u64,
    /// Address behind the last.
    pub end: u64,
}

/// The state.
#[derive(Debug)]
pub struct State {
    /// The guest's memory.
    pub layout: Layout,
    /// Page tables to spare.
    pub reserve: Reserve,
    /// The clock.
    pub clock: Clock,
    /// The timer.
    pub timer: Timer,
    /// The console.
    pub console: Console,
    /// Randomness.
    pub pool: Pool,
    /// The processor has `rdrand`.
    pub rdrand: bool,
    /// True once the guest runs.
    pub running: bool,
    /// Some device has no interrupts.
    #[cfg(feature = "virtio")]
    pub polling: bool,
    /// The source of random numbers.
    #[cfg(feature = "virtio")]
    pub entropy: Slot<Entropy>,
    /// The balloon.
    #[cfg(feature = "virtio")]
    pub balloon: Slot<Balloon>,
    /// The guest's devices, by number.
    #[cfg(feature = "virtio")]
    pub devices: [Slot<Driver>; MAX_DEVICES],
    /// What the guest is told of them.
    pub infos: [DeviceInfo; MAX_DEVICES],
    /// How many there are.
    pub device_count: usize,
    /// Where traps go; 0 for nowhere.
    pub trap_entry: u64,
    /// The stack for them.
    pub trap_stack: Segment,
    /// How to switch off.
    pub power: Power,
    /// The registers at the last fault that the guest was told of.
    pub registers: TrapFrame,
    /// The supervisor's token.
    pub token: Token,
    /// How far the end has come.
    pub end: Progress,
    /// Address behind the machine part's code.
    pub code_end: u64,
    /// The program.
    #[cfg(feature = "program")]
    pub program: crate::program::Program,
}

static STATE: Shared<MaybeUninit<State>> = Shared::new(MaybeUninit::zeroed());

/// The state.
///
/// # Safety
/// Code that was interrupted and holds a reference too does not come to use it again: the one caller of which that can
/// be said is a handler that ends the machine. All others run one after the other.
pub unsafe fn state() -> &'static mut State {
    // SAFETY: the caller's promise. All zeroes are a valid state: integers, `bool`s, empty slots, and the enums among them
    // have a variant that is all zeroes, see the test.
    unsafe { (*STATE.get()).assume_init_mut() }
}
