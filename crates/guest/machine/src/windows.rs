//! Windows of device registers, which the guest's page tables map too.

use crate::paging::PAGE;

/// The most windows.
const MAX_WINDOWS: usize = 128;

/// Windows of device registers, on whole pages, mapped where they are.
#[derive(Debug)]
pub struct Windows {
    pages: [(u64, u64); MAX_WINDOWS],
    count: usize,
}

impl Windows {
    /// None.
    pub const EMPTY: Self = Self {
        pages: [(0, 0); MAX_WINDOWS],
        count: 0,
    };

    /// Start and end of each, in ascending order and apart from each other.
    pub fn pages(&self) -> &[(u64, u64)] {
        self.pages.get(..self.count).unwrap_or_default()
    }

    /// Adds the pages of `len` bytes at `start`. `None` if there are too many.
    pub fn add(&mut self, start: u64, len: u64) -> Option<()> {
        let mut new = (
            start & !(PAGE - 1),
            start.checked_add(len)?.checked_next_multiple_of(PAGE)?,
        );
        // Those that touch it become part of it.
        let mut kept = 0;
        for index in 0..self.count {
            let old = *self.pages.get(index)?;
            if old.0 <= new.1 && new.0 <= old.1 {
                new = (old.0.min(new.0), old.1.max(new.1));
            } else {
                *self.pages.get_mut(kept)? = old;
                kept += 1;
            }
        }
        self.count = kept;
        for old in self.pages.iter_mut().take(kept) {
            if old.0 > new.0 {
                core::mem::swap(old, &mut new);
            }
        }
        *self.pages.get_mut(kept)? = new;
        self.count += 1;
        Some(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn windows_that_touch_become_one() {
        let mut windows = Windows::EMPTY;
        for (start, len) in [
            (0x9000, 0x10),
            (0x3200, 0x200),
            (0x3000, 8),
            (0x5ff8, 8),
            (0x4000, 0x1000),
        ] {
            windows.add(start, len).unwrap();
        }
        assert_eq!(windows.pages(), [(0x3000, 0x6000), (0x9000, 0xa000)]);
        windows.add(0x2000, 0x9000).unwrap();
        assert_eq!(windows.pages(), [(0x2000, 0xb000)]);
        assert_eq!(windows.add(u64::MAX, 2), None);
        assert_eq!(
            (1..200u64)
                .filter(|n| windows.add(n * 0x10_0000, 1).is_some())
                .count(),
            MAX_WINDOWS - 1
        );
    }
}
