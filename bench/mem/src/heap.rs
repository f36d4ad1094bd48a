//! The heap beside the C library's `malloc`.
//!
//! *Pairs* allocate and free at once. *Churn* keeps a thousand objects of mixed sizes alive and
//! replaces a random one each time. *Growth* resizes one object upward, as a vector does.

use std::alloc::{GlobalAlloc, Layout, System};
use std::hint::black_box;

use kiln_heap::{Heap, Hooks};

use crate::timing::{duel, head, row};

const ARENA: usize = 256 << 20;
const SIZES: [usize; 12] = [
    8,
    16,
    24,
    56,
    100,
    200,
    500,
    1000,
    4000,
    16_000,
    65_536,
    1 << 20,
];

static HEAP: Heap = Heap::new();

pub fn run() {
    let arena = Layout::from_size_align(ARENA, 4096).expect("valid");
    // SAFETY: the memory is zeroed and never freed.
    unsafe {
        let start = System.alloc_zeroed(arena);
        let hooks = Hooks {
            corrupted: |error| panic!("{error}"),
            release: None,
        };
        HEAP.init(start, ARENA, *b"sixteen secrets!", hooks)
            .expect("large enough");
    }
    head("alloc and free, bytes");
    for size in SIZES {
        row(
            &size.to_string(),
            duel(|| pair(&HEAP, size), || pair(&System, size)),
        );
    }
    head("churn, up to bytes");
    for limit in [64, 256, 1024, 8192] {
        let (mut kiln, mut c) = (Churn::new(&HEAP, limit), Churn::new(&System, limit));
        row(&limit.to_string(), duel(|| kiln.step(), || c.step()));
    }
    head("growth to bytes");
    for limit in [1 << 10, 64 << 10, 1 << 20] {
        row(
            &limit.to_string(),
            duel(|| grow(&HEAP, limit), || grow(&System, limit)),
        );
    }
}

fn layout(size: usize) -> Layout {
    Layout::from_size_align(size, 8).expect("valid")
}

fn pair(heap: &impl GlobalAlloc, size: usize) {
    let layout = layout(black_box(size));
    // SAFETY: allocated and freed with the same layout.
    unsafe { heap.dealloc(black_box(heap.alloc(layout)), layout) };
}

fn grow(heap: &impl GlobalAlloc, limit: usize) {
    // SAFETY: each call gets the object's present layout.
    unsafe {
        let mut size = 8;
        let mut object = heap.alloc(layout(size));
        while size < limit {
            object = heap.realloc(object, layout(size), size * 2);
            size *= 2;
        }
        heap.dealloc(object, layout(size));
    }
}

/// A thousand live objects, one replaced at each step.
struct Churn<'a, H: GlobalAlloc> {
    heap: &'a H,
    limit: usize,
    state: u64,
    live: Vec<(*mut u8, Layout)>,
}

impl<'a, H: GlobalAlloc> Churn<'a, H> {
    fn new(heap: &'a H, limit: usize) -> Self {
        let mut churn = Self {
            heap,
            limit,
            state: 1,
            live: Vec::new(),
        };
        churn.live = (0..1000).map(|_| churn.fresh()).collect();
        churn
    }

    fn random(&mut self) -> usize {
        self.state = self
            .state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1);
        (self.state >> 33) as usize
    }

    fn fresh(&mut self) -> (*mut u8, Layout) {
        let layout = layout(1 + self.random() % self.limit);
        // SAFETY: the layout is not empty.
        (unsafe { self.heap.alloc(layout) }, layout)
    }

    fn step(&mut self) {
        let which = self.random() % self.live.len();
        let (object, layout) = self.live[which];
        // SAFETY: live, with this layout.
        unsafe { self.heap.dealloc(object, layout) };
        self.live[which] = self.fresh();
    }
}

impl<H: GlobalAlloc> Drop for Churn<'_, H> {
    fn drop(&mut self) {
        for &(object, layout) in &self.live {
            // SAFETY: live, with this layout.
            unsafe { self.heap.dealloc(object, layout) };
        }
    }
}
