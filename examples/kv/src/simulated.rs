//! A disk that can fail in every way a real one may, for the tests.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::future::Future;
use std::pin::pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};
use std::vec;
use std::vec::Vec;

use crate::storage::{Fault, Storage};

pub const SECTOR: usize = 512;

/// Copies of the handle are the same disk.
#[derive(Clone, Debug)]
pub struct Disk(Rc<RefCell<State>>);

#[derive(Debug)]
struct State {
    /// What is on stable storage.
    durable: Vec<u8>,
    /// What reading gives.
    current: Vec<u8>,
    /// Versions of sectors that were written since the last flush.
    unflushed: BTreeMap<usize, Vec<Vec<u8>>>,
    events: u64,
    crash_at: u64,
    /// Events from here on fail, until further notice.
    fails: Option<Fault>,
    /// Sectors still to be written before that.
    fails_after: u64,
}

impl Disk {
    pub fn new(content: Vec<u8>) -> Self {
        Self(Rc::new(RefCell::new(State {
            durable: content.clone(),
            current: content,
            unflushed: BTreeMap::new(),
            events: 0,
            crash_at: u64::MAX,
            fails: None,
            fails_after: 0,
        })))
    }

    /// Power fails at the event with this number: writing a sector, or flushing.
    pub fn crash_at(&self, event: u64) {
        self.0.borrow_mut().crash_at = event;
    }

    pub fn events(&self) -> u64 {
        self.0.borrow().events
    }

    pub fn crashed(&self) -> bool {
        let state = self.0.borrow();
        state.events >= state.crash_at
    }

    /// After so many more sectors everything fails, until this is called with `None`.
    pub fn fail(&self, fault: Option<Fault>, after: u64) {
        let mut state = self.0.borrow_mut();
        (state.fails, state.fails_after) = (fault, after);
    }

    /// The disk after power came back: of each sector that was not flushed, `choose` takes one of so many versions, the
    /// last being the newest.
    pub fn survivor(&self, mut choose: impl FnMut(usize) -> usize) -> Self {
        self.survivor_by_sector(|_, versions| choose(versions))
    }

    /// The same by a choice that knows the sector's number.
    pub fn survivor_by_sector(&self, mut choose: impl FnMut(usize, usize) -> usize) -> Self {
        let state = self.0.borrow();
        let mut content = state.durable.clone();
        for (&sector, versions) in &state.unflushed {
            let choice = choose(sector, versions.len() + 1);
            if let Some(version) = choice.checked_sub(1).map(|at| &versions[at]) {
                content[sector * SECTOR..][..SECTOR].copy_from_slice(version);
            }
        }
        Self::new(content)
    }

    /// The disk after the guest died and the host did not: nothing is lost, nothing more is on stable storage.
    pub fn reattached(&self) -> Self {
        let state = self.0.borrow();
        Self(Rc::new(RefCell::new(State {
            durable: state.durable.clone(),
            current: state.current.clone(),
            unflushed: state.unflushed.clone(),
            events: 0,
            crash_at: u64::MAX,
            fails: None,
            fails_after: 0,
        })))
    }

    pub fn content(&self) -> Vec<u8> {
        self.0.borrow().current.clone()
    }
}

impl State {
    fn event(&mut self) -> Result<(), Fault> {
        if self.events >= self.crash_at {
            return Err(Fault::Io);
        }
        self.events += 1;
        if self.events == self.crash_at {
            return Err(Fault::Io);
        }
        match self.fails {
            Some(fault) if self.fails_after == 0 => Err(fault),
            _ => {
                self.fails_after = self.fails_after.saturating_sub(1);
                Ok(())
            }
        }
    }
}

impl Storage for Disk {
    fn sector_size(&self) -> usize {
        SECTOR
    }

    fn capacity(&self) -> u64 {
        self.0.borrow().durable.len() as u64
    }

    async fn read(&self, offset: u64, buffer: &mut [u8]) -> Result<(), Fault> {
        assert!((offset as usize).is_multiple_of(SECTOR) && buffer.len().is_multiple_of(SECTOR));
        let state = self.0.borrow();
        buffer.copy_from_slice(&state.current[offset as usize..][..buffer.len()]);
        Ok(())
    }

    async fn write(&self, offset: u64, data: &[u8]) -> Result<(), Fault> {
        assert!((offset as usize).is_multiple_of(SECTOR) && data.len().is_multiple_of(SECTOR));
        let mut state = self.0.borrow_mut();
        for (index, sector) in data.chunks(SECTOR).enumerate() {
            state.event()?;
            let at = offset as usize / SECTOR + index;
            state.current[at * SECTOR..][..SECTOR].copy_from_slice(sector);
            state.unflushed.entry(at).or_default().push(sector.to_vec());
        }
        Ok(())
    }

    async fn flush(&self) -> Result<(), Fault> {
        let mut state = self.0.borrow_mut();
        state.event()?;
        state.durable = state.current.clone();
        state.unflushed.clear();
        Ok(())
    }
}

/// A new disk full of zeros.
pub fn empty(len: usize) -> Disk {
    Disk::new(vec![0; len])
}

/// Runs a future that never has to wait.
pub fn now<F: Future>(future: F) -> F::Output {
    match pin!(future).poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(output) => output,
        Poll::Pending => panic!("a simulated disk answers at once"),
    }
}
