//! The pager against a model: random maps, protections, moves and accesses, through a processor that remembers pages for as
//! long as nobody makes it forget them.

use std::collections::BTreeMap;
use std::vec;
use std::vec::Vec;

use proptest::prelude::*;

use super::frames::Frames;
use super::mappings::{Kind, Mapping};
use super::*;
use crate::firmware::Region;
use crate::memory::MAX_FREE;

const ROOT: u64 = 0x1000;
/// Memory that `Copy` and `Same` mappings show: a page's every word is its address.
const SHOWN: u64 = 0x100_0000;
const POOL: Region = Region {
    start: 0x10_0000,
    end: 0x10_0000 + 96 * PAGE,
};
const MAPPINGS: usize = 24;

/// Pages that are tried: around the end of a table of each level, and close together.
const PLACES: [u64; 4] = [0x40_0000 - 4 * PAGE, 1 << 30, 1 << 39, 0x2000_0000_0000];
const EACH: u64 = 8;

fn page(number: u64) -> u64 {
    PLACES[(number / EACH) as usize % 4] - 4 * PAGE + number % EACH * PAGE
}

/// Physical memory with a processor that has a cache of translations.
#[derive(Default)]
struct Machine {
    memory: BTreeMap<u64, Vec<u64>>,
    known: BTreeMap<u64, u64>,
}

impl Machine {
    fn frame(&self, at: u64) -> Vec<u64> {
        let frame = at & !(PAGE - 1);
        let content = || match frame {
            SHOWN.. => vec![frame; 512],
            // The upper half of the pool is dirty.
            _ if frame >= POOL.start + 48 * PAGE => vec![0xdead; 512],
            _ => vec![0; 512],
        };
        self.memory.get(&frame).cloned().unwrap_or_else(content)
    }
}

impl Ground for Machine {
    fn load(&self, at: u64) -> u64 {
        self.frame(at)[(at % PAGE / 8) as usize]
    }

    fn store(&mut self, at: u64, word: u64) {
        let mut frame = self.frame(at);
        frame[(at % PAGE / 8) as usize] = word;
        self.memory.insert(at & !(PAGE - 1), frame);
    }

    fn clear(&mut self, frame: u64) {
        self.memory.insert(frame, vec![0; 512]);
    }

    fn copy(&mut self, frame: u64, from: u64) {
        let content = self.frame(from);
        self.memory.insert(frame, content);
    }

    fn flush_page(&mut self, address: u64) {
        self.known.remove(&address);
    }

    fn flush_all(&mut self) {
        self.known.clear();
    }
}

#[derive(Clone, Copy, Debug)]
enum Step {
    Map {
        first: u64,
        count: u64,
        access: u64,
        kind: u64,
        place: u64,
    },
    Unmap(u64, u64),
    Protect(u64, u64, u64),
    Discard(u64, u64),
    Move(u64, u64, u64),
    Advise(u64, u64, bool),
    Write(u64, u64),
    Read(u64),
    Execute(u64),
}

fn step() -> impl Strategy<Value = Step> {
    let first = 0..4 * EACH;
    let count = 1..5u64;
    prop_oneof![
        4 => (first.clone(), count.clone(), 0..8u64, 0..3u64, 0..64u64).prop_map(
            |(first, count, access, kind, place)| Step::Map { first, count, access, kind, place }
        ),
        1 => (first.clone(), count.clone()).prop_map(|(a, n)| Step::Unmap(a, n)),
        2 => (first.clone(), count.clone(), 0..8u64).prop_map(|(a, n, p)| Step::Protect(a, n, p)),
        1 => (first.clone(), count.clone()).prop_map(|(a, n)| Step::Discard(a, n)),
        2 => (first.clone(), count.clone(), first.clone()).prop_map(|(a, n, b)| Step::Move(a, n, b)),
        1 => (first.clone(), count, any::<bool>()).prop_map(|(a, n, w)| Step::Advise(a, n, w)),
        8 => (first.clone(), 1..1000u64).prop_map(|(a, v)| Step::Write(a, v)),
        4 => first.clone().prop_map(Step::Read),
        2 => first.prop_map(Step::Execute),
    ]
}

