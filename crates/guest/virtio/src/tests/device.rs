//! A device without its bus: status, features, configuration, queues.

use std::boxed::Box;
use std::collections::BTreeSet;
use std::vec;
use std::vec::Vec;

use super::memory::Memory;

pub(super) const INDIRECT: u64 = 1 << 28;
pub(super) const EVENT_INDEX: u64 = 1 << 29;
pub(super) const VERSION_1: u64 = 1 << 32;

const NEXT: u16 = 1;
const WRITE: u16 = 2;
const TABLE: u16 = 4;

/// A chain of buffers, checked.
#[derive(Clone, Debug)]
pub(super) struct Chain {
    pub(super) head: u16,
    pub(super) readable: Vec<(u64, u32)>,
    pub(super) writable: Vec<(u64, u32)>,
    pub(super) indirect: bool,
}

impl Chain {
    /// All that the device may read.
    pub(super) fn bytes(&self, memory: &Memory) -> Vec<u8> {
        let mut all = Vec::new();
        for (phys, len) in &self.readable {
            let mut piece = vec![0; *len as usize];
            memory.read(*phys, &mut piece);
            all.extend(piece);
        }
        all
    }

    pub(super) fn room(&self) -> usize {
        self.writable.iter().map(|(_, len)| *len as usize).sum()
    }

    /// Writes `bytes` from the start of what the device may write. Returns how many.
    pub(super) fn fill(&self, memory: &Memory, bytes: &[u8]) -> u32 {
        let mut rest = bytes;
        for (phys, len) in &self.writable {
            let (part, behind) = rest.split_at(rest.len().min(*len as usize));
            memory.write(*phys, part);
            rest = behind;
        }
        assert!(rest.is_empty(), "the device wrote more than fits");
        bytes.len() as u32
    }
}

/// One queue.
#[derive(Default)]
pub(super) struct Queue {
    pub(super) limit: u16,
    pub(super) size: u16,
    pub(super) descriptors: u64,
    pub(super) available: u64,
    pub(super) used: u64,
    pub(super) enabled: bool,
    pub(super) vector: u16,
    /// Entries taken and given back so far.
    pub(super) taken: u16,
    pub(super) given: u16,
    in_flight: BTreeSet<u16>,
}

impl Queue {
    /// Where field `n` behind the available ring's index, and behind the used ring's, lies.
    pub(super) fn used_event(&self) -> u64 {
        self.available + 4 + u64::from(self.size) * 2
    }

    pub(super) fn available_event(&self) -> u64 {
        self.used + 4 + u64::from(self.size) * 8
    }

    /// Takes the next chain, and checks that the driver kept all rules.
    pub(super) fn take(&mut self, memory: &Memory, features: u64) -> Option<Chain> {
        assert!(self.enabled, "the queue is not there yet");
        let index = memory.load16(self.available + 2);
        let waiting = index.wrapping_sub(self.taken);
        assert!(waiting <= self.size, "more available than there are");
        if waiting == 0 {
            return None;
        }
        let entry = u64::from(self.taken % self.size);
        let head = memory.load16(self.available + 4 + entry * 2);
        self.taken = self.taken.wrapping_add(1);
        assert!(self.in_flight.insert(head), "{head} is in use already");
        let mut chain = Chain {
            head,
            readable: Vec::new(),
            writable: Vec::new(),
            indirect: false,
        };
        let (mut table, mut count, mut index) = (self.descriptors, self.size, head);
        for _ in 0..=self.size {
            assert!(index < count, "descriptor outside of its table");
            let at = table + u64::from(index) * 16;
            let phys = u64::from_le_bytes(memory.load(at));
            let len = u32::from_le_bytes(memory.load(at + 8));
            let flags = u16::from_le_bytes(memory.load(at + 12));
            assert_ne!(len, 0, "an empty piece");
            if flags & TABLE != 0 {
                assert!(features & INDIRECT != 0, "indirect without being agreed on");
                assert!(
                    !chain.indirect && flags == TABLE,
                    "indirect and something else"
                );
                assert!(len.is_multiple_of(16), "a table of odd length");
                chain.indirect = true;
                (table, count, index) = (phys, (len / 16) as u16, 0);
                continue;
            }
            if flags & WRITE == 0 {
                assert!(chain.writable.is_empty(), "readable behind writable");
                chain.readable.push((phys, len));
            } else {
                chain.writable.push((phys, len));
            }
            if flags & NEXT == 0 {
                return Some(chain);
            }
            index = u16::from_le_bytes(memory.load(at + 14));
        }
        panic!("a chain without end");
    }

    /// Gives a chain back. Returns whether the driver wants an interrupt.
    pub(super) fn give(&mut self, memory: &Memory, features: u64, head: u16, len: u32) -> bool {
        assert!(self.in_flight.remove(&head), "not the device's to give");
        self.give_anything(memory, features, u32::from(head), len)
    }

    /// The same, without checking what is given.
    pub(super) fn give_anything(
        &mut self,
        memory: &Memory,
        features: u64,
        id: u32,
        len: u32,
    ) -> bool {
        let at = self.used + 4 + u64::from(self.given % self.size) * 8;
        memory.write(at, &id.to_le_bytes());
        memory.write(at + 4, &len.to_le_bytes());
        let old = self.given;
        self.given = old.wrapping_add(1);
        memory.store16(self.used + 2, self.given);
        if features & EVENT_INDEX != 0 {
            memory.load16(self.used_event()) == old
        } else {
            memory.load16(self.available) & 1 == 0
        }
    }

