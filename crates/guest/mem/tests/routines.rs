//! The routines against naive models: every short size at every alignment, long ones at random,
//! and ranges that end exactly where readable memory ends.

mod guarded;

use std::sync::{Mutex, PoisonError};

use guarded::Guarded;
use kiln_mem::{Features, compare, copy, fill, length, set_features};
use proptest::prelude::*;

/// Sizes up to here are tested one by one.
const SHORT: usize = 600;
/// Bytes on either side of a range that must stay as they were.
const GUARD: usize = 80;

/// A pattern in which neighbouring bytes and neighbouring blocks differ.
fn pattern(n: usize) -> Vec<u8> {
    (0..n).map(|i| (i * 7 + i / 251 * 13) as u8).collect()
}

/// Copies inside `buffer` and compares the whole buffer with what `copy_within` makes of it.
fn check_copy(buffer: &mut [u8], dst: usize, src: usize, n: usize) {
    let mut expected = buffer.to_vec();
    expected.copy_within(src..src + n, dst);
    let base = buffer.as_mut_ptr();
    // SAFETY: the model has checked both ranges.
    let returned = unsafe { copy(base.add(dst), base.add(src), n) };
    assert_eq!(returned, base.wrapping_add(dst));
    assert!(expected == buffer, "copy of {n} bytes from {src} to {dst}");
}

fn check_fill(buffer: &mut [u8], at: usize, value: i32, n: usize) {
    let mut expected = buffer.to_vec();
    expected[at..at + n].fill(value.to_le_bytes()[0]);
    // SAFETY: the model has checked the range.
    unsafe { fill(buffer.as_mut_ptr().add(at), value, n) };
    assert!(expected == buffer, "fill of {n} bytes at {at}");
}

fn check_compare(a: &[u8], b: &[u8]) {
    // SAFETY: the slices are valid and equally long.
    let order = unsafe { compare(a.as_ptr(), b.as_ptr(), a.len()) };
    assert_eq!(order.cmp(&0), a.cmp(b), "compare of {} bytes", a.len());
}

/// Runs `check` with the baseline only, then with everything this processor has.
fn with_each_path(check: impl Fn()) {
    // The choice holds for the whole process; without this, tests would change each other's.
    static CHOICE: Mutex<()> = Mutex::new(());
    let _mine = CHOICE.lock().unwrap_or_else(PoisonError::into_inner);
    // SAFETY: the baseline is always there.
    unsafe { set_features(Features::BASELINE) };
    check();
    // SAFETY: each feature is asked for first.
    unsafe {
        if is_x86_feature_detected!("avx2") {
            set_features(Features::AVX2);
            check();
            if is_x86_feature_detected!("ermsb") {
                set_features(Features::AVX2.with(Features::FAST_STRINGS));
                check();
            }
            if is_x86_feature_detected!("avx512vl") {
                set_features(Features::AVX2.with(Features::AVX512VL));
                check();
            }
        }
    }
}

#[test]
fn copy_between_all_alignments() {
    with_each_path(|| {
        let mut buffer = pattern(2 * (SHORT + 3 * GUARD));
        for n in 0..=SHORT {
            for dst in (0..32).map(|i| GUARD + i) {
                check_copy(&mut buffer, dst, SHORT + 3 * GUARD + dst * 5 % 32, n);
            }
        }
    });
}

#[test]
fn copy_with_all_overlaps() {
    with_each_path(|| {
        let mut buffer = pattern(SHORT + 600);
        for n in (0..=SHORT).step_by(3).chain(0..130) {
            for shift in (0..=64).chain([65, 96, 127, 128, 129, 200, 256]) {
                check_copy(&mut buffer, GUARD, GUARD + shift, n);
                check_copy(&mut buffer, GUARD + shift, GUARD, n);
            }
        }
    });
}

#[test]
fn fill_at_all_alignments() {
    with_each_path(|| {
        let mut buffer = pattern(SHORT + 3 * GUARD);
        for n in 0..=SHORT {
            for at in GUARD..GUARD + 32 {
                check_fill(&mut buffer, at, i32::from_le_bytes([n as u8, 1, 2, 3]), n);
            }
        }
    });
}

