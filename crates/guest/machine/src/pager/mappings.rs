//! What is mapped where: intervals in ascending order of addresses, in a slice that does not grow.

/// What lies behind a mapping. Physical addresses are whole pages.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(u32)]
pub enum Kind {
    /// Zeroes.
    #[default]
    Zero = 0,
    /// Memory at a physical address, which is only read: a page that is written to becomes the program's own.
    Copy = 1,
    /// Memory at a physical address itself.
    Same = 2,
}

/// One mapping: whole pages.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Mapping {
    /// First address.
    pub start: u64,
    /// Address behind the last byte.
    pub end: u64,
    /// Physical address of what lies behind the first byte; 0 for [`Kind::Zero`].
    pub place: u64,
    /// What lies behind.
    pub kind: Kind,
    /// The bits of a [`UserAccess`](kiln_abi::user::UserAccess).
    pub access: u32,
}

impl Mapping {
    /// The part from `at` on, which lies inside.
    fn from(self, at: u64) -> Self {
        let place = match self.kind {
            Kind::Zero => 0,
            Kind::Copy | Kind::Same => self.place + (at - self.start),
        };
        Self {
            start: at,
            place,
            ..self
        }
    }

    /// The same at other addresses.
    fn moved(self, start: u64) -> Self {
        Self {
            start,
            end: start + (self.end - self.start),
            ..self
        }
    }

    /// Whether `next` goes on where this one ends, in every respect.
    fn continues(&self, next: &Self) -> bool {
        self.end == next.start
            && (self.kind, self.access) == (next.kind, next.access)
            && self.place_behind() == next.place
    }

    /// What would lie behind the byte at the end.
    fn place_behind(&self) -> u64 {
        match self.kind {
            Kind::Zero => 0,
            Kind::Copy | Kind::Same => self.place + (self.end - self.start),
        }
    }

    /// The physical address behind an address inside.
    pub fn place_of(&self, address: u64) -> u64 {
        self.place + (address - self.start)
    }
}

/// There is no room for more mappings.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Full;

/// The mappings.
#[derive(Debug)]
pub struct Mappings<'a> {
    list: &'a mut [Mapping],
    len: usize,
}

impl<'a> Mappings<'a> {
    /// None, with room for as many as `list` has.
    pub fn new(list: &'a mut [Mapping]) -> Self {
        Self { list, len: 0 }
    }

    /// All of them.
    pub fn all(&self) -> &[Mapping] {
        self.list.get(..self.len).unwrap_or_default()
    }

    /// The index of the first that ends behind an address.
    fn at(&self, address: u64) -> usize {
        self.all().partition_point(|m| m.end <= address)
    }

    /// The one that an address lies in.
    pub fn find(&self, address: u64) -> Option<Mapping> {
        let found = self.all().get(self.at(address)).copied();
        found.filter(|m| m.start <= address)
    }

    /// Whether all of a range is mapped.
    pub fn covers(&self, start: u64, end: u64) -> bool {
        let mut next = start;
        for mapping in self.all().get(self.at(start)..).unwrap_or_default() {
            if mapping.start > next || next >= end {
                break;
            }
            next = mapping.end;
        }
        next >= end
    }

    /// Room for `more` than there are.
    fn room(&self, more: usize) -> Result<(), Full> {
        if self.len + more <= self.list.len() {
            Ok(())
        } else {
            Err(Full)
        }
    }

    fn set(&mut self, index: usize, mapping: Mapping) {
        if let Some(to) = self.list.get_mut(index) {
            *to = mapping;
        }
    }

    /// Makes place at an index for one. There is room.
    fn put(&mut self, index: usize, mapping: Mapping) {
        for at in (index..self.len).rev() {
            if let Some(one) = self.list.get(at).copied() {
                self.set(at + 1, one);
            }
        }
        self.set(index, mapping);
        self.len += 1;
    }

    fn take_out(&mut self, from: usize, to: usize) {
        if from >= to {
            return;
        }
        for at in to..self.len {
            if let Some(one) = self.list.get(at).copied() {
                self.set(at - to + from, one);
            }
        }
        self.len -= to - from;
    }

    /// Lets a mapping begin at an address that lies in the middle of one. There is room.
    fn cut(&mut self, address: u64) -> usize {
        let index = self.at(address);
        let Some(mapping) = self.list.get_mut(index).filter(|_| index < self.len) else {
            return index;
        };
        if mapping.start >= address {
            return index;
        }
        let rest = mapping.from(address);
        mapping.end = address;
        self.put(index + 1, rest);
        index + 1
    }

    /// Joins neighbours that are alike, of those whose indices lie around `from..to`.
    fn join(&mut self, from: usize, to: usize) {
        let mut index = from.saturating_sub(1);
        let mut last = to;
        while index < last {
            let both = (self.all().get(index), self.all().get(index + 1));
            let (Some(one), Some(next)) = both else { break };
            if !one.continues(next) {
                index += 1;
                continue;
            }
            let end = next.end;
            if let Some(one) = self.list.get_mut(index) {
                one.end = end;
            }
            self.take_out(index + 1, index + 2);
            last = last.saturating_sub(1);
        }
    }

    /// Forgets what is mapped in a range.
    ///
    /// # Errors
    /// [`Full`]; nothing has changed then.
    pub fn remove(&mut self, start: u64, end: u64) -> Result<(), Full> {
        self.room(1)?;
        let from = self.cut(start);
        let to = self.cut(end);
        self.take_out(from, to);
        Ok(())
    }

    /// Adds a mapping, in place of what was there.
    ///
    /// # Errors
    /// [`Full`]; nothing has changed then.
    pub fn insert(&mut self, mapping: Mapping) -> Result<(), Full> {
        self.room(2)?;
        self.remove(mapping.start, mapping.end)?;
        let index = self.at(mapping.start);
        self.put(index, mapping);
        self.join(index, index + 1);
        Ok(())
    }

    /// Changes what is allowed in the mapped parts of a range.
    ///
    /// # Errors
    /// [`Full`]; nothing has changed then.
    pub fn protect(&mut self, start: u64, end: u64, access: u32) -> Result<(), Full> {
        self.room(2)?;
        let from = self.cut(start);
        let to = self.cut(end);
        for mapping in self.list.get_mut(from..to).unwrap_or_default() {
            mapping.access = access;
        }
        self.join(from, to);
        Ok(())
    }

    /// Moves what is mapped in a range to `target`, in place of what was there. The two do not overlap.
    ///
    /// # Errors
    /// [`Full`]; nothing has changed then.
    pub fn relocate(&mut self, start: u64, end: u64, target: u64) -> Result<(), Full> {
        self.room(4)?;
        self.remove(target, target + (end - start))?;
        self.cut(start);
        self.cut(end);
        while let Some(mapping) = self.all().get(self.at(start)).copied()
            && mapping.start < end
        {
            let index = self.at(mapping.start);
            self.take_out(index, index + 1);
            let mapping = mapping.moved(target + (mapping.start - start));
            let index = self.at(mapping.start);
            self.put(index, mapping);
        }
        // Not before all have moved: what comes to lie behind the range must not become one with what is still in it.
        let (from, to) = (self.at(target), self.at(target + (end - start)));
        self.join(from, to);
        Ok(())
    }
}
