//! Each kind of corruption that must be found, and what it is reported as.

mod support;

use std::alloc::GlobalAlloc;

use kiln_heap::HeapError;
use support::{Arena, layout};

/// Sizes of slots, of slabs over several pages and of runs.
const SIZES: [usize; 9] = [1, 8, 24, 100, 700, 3000, 9000, 20_000, 300_000];

#[test]
fn freeing_twice() {
    let arena = Arena::new(4 << 20);
    for size in SIZES {
        let (object, other) = (arena.alloc(size, 8), arena.alloc(size, 8));
        arena.free(object, size, 8);
        let error = arena.error_of(|arena| arena.free(object, size, 8));
        assert_eq!(
            error,
            HeapError::FreedTwice {
                address: object.addr()
            },
            "{size} bytes"
        );
        arena.free(other, size, 8);
    }
}

#[test]
fn freeing_twice_after_neighbours_merged() {
    let arena = Arena::new(4 << 20);
    let objects = [(); 3].map(|()| arena.alloc(20_000, 8));
    for object in objects {
        arena.free(object, 20_000, 8);
    }
    for object in objects {
        let error = arena.error_of(|arena| arena.free(object, 20_000, 8));
        let address = object.addr();
        assert!(matches!(error, HeapError::FreedTwice { address: a }
            | HeapError::NotAllocated { address: a } if a == address));
    }
}

#[test]
fn freeing_what_was_never_allocated() {
    let arena = Arena::new(4 << 20);
    let stack = 0_u64;
    let stack = (&raw const stack).cast_mut().cast::<u8>();
    let error = arena.error_of(|arena| arena.free(stack, 8, 8));
    assert_eq!(
        error,
        HeapError::NotHeapMemory {
            address: stack.addr()
        }
    );

    let object = arena.alloc(300_000, 8);
    let inner = object.wrapping_add(8192);
    let error = arena.error_of(|arena| arena.free(inner, 300_000, 8));
    assert_eq!(
        error,
        HeapError::NotAllocated {
            address: inner.addr()
        }
    );
    let beyond = object.wrapping_add(1 << 20);
    let error = arena.error_of(|arena| arena.free(beyond, 8, 8));
    assert_eq!(
        error,
        HeapError::NotAllocated {
            address: beyond.addr()
        }
    );
}

#[test]
fn freeing_the_middle() {
    let arena = Arena::new(4 << 20);
    for size in SIZES.into_iter().filter(|size| *size > 8) {
        let object = arena.alloc(size, 8);
        let inside = object.wrapping_add(8);
        let error = arena.error_of(|arena| arena.free(inside, size, 8));
        let expected = HeapError::InsideObject {
            address: inside.addr(),
            object: object.addr(),
        };
        assert_eq!(error, expected, "{size} bytes");
        arena.free(object, size, 8);
    }
}

#[test]
fn freeing_with_a_wrong_size() {
    let arena = Arena::new(4 << 20);
    for size in SIZES {
        let object = arena.alloc(size, 8);
        for wrong in [size + 5000, size * 3 + 20, size / 3] {
            if wrong != size {
                let error = arena.error_of(|arena| arena.free(object, wrong, 8));
                assert!(
                    matches!(error, HeapError::WrongSize { size, .. } if size == wrong)
                        // In the same class the guard word is not where it would be.
                        || matches!(error, HeapError::Overflow { .. }),
                    "{size} as {wrong}: {error}"
                );
            }
        }
        arena.free(object, size, 8);
    }
}

#[test]
fn freeing_with_a_size_that_held_before() {
    let arena = Arena::new(4 << 20);
    for (size, smaller) in [(100, 98), (20_000, 19_000)] {
        let object = arena.alloc(size, 8);
        // SAFETY: live, with this layout.
        let same = unsafe { arena.heap.realloc(object, layout(size, 8), smaller) };
        assert_eq!(same, object);
        let error = arena.error_of(|arena| arena.free(object, size, 8));
        assert_eq!(
            error,
            HeapError::Overflow {
                address: object.addr(),
                size
            }
        );
        arena.free(object, smaller, 8);
    }
}

#[test]
fn writing_one_byte_past_the_end() {
    let arena = Arena::new(4 << 20);
    for size in SIZES {
        for action in [free as fn(&Arena, *mut u8, usize), resize] {
            let object = arena.alloc(size, 8);
            // SAFETY: on purpose past the end, into the guard word.
            unsafe { object.add(size).write(0) };
            let error = arena.error_of(|arena| action(arena, object, size));
            assert_eq!(
                error,
                HeapError::Overflow {
                    address: object.addr(),
                    size
                }
            );
        }
    }
}

fn free(arena: &Arena, object: *mut u8, size: usize) {
    arena.free(object, size, 8);
}

fn resize(arena: &Arena, object: *mut u8, size: usize) {
    // SAFETY: the object is live; what is wrong with it is the point.
    unsafe { arena.heap.realloc(object, layout(size, 8), size + 1) };
}

#[test]
fn the_heap_works_on_after_a_report() {
    let arena = Arena::new(1 << 20);
    let object = arena.alloc(40, 8);
    arena.free(object, 40, 8);
    arena.error_of(|arena| arena.free(object, 40, 8));
    assert!(!arena.heap.is_busy());
    let object = arena.alloc(40, 8);
    assert!(!object.is_null());
    arena.free(object, 40, 8);
}

#[test]
fn messages_name_the_finding_and_the_address() {
    let text = HeapError::Overflow {
        address: 0x1234,
        size: 17,
    }
    .to_string();
    assert!(
        text.contains("0x1234") && text.contains("17-byte"),
        "{text}"
    );
    let text = HeapError::InsideObject {
        address: 0x1008,
        object: 0x1000,
    }
    .to_string();
    assert!(
        text.contains("8 bytes into") && text.contains("0x1000"),
        "{text}"
    );
}
