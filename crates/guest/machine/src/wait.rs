//! Waiting: for devices while a call is under way, and on behalf of their drivers.

#[cfg(feature = "program")]
use kiln_abi::NetHeader;
use kiln_abi::call::{CONTROL, Call};
#[cfg(feature = "program")]
use kiln_abi::op::{OpError, Segment};
#[cfg(feature = "net")]
use kiln_virtio::Net;
#[cfg(feature = "virtio")]
use kiln_virtio::Platform;

#[cfg(feature = "virtio")]
use crate::clock::Clock;
use crate::cpu::{self, noted};
#[cfg(feature = "program")]
use crate::devices::buffers;
#[cfg(feature = "virtio")]
use crate::interrupts::Timer;
#[cfg(feature = "virtio")]
use crate::memory::Layout;
#[cfg(feature = "net")]
use crate::state::Driver;
use crate::state::State;

/// A driver that waits for its device looks again after so many nanoseconds even if no interrupt has come: on some machines
/// none ever does.
#[cfg(feature = "virtio")]
const PATIENCE: u64 = 2_000_000;

/// What drivers ask of the machine.
#[cfg(feature = "virtio")]
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
#[cfg(feature = "virtio")]
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
            // An interrupt between here and the wait must end the wait, and with ticks it would be taken before.
            self.timer.pause();
            if self.listen(call.wait_receive, call.wait_send, true) {
                self.timer.resume();
            } else {
                // Links without interrupts are looked at every now and then.
                #[cfg(feature = "virtio")]
                let deadline = if self.polling {
                    deadline.min(self.clock.now() + PATIENCE)
                } else {
                    deadline
                };
                self.timer.wait(deadline, &self.clock);
            }
        }
        if listening {
            self.listen(call.wait_receive, call.wait_send, false);
        }
    }

    /// Fills in what is ready.
    fn look(&mut self, call: &mut Call) {
        let noted = cpu::take_noted();
        // First, so that what comes from now on is an edge again: the interrupt may have been taken while a driver waited for another
        // device, which leaves the line of this one's as it is.
        if noted & noted::DEVICE != 0 {
            self.acknowledge();
        }
        #[cfg(feature = "net")]
        for index in 0..self.device_count {
            let bit = 1u64 << (index & 63);
            let (receive, send) = (call.wait_receive & bit, call.wait_send & bit);
            if receive | send == 0 {
                continue;
            }
            if let Some(link) = self.link(index) {
                if receive != 0 && link.can_receive() {
                    call.ready |= bit;
                }
                if send != 0 && link.can_send() {
                    call.ready_send |= bit;
                }
            }
        }
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
        #[cfg(feature = "program")]
        if self.console.input.is_ready() {
            call.ready |= call.wait_receive & kiln_abi::call::CONSOLE;
        }
    }

    /// Asks for interrupts, or for none. Returns whether something is ready already.
    #[cfg(feature = "virtio")]
    fn listen(&mut self, receive: u64, send: u64, on: bool) -> bool {
        let mut ready = false;
        #[cfg(feature = "net")]
        for index in 0..self.device_count {
            let bit = 1u64 << (index & 63);
            let (receive, send) = (receive & bit != 0, send & bit != 0);
            if (receive || send)
                && let Some(link) = self.link(index)
            {
                ready |= link.listen(receive && on, send && on);
            }
        }
        if let Some(console) = self.console.virtio.get() {
            ready |= console.listen(on);
        }
        ready && on
    }

    #[cfg(not(feature = "virtio"))]
    #[allow(clippy::unused_self, reason = "the serial port always interrupts")]
    fn listen(&mut self, _: u64, _: u64, _: bool) -> bool {
        false
    }

    /// Takes back the requests of devices that share their line's level with nobody, so that the next is an edge again.
    #[allow(clippy::unused_self, reason = "not every machine part has devices")]
    pub fn acknowledge(&mut self) {
        #[cfg(feature = "net")]
        for index in 0..self.device_count {
            if let Some(link) = self.link(index) {
                link.acknowledge();
            }
        }
        #[cfg(feature = "virtio")]
        if let Some(console) = self.console.virtio.get() {
            console.acknowledge();
        }
    }

    /// Lets the links' devices see what there is for them.
    #[allow(clippy::unused_self, reason = "not every machine part has links")]
    pub fn notify(&mut self) {
        #[cfg(feature = "net")]
        for index in 0..self.device_count {
            if let Some(link) = self.link(index) {
                link.notify();
            }
        }
    }

    /// The link of a number.
    #[cfg(feature = "net")]
    pub fn link(&mut self, index: usize) -> Option<&mut Net> {
        match self.devices.get_mut(index)?.get()? {
            Driver::Net(link) => Some(link),
            #[cfg(feature = "block")]
            Driver::Block(_) => None,
        }
    }

    /// Sends a message of 9P over a network device, if there is one, and takes a reply, if there is room for one; with both it waits.
    ///
    /// # Errors
    /// [`OpError::Again`] if there is no room yet, or no reply; [`OpError::Io`] if the device is broken.
    #[cfg(feature = "program")]
    pub fn ask_folder(
        &mut self,
        index: usize,
        request: Segment,
        reply: Segment,
    ) -> Result<u64, OpError> {
        let both = request.len != 0 && reply.len != 0;
        let mut sent = request.len == 0;
        let mut waited = false;
        let result = loop {
            let link = self.link(index).ok_or(OpError::NoDevice)?;
            if !sent {
                match link.send(NetHeader::PLAIN, buffers(&[request])) {
                    Ok(()) => sent = true,
                    Err(OpError::Again) if both => {}
                    Err(error) => break Err(error),
                }
                link.notify();
            }
            if sent {
                let taken = if reply.len == 0 {
                    Ok((0, NetHeader::PLAIN))
                } else {
                    link.receive(buffers(&[reply]))
                };
                if !both || taken != Err(OpError::Again) {
                    break taken;
                }
                link.notify();
            }
            waited = true;
            // An interrupt between here and the wait must end the wait, and with ticks it would be taken before.
            self.timer.pause();
            let link = self.link(index);
            if link.is_some_and(|link| link.listen(sent, !sent)) {
                self.timer.resume();
            } else {
                let deadline = self.clock.now() + PATIENCE;
                self.timer.wait(deadline, &self.clock);
                self.acknowledge();
            }
        };
        if let Some(link) = self.link(index) {
            if waited {
                link.listen(false, false);
            }
            link.notify();
        }
        result.map(|(len, _)| len)
    }

    /// Writes to the console.
    pub fn print(&mut self, text: &[u8]) {
        #[cfg(feature = "virtio")]
        if let Some(console) = self.console.virtio.get() {
            let mut host = Host {
                layout: &self.layout,
                clock: &self.clock,
                timer: &self.timer,
            };
            // A console that broke is no place to complain.
            let _ = console.write(text, &mut host);
            return;
        }
        self.console.write(text);
    }
}
