//! The executor.

use alloc::rc::Rc;
use alloc::vec::Vec;
use core::cell::{Cell, RefCell};

use kiln::select::{Either, select};
use kiln::time::{Duration, now, sleep, timeout};
use kiln::{memory, spawn, yield_now};

pub async fn run(case: &str) -> Option<u8> {
    match case {
        "tasks" => {
            joining().await;
            aborting().await;
            selecting().await;
            fairness().await;
        }
        "ten-thousand" => ten_thousand().await,
        "timers" => timers().await,
        "order" => order().await,
        "float-tasks" => float_tasks().await,
        "abandoned" => abandoned(),
        _ => return None,
    }
    Some(0)
}

async fn joining() {
    let handle = spawn(async { 6 * 7 });
    assert!(!handle.is_finished());
    assert_eq!(handle.await, 42);
    let nested = spawn(async { spawn(async { spawn(async { 3 }).await + 1 }).await + 1 });
    assert_eq!(nested.await, 5);
    let (a, b) = kiln::join::join(async { 1 }, async {
        yield_now().await;
        2
    })
    .await;
    assert_eq!((a, b), (1, 2));
    // A dropped handle leaves its task running.
    let done = Rc::new(Cell::new(false));
    let flag = done.clone();
    drop(spawn(async move {
        yield_now().await;
        flag.set(true);
    }));
    sleep(Duration::from_millis(5)).await;
    assert!(done.get());
}

/// Sets a flag when it is dropped.
struct Dropped(Rc<Cell<bool>>);

impl Drop for Dropped {
    fn drop(&mut self) {
        self.0.set(true);
    }
}

async fn aborting() {
    let dropped = Rc::new(Cell::new(false));
    let guard = Dropped(dropped.clone());
    let handle = spawn(async move {
        sleep(Duration::from_hours(1)).await;
        drop(guard);
    });
    yield_now().await;
    assert!(!dropped.get());
    handle.abort();
    yield_now().await;
    assert!(dropped.get(), "an aborted task keeps its future");
    // Aborting what has finished does nothing.
    let handle = spawn(async {});
    yield_now().await;
    assert!(handle.is_finished());
    handle.abort();
    // A task that aborts another which is ready to run.
    let ran = Rc::new(Cell::new(false));
    let flag = ran.clone();
    let handle = spawn(async move { flag.set(true) });
    handle.abort();
    sleep(Duration::from_millis(1)).await;
    assert!(!ran.get());
}

async fn selecting() {
    let slow = sleep(Duration::from_hours(1));
    let fast = sleep(Duration::from_millis(2));
    assert!(matches!(select(slow, fast).await, Either::Second(())));
    let start = now();
    assert!(
        timeout(Duration::from_millis(20), core::future::pending::<()>())
            .await
            .is_err()
    );
    assert!(now() - start >= Duration::from_millis(20));
    assert_eq!(timeout(Duration::from_hours(1), async { 1 }).await, Ok(1));
}

/// Two tasks that yield take turns; a timer fires although tasks are always ready.
async fn fairness() {
    let turns = Rc::new(RefCell::new(Vec::new()));
    let handles: Vec<_> = (0..3)
        .map(|name| {
            let turns = turns.clone();
            spawn(async move {
                for _ in 0..100 {
                    turns.borrow_mut().push(name);
                    yield_now().await;
                }
            })
        })
        .collect();
    for handle in handles {
        handle.await;
    }
    assert!(turns.borrow().chunks_exact(3).all(|turn| turn == [0, 1, 2]));

    let stop = Rc::new(Cell::new(false));
    let flag = stop.clone();
    let busy = spawn(async move {
        let mut turns = 0u64;
        while !flag.get() {
            turns += 1;
            yield_now().await;
        }
        turns
    });
    let start = now();
    sleep(Duration::from_millis(50)).await;
    let took = now() - start;
    stop.set(true);
    assert!(busy.await > 100);
    assert!(
        took < Duration::from_millis(200),
        "a sleep of 50 ms took {took:?} beside a busy task"
    );
}

async fn ten_thousand() {
    let sum = Rc::new(Cell::new(0u64));
    let handles: Vec<_> = (0..10_000u64)
        .map(|n| {
            let sum = sum.clone();
            spawn(async move {
                sleep(Duration::from_micros(n % 1000 * 50)).await;
                yield_now().await;
                sum.set(sum.get() + n);
                n
            })
        })
        .collect();
    let mut total = 0;
    for handle in handles {
        total += handle.await;
    }
    assert_eq!(total, 9999 * 10_000 / 2);
    assert_eq!(sum.get(), total);
}

/// Timers that nobody waits for any more do not fill the heap, and do not wake anybody.
async fn timers() {
    let round = || async {
        for _ in 0..10_000u32 {
            let result = timeout(Duration::from_hours(1), yield_now()).await;
            assert_eq!(result, Ok(()));
        }
    };
    round().await;
    let before = memory::statistics().in_use;
    for _ in 0..10 {
        round().await;
    }
    let after = memory::statistics().in_use;
    assert!(
        after < before + 64 * 1024,
        "{before} bytes in use before, {after} after 100,000 time-outs"
    );
}

async fn order() {
    let order = Rc::new(RefCell::new(Vec::new()));
    let handles: Vec<_> = [5u64, 1, 4, 2, 3]
        .map(|n| {
            let order = order.clone();
            spawn(async move {
                sleep(Duration::from_millis(n * 20)).await;
                order.borrow_mut().push(n);
            })
        })
        .into();
    for handle in handles {
        handle.await;
    }
    assert_eq!(*order.borrow(), [1, 2, 3, 4, 5]);
}

/// Floating-point state survives switches between tasks and waits in the monitor.
async fn float_tasks() {
    let handles: Vec<_> = (1..=64u32)
        .map(|seed| {
            spawn(async move {
                let (mut a, mut b) = (f64::from(seed), f32::from(seed as u16));
                for step in 0..200u32 {
                    a = a * 1.000_1 + 0.5;
                    b = b * 0.999 + 0.25;
                    if step % 50 == 7 {
                        sleep(Duration::from_millis(1)).await;
                    } else {
                        yield_now().await;
                    }
                }
                (a, b)
            })
        })
        .collect();
    for (seed, handle) in (1..=64u32).zip(handles) {
        let (mut a, mut b) = (f64::from(seed), f32::from(seed as u16));
        for _ in 0..200 {
            a = a * 1.000_1 + 0.5;
            b = b * 0.999 + 0.25;
        }
        let found = handle.await;
        assert_eq!(
            (found.0.to_bits(), found.1.to_bits()),
            (a.to_bits(), b.to_bits()),
            "task {seed}"
        );
    }
}

/// Tasks that still run when the program ends do not hold it up.
fn abandoned() {
    for _ in 0..100 {
        drop(spawn(sleep(Duration::from_hours(1))));
        drop(spawn(async {
            loop {
                yield_now().await;
            }
        }));
    }
}