    /// Asks to be notified of the next chain, or not to be.
    pub(super) fn want(&self, memory: &Memory, features: u64, on: bool) {
        if features & EVENT_INDEX != 0 {
            let event = self.taken.wrapping_sub(u16::from(!on));
            memory.store16(self.available_event(), event);
        } else {
            memory.store16(self.used, u16::from(!on));
        }
    }
}

/// What is the same for all devices.
pub(super) struct Core {
    pub(super) memory: Memory,
    pub(super) kind: u32,
    pub(super) offered: u64,
    pub(super) chosen: u64,
    pub(super) status: u8,
    pub(super) generation: u8,
    pub(super) config: Vec<u8>,
    pub(super) queues: Vec<Queue>,
    pub(super) interrupt: u8,
    /// How often the device interrupted, and was notified.
    pub(super) interrupts: usize,
    pub(super) notifications: usize,
    /// Whether features are refused, and resets not finished.
    pub(super) refuses: bool,
    pub(super) stuck: bool,
    /// The configuration changes between two reads of it, so often.
    pub(super) restless: usize,
}

impl Core {
    pub(super) fn take(&mut self, queue: u16) -> Option<Chain> {
        assert!(self.status & 4 != 0, "notified before DRIVER_OK");
        let queue = &mut self.queues[usize::from(queue)];
        queue.take(&self.memory, self.chosen)
    }

    pub(super) fn give(&mut self, queue: u16, head: u16, len: u32) {
        let queue = &mut self.queues[usize::from(queue)];
        if queue.give(&self.memory, self.chosen, head, len) {
            self.interrupt |= 1;
            self.interrupts += 1;
        }
    }

    pub(super) fn give_anything(&mut self, queue: u16, id: u32, len: u32) {
        let queue = &mut self.queues[usize::from(queue)];
        queue.give_anything(&self.memory, self.chosen, id, len);
    }

    pub(super) fn want(&mut self, queue: u16, on: bool) {
        self.queues[usize::from(queue)].want(&self.memory, self.chosen, on);
    }

    pub(super) fn set_status(&mut self, status: u8) {
        if status == 0 {
            if !self.stuck {
                self.status = 0;
                self.chosen = 0;
                for queue in &mut self.queues {
                    *queue = Queue {
                        limit: queue.limit,
                        ..Queue::default()
                    };
                }
            }
            return;
        }
        assert_eq!(status & self.status, self.status, "a status bit went off");
        let new = status & !self.status;
        assert!(new.is_power_of_two(), "more than one step at once");
        if new == 8 {
            assert_eq!(self.chosen & !self.offered, 0, "what was not offered");
            if self.refuses {
                return;
            }
        }
        if new == 4 {
            assert!(self.status & 8 != 0, "DRIVER_OK before FEATURES_OK");
        }
        self.status = status;
    }

    pub(super) fn enable(&mut self, index: usize) {
        assert_eq!(
            self.status, 11,
            "queues come between FEATURES_OK and DRIVER_OK"
        );
        let queue = &mut self.queues[index];
        assert!(!queue.enabled, "enabled twice");
        assert!(queue.size.is_power_of_two() && queue.size <= queue.limit);
        assert!(queue.descriptors.is_multiple_of(16));
        assert!(queue.available.is_multiple_of(2));
        assert!(queue.used.is_multiple_of(4));
        queue.enabled = true;
    }

    pub(super) fn read_config(&mut self, offset: usize, size: usize) -> u64 {
        let mut bytes = [0; 8];
        if let Some(from) = self.config.get(offset..offset + size) {
            bytes[..size].copy_from_slice(from);
        }
        if self.restless > 0 {
            self.restless -= 1;
            self.generation = self.generation.wrapping_add(1);
            for byte in &mut self.config {
                *byte = byte.wrapping_add(1);
            }
        }
        u64::from_le_bytes(bytes)
    }
}

/// What a device does.
pub(super) trait Model {
    /// There may be something new in a queue.
    fn notified(&mut self, core: &mut Core, queue: u16);
}

/// A device.
pub(super) struct Device {
    pub(super) core: Core,
    pub(super) model: Box<dyn Model>,
}

impl Device {
    pub(super) fn new(
        memory: &Memory,
        (kind, offered): (u32, u64),
        config: &[u8],
        limits: &[u16],
        model: Box<dyn Model>,
    ) -> Self {
        let queues = limits
            .iter()
            .map(|limit| Queue {
                limit: *limit,
                ..Queue::default()
            })
            .collect();
        let core = Core {
            memory: memory.clone(),
            kind,
            offered: offered | VERSION_1,
            chosen: 0,
            status: 0x40,
            generation: 0,
            config: config.to_vec(),
            queues,
            interrupt: 0,
            interrupts: 0,
            notifications: 0,
            refuses: false,
            stuck: false,
            restless: 0,
        };
        Self { core, model }
    }

    pub(super) fn notify(&mut self, queue: u16) {
        self.core.notifications += 1;
        assert!(
            self.core.queues[usize::from(queue)].enabled,
            "no such queue"
        );
        self.model.notified(&mut self.core, queue);
    }
}
