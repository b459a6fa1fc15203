//! Where work meets threads: the caller's rayon pool, or none.
//!
//! Threads only ever split *outputs*; nothing is summed across them. So the number of threads
//! changes no bit, and building without the `rayon` feature changes none either.

/// Runs both closures, possibly at the same time, and returns both results.
#[inline]
pub fn join<A: Send, B: Send>(
    left: impl FnOnce() -> A + Send,
    right: impl FnOnce() -> B + Send,
) -> (A, B) {
    #[cfg(feature = "rayon")]
    return rayon::join(left, right);
    #[cfg(not(feature = "rayon"))]
    (left(), right())
}

/// Runs `work` on a thread of the current pool, with the other threads awake.
///
/// Entering a pool from outside costs tens of microseconds, from inside next to nothing, and a
/// thread that fell asleep between two operations takes as long to wake up: wrap a whole forward
/// pass in it, not an operation.
#[inline]
pub fn enter<R: Send>(work: impl FnOnce() -> R + Send) -> R {
    #[cfg(feature = "rayon")]
    return awake::enter(work);
    #[cfg(not(feature = "rayon"))]
    work()
}

/// Threads of the current pool; 1 without the `rayon` feature.
#[inline]
pub fn count() -> usize {
    #[cfg(feature = "rayon")]
    return rayon::current_num_threads();
    #[cfg(not(feature = "rayon"))]
    1
}

/// A pool's threads go to sleep microseconds after they ran out of work. A step of decoding is some
/// hundred short parallel regions with a little to do in between: each would wake them up again. So
/// they look for work for as long as the pass takes.
#[cfg(feature = "rayon")]
mod awake {
    use std::hint;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

    /// How often a thread looks for work that does not come, in some milliseconds of its own time.
    /// Bounds what it costs others if the pass has long serial parts. Not by the clock: on a shared
    /// machine a thread may lose its core for as long, and would then give up for nothing.
    const PATIENCE: usize = 10_000;

    /// Pauses between two looks, so that the others' queues are not always being read.
    const PAUSES: usize = 16;

    /// Passes at work in the process. With more than one nobody waits: a thread with a pass of its
    /// own may come by here while it waits for others, and must get back to it.
    static PASSES: AtomicUsize = AtomicUsize::new(0);

    pub(super) fn enter<R: Send>(work: impl FnOnce() -> R + Send) -> R {
        // The scope is there to get into the pool, if the caller is not: it has no tasks.
        rayon::scope(|_| {
            let pass = Pass::begin();
            let own = rayon::current_thread_index();
            if rayon::current_num_threads() > 1 {
                // Nobody waits for those who look: a thread that has something else to do, or is
                // held up by it, finds out later that the pass is over.
                let done = Arc::clone(&pass.done);
                rayon::spawn_broadcast(move |thread| {
                    if Some(thread.index()) != own {
                        look_for_work(&done);
                    }
                });
            }
            work()
        })
    }

    /// Counts as a pass while it lives, also if the pass panics.
    struct Pass {
        done: Arc<AtomicBool>,
    }

    impl Pass {
        fn begin() -> Self {
            PASSES.fetch_add(1, Ordering::Relaxed);
            Self { done: Arc::default() }
        }
    }

    impl Drop for Pass {
        fn drop(&mut self) {
            PASSES.fetch_sub(1, Ordering::Relaxed);
            self.done.store(true, Ordering::Relaxed);
        }
    }

    fn look_for_work(done: &AtomicBool) {
        let mut looks = 0;
        while !done.load(Ordering::Relaxed) && PASSES.load(Ordering::Relaxed) == 1 {
            if rayon::yield_now() == Some(rayon::Yield::Executed) {
                looks = 0;
            }
            looks += 1;
            if looks > PATIENCE {
                return;
            }
            for _ in 0..PAUSES {
                hint::spin_loop();
            }
            // Where there are more threads than cores, another may have something to do.
            std::thread::yield_now();
        }
    }
}
