//! Size classes, and where a request of a given size and alignment is placed.
//!
//! Sixteen bytes apart up to 128, then four classes per doubling up to 16 KiB; beyond that whole
//! pages. A slab of a class is the smallest number of pages that wastes at most an eighth.

use crate::page::PAGE;

/// Bytes of the guard word behind each object.
pub const GUARD: usize = size_of::<u64>();
/// How many classes there are.
pub const CLASSES: usize = 36;
/// The largest slot in bytes.
const MAX_SLOT: usize = 16 << 10;
/// What every slot is aligned to.
const SLOT_ALIGN: usize = 16;
/// Larger requests are refused; keeps page counts far from the limits of their type.
const MAX_RUN_PAGES: usize = 1 << 27;

/// An index into the table of classes, always below [`CLASSES`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Class(u8);

/// The shape of a slab.
#[derive(Clone, Copy)]
pub struct Shape {
    /// Bytes per slot.
    pub size: u32,
    /// Pages per slab.
    pub pages: u32,
    /// Slots per slab.
    pub slots: u32,
    /// `ceil(2^32 / size)`: turns the division by `size` into a multiplication.
    reciprocal: u32,
}

/// Where a request goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Placement {
    /// One slot of a slab.
    Slot(Class),
    /// A run of pages that starts at a multiple of `align` pages.
    Run {
        /// Pages that hold the object and its guard word.
        pages: u32,
        /// Alignment in pages, a power of two.
        align: u32,
    },
    /// No heap could hold it.
    Impossible,
}

const SHAPES: [Shape; CLASSES] = shapes();

impl Class {
    /// The smallest class whose slots hold `bytes`, which are between 1 and [`MAX_SLOT`].
    #[inline]
    fn holding(bytes: usize) -> Self {
        let last = bytes - 1;
        Self(if last < 128 {
            (last / 16) as u8
        } else {
            let log2 = last.ilog2();
            (8 + (log2 - 7) * 4) as u8 + (last >> (log2 - 2) & 3) as u8
        })
    }

    /// The position in tables with one entry per class.
    #[inline]
    pub fn index(self) -> usize {
        usize::from(self.0)
    }

    /// The shape of this class's slabs.
    #[inline]
    pub fn shape(self) -> &'static Shape {
        &SHAPES[self.index()]
    }

    /// The class as it is kept in a page descriptor.
    #[inline]
    pub fn to_byte(self) -> u8 {
        self.0
    }

    /// The class kept in a page descriptor by [`to_byte`](Self::to_byte).
    #[inline]
    pub fn from_byte(byte: u8) -> Self {
        Self(byte)
    }
}

impl Shape {
    /// The slot that holds the byte at `offset` of the slab, and the offset inside it.
    #[inline]
    pub fn slot_at(&self, offset: usize) -> (u32, usize) {
        // Exact because slabs are shorter than 2^16 bytes.
        let slot = (offset as u64 * u64::from(self.reciprocal)) >> 32;
        (slot as u32, offset - slot as usize * self.size as usize)
    }
}

impl Placement {
    /// Places `size` bytes with the given alignment, a power of two.
    #[inline]
    pub fn of(size: usize, align: usize) -> Self {
        let need = size.max(1).saturating_add(GUARD);
        if need <= MAX_SLOT && align <= SLOT_ALIGN {
            return Self::Slot(Class::holding(need));
        }
        Self::of_unusual(need, align)
    }

    #[inline(never)]
    fn of_unusual(need: usize, align: usize) -> Self {
        if align <= PAGE && need.max(align) <= MAX_SLOT {
            // The powers of two among the classes end the search.
            let mut class = Class::holding(need.max(align));
            while !(class.shape().size as usize).is_multiple_of(align) {
                class.0 += 1;
            }
            return Self::Slot(class);
        }
        let (pages, align) = (need.div_ceil(PAGE), align.div_ceil(PAGE));
        if pages > MAX_RUN_PAGES || align > MAX_RUN_PAGES {
            return Self::Impossible;
        }
        Self::Run {
            pages: pages as u32,
            align: align as u32,
        }
    }
}

const fn shapes() -> [Shape; CLASSES] {
    let mut table = [Shape {
        size: 0,
        pages: 0,
        slots: 0,
        reciprocal: 0,
    }; CLASSES];
    let mut class = 0;
    while class < CLASSES {
        let size = if class < 8 {
            16 * (class + 1)
        } else {
            (5 + class % 4) << (5 + (class - 8) / 4)
        };
        let fewest = if size <= 2048 { 4 } else { 2 };
        let mut pages = 1;
        while pages * PAGE / size < fewest || pages * PAGE % size * 8 > pages * PAGE {
            pages += 1;
        }
        table[class] = Shape {
            size: size as u32,
            pages: pages as u32,
            slots: (pages * PAGE / size) as u32,
            reciprocal: (1_u64 << 32).div_ceil(size as u64) as u32,
        };
        class += 1;
    }
    table
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_size_gets_the_smallest_class() {
        for bytes in 1..=MAX_SLOT {
            let class = Class::holding(bytes);
            assert!(class.shape().size as usize >= bytes);
            assert!(class.index() == 0 || (SHAPES[class.index() - 1].size as usize) < bytes);
        }
    }

    #[test]
    fn shapes_fit_their_descriptors() {
        for shape in &SHAPES {
            assert!(
                shape.slots <= 256 && shape.pages <= 8,
                "{} bytes",
                shape.size
            );
            for offset in 0..shape.pages as usize * PAGE {
                let (slot, inside) = shape.slot_at(offset);
                assert_eq!(slot as usize, offset / shape.size as usize);
                assert_eq!(inside, offset % shape.size as usize);
            }
        }
    }

    #[test]
    fn slots_honour_alignment() {
        for align in (0..=12).map(|bits| 1 << bits) {
            for size in (1..20_000).step_by(37) {
                if let Placement::Slot(class) = Placement::of(size, align) {
                    let slot = class.shape().size as usize;
                    assert!(slot >= size + GUARD);
                    assert!(slot.is_multiple_of(align.min(slot)) && slot >= align);
                }
            }
        }
    }

    #[test]
    fn absurd_requests_are_refused() {
        assert_eq!(Placement::of(isize::MAX as usize, 1), Placement::Impossible);
        assert_eq!(Placement::of(1, 1 << 62), Placement::Impossible);
    }
}
