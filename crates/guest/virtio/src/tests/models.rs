//! The devices: link, disk, and the small ones.

use std::boxed::Box;
use std::cell::RefCell;
use std::collections::VecDeque;
use std::rc::Rc;
use std::vec;
use std::vec::Vec;

use kiln_abi::NetHeader;
use kiln_abi::layout::Record;

use super::device::{Chain, Core, Device, Model};
use super::fronts::Shared;
use super::memory::Memory;

/// A model that the test keeps hold of.
impl<T: Model> Model for Rc<RefCell<T>> {
    fn notified(&mut self, core: &mut Core, queue: u16) {
        self.borrow_mut().notified(core, queue);
    }
}

/// Puts a model into a device.
pub(super) fn device<T: Model + 'static>(
    memory: &Memory,
    identity: (u32, u64),
    config: &[u8],
    limits: &[u16],
    model: T,
) -> (Shared, Rc<RefCell<T>>) {
    let model = Rc::new(RefCell::new(model));
    let device = Device::new(memory, identity, config, limits, Box::new(model.clone()));
    (Rc::new(RefCell::new(device)), model)
}

/// A link: what is sent is kept, what is to be received is given when there are buffers.
#[derive(Default)]
pub(super) struct Link {
    pub(super) sent: Vec<(NetHeader, Vec<u8>)>,
    /// Leave what is sent where it is until [`Link::finish`].
    pub(super) holds: bool,
    held: Vec<Chain>,
    pub(super) incoming: VecDeque<(NetHeader, Vec<u8>)>,
    spare: VecDeque<Chain>,
}

const MRG_RXBUF: u64 = 1 << 15;

impl Link {
    /// Gives the buffers back that were held, the last first.
    pub(super) fn finish(&mut self, core: &mut Core, most: usize) {
        for _ in 0..most {
            if let Some(chain) = self.held.pop() {
                core.give(1, chain.head, 0);
            }
        }
    }

    /// Delivers what is to be received as far as there are buffers.
    pub(super) fn deliver(&mut self, core: &mut Core) {
        while let Some((header, frame)) = self.incoming.front() {
            let mut bytes = header.as_bytes().to_vec();
            bytes.extend(frame);
            let mut chains = Vec::new();
            let mut room = 0;
            while room < bytes.len() {
                let Some(chain) = self.spare.pop_front().or_else(|| core.take(0)) else {
                    break;
                };
                assert!(chain.readable.is_empty());
                room += chain.room();
                chains.push(chain);
                if core.chosen & MRG_RXBUF == 0 {
                    break;
                }
            }
            if room < bytes.len() {
                let merging = core.chosen & MRG_RXBUF != 0;
                assert!(
                    merging || chains.is_empty(),
                    "a buffer too small for the MTU"
                );
                for chain in chains.into_iter().rev() {
                    self.spare.push_front(chain);
                }
                core.want(0, true);
                return;
            }
            let count = (chains.len() as u16).to_le_bytes();
            bytes[10..12].copy_from_slice(&count);
            let mut rest = &bytes[..];
            for chain in chains {
                let (part, behind) = rest.split_at(rest.len().min(chain.room()));
                rest = behind;
                let len = chain.fill(&core.memory, part);
                core.give(0, chain.head, len);
            }
            self.incoming.pop_front();
        }
        // As long as there is nothing to deliver, new buffers are of no interest.
        core.want(0, false);
    }
}

impl Model for Link {
    fn notified(&mut self, core: &mut Core, queue: u16) {
        if queue == 0 {
            return self.deliver(core);
        }
        while let Some(chain) = core.take(1) {
            assert!(chain.writable.is_empty());
            let bytes = chain.bytes(&core.memory);
            let header = NetHeader::from_prefix(&bytes).expect("a header");
            assert_eq!(header.num_buffers, 0);
            self.sent.push((header, bytes[12..].to_vec()));
            if self.holds {
                self.held.push(chain);
            } else {
                core.give(1, chain.head, 0);
            }
        }
        core.want(1, true);
    }
}

/// A disk.
pub(super) struct Disk {
    pub(super) content: Vec<u8>,
    pub(super) seg_max: usize,
    pub(super) size_max: u32,
    pub(super) most_discarded: u32,
    /// Kind, first sector, pieces of data, and bytes of each request.
    pub(super) requests: Vec<(u32, u64, usize, usize)>,
    pub(super) indirect: usize,
    /// Outcomes of the next requests, instead of performing them.
    pub(super) outcomes: VecDeque<u8>,
    /// Leave requests until [`Disk::work`].
    pub(super) lazy: bool,
}

impl Disk {
    pub(super) fn new(sectors: usize) -> Self {
        Self {
            content: vec![0; sectors * 512],
            seg_max: 1,
            size_max: u32::MAX,
            most_discarded: 0,
            requests: Vec::new(),
            indirect: 0,
            outcomes: VecDeque::new(),
            lazy: false,
        }
    }