/// What the program is to see of a page.
#[derive(Clone, Copy, Debug)]
struct Page {
    access: u64,
    kind: Kind,
    place: u64,
    own: Option<u64>,
}

/// What the program sees, page by page.
#[derive(Default)]
struct Model {
    pages: BTreeMap<u64, Page>,
    shown: BTreeMap<u64, u64>,
}

impl Model {
    fn value(&self, at: u64) -> u64 {
        let page = self.pages[&at];
        let shown = || self.shown.get(&page.place).copied().unwrap_or(page.place);
        match page.kind {
            Kind::Zero => page.own.unwrap_or(0),
            Kind::Copy => page.own.unwrap_or_else(shown),
            Kind::Same => shown(),
        }
    }

    fn write(&mut self, at: u64, value: u64) {
        let page = self.pages.get_mut(&at).unwrap();
        if page.kind == Kind::Same {
            self.shown.insert(page.place, value);
        } else {
            page.own = Some(value);
        }
    }

    fn allows(&self, at: u64, want: Want) -> bool {
        let page = self.pages.get(&at);
        page.is_some_and(|page| want.is_allowed(page.access as u32))
    }
}

struct Program {
    machine: Machine,
    pager: Pager<'static>,
    model: Model,
}

impl Program {
    fn new() -> Self {
        let mut regions = [Region::default(); MAX_FREE];
        regions[0] = POOL;
        let dirty = Region {
            start: POOL.start + 48 * PAGE,
            end: u64::MAX,
        };
        let list = vec![Mapping::default(); MAPPINGS].leak();
        Self {
            machine: Machine::default(),
            pager: Pager::new(ROOT, list, Frames::new(regions, dirty)),
            model: Model::default(),
        }
    }

    /// An access as a processor does it; the physical address, or why not.
    fn access(&mut self, address: u64, want: Want) -> Result<u64, Outcome> {
        let (write, execute) = (want == Want::Write, want == Want::Execute);
        for _ in 0..3 {
            let walked = self.pager.tables.slot(&self.machine, address);
            let entry = self.machine.known.get(&address).copied();
            let fresh = walked.map_or(0, |at| self.machine.load(at));
            for entry in entry.into_iter().chain([fresh]) {
                if tables::lets(entry, write, execute) {
                    self.machine.known.insert(address, entry);
                    return Ok(entry & ADDRESS);
                }
            }
            match self.pager.fault(&mut self.machine, address, want) {
                Outcome::Resolved => {}
                outcome => return Err(outcome),
            }
        }
        panic!("{address:#x} faults again and again");
    }

    fn check(&mut self, at: u64, want: Want) {
        match self.access(at, want) {
            Ok(place) => {
                assert!(self.model.allows(at, want), "{at:#x} {want:?}");
                assert_eq!(self.machine.load(place), self.model.value(at), "{at:#x}");
                // Nothing of whoever had the frame before.
                assert_eq!(self.machine.load(place + 8), self.second(at), "{at:#x}");
            }
            Err(Outcome::NoMemory) => {}
            Err(_) => assert!(!self.model.allows(at, want), "{at:#x} {want:?}"),
        }
    }

    /// What the second word of a page is: nobody writes to it.
    fn second(&self, at: u64) -> u64 {
        let page = self.model.pages[&at];
        match page.kind {
            Kind::Zero => 0,
            Kind::Copy | Kind::Same => page.place,
        }
    }

