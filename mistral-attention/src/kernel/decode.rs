//! Few queries, few heads, a long history: blocks are spread over threads as well (flash-decoding).
//!
//! Each block's part is stored on its own, and the parts are added in order of position at the end.
//! Borders lie between blocks, which lie at fixed positions, and adding a part to nothing gives the
//! part: the bits are those of one thread that walks over all blocks.

use std::ops::Range;

use mistral_core::Element;
use mistral_core::simd::{Kernel, LANES, Lanes, Simd};
use mistral_core::threads;
use ndarray::{ArrayViewMut3, Axis};

use super::Job;
use super::block_softmax::Softmax;
use super::partial::Partials;
use super::tile::{Scratch, Tile};

/// Most rows (pairs of a query and a head of one group) whose parts are stored block by block.
const MOST_ROWS: usize = 16;

/// Whether heads alone do not keep the threads busy, and there are blocks to share out.
pub(super) fn pays<E: Element>(job: &Job<'_, '_, E>) -> bool {
    let config = job.plan.config();
    let tile = whole(job, 0);
    job.threads > 1
        && config.n_kv_heads() < 2 * job.threads
        && !config.n_kv_heads().is_multiple_of(job.threads)
        && tile.rows() <= MOST_ROWS
        && tile.blocks().len() > 1
}

/// All queries of one key/value head.
fn whole<'j, 'q, 'a, E: Element>(job: &'j Job<'q, 'a, E>, kv_head: usize) -> Tile<'j, 'q, 'a, E> {
    Tile { job, kv_head, queries: 0..job.plan.q_len() }
}

/// Computes a call, block by block.
pub(super) fn forward<E: Element>(job: &Job<'_, '_, E>, out: ArrayViewMut3<'_, f32>) {
    let config = job.plan.config();
    let width = config.head_dim().div_ceil(LANES);
    let rows = whole(job, 0).rows();
    let units = config.n_kv_heads() * whole(job, 0).blocks().len();
    let mut softmax = vec![Softmax::EMPTY; units * rows];
    let mut sums = vec![Lanes::default(); units * rows * width];
    let parts = Parts {
        job,
        largest: units.div_ceil(2 * job.threads),
        units: 0..units,
        softmax: &mut softmax,
        sums: &mut sums,
    };
    parts.split();
    job.level.dispatch(Merge { job, softmax: &mut softmax, sums: &mut sums, out });
}

/// The parts of some units: unit `h * n_blocks + b` is block `b` of head `h`.
struct Parts<'j, 'q, 'a, 'm, E: Element> {
    job: &'j Job<'q, 'a, E>,
    /// Most units in one task.
    largest: usize,
    units: Range<usize>,
    softmax: &'m mut [Softmax],
    sums: &'m mut [Lanes<f32>],
}

impl<E: Element> Parts<'_, '_, '_, '_, E> {
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
        let left = Parts {
            job,
            largest,
            units: self.units.start..middle,
            softmax: left_softmax,
            sums: left_sums,
        };
        let right = Parts {
            job,
            largest,
            units: middle..self.units.end,
            softmax: right_softmax,
            sums: right_sums,
        };
        threads::join(|| left.split(), || right.split());
    }

    /// Computes the parts, one after the other.
    fn compute(self) {
        let head_dim = self.job.plan.config().head_dim();
        let width = head_dim.div_ceil(LANES);
        let rows = whole(self.job, 0).rows();
        let mut scratch = Scratch::new(rows, head_dim);
        let mut loaded = None;
        let parts =
            self.softmax.chunks_exact_mut(rows).zip(self.sums.chunks_exact_mut(rows * width));
        for (unit, (softmax, out)) in self.units.zip(parts) {
            let blocks = whole(self.job, 0).blocks();
            let tile = whole(self.job, unit / blocks.len());
            let block = blocks.start + unit % blocks.len();
            if loaded != Some(tile.kv_head) {
                tile.load_queries(&mut scratch);
                loaded = Some(tile.kv_head);
            }
            let mut partials = Partials { softmax, out, width };
            tile.attend(&mut scratch, block..block + 1, &mut partials);
        }
    }
}

/// Adds the parts of each head in order.
struct Merge<'j, 'q, 'a, 'm, 'o, E: Element> {
    job: &'j Job<'q, 'a, E>,
    softmax: &'m mut [Softmax],
    sums: &'m mut [Lanes<f32>],
    out: ArrayViewMut3<'o, f32>,
}

impl<E: Element> Kernel for Merge<'_, '_, '_, '_, '_, E> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(mut self, simd: S) {
        let config = self.job.plan.config();
        let width = config.head_dim().div_ceil(LANES);
        let rows = whole(self.job, 0).rows();
        let n = whole(self.job, 0).blocks().len();
        let heads = self
            .softmax
            .chunks_exact_mut(n * rows)
            .zip(self.sums.chunks_exact_mut(n * rows * width))
            .zip(self.out.axis_chunks_iter_mut(Axis(1), config.group_size()));
        for (kv_head, ((softmax, sums), mut out)) in heads.enumerate() {
            let (first_softmax, softmax) = softmax.split_at_mut(rows);
            let (first_sums, sums) = sums.split_at_mut(rows * width);
            let mut total = Partials { softmax: first_softmax, out: first_sums, width };
            let parts = softmax.chunks_exact(rows).zip(sums.chunks_exact(rows * width));
            for (softmax, sums) in parts {
                total.add(simd, softmax, sums);
            }
            whole(self.job, kv_head).finish(&total, &mut out);
        }
    }
}
