//! Passes over a pool's threads: they end, whatever else the pool does meanwhile.
#![cfg(feature = "rayon")]
#![allow(clippy::unwrap_used)] // a test may panic

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::mpsc;
use std::time::Duration;

use mistral_core::threads;
use rayon::{ThreadPool, ThreadPoolBuilder};

/// Far more than anything here takes.
const STUCK: Duration = Duration::from_secs(60);

fn pool(threads: usize) -> ThreadPool {
    ThreadPoolBuilder::new().num_threads(threads).build().unwrap()
}

/// A pass of short parallel regions: sums `0..n` for each of some `n`.
fn pass(regions: u64) -> u64 {
    fn sum(from: u64, to: u64) -> u64 {
        if to - from < 8 {
            return (from..to).sum();
        }
        let middle = from.midpoint(to);
        let (left, right) = threads::join(|| sum(from, middle), || sum(middle, to));
        left + right
    }
    threads::enter(|| (0..regions).map(|n| sum(0, n)).sum())
}

fn expected(regions: u64) -> u64 {
    (0..regions).map(|n| (0..n).sum::<u64>()).sum()
}

/// What `work` gives, on a thread of its own, so that a test that is stuck fails.
fn in_time<R: Send + 'static>(work: impl FnOnce() -> R + Send + 'static) -> R {
    let (send, receive) = mpsc::channel();
    std::thread::spawn(move || send.send(work()));
    receive.recv_timeout(STUCK).expect("an end")
}

#[test]
fn passes_of_several_callers_on_one_pool_do_not_wait_for_each_other() {
    for n in [1, 2, 5] {
        let sums = in_time(move || {
            let pool = pool(n);
            let mut sums = vec![0; 12];
            pool.scope(|scope| {
                for sum in &mut sums {
                    scope.spawn(|_| *sum = pass(300));
                }
            });
            sums
        });
        assert_eq!(sums, vec![expected(300); 12], "{n} threads");
    }
}

#[test]
fn a_pass_inside_a_pass_ends() {
    let sum = in_time(|| pool(3).install(|| threads::enter(|| pass(100) + pass(50))));
    assert_eq!(sum, expected(100) + expected(50));
}

#[test]
fn a_panic_ends_its_pass_and_no_other() {
    let sum = in_time(|| {
        let pool = pool(2);
        let broken = catch_unwind(AssertUnwindSafe(|| {
            pool.install(|| threads::enter(|| panic!("of the work")));
        }));
        assert!(broken.is_err());
        pool.install(|| pass(200))
    });
    assert_eq!(sum, expected(200));
}

#[test]
fn a_pass_does_not_wait_for_threads_that_are_held_up() {
    let sum = in_time(|| {
        let (send, receive) = mpsc::channel();
        // The other thread of the pool waits for what the pass is to give.
        let other = move || receive.recv_timeout(STUCK);
        let own = || send.send(pass(50));
        pool(2).install(|| rayon::join(own, other)).1.unwrap()
    });
    assert_eq!(sum, expected(50));
}