    #[allow(clippy::too_many_lines, reason = "one arm for each kind of step")]
    fn perform(&mut self, step: Step) {
        let range = |first: u64, count: u64| {
            // Not over the end of a group: the others are far away.
            let count = count.min(EACH - first % EACH);
            Segment {
                addr: page(first),
                len: count * PAGE,
            }
        };
        let each = |range: Segment| (range.addr..range.addr + range.len).step_by(PAGE as usize);
        let access = |bits| UserAccess::from_bits(bits).unwrap();
        let (machine, pager, model) = (&mut self.machine, &mut self.pager, &mut self.model);
        match step {
            Step::Map {
                first,
                count,
                access: bits,
                kind,
                place,
            } => {
                let range = range(first, count);
                let kind = [Kind::Zero, Kind::Copy, Kind::Same][kind as usize];
                let place = if kind == Kind::Zero {
                    0
                } else {
                    SHOWN + place * PAGE
                };
                if pager
                    .map(machine, range, access(bits), (kind, place))
                    .is_err()
                {
                    return;
                }
                for (number, at) in each(range).enumerate() {
                    let place = match kind {
                        Kind::Zero => 0,
                        _ => place + number as u64 * PAGE,
                    };
                    let new = Page {
                        access: bits,
                        kind,
                        place,
                        own: None,
                    };
                    model.pages.insert(at, new);
                }
            }
            Step::Unmap(first, count) => {
                let range = range(first, count);
                if pager.unmap(machine, range).is_ok() {
                    for at in each(range) {
                        model.pages.remove(&at);
                    }
                }
            }
            Step::Protect(first, count, bits) => {
                let range = range(first, count);
                let all = each(range).all(|at| model.pages.contains_key(&at));
                let full = pager.mappings.all().len() + 2 > MAPPINGS;
                let done = pager.protect(machine, range, access(bits));
                assert_eq!(done.is_ok(), all && !full);
                for at in each(range).filter(|_| !full) {
                    model.pages.entry(at).and_modify(|page| page.access = bits);
                }
            }
            Step::Discard(first, count) => {
                let range = range(first, count);
                let all = each(range).all(|at| model.pages.contains_key(&at));
                assert_eq!(pager.discard(machine, range).is_ok(), all);
                for at in each(range) {
                    model.pages.entry(at).and_modify(|page| page.own = None);
                }
            }
            Step::Move(first, count, to) => {
                let count = count.min(EACH - to % EACH);
                let (range, to) = (range(first, count), page(to));
                if range.addr.abs_diff(to) < range.len {
                    return;
                }
                let all = each(range).all(|at| model.pages.contains_key(&at));
                match pager.relocate(machine, range, to) {
                    Ok(()) => assert!(all),
                    Err(OpError::BadAddress) => assert!(!all),
                    Err(_) => {
                        // Nothing has moved, but what was at the target may be gone.
                        for at in each(Segment { addr: to, ..range }) {
                            if pager.mappings.find(at).is_none() {
                                model.pages.remove(&at);
                            }
                        }
                    }
                }
                for at in each(range).filter(|_| all) {
                    if pager.mappings.find(range.addr).is_none() {
                        let moved = model.pages.remove(&at).unwrap();
                        model.pages.insert(to + (at - range.addr), moved);
                    }
                }
            }
            Step::Advise(first, count, write) => {
                let (advice, want) = if write {
                    (UserAdvice::PopulateWrite, Want::Write)
                } else {
                    (UserAdvice::PopulateRead, Want::Read)
                };
                let range = range(first, count);
                let done = pager.advise(machine, range, advice);
                let all = each(range).all(|at| model.allows(at, want));
                assert!(done.is_err() || all);
                for at in each(range).filter(|_| done.is_ok()) {
                    let slot = pager.tables.slot(machine, at).unwrap();
                    assert!(tables::lets(machine.load(slot), write, false));
                }
            }
            Step::Write(number, value) => {
                let at = page(number);
                if let Ok(place) = self.access(at, Want::Write) {
                    assert!(self.model.allows(at, Want::Write), "{at:#x}");
                    self.machine.store(place, value);
                    self.model.write(at, value);
                } else {
                    self.check(at, Want::Write);
                }
            }
            Step::Read(number) => self.check(page(number), Want::Read),
            Step::Execute(number) => self.check(page(number), Want::Execute),
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]
    #[test]
    fn the_program_sees_what_it_mapped(steps in prop::collection::vec(step(), 1..120)) {
        let mut program = Program::new();
        for step in steps {
            program.perform(step);
        }
        for number in 0..4 * EACH {
            program.check(page(number), Want::Read);
        }
        // Neighbours that are alike are one.
        for pair in program.pager.mappings.all().windows(2) {
            assert!(pair[0].end <= pair[1].start && pair[0].start < pair[0].end);
        }
        let all = Segment { addr: 0, len: kiln_abi::user::USER_END };
        program.pager.unmap(&mut program.machine, all).unwrap();
        prop_assert_eq!(program.pager.frames_left(), 96);
        prop_assert!(program.machine.known.is_empty(), "forgotten");
    }
}

#[test]
fn neighbours_that_are_alike_are_one_mapping() {
    let mut program = Program::new();
    let read_write = UserAccess::from_bits(3).unwrap();
    for number in [0u64, 2, 1] {
        let range = Segment {
            addr: 0x40_0000 + number * PAGE,
            len: PAGE,
        };
        let place = (Kind::Copy, SHOWN + number * PAGE);
        let Program { machine, pager, .. } = &mut program;
        pager.map(machine, range, read_write, place).unwrap();
    }
    assert_eq!(program.pager.mappings.all().len(), 1);
    assert_eq!(program.pager.mappings.all()[0].place, SHOWN);
}

#[test]
fn what_is_the_machine_parts_is_nobody_elses() {
    let mut program = Program::new();
    let Program { machine, pager, .. } = &mut program;
    let low = Segment {
        addr: 0x1f_f000,
        len: 2 * PAGE,
    };
    let read = UserAccess::from_bits(1).unwrap();
    let refused = pager.map(machine, low, read, (Kind::Zero, 0));
    assert_eq!(refused, Err(OpError::NoSpace));
    let behind = Segment {
        addr: 0x20_0000,
        len: PAGE,
    };
    assert!(pager.map(machine, behind, read, (Kind::Zero, 0)).is_ok());
    // Taking away everything leaves entries alone that others have put there.
    let slot = pager
        .tables
        .make_slot(machine, &mut pager.frames, 0x1f_f000)
        .unwrap();
    machine.store(slot, 0x1f_f000 | 5);
    let all = Segment {
        addr: 0x1_0000,
        len: 0x3f_0000,
    };
    pager.unmap(machine, all).unwrap();
    assert_eq!(machine.load(slot), 0x1f_f000 | 5);
    assert_eq!(
        pager.fault(machine, 0x20_0000, Want::Read),
        Outcome::Refused
    );
}

#[test]
fn without_frames_a_fault_says_so_and_reading_files_goes_on() {
    let mut program = Program::new();
    let all = UserAccess::from_bits(3).unwrap();
    let Program { machine, pager, .. } = &mut program;
    let big = Segment {
        addr: 1 << 30,
        len: 128 * PAGE,
    };
    pager.map(machine, big, all, (Kind::Zero, 0)).unwrap();
    let mut got = 0;
    while pager.fault(machine, big.addr + got * PAGE, Want::Write) == Outcome::Resolved {
        got += 1;
    }
    assert_eq!(got, 96 - 3, "three are tables");
    assert_eq!(
        pager.fault(machine, big.addr + got * PAGE, Want::Write),
        Outcome::NoMemory
    );
    let file = Segment {
        addr: big.addr + 128 * PAGE,
        len: PAGE,
    };
    pager.map(machine, file, all, (Kind::Copy, SHOWN)).unwrap();
    assert_eq!(
        pager.fault(machine, file.addr, Want::Read),
        Outcome::Resolved
    );
    assert_eq!(
        pager.fault(machine, file.addr, Want::Write),
        Outcome::NoMemory
    );
    let populated = pager.advise(machine, big, UserAdvice::PopulateWrite);
    assert_eq!(populated, Err(OpError::NoSpace));
}