#[test]
fn compare_finds_each_position() {
    with_each_path(|| {
        for n in (0..=SHORT).filter(|n| *n < 140 || n % 7 == 0) {
            let a = pattern(n + 17);
            for skew in [0, 1, 8, 17] {
                let a = &a[skew..n + skew - skew.min(n)];
                let mut b = a.to_vec();
                check_compare(a, &b);
                for at in 0..a.len() {
                    b[at] ^= 0x80;
                    check_compare(a, &b);
                    check_compare(&b, a);
                    // A later difference must not change the answer.
                    let last = b.len() - 1;
                    b[last] = b[last].wrapping_add(u8::from(last != at));
                    check_compare(a, &b);
                    b.copy_from_slice(a);
                }
            }
        }
    });
}

#[test]
fn length_at_all_alignments() {
    with_each_path(|| {
        for start in 0..64 {
            for n in 0..=SHORT {
                let mut text = vec![0; start];
                text.resize(start + n, 0xff);
                text.push(0);
                text.extend([1, 0]);
                // SAFETY: the text is terminated.
                assert_eq!(unsafe { length(text.as_ptr().add(start)) }, n);
            }
        }
    });
}

#[test]
fn bytes_around_a_range_do_not_count() {
    // `a` ends with its page or lies inside, `b` inside or across two pages; what follows differs.
    let (a, b) = (Guarded::new(1), Guarded::new(2));
    for room in 1..=70 {
        for n in 1..=room {
            for b_start in [0, 4096 - room, 4096 - n / 2] {
                // SAFETY: `room` bytes are accessible at both places, and `n` is at most that.
                unsafe {
                    let (x, y) = (a.last(room), b.first().add(b_start));
                    for i in 0..room {
                        x.add(i).write(if i < n { 7 } else { 8 });
                        y.add(i).write(7);
                    }
                    assert_eq!(compare(x, y, n), 0);
                    for at in 0..n {
                        y.add(at).write(9);
                        assert!(compare(x, y, n) < 0 && compare(y, x, n) > 0);
                        y.add(at).write(7);
                    }
                }
            }
        }
    }
}

#[test]
fn strings_may_cross_pages() {
    let memory = Guarded::new(2);
    with_each_path(|| {
        for start in 4096 - 300..4096 {
            for n in 0..=400 {
                // SAFETY: the string and its terminator lie in the two pages.
                unsafe {
                    let text = memory.first().add(start);
                    text.write_bytes(1, n);
                    text.add(n).write(0);
                    assert_eq!(length(text), n);
                }
            }
        }
    });
}

#[test]
fn nothing_beyond_the_last_page_is_touched() {
    let (a, b) = (Guarded::new(3), Guarded::new(3));
    with_each_path(|| {
        for n in (0..=SHORT).chain([4096, 5000, 3 * 4096]) {
            // SAFETY: the last and the first `n` bytes of both ranges are readable and writable.
            unsafe {
                for (x, y) in [(a.last(n), b.last(n)), (a.first(), b.first())] {
                    copy(x, y, n);
                    fill(y, 5, n);
                    fill(x, 5, n);
                    assert_eq!(compare(x, y, n), 0);
                    copy(y, x, n);
                }
                if n > 0 {
                    a.last(n).add(n - 1).write(0);
                    assert_eq!(length(a.last(n)), n - 1);
                    a.last(n).add(n - 1).write(5);
                }
            }
        }
    });
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(60))]

    #[test]
    fn long_copies(n in 0..2_usize << 20, dst in 0..5000_usize, src in 0..5000_usize) {
        with_each_path(|| check_copy(&mut pattern(n + 5000), dst, src, n));
    }

    #[test]
    fn long_fills(n in 0..2_usize << 20, at in 0..5000_usize, value: i32) {
        with_each_path(|| check_fill(&mut pattern(n + 5000), at, value, n));
    }

    #[test]
    fn long_compares(n in 1..1_usize << 20, at: prop::sample::Index, flip in 1..=255_u8) {
        with_each_path(|| {
            let a = pattern(n);
            let mut b = a.clone();
            check_compare(&a, &b);
            b[at.index(n)] ^= flip;
            check_compare(&a, &b);
        });
    }
}
