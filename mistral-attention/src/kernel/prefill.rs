//! The tiles of a call, spread over threads by heads and by queries.

use std::ops::Range;

use mistral_core::kv::KvElement;
use mistral_core::simd::{LANES, Lanes};
use mistral_core::threads;
use ndarray::{Axis, Slice};

use super::block_softmax::Softmax;
use super::memory::Task;
use super::partial::Partials;
use super::tile::Tile;
use super::{Job, Outputs, key_sums};

/// Rows (pairs of a query and a head) in a tile. More rows use a widened block more often; queries
/// and sums of so many rows still fit into the second-level cache beside it at `head_dim` 128.
const TILE_ROWS: usize = 192;

/// Queries of a tile for groups of `group_size` heads.
pub(super) fn tile_queries(group_size: usize) -> usize {
    (TILE_ROWS / group_size).max(1)
}

/// Computes a call tile by tile.
pub(super) fn forward<E: KvElement>(job: &Job<'_, '_, '_, E>, outputs: Outputs<'_>) {
    let config = job.plan.config();
    let heads = config.n_kv_heads();
    let q_len = job.plan.q_len();
    let tile = tile_queries(config.group_size());
    let limits = if job.threads == 1 {
        (heads, q_len)
    } else if outputs.key_sums.is_some() {
        // The sums of a key are added in one order: by one thread.
        (1, q_len)
    } else if q_len <= tile {
        // Four tasks a thread, so that one that comes late, or is held up, leaves little to wait for.
        (heads.div_ceil(4 * job.threads), tile)
    } else {
        (1, tile)
    };
    let area = Area { job, limits, kv_heads: 0..heads, queries: 0..q_len, outputs };
    area.split();
}

/// Some key/value heads for some queries.
struct Area<'j, 'q, 'v, 's, 'o, E: KvElement> {
    job: &'j Job<'q, 'v, 's, E>,
    /// Most heads and most queries in one task.
    limits: (usize, usize),
    kv_heads: Range<usize>,
    queries: Range<usize>,
    /// `(queries, kv_heads * group_size, ..)` and `(kv_heads, positions)`.
    outputs: Outputs<'o>,
}

impl<E: KvElement> Area<'_, '_, '_, '_, '_, E> {
    /// Computes the area, cut until each piece is one task.
    fn split(self) {
        let group = self.job.plan.config().group_size();
        let (heads, queries) = (self.kv_heads.clone(), self.queries.clone());
        let (left_heads, right_heads, left_queries, right_queries);
        let (left, right);
        if heads.len() > self.limits.0 {
            let middle = heads.start + heads.len() / 2;
            (left, right) = split_heads(self.outputs, heads.len() / 2, group);
            (left_heads, right_heads) = (heads.start..middle, middle..heads.end);
            (left_queries, right_queries) = (queries.clone(), queries);
        } else if queries.len() > self.limits.1 {
            let middle = queries.start + queries.len() / 2;
            (left, right) = split_queries(self.outputs, queries.len() / 2);
            (left_heads, right_heads) = (heads.clone(), heads);
            (left_queries, right_queries) = (queries.start..middle, middle..queries.end);
        } else {
            return self.compute();
        }
        let (job, limits) = (self.job, self.limits);
        let area = |kv_heads, queries, outputs| Area { job, limits, kv_heads, queries, outputs };
        let left = area(left_heads, left_queries, left);
        let right = area(right_heads, right_queries, right);
        threads::join(|| left.split(), || right.split());
    }

    /// Computes the area, one tile after the other in the same memory.
    fn compute(mut self) {
        let step = tile_queries(self.job.plan.config().group_size());
        for head in 0..self.kv_heads.len() {
            for first in (0..self.queries.len()).step_by(step) {
                if self.job.cancelled() {
                    return;
                }
                let queries = first..self.queries.len().min(first + step);
                self.job.scratch.task(|task| self.compute_tile(task, head, queries));
            }
        }
    }

    /// Computes a tile, whose head and queries are counted from the area's first.
    fn compute_tile(&mut self, task: &mut Task, head: usize, queries: Range<usize>) {
        let config = self.job.plan.config();
        let width = config.head_dim().div_ceil(LANES);
        let part = Slice::from(queries.clone());
        let queries = self.queries.start + queries.start..self.queries.start + queries.end;
        let tile = Tile { job: self.job, kv_head: self.kv_heads.start + head, queries };
        task.softmax.resize(tile.rows(), Softmax::EMPTY);
        task.sums.resize(tile.rows() * width, Lanes::default());
        let mut partials = Partials { softmax: &mut task.softmax, out: &mut task.sums, width };
        partials.clear();
        tile.load_queries(&mut task.queries, &mut task.sink_queries);
        let loaded = (&task.queries, &task.sink_queries);
        tile.attend(&mut task.block, loaded, tile.blocks(), &mut partials);
        let group = config.group_size();
        let heads = Slice::from(head * group..(head + 1) * group);
        let mut out = self.outputs.out.slice_axis_mut(Axis(1), heads);
        let mut out = out.slice_axis_mut(Axis(0), part);
        let mut lse = self.outputs.lse.as_mut().map(|lse| lse.slice_axis_mut(Axis(1), heads));
        let mut lse = lse.as_mut().map(|lse| lse.slice_axis_mut(Axis(0), part));
        tile.finish(&partials, &mut out, lse.as_mut());
        if let Some(sums) = &mut self.outputs.key_sums {
            let sums = sums.row_mut(head);
            key_sums::add(&tile, &mut task.block, loaded, partials.softmax, sums);
        }
    }
}

/// Cuts results after `kv_heads` key/value heads.
fn split_heads(outputs: Outputs<'_>, kv_heads: usize, group: usize) -> (Outputs<'_>, Outputs<'_>) {
    let (left, right) = outputs.out.split_at(Axis(1), kv_heads * group);
    let lse = outputs.lse.map(|lse| lse.split_at(Axis(1), kv_heads * group)).unzip();
    let sums = outputs.key_sums.map(|sums| sums.split_at(Axis(0), kv_heads)).unzip();
    (
        Outputs { out: left, lse: lse.0, key_sums: sums.0 },
        Outputs { out: right, lse: lse.1, key_sums: sums.1 },
    )
}

/// Cuts results after `queries` queries. There are no sums over keys then.
fn split_queries(outputs: Outputs<'_>, queries: usize) -> (Outputs<'_>, Outputs<'_>) {
    let (left, right) = outputs.out.split_at(Axis(0), queries);
    let lse = outputs.lse.map(|lse| lse.split_at(Axis(0), queries)).unzip();
    (
        Outputs { out: left, lse: lse.0, key_sums: None },
        Outputs { out: right, lse: lse.1, key_sums: None },
    )
}
