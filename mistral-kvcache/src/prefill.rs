//! Cutting a long prompt into chunks.
//!
//! A prompt is known in advance, so its keys and values can be computed many tokens at a time;
//! but all at once would need memory for the whole prompt. So it is cut, and each chunk attends
//! to the cache and to itself (arXiv:2310.06825, section 2, "Pre-fill and Chunking"). The paper's
//! figure 3, with chunks of 4 and W = 4, shows three blocks of the mask for the last chunk:
//!
//! ```text
//!            The cat sat on │ the mat and saw │ the dog go to
//!            ───────────────┼─────────────────┼───────────────
//!       the   .   .   .   . │  .   1   1   1  │  1   .   .   .
//!       dog   .   .   .   . │  .   .   1   1  │  1   1   .   .
//!       go    .   .   .   . │  .   .   .   1  │  1   1   1   .
//!       to    .   .   .   . │  .   .   .   .  │  1   1   1   1
//!            ───────────────┴─────────────────┴───────────────
//!                 past      │      cache      │    current
//! ```
//!
//! *Past* is out of every query's reach and gone from the ring; *cache* is what the ring holds,
//! and it must hold all of it until the whole chunk has attended; *current* is the chunk, causal.
//!
//! The cut changes no result, not in a single bit: only speed and memory depend on it. Long
//! chunks make matmuls efficient (512 tokens are enough); the activations and the staging buffer
//! are as large as one chunk.

use std::iter::FusedIterator;
use std::ops::Range;

use crate::error::CacheError;

/// The ranges `0..c, c..2c, ..., ..n_tokens` of a prompt: an iterator.
///
/// ```
/// use mistral_kvcache::ChunkPlan;
///
/// let chunks: Vec<_> = ChunkPlan::new(10, 4)?.collect();
/// assert_eq!(chunks, [0..4, 4..8, 8..10]);
/// # Ok::<(), mistral_kvcache::CacheError>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ChunkPlan {
    rest: Range<usize>,
    max_chunk: usize,
}

impl ChunkPlan {
    /// Cuts `n_tokens` into chunks of `max_chunk`, the last one perhaps shorter.
    ///
    /// # Errors
    ///
    /// - [`CacheError::Zero`]: `max_chunk` is 0.
    pub fn new(n_tokens: usize, max_chunk: usize) -> Result<Self, CacheError> {
        if max_chunk == 0 {
            return Err(CacheError::Zero { field: "max_chunk" });
        }
        Ok(Self { rest: 0..n_tokens, max_chunk })
    }
}

impl Iterator for ChunkPlan {
    type Item = Range<usize>;

    fn next(&mut self) -> Option<Range<usize>> {
        if self.rest.is_empty() {
            return None;
        }
        let start = self.rest.start;
        self.rest.start += self.max_chunk.min(self.rest.len());
        Some(start..self.rest.start)
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        let n = self.rest.len().div_ceil(self.max_chunk);
        (n, Some(n))
    }
}

impl ExactSizeIterator for ChunkPlan {}
impl FusedIterator for ChunkPlan {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_token_is_in_one_chunk_and_only_the_last_is_short() {
        for n_tokens in 0..40 {
            for max_chunk in 1..=45 {
                let plan = ChunkPlan::new(n_tokens, max_chunk).unwrap();
                let announced = plan.len();
                let chunks: Vec<_> = plan.collect();
                assert_eq!(chunks.len(), announced);
                let tokens: Vec<usize> = chunks.iter().cloned().flatten().collect();
                assert_eq!(tokens, (0..n_tokens).collect::<Vec<_>>());
                for chunk in chunks.iter().rev().skip(1) {
                    assert_eq!(chunk.len(), max_chunk);
                }
                assert!(chunks.iter().all(|chunk| (1..=max_chunk).contains(&chunk.len())));
            }
        }
    }

    #[test]
    fn chunks_of_nothing_are_refused_and_giants_do_not_overflow() {
        assert_eq!(ChunkPlan::new(3, 0), Err(CacheError::Zero { field: "max_chunk" }));
        let chunks: Vec<_> = ChunkPlan::new(usize::MAX, usize::MAX - 1).unwrap().collect();
        assert_eq!(chunks, [0..usize::MAX - 1, usize::MAX - 1..usize::MAX]);
    }
}
