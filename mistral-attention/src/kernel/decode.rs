//! Few queries, few heads, a long history: blocks are spread over threads as well (flash-decoding).
//!
//! Each block's part is stored on its own, and the parts are added in order of position at the end.
//! Borders lie between blocks, which lie at fixed positions, and adding a part to nothing gives the
//! part: the bits are those of one thread that walks over all blocks.

use std::ops::Range;

use mistral_core::kv::KvElement;
use mistral_core::simd::{Kernel, LANES, Lanes, Simd};
use mistral_core::threads;
use ndarray::Axis;

use super::block_softmax::Softmax;
use super::partial::Partials;
use super::tile::Tile;
use super::{Job, Outputs};

/// Most rows (pairs of a query and a head of one group) whose parts are stored block by block.
const MOST_ROWS: usize = 16;

/// Whether heads alone do not keep the threads busy, and there are blocks to share out.
pub(super) fn pays<E: KvElement>(job: &Job<'_, '_, '_, E>) -> bool {
    let config = job.plan.config();
    let tile = whole(job, 0);
    job.threads > 1
        && config.n_kv_heads() < 2 * job.threads
        && !config.n_kv_heads().is_multiple_of(job.threads)
        && tile.rows() <= MOST_ROWS
        && tile.blocks().len() > 1
}

/// All queries of one key/value head.
fn whole<'j, 'q, 'v, 's, E: KvElement>(
    job: &'j Job<'q, 'v, 's, E>,
    kv_head: usize,
) -> Tile<'j, 'q, 'v, 's, E> {
    Tile { job, kv_head, queries: 0..job.plan.q_len() }
}

/// Computes a call, block by block.
pub(super) fn forward<E: KvElement>(job: &Job<'_, '_, '_, E>, outputs: Outputs<'_>) {
    let config = job.plan.config();
    let width = config.head_dim().div_ceil(LANES);
    let rows = whole(job, 0).rows();
    let units = config.n_kv_heads() * whole(job, 0).blocks().len();
    job.scratch.with(|task| {
        task.softmax.clear();
        task.softmax.resize(units * rows, Softmax::EMPTY);
        task.sums.clear();
        task.sums.resize(units * rows * width, Lanes::default());
        let parts = Parts {
            job,
            largest: units.div_ceil(2 * job.threads),
            units: 0..units,
            softmax: &mut task.softmax,
            sums: &mut task.sums,
        };
        parts.split();
        let (softmax, sums) = (task.softmax.as_mut_slice(), task.sums.as_mut_slice());
        job.level.dispatch(Merge { job, softmax, sums, outputs });
    });
}

/// The parts of some units: unit `h * n_blocks + b` is block `b` of head `h`.
struct Parts<'j, 'q, 'v, 's, 'm, E: KvElement> {
    job: &'j Job<'q, 'v, 's, E>,
    /// Most units in one task.
    largest: usize,
    units: Range<usize>,
    softmax: &'m mut [Softmax],
    sums: &'m mut [Lanes<f32>],
}

impl<E: KvElement> Parts<'_, '_, '_, '_, '_, E> {
    /// Computes the parts, cut until each piece is one task.
    fn split(self) {
        let n = self.units.len();
        if n <= self.largest {
            return self.compute();
        }
        let at = n / 2;
        let (left_softmax, right_softmax) = self.softmax.split_at_mut(self.softmax.len() / n * at);
        let (left_sums, right_sums) = self.sums.split_at_mut(self.sums.len() / n * at);
        let (job, largest) = (self.job, self.largest);
        let middle = self.units.start + at;
        let parts = |units, softmax, sums| Parts { job, largest, units, softmax, sums };
        let left = parts(self.units.start..middle, left_softmax, left_sums);
        let right = parts(middle..self.units.end, right_softmax, right_sums);
        threads::join(|| left.split(), || right.split());
    }

    /// Computes the parts, one after the other.
    fn compute(self) {
        let width = self.job.plan.config().head_dim().div_ceil(LANES);
        let rows = whole(self.job, 0).rows();
        let parts =
            self.softmax.chunks_exact_mut(rows).zip(self.sums.chunks_exact_mut(rows * width));
        self.job.scratch.with(|task| {
            let mut loaded = None;
            for (unit, (softmax, out)) in self.units.zip(parts) {
                if self.job.cancelled() {
                    return;
                }
                let blocks = whole(self.job, 0).blocks();
                let tile = whole(self.job, unit / blocks.len());
                let block = unit % blocks.len();
                if loaded != Some(tile.kv_head) {
                    tile.load_queries(&mut task.queries, &mut task.sink_queries);
                    loaded = Some(tile.kv_head);
                }
                let queries = (&task.queries, &task.sink_queries);
                let mut partials = Partials { softmax, out, width };
                tile.attend(&mut task.block, queries, block..block + 1, &mut partials);
            }
        });
    }
}

/// Adds the parts of each head in order.
struct Merge<'j, 'q, 'v, 's, 'm, 'o, E: KvElement> {
    job: &'j Job<'q, 'v, 's, E>,
    softmax: &'m mut [Softmax],
    sums: &'m mut [Lanes<f32>],
    outputs: Outputs<'o>,
}

impl<E: KvElement> Kernel for Merge<'_, '_, '_, '_, '_, '_, E> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(mut self, simd: S) {
        let config = self.job.plan.config();
        let group = config.group_size();
        let width = config.head_dim().div_ceil(LANES);
        let rows = whole(self.job, 0).rows();
        let n = whole(self.job, 0).blocks().len();
        let heads = self
            .softmax
            .chunks_exact_mut(n * rows)
            .zip(self.sums.chunks_exact_mut(n * rows * width));
        for (kv_head, (softmax, sums)) in heads.enumerate() {
            let (first_softmax, softmax) = softmax.split_at_mut(rows);
            let (first_sums, sums) = sums.split_at_mut(rows * width);
            let mut total = Partials { softmax: first_softmax, out: first_sums, width };
            let parts = softmax.chunks_exact(rows).zip(sums.chunks_exact(rows * width));
            for (softmax, sums) in parts {
                total.add(simd, softmax, sums);
            }
            let heads = (kv_head * group..(kv_head + 1) * group).into();
            let mut out = self.outputs.out.slice_axis_mut(Axis(1), heads);
            let mut lse = self.outputs.lse.as_mut().map(|lse| lse.slice_axis_mut(Axis(1), heads));
            whole(self.job, kv_head).finish(&total, &mut out, lse.as_mut());
        }
    }
}
