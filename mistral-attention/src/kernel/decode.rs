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
const MOST_ROWS: usize = 32;

/// Whether heads alone do not keep the threads busy, and there are blocks to share out.
pub(super) fn pays<E: KvElement>(job: &Job<'_, '_, '_, E>) -> bool {
    leaves_threads_idle(job) && whole(job, 0).blocks().len() > 1
}

/// Whether heads alone do not keep the threads busy.
fn leaves_threads_idle<E: KvElement>(job: &Job<'_, '_, '_, E>) -> bool {
    let heads = job.plan.config().n_kv_heads();
    job.threads > 1
        && heads < 2 * job.threads
        && !heads.is_multiple_of(job.threads)
        && whole(job, 0).rows() <= MOST_ROWS
}

/// The most rows of all parts, at any position from which as many keys are seen.
pub(super) fn most_part_rows<E: KvElement>(job: &Job<'_, '_, '_, E>) -> usize {
    let blocks = whole(job, 0).most_blocks();
    if blocks < 2 || !leaves_threads_idle(job) {
        return 0;
    }
    job.plan.config().n_kv_heads() * blocks * whole(job, 0).rows()
}

/// All queries of one key/value head.
fn whole<'j, 'q, 'v, 's, E: KvElement>(
    job: &'j Job<'q, 'v, 's, E>,
    kv_head: usize,
) -> Tile<'j, 'q, 'v, 's, E> {
    Tile { job, kv_head, queries: 0..job.plan.q_len() }
}

/// Computes a call, block by block.
pub(super) fn forward<E: KvElement>(job: &Job<'_, '_, '_, E>, mut outputs: Outputs<'_>) {
    let config = job.plan.config();
    let width = config.head_dim().div_ceil(LANES);
    let rows = whole(job, 0).rows();
    let units = config.n_kv_heads() * whole(job, 0).blocks().len();
    job.scratch.parts(|memory| {
        memory.softmax.clear();
        memory.softmax.resize(units * rows, Softmax::EMPTY);
        memory.sums.clear();
        memory.sums.resize(units * rows * width, Lanes::default());
        let parts = Parts {
            job,
            largest: units.div_ceil(2 * job.threads),
            units: 0..units,
            softmax: &mut memory.softmax,
            sums: &mut memory.sums,
        };
        parts.split();
        merge(job, &mut memory.softmax, &mut memory.sums, &mut outputs);
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
        self.job.scratch.task(|task| {
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
fn merge<E: KvElement>(
    job: &Job<'_, '_, '_, E>,
    softmax: &mut [Softmax],
    sums: &mut [Lanes<f32>],
    outputs: &mut Outputs<'_>,
) {
    let config = job.plan.config();
    let group = config.group_size();
    let width = config.head_dim().div_ceil(LANES);
    let rows = whole(job, 0).rows();
    let n = whole(job, 0).blocks().len();
    let heads = softmax.chunks_exact_mut(n * rows).zip(sums.chunks_exact_mut(n * rows * width));
    for (kv_head, (softmax, sums)) in heads.enumerate() {
        let (first_softmax, softmax) = softmax.split_at_mut(rows);
        let (first_sums, sums) = sums.split_at_mut(rows * width);
        let mut total = Partials { softmax: first_softmax, out: first_sums, width };
        job.level.dispatch(AddParts { total: &mut total, softmax, sums, rows });
        let heads = (kv_head * group..(kv_head + 1) * group).into();
        let mut out = outputs.out.slice_axis_mut(Axis(1), heads);
        let mut lse = outputs.lse.as_mut().map(|lse| lse.slice_axis_mut(Axis(1), heads));
        whole(job, kv_head).finish(&total, &mut out, lse.as_mut());
    }
}

/// Adds parts of `rows` rows each.
struct AddParts<'t, 'm> {
    total: &'t mut Partials<'m>,
    softmax: &'t [Softmax],
    sums: &'t [Lanes<f32>],
    rows: usize,
}

impl Kernel for AddParts<'_, '_> {
    type Output = ();

    const INTEGERS: bool = false;

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        let width = self.total.width;
        let parts =
            self.softmax.chunks_exact(self.rows).zip(self.sums.chunks_exact(self.rows * width));
        for (softmax, sums) in parts {
            self.total.add(simd, softmax, sums);
        }
    }
}
