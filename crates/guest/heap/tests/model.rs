//! Random sequences of requests against a model of what must hold.

mod support;

use std::alloc::GlobalAlloc;

use proptest::prelude::*;
use support::{Arena, layout};

#[derive(Clone, Debug)]
enum Step {
    Alloc {
        size: usize,
        align: usize,
        zeroed: bool,
    },
    Free(prop::sample::Index),
    Resize {
        which: prop::sample::Index,
        size: usize,
    },
    Release,
}

/// A live object: all its bytes are `tag`.
struct Live {
    start: *mut u8,
    size: usize,
    align: usize,
    tag: u8,
}

impl Live {
    fn fill(&self) {
        // SAFETY: the object is live and this large.
        unsafe { self.start.write_bytes(self.tag, self.size) };
    }

    fn check(&self, bytes: usize) {
        // SAFETY: the object is live and this large.
        let content = unsafe { std::slice::from_raw_parts(self.start, bytes) };
        assert!(
            content.iter().all(|byte| *byte == self.tag),
            "content of {} bytes",
            self.size
        );
    }
}

fn size() -> impl Strategy<Value = usize> {
    prop_oneof![
        6 => 1..200_usize,
        3 => 1..5000_usize,
        2 => 1..40_000_usize,
        1 => 1..400_000_usize,
    ]
}

fn step() -> impl Strategy<Value = Step> {
    let align = prop_oneof![8 => 0..5_u32, 1 => 5..15_u32].prop_map(|bits| 1 << bits);
    prop_oneof![
        5 => (size(), align, any::<bool>())
            .prop_map(|(size, align, zeroed)| Step::Alloc { size, align, zeroed }),
        4 => any::<prop::sample::Index>().prop_map(Step::Free),
        2 => (any::<prop::sample::Index>(), size())
            .prop_map(|(which, size)| Step::Resize { which, size }),
        1 => Just(Step::Release),
    ]
}

fn no_overlap(live: &[Live], new: &Live) {
    for other in live {
        let apart = other.start.addr() + other.size <= new.start.addr()
            || new.start.addr() + new.size <= other.start.addr();
        assert!(apart, "two live objects overlap");
    }
}

fn run(arena: &Arena, steps: &[Step]) {
    let mut live: Vec<Live> = Vec::new();
    for (number, step) in steps.iter().enumerate() {
        let tag = number as u8 | 1;
        match step {
            Step::Alloc {
                size,
                align,
                zeroed,
            } => {
                let (size, align) = (*size, *align);
                let layout = layout(size, align);
                // SAFETY: the size is not zero.
                let start = unsafe {
                    if *zeroed {
                        arena.heap.alloc_zeroed(layout)
                    } else {
                        arena.heap.alloc(layout)
                    }
                };
                if start.is_null() {
                    continue;
                }
                assert!(start.addr().is_multiple_of(align));
                let new = Live {
                    start,
                    size,
                    align,
                    tag: if *zeroed { 0 } else { tag },
                };
                no_overlap(&live, &new);
                if *zeroed {
                    new.check(size);
                }
                let new = Live { tag, ..new };
                new.fill();
                live.push(new);
            }
            Step::Free(which) if !live.is_empty() => {
                let old = live.swap_remove(which.index(live.len()));
                old.check(old.size);
                arena.free(old.start, old.size, old.align);
            }
            Step::Resize { which, size } if !live.is_empty() => {
                let mut old = live.swap_remove(which.index(live.len()));
                let layout = layout(old.size, old.align);
                // SAFETY: the object is live and has this layout.
                let start = unsafe { arena.heap.realloc(old.start, layout, *size) };
                if !start.is_null() {
                    assert!(start.addr().is_multiple_of(old.align));
                    let kept = old.size.min(*size);
                    old = Live {
                        start,
                        size: *size,
                        ..old
                    };
                    no_overlap(&live, &old);
                    old.check(kept);
                }
                old.fill();
                live.push(old);
            }
            Step::Release => arena.heap.release_free(),
            _ => {}
        }
        let in_use = live.iter().map(|object| object.size).sum::<usize>();
        assert_eq!(arena.heap.statistics().in_use, in_use);
    }
    for object in live {
        object.check(object.size);
        arena.free(object.start, object.size, object.align);
    }
    arena.heap.release_free();
    let figures = arena.heap.statistics();
    assert_eq!(figures.in_use, 0);
    assert_eq!(figures.allocations, figures.frees);
    assert!(figures.peak >= figures.in_use && figures.committed <= figures.capacity);
}

/// The largest object that fits.
fn largest(arena: &Arena) -> usize {
    let (mut fits, mut fails) = (0, arena.heap.statistics().capacity + 1);
    while fails - fits > 1 {
        let middle = usize::midpoint(fits, fails);
        let object = arena.alloc(middle, 1);
        if object.is_null() {
            fails = middle;
        } else {
            arena.free(object, middle, 1);
            fits = middle;
        }
    }
    fits
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(150))]

    #[test]
    fn all_sequences_hold_and_give_everything_back(
        len in prop_oneof![Just(300 << 10), Just(3 << 20), Just(40 << 20)],
        steps in prop::collection::vec(step(), 1..400),
    ) {
        let arena = Arena::new(len);
        let before = largest(&arena);
        run(&arena, &steps);
        // Had a page leaked or a run stayed split, this would be less.
        prop_assert_eq!(largest(&arena), before);
        prop_assert!(before + 8 + 4095 > arena.heap.statistics().capacity);
    }

    #[test]
    fn several_regions_serve_one_heap(steps in prop::collection::vec(step(), 1..300)) {
        let mut arena = Arena::new(64 << 10);
        for len in [100 << 10, 1 << 20, 5 << 20] {
            arena.add(len);
        }
        run(&arena, &steps);
    }
}
