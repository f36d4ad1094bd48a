//! Measures kiln-mem and kiln-heap beside the C library of the host.
//!
//! `cargo run --release -p bench-mem [routines|heap]` prints tables of nanoseconds per operation
//! and the ratio kiln / C library; below one is faster than the C library. Each figure is the
//! median of many short runs, and the two contenders take turns, so that a change of clock speed
//! or a busy neighbour hits both.

mod heap;
mod routines;
mod timing;

fn main() {
    let which = std::env::args().nth(1);
    let wants = |name: &str| which.as_deref().is_none_or(|chosen| chosen == name);
    if wants("routines") {
        routines::run();
    }
    if wants("heap") {
        heap::run();
    }
}
