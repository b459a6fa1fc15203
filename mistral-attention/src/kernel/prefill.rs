//! The tiles of a call, spread over threads by heads and by queries.

use std::ops::Range;

use mistral_core::Element;
use mistral_core::simd::{LANES, Lanes};
use mistral_core::threads;
use ndarray::{ArrayViewMut3, Axis};

use super::Job;
use super::block_softmax::Softmax;
use super::partial::Partials;
use super::tile::{Scratch, Tile};

/// Rows (pairs of a query and a head) in a tile. More rows use a widened block more often; queries
/// and sums of so many rows still fit into the second-level cache beside it at `head_dim` 128.
const TILE_ROWS: usize = 192;

/// Queries of a tile for groups of `group_size` heads.
pub(super) fn tile_queries(group_size: usize) -> usize {
    (TILE_ROWS / group_size).max(1)
}

/// Computes a call tile by tile.
pub(super) fn forward<E: Element>(job: &Job<'_, '_, E>, out: ArrayViewMut3<'_, f32>) {
    let config = job.plan.config();
    let heads = config.n_kv_heads();
    let tile = tile_queries(config.group_size());
    let limits = if job.threads == 1 {
        (heads, job.plan.q_len())
    } else if job.plan.q_len() <= tile {
        // Two tasks a thread, so that a thread that is held up can hand one on.
        (heads.div_ceil(2 * job.threads), tile)
    } else {
        (1, tile)
    };
    let area = Area { job, limits, kv_heads: 0..heads, queries: 0..job.plan.q_len(), out };
    area.split();
}

/// Some key/value heads for some queries.
struct Area<'j, 'q, 'a, 'o, E: Element> {
    job: &'j Job<'q, 'a, E>,
    /// Most heads and most queries in one task.
    limits: (usize, usize),
    kv_heads: Range<usize>,
    queries: Range<usize>,
    /// `(queries, kv_heads * group_size, head_dim)`.
    out: ArrayViewMut3<'o, f32>,
}

impl<E: Element> Area<'_, '_, '_, '_, E> {
    /// Computes the area, cut until each piece is one task.
    fn split(self) {
        let (axis, at) = if self.kv_heads.len() > self.limits.0 {
            let group = self.job.plan.config().group_size();
            (1, self.kv_heads.len() / 2 * group)
        } else if self.queries.len() > self.limits.1 {
            (0, self.queries.len() / 2)
        } else {
            return self.compute();
        };
        let (left_out, right_out) = self.out.split_at(Axis(axis), at);
        let (mut left_heads, mut right_heads) = (self.kv_heads.clone(), self.kv_heads);
        let (mut left_queries, mut right_queries) = (self.queries.clone(), self.queries);
        if axis == 1 {
            left_heads.end = left_heads.start + left_heads.len() / 2;
            right_heads.start = left_heads.end;
        } else {
            left_queries.end = left_queries.start + at;
            right_queries.start = left_queries.end;
        }
        let (job, limits) = (self.job, self.limits);
        let area = |kv_heads, queries, out| Area { job, limits, kv_heads, queries, out };
        let left = area(left_heads, left_queries, left_out);
        let right = area(right_heads, right_queries, right_out);
        threads::join(|| left.split(), || right.split());
    }

    /// Computes the area, one tile after the other in the same memory.
    fn compute(mut self) {
        let config = self.job.plan.config();
        let group = config.group_size();
        let width = config.head_dim().div_ceil(LANES);
        let step = tile_queries(group).min(self.queries.len());
        let rows = step * group;
        let mut scratch = Scratch::new(rows, config.head_dim());
        let mut softmax = vec![Softmax::EMPTY; rows];
        let mut sums = vec![Lanes::default(); rows * width];
        let heads = self.out.axis_chunks_iter_mut(Axis(1), group);
        for (kv_head, mut out) in self.kv_heads.clone().zip(heads) {
            let pieces = out.axis_chunks_iter_mut(Axis(0), step);
            for (first, mut out) in self.queries.clone().step_by(step).zip(pieces) {
                let tile = Tile {
                    job: self.job,
                    kv_head,
                    queries: first..self.queries.end.min(first + step),
                };
                let rows = tile.rows();
                let mut partials = Partials {
                    softmax: &mut softmax[..rows],
                    out: &mut sums[..rows * width],
                    width,
                };
                partials.clear();
                tile.load_queries(&mut scratch);
                tile.attend(&mut scratch, tile.blocks(), &mut partials);
                tile.finish(&partials, &mut out);
            }
        }
    }
}
