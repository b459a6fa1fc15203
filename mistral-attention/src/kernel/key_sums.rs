//! How much weight each key got: a second pass, when maximum and sum of every row are known.

use std::marker::PhantomData;

use mistral_core::half::{bf16, f16};
use mistral_core::kv::{Int8, KvElement, KvFormat, PANEL, Queries};
use mistral_core::simd::{self, Integers, Kernel, Level};
use ndarray::ArrayViewMut1;

use super::BLOCK;
use super::block::BlockMemory;
use super::block_softmax::Softmax;
use super::tile::{Pass, Tile};

/// Adds `Σ e^(score - m) / l` over the tile's rows to the sum of each key that they see.
pub(super) fn add<E: KvElement>(
    tile: &Tile<'_, '_, '_, '_, E>,
    memory: &mut BlockMemory,
    queries: (&Queries, &Queries),
    softmax: &[Softmax],
    mut sums: ArrayViewMut1<'_, f32>,
) {
    let held = tile.job.plan.held();
    let level = tile.job.level;
    tile.each_block(memory, queries, tile.blocks(), |format, pass| {
        let index = pass.index;
        let weights = weigh(level, format, pass, softmax);
        for (row, weight) in weights.into_iter().enumerate() {
            // Sinks before a gap have no place in the sums. The last block of all reaches beyond the
            // largest position, which no view holds.
            let position = (index * BLOCK).saturating_add(row);
            if held.contains(&position) {
                sums[position - held.start] += weight;
            }
        }
    });
}

/// Sums the weights of one block's keys over all rows of a tile, row by row.
fn weigh(level: Level, format: KvFormat, pass: Pass<'_>, rows: &[Softmax]) -> [f32; BLOCK] {
    match format {
        KvFormat::F32 => level.dispatch(Weigh::<f32> { pass, rows, element: PhantomData }),
        KvFormat::F16 => level.dispatch(Weigh::<f16> { pass, rows, element: PhantomData }),
        KvFormat::BF16 => level.dispatch(Weigh::<bf16> { pass, rows, element: PhantomData }),
        _ => level.dispatch(Weigh::<Int8> { pass, rows, element: PhantomData }),
    }
}

/// [`weigh`] for one format.
struct Weigh<'p, 'a, E> {
    pass: Pass<'p>,
    rows: &'a [Softmax],
    element: PhantomData<E>,
}

impl<E: KvElement> Kernel for Weigh<'_, '_, E> {
    type Output = [f32; BLOCK];

    const INTEGERS: bool = matches!(E::FORMAT, KvFormat::Int8);

    #[inline(always)]
    fn run<S: Integers>(self, simd: S) -> [f32; BLOCK] {
        let mut weights = [0.0; BLOCK];
        for row in 0..self.pass.rows() {
            let Some(seen) = self.pass.seen::<1>(row) else {
                continue;
            };
            let mut scores = [[0.0; BLOCK]];
            if S::SUMS == 1 {
                self.pass.scores::<S, E, 1, 1>(simd, row, &seen, &mut scores);
            } else {
                self.pass.scores::<S, E, 1, 4>(simd, row, &seen, &mut scores);
            }
            let [scores] = &mut scores;
            let Softmax { max, sum } = self.rows[row];
            let first = seen.any.start / PANEL * PANEL;
            let last = seen.any.end.next_multiple_of(PANEL);
            scores[first..seen.any.start].fill(f32::NEG_INFINITY);
            scores[seen.any.end..last].fill(f32::NEG_INFINITY);
            let (shift, sum) = (simd.splat(max), simd.splat(sum));
            let vectors = scores[first..last].as_chunks::<PANEL>().0;
            let totals = weights[first..last].as_chunks_mut::<PANEL>().0;
            for (total, scores) in totals.iter_mut().zip(vectors) {
                let p = simd::exp(simd, simd.sub(simd.load(scores), shift));
                simd.store(simd.add(simd.load(total), simd.div(p, sum)), total);
            }
        }
        weights
    }
}
