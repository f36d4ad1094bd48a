//! Waiting: for devices while a call is under way, and on behalf of their drivers.

use kiln_abi::call::{CONTROL, Call};
use kiln_virtio::Platform;

use crate::clock::Clock;
use crate::cpu::{self, noted};
use crate::interrupts::Timer;
use crate::memory::Layout;
use crate::state::{Driver, State};

/// A driver that waits for its device looks again after so many nanoseconds even if no interrupt has come: on some machines
/// none ever does.
const PATIENCE: u64 = 2_000_000;

/// What drivers ask of the machine.
#[derive(Debug)]
pub struct Host<'a> {
    /// The guest's memory.
    pub layout: &'a Layout,
    /// The clock.
    pub clock: &'a Clock,
    /// The timer.
    pub timer: &'a Timer,
}

// SAFETY: the layout is that of the page tables.
#[allow(unsafe_code)]
unsafe impl Platform for Host<'_> {
    fn translate(&self, address: u64) -> Option<(u64, u64)> {
        self.layout.translate(address)
    }

    fn wait(&mut self) {
        self.timer.wait(self.clock.now() + PATIENCE, self.clock);
    }
}

impl State {
    /// Waits until something that `call` asks for is ready, or until `deadline`; with 0, only looks.
    pub fn wait(&mut self, call: &mut Call, deadline: u64) {
        let mut listening = false;
        loop {
            self.look(call);
            if call.ready | call.ready_send != 0 || self.clock.now() >= deadline {
                break;
            }
            listening = true;
            if !self.listen(call.wait_receive, call.wait_send, true) {
                // Links without interrupts are looked at every now and then.
                let deadline = if self.polling {
                    deadline.min(self.clock.now() + PATIENCE)
                } else {
                    deadline
                };
                self.timer.wait(deadline, &self.clock);
                self.acknowledge();
            }
        }
        if listening {
            self.listen(call.wait_receive, call.wait_send, false);
        }
    }

    /// Fills in what is ready.
    fn look(&mut self, call: &mut Call) {
        for (index, slot) in self.devices.iter_mut().take(self.device_count).enumerate() {
            let bit = 1u64 << (index & 63);
            let (receive, send) = (call.wait_receive & bit, call.wait_send & bit);
            if receive | send == 0 {
                continue;
            }
            if let Some(Driver::Net(link)) = slot.get() {
                if receive != 0 && link.can_receive() {
                    call.ready |= bit;
                }
                if send != 0 && link.can_send() {
                    call.ready_send |= bit;
                }
            }
        }
        let noted = cpu::take_noted();
        let now = self.clock.now();
        let mut event = self
            .console
            .event(now, noted & (noted::CONSOLE | noted::DEVICE) != 0);
        if noted & noted::POWER != 0 && self.power.button() {
            event = 15;
        }
        if event != 0 {
            call.event = event;
            call.ready |= CONTROL;
        }
    }

    /// Asks for interrupts, or for none. Returns whether something is ready already.
    fn listen(&mut self, receive: u64, send: u64, on: bool) -> bool {
        let mut ready = false;
        for (index, slot) in self.devices.iter_mut().take(self.device_count).enumerate() {
            let bit = 1u64 << (index & 63);
            let (receive, send) = (receive & bit != 0, send & bit != 0);
            if (receive || send)
                && let Some(Driver::Net(link)) = slot.get()
            {
                ready |= link.listen(receive && on, send && on);
            }
        }
        if let Some(console) = self.console.virtio.get() {
            ready |= console.listen(on);
        }
        ready && on
    }

    /// Takes back the requests of devices that share their line's level with nobody, so that the next is an edge again.
    pub fn acknowledge(&mut self) {
        for slot in self.devices.iter_mut().take(self.device_count) {
            if let Some(Driver::Net(link)) = slot.get() {
                link.acknowledge();
            }
        }
        if let Some(console) = self.console.virtio.get() {
            console.acknowledge();
        }
    }

    /// Writes to the console.
    pub fn print(&mut self, text: &[u8]) {
        let mut host = Host {
            layout: &self.layout,
            clock: &self.clock,
            timer: &self.timer,
        };
        self.console.write(text, &mut host);
    }
}
