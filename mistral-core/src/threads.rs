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

/// Runs `work` on a thread of the current pool.
///
/// Entering a pool from outside costs tens of microseconds, from inside next to nothing: wrap a
/// whole forward pass in it, not an operation.
#[inline]
pub fn enter<R: Send>(work: impl FnOnce() -> R + Send) -> R {
    #[cfg(feature = "rayon")]
    return rayon::scope(|_| work());
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