    pub(super) fn work(&mut self, core: &mut Core) {
        while let Some(mut chain) = core.take(0) {
            let request = chain.bytes(&core.memory);
            assert_eq!(chain.readable[0].1, 16, "the header is a piece of its own");
            let word = |at: usize| u32::from_le_bytes(request[at..at + 4].try_into().unwrap());
            let long = |at: usize| u64::from_le_bytes(request[at..at + 8].try_into().unwrap());
            let (kind, sector) = (word(0), long(8));
            let (outcome, len) = chain.writable.pop().expect("the outcome");
            assert_eq!(len, 1, "the outcome is one byte");
            assert_eq!(core.memory.load::<1>(outcome), [0xff]);
            let data: Vec<_> = chain.readable[1..].iter().chain(&chain.writable).collect();
            assert!(data.len() <= self.seg_max, "more pieces than agreed on");
            assert!(data.iter().all(|(_, len)| *len <= self.size_max));
            let bytes = data.iter().map(|(_, len)| *len as usize).sum();
            self.requests.push((kind, sector, data.len(), bytes));
            self.indirect += usize::from(chain.indirect);
            let start = sector as usize * 512;
            let mut written = 1;
            let status = self.outcomes.pop_front().unwrap_or_else(|| {
                match kind {
                    0 => {
                        assert!(bytes.is_multiple_of(512) && chain.readable.len() == 1);
                        written += chain.fill(&core.memory, &self.content[start..start + bytes]);
                    }
                    1 => {
                        assert!(bytes.is_multiple_of(512) && chain.writable.is_empty());
                        self.content[start..start + bytes].copy_from_slice(&request[16..]);
                    }
                    4 => assert_eq!((bytes, sector), (0, 0)),
                    11 => {
                        assert_eq!((bytes, sector), (16, 0));
                        let (start, count) = (long(16) as usize * 512, word(24));
                        assert!(count <= self.most_discarded && word(28) == 0);
                        self.content[start..][..count as usize * 512].fill(0);
                    }
                    _ => return 2,
                }
                0
            });
            core.memory.write(outcome, &[status]);
            core.give(0, chain.head, written);
        }
        core.want(0, true);
    }
}

impl Model for Disk {
    fn notified(&mut self, core: &mut Core, _: u16) {
        if !self.lazy {
            self.work(core);
        }
    }
}

/// A console: text comes out of queue 1, typed bytes go into queue 0.
#[derive(Default)]
pub(super) struct Terminal {
    pub(super) text: Vec<u8>,
    pub(super) typed: VecDeque<u8>,
}

impl Terminal {
    pub(super) fn type_in(&mut self, core: &mut Core) {
        while !self.typed.is_empty()
            && let Some(chain) = core.take(0)
        {
            let count = self.typed.len().min(chain.room());
            let bytes: Vec<u8> = self.typed.drain(..count).collect();
            let len = chain.fill(&core.memory, &bytes);
            core.give(0, chain.head, len);
        }
        core.want(0, true);
    }
}

impl Model for Terminal {
    fn notified(&mut self, core: &mut Core, queue: u16) {
        if queue == 0 {
            return self.type_in(core);
        }
        while let Some(chain) = core.take(1) {
            assert!(chain.writable.is_empty());
            self.text.extend(chain.bytes(&core.memory));
            core.give(1, chain.head, 0);
        }
        core.want(1, true);
    }
}

/// A source of numbers that are not random: it counts. It gives at most `most` bytes at once.
pub(super) struct Counter {
    pub(super) next: u8,
    pub(super) most: usize,
}

impl Model for Counter {
    fn notified(&mut self, core: &mut Core, queue: u16) {
        while let Some(chain) = core.take(queue) {
            assert!(chain.readable.is_empty());
            let mut bytes = vec![0; chain.room().min(self.most)];
            for byte in &mut bytes {
                *byte = self.next;
                self.next = self.next.wrapping_add(1);
            }
            let len = chain.fill(&core.memory, &bytes);
            core.give(queue, chain.head, len);
        }
        core.want(queue, true);
    }
}

/// A balloon: keeps what was reported, and on which queue.
#[derive(Default)]
pub(super) struct Reports {
    pub(super) ranges: Vec<(u16, u64, u32)>,
}

impl Model for Reports {
    fn notified(&mut self, core: &mut Core, queue: u16) {
        while let Some(chain) = core.take(queue) {
            assert!(chain.readable.is_empty());
            for (phys, len) in &chain.writable {
                self.ranges.push((queue, *phys, *len));
            }
            core.give(queue, chain.head, 0);
        }
        core.want(queue, true);
    }
}

/// Does nothing: the test itself is the device.
pub(super) struct Puppet;

impl Model for Puppet {
    fn notified(&mut self, _: &mut Core, _: u16) {}
}
